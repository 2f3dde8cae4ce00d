"""Calls of tasks, their data, mixins and commands, from Python, that make no sense."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import pytorch_lightning as pl
from call_outcomes import INF, NAN, NOT_COUNT, NOT_FLAG, NOT_POSITIVE, BadCall, D, Q, each

import lightning_normdyn
from lightning_normdyn import losses, tasks
from lightning_normdyn.cli.commands.command import Command, Option
from lightning_normdyn.tasks import encoders, sources

NOT_NATURAL = [-1, 1.5, "3"]
NOT_SHARE = [-0.1, 1.5, NAN, "0.1", None, True]
NOT_PATH = [3, None, "", b"a", "a\0b"]


class Plain(losses.ContrastiveMixin, pl.LightningModule):
    """A module with the mixin and nothing else."""


def _tasks() -> Iterator[BadCall]:
    kind = "tasks: settings"
    shared = {
        "lr": NOT_POSITIVE,
        "weight_decay": [-1.0, NAN, INF, "0", None],
        "schedule": ["step", 3, None],
        "warmup": [-0.1, 1.0, NAN, "0.1", None],
        "temperature": NOT_POSITIVE,
        "normalization": ["cos", 3],
        "colour": ["red"],
    }
    texts = {"encoder": [3, "bert"], "mini_batch_size": [0, 1.5, "3"], "layer_decay": [0, 1.5, NAN, "0.9", None, 0.9]}
    yield from each(kind, tasks.Sts, {}, symmetric=NOT_FLAG, **texts, **shared)
    yield from each(kind, tasks.ImageText, {}, towers=[3, "clip"], symmetric=NOT_FLAG)
    yield from each(kind, tasks.Retrieval, {}, shared_encoder=NOT_FLAG, **texts)
    yield from each(kind, tasks.StartingPoint, {}, queries=NOT_COUNT, documents=NOT_COUNT)
    yield from each(kind, tasks.Rag, {}, encoder=[3], reader=[3, "t5"], passages=NOT_COUNT)
    yield from each(kind, tasks.FewShot, {}, encoder=[3, "vit"], normalization=["euclid", 3])
    yield from each(
        kind,
        tasks.KnowledgeGraphCompletion,
        {},
        scorer=["nope", 3, None],
        dim=[*NOT_COUNT, 7],
        negatives=["some", 3],
        similarity=["cosine", 3],
        regularizer=["l1", 3],
        regularization=[-1.0, NAN, "0", None],
    )
    yield from each(
        kind,
        tasks.Recommendation,
        {},
        encoder=["gru", 3, None],
        dim=NOT_COUNT,
        history_length=NOT_COUNT,
        negatives=["some", 3],
        uniform_negatives=NOT_NATURAL,
    )
    yield from each(
        kind,
        tasks.TokenContrast,
        {"table_rows": 10},
        table_rows=[*NOT_COUNT, None],
        dim=NOT_COUNT,
        optimizer=["adam", 3],
        schedule=["linear", 3],
        lr=[0, -1.0, NAN, INF, "0.1", True],
        weight_decay=[-1.0, NAN, INF, "0"],
        temperature=NOT_POSITIVE,
        normalization=["cos", 3],
        colour=["red"],
    )
    yield from each(kind, encoders.Lora, {}, rank=NOT_COUNT, alpha=NOT_POSITIVE, dropout=[-0.1, 1.0, NAN, "0", None],
                    modules=[3, "", [""], None])  # fmt: skip
    yield from each(kind, encoders.SmallTextEncoder, {}, dim=NOT_COUNT, buckets=NOT_COUNT, hidden=NOT_COUNT,
                    max_words=NOT_COUNT, dropout=[-0.1, 1.5, NAN, "0"])  # fmt: skip
    yield from each(kind, encoders.SmallImageEncoder, {}, size=NOT_COUNT, channels=NOT_COUNT, width=NOT_COUNT,
                    blocks=NOT_COUNT, dim=NOT_COUNT)  # fmt: skip


def _mixins() -> Iterator[BadCall]:
    kind = "losses: mixins"
    for mixin in (losses.CosineMixin, losses.DotMixin, losses.QNormMixin, losses.DNormMixin, losses.LearnableNormMixin):
        made: type = type(f"Of{mixin.__name__}", (mixin, pl.LightningModule), {})
        yield from each(
            kind,
            made,
            {},
            temperature=[0, "0.1"],
            chunk_size=[0, "3"],
            temprature=[0.1],
            normalization=["cos", 3],
            loss=["nope", 3],
            teacher_temperature=[0, "1", 2.0],
            teacher_normalization=["learnable", "dot"],
            candidates=["all", "in_batch"],
        )
    yield from each(kind, Plain, {}, temperature=NOT_POSITIVE, normalization=["cos", 3], queue_size=NOT_NATURAL)
    settings = {"teacher_temperature": NOT_POSITIVE, "teacher_normalization": ["cos", 3], "candidates": ["all", 3]}
    yield from each(kind, Plain, {"loss": "distill_kl"}, **settings, queue_size=[8], margin=[0.1])
    for word in ("margin_mse", "graded", "cosent"):
        yield from each(kind, Plain, {"loss": word}, candidates=["in_batch"], prior=[0.1])
    made = Plain()
    batch = {"queries": Q, "documents": D}
    yield from each(kind, made.contrastive_loss, batch, queries=[None, Q[0]], documents=[None, D[:2]], label=[3])
    yield from each(
        kind,
        made.full_softmax_loss,
        {**batch, "targets": _places(4)},
        queries=[Q[0], None],
        documents=[D[0], None],
        targets=[_places(3), None, _places(4) + 9],
    )


def _places(count: int) -> Any:
    import torch

    return torch.arange(count)


def _data() -> Iterator[BadCall]:
    kind = "tasks: data"
    yield from each(
        kind,
        tasks.TokenPairs,
        {},
        text=["a.txt", [3], [""], [], 3],
        vocabulary_size=[*NOT_COUNT, 1],
        window=NOT_COUNT,
        batch_size=NOT_COUNT,
        steps_per_epoch=NOT_COUNT,
        seed=NOT_NATURAL,
    )
    shared = {"batch_size": NOT_COUNT, "evaluation_batch_size": NOT_COUNT, "workers": NOT_NATURAL}
    source = {"source": [3, "sts", object]}
    yield from each(
        kind, tasks.StsData, {}, alike_above=[NAN, INF, "3", None], grades=["some", 3, None], **source, **shared
    )
    yield from each(
        kind,
        tasks.ImageTextData,
        {},
        image_size=NOT_COUNT,
        shift=[-1, 1.5, "2", 100],
        validation_share=NOT_SHARE,
        test_share=NOT_SHARE,
        seed=NOT_NATURAL,
        **source,
    )
    yield from each(
        kind,
        tasks.RetrievalData,
        {},
        validation_share=NOT_SHARE,
        bm25=NOT_FLAG,
        hard_negatives=NOT_NATURAL,
        hard_negatives_from=[3, None, "", "mining"],
        triples=[3, "a.tsv"],
        also=["a", [3], 3],
        **source,
    )
    yield from each(kind, tasks.RagData, {}, **source)
    yield from each(kind, tasks.KnowledgeGraphData, {}, **source, **shared)
    yield from each(
        kind,
        tasks.RecommendationData,
        {},
        cut=["never", 3],
        validation_share=NOT_SHARE,
        test_share=NOT_SHARE,
        history_length=NOT_COUNT,
        **source,
    )
    yield from each(
        kind,
        tasks.FewShotData,
        {},
        ways=[*NOT_COUNT, 1],
        shots=NOT_COUNT,
        queries=NOT_COUNT,
        evaluation_ways=[*NOT_COUNT, 1],
        evaluation_shots=NOT_COUNT,
        evaluation_queries=NOT_COUNT,
        episodes=NOT_COUNT,
        rotations=NOT_FLAG,
        validation_share=NOT_SHARE,
        test_share=NOT_SHARE,
        seed=NOT_NATURAL,
        evaluation_batch_size=NOT_COUNT,
        workers=NOT_NATURAL,
        **source,
    )
    kind = "tasks: sources"
    for make, name in (
        (sources.BeirFolder, "folder"),
        (sources.BrightFolder, "folder"),
        (sources.ImageFolder, "folder"),
        (sources.ImageTextTable, "path"),
        (sources.LabelledTextFiles, "folder"),
        (sources.MovieLensFolder, "folder"),
        (sources.Omniglot, "path"),
        (sources.Sick, "path"),
        (sources.StsBenchmark, "folder"),
        (sources.TripleFolder, "folder"),
        (sources.WebDatasetShards, "shards"),
    ):
        yield from each(
            kind, _reading(make), None, argument=rf"\b{name}\b|'?no/such", **{name: [*NOT_PATH, "no/such/place"]}
        )


def _reading(make: Callable[..., Any]) -> Callable[..., Any]:
    """A source that is made and read."""

    def read(**options: Any) -> Any:
        return make(**options).read()

    read.__qualname__ = f"{make.__qualname__}.read"
    return read


def _commands() -> Iterator[BadCall]:
    """Every option of every command that Python can call, by what it is."""
    required = {
        "report": {"run": "no/such"},
        "watch": {"run": "no/such"},
        "grid": {"config": ["sts.yaml"]},
        "export": {"embeddings": "no/such.npy", "to": "npy", "out": "x.npy"},
    }
    for name in ("demo", "report", "watch", "reproduce", "configs", "grid", "advise", "predict", "audit", "export"):
        command: Command[..., Any] = getattr(lightning_normdyn.cli, name)
        for option in command.options:
            values = _bad_values(option)
            if values:
                calls = each("commands from Python", command, required.get(name, {}), **{option.name: values})
                yield from (call._replace(case=f"{name}{call.case.partition('(')[2]:.80}", good=None) for call in calls)


def _bad_values(option: Option) -> list[Any]:
    if option.flag:
        return NOT_FLAG
    bad: list[Any] = [3, b"a"]
    if option.choices:
        bad = ["nope", 3]
    elif option.value.metavar == "N":
        bad = [-1, 1.5, "three", True, NAN]
    elif option.value.metavar in ("F", "SECONDS", "MINUTES"):
        bad = [0, -1.0, NAN, INF, "a", True]
    elif option.value.metavar in ("A", "G"):
        bad = [NAN, INF, "a", True]
    elif option.value.metavar in ("FILE", "DIR", "TSV", "FOLDER", "NPY") and not option.value.one_word:
        bad = [3, b"a", "", "a\0b", "a" * 300]
    if option.is_list:
        return [3, "word", *([value] for value in bad)] + ([[]] if option.default != () else [])
    return bad


GENERATORS = (_tasks, _mixins, _data, _commands)
TASK_CALLS = list(chain.from_iterable(generator() for generator in GENERATORS))
