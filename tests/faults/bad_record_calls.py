"""Calls about records and files that make no sense: data sets, readers, histories, reports, targets, observers."""

import io
import tarfile
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from call_outcomes import INF, NAN, NOT_COUNT, NOT_FLAG, BadCall, D, Q, each
from PIL import Image
from torch import nn

from lightning_normdyn import core
from lightning_normdyn.capture import OutputTarget, TableTarget, find_targets
from lightning_normdyn.datasets import (
    CaptionedImages,
    GradedPairs,
    Interactions,
    JudgedTexts,
    Judgements,
    KnowledgeGraph,
    LabelledImages,
    LabelledTexts,
    MinedRow,
    Problems,
    Texts,
    formats,
)
from lightning_normdyn.history import RunWriter, list_runs, read_run
from lightning_normdyn.instruments import Instrument, NormObserver
from lightning_normdyn.report import (
    draw_votes,
    model_card_section,
    write_model_card_section,
    write_report,
    write_votes,
)
from lightning_normdyn.tasks import EvaluationSplit

NOT_PATH = [3, None, "", b"a", "a\0b", ["a"]]
FOLDER = Path(tempfile.gettempdir())
INTERACTIONS = {
    "user_ids": ["u"],
    "item_ids": ["i"],
    "users": torch.tensor([0]),
    "items": torch.tensor([0]),
    "ratings": torch.ones(1),
    "times": torch.ones(1),
}


def _records() -> Iterator[BadCall]:
    kind = "records"
    texts = Texts(["a", "b"], ["c", "d"])
    yield from each(
        kind, Texts, {"ids": ["a"], "texts": ["b"]}, ids=[None, 3, "a", [3], ["a", "b"]], texts=[None, 3, [3]]
    )
    yield from each(
        kind,
        JudgedTexts,
        {"documents": texts, "queries": texts, "judgements": {"test": Judgements.of([(0, 1, 1.0)])}},
        documents=[None, ["a"]],
        queries=[None, ["a"]],
        judgements=[
            None,
            {},
            {"test": None},
            {"test": Judgements.of([(9, 1, 1.0)])},
            {"test": Judgements.of([(0, 9, 1)])},
        ],
        covariates=[{"length": [1.0]}, None, {"length": ["a", "b"]}],
        answers=[{9: ["a"]}, None],
        excluded_pairs=[{"test": Judgements.of([(9, 1, 1.0)])}, None],
    )
    yield from each(
        kind, Judgements.of, {"pairs": [(0, 1, 1.0)]}, pairs=[None, 3, [(0, 1)], [("a", 1, 1.0)], [(0, 1, "a")]]
    )
    made = Judgements.of([(0, 1, 1.0)])
    yield from each(kind, made.check, {"queries": 1, "documents": 2}, queries=[0, -1, 1.5, "3"], documents=[1, -1, "3"])
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    yield from each(
        kind,
        LabelledImages,
        {"images": images, "labels": torch.tensor([0, 1]), "classes": ["a", "b"], "groups": ["g", "g"]},
        images=[None, images.float(), images[0], images[:1]],
        labels=[None, torch.tensor([0]), torch.tensor([0, 5]), torch.rand(2), [0, 1]],
        classes=[None, ["a"], "ab"],
        groups=[None, ["g"], "gg"],
        soft_labels=[torch.rand(2, 3), torch.rand(2), -torch.ones(2, 2), torch.full((2, 2), NAN), "a"],
    )
    yield from each(
        kind,
        CaptionedImages,
        {"images": ["i", "j"], "captions": ["a", "b"], "groups": ["g", "h"]},
        images=[None, ["i"]],
        captions=[None, ["a"], "ab", [3, 4]],
        groups=[None, ["g"], "gh"],
    )
    yield from each(
        kind,
        GradedPairs,
        {"first": ["a"], "second": ["b"], "grades": torch.ones(1)},
        first=[None, "a", [3]],
        second=[None, "b"],
        grades=[None, [1.0], torch.ones(1, 1)],
    )
    yield from each(
        kind,
        LabelledTexts,
        {"texts": ["a"], "labels": torch.tensor([0]), "classes": ["x"]},
        texts=[None, "a"],
        labels=[None, [0], torch.zeros(1, 1).long()],
        classes=[None, "x"],
    )
    yield from each(
        kind,
        Interactions,
        INTERACTIONS,
        user_ids=[None, [], "u"],
        item_ids=[None, [], "i"],
        users=[None, torch.rand(1), [0]],
        items=[None, torch.rand(1), [0]],
        ratings=[None, torch.tensor([NAN])],
        times=[None, torch.ones(2), torch.tensor([INF])],
        item_texts=[["a", "b"], "a", None],
    )
    facts = {"train": torch.zeros(1, 3).long()}
    yield from each(
        kind,
        KnowledgeGraph,
        {"entities": ["a"], "relations": ["r"], "triples": facts},
        entities=[None, [], "a"],
        relations=[None, [], "r"],
        triples=[None, 3, {"train": None}, {"train": torch.zeros(1, 3)}, {"train": torch.zeros(3).long()}],
    )
    yield from each(
        kind,
        EvaluationSplit,
        {"queries": ["a"], "documents": ["b"], "judgements": Judgements.of([(0, 0, 1.0)])},
        queries=[None, "a"],
        documents=[None, "b"],
        judgements=[None, Judgements.of([(5, 0, 1.0)]), Judgements.of([(0, 5, 1.0)])],
        excluded_pairs=[3, Judgements.of([(5, 0, 1.0)])],
        popularity=[torch.ones(3), "a"],
        answers=[[["a"], ["b"]], "a"],
        query_ids=[["a", "b"], "a"],
        document_ids=[["a", "b"], "b"],
        in_training=[torch.ones(3), "a", [True]],
    )


def _readers() -> Iterator[BadCall]:
    kind = "readers"
    absent = FOLDER / "no" / "such" / "place"
    places = [*NOT_PATH, str(absent)]
    for read, name in (
        (formats.read_beir, "folder"),
        (formats.read_bright, "folder"),
        (formats.read_cifar10h, "folder"),
        (formats.read_image_text, "path"),
        (formats.read_judged_texts, "folder"),
        (formats.read_labelled_texts, "folder"),
        (formats.read_movielens, "folder"),
        (formats.read_omniglot, "path"),
        (formats.read_sick, "path"),
        (formats.read_sts, "folder"),
        (formats.read_triples, "folder"),
        (formats.read_web_dataset, "shards"),
        (_read_triples, "triples"),
        (lambda file: list(formats.read_hard_negatives(file)), "file"),
        (partial(formats.read_image_folder, height=8, width=8), "folder"),
    ):
        yield from each(kind, read, None, argument=rf"\b{name}\b|{absent}|^a: ", **{name: places})
    yield from each(kind, formats.read_triples, {"folder": _folder_of_images()}, order=["rht", None, 3])
    yield from each(kind, formats.read_sts, {"folder": _folder_of_images()}, language=["", 3], argument="language")
    yield from each(kind, formats.read_labelled_texts, {"folder": _folder_of_images()}, encoding=["latin-x", 3, None])
    yield from each(
        kind, formats.read_cifar10, None, batches=[3, None, [], "a", [str(absent)]], argument=f"batches|{absent}"
    )
    here = {"folder": _folder_of_images(), "height": 8, "width": 8}
    yield from each(kind, formats.read_image_folder, here, height=NOT_COUNT, width=NOT_COUNT, mode=["CMYK", 3, None])
    shard = str(_shard())
    yield from each(kind, formats.read_web_dataset, {"shards": shard}, limit=NOT_COUNT, json_field=["", 3])
    yield from each(kind, formats.WebDataset, {"shards": shard}, rank=[-1, 1, "0"], ranks=[0, -1, "1"], seed=[-1, "a"])
    row = MinedRow("q", "d", ("e",), (0.5, 0.4))
    yield from each(kind, formats.write_hard_negatives, {"rows": [row]}, file=[3, None, "a.tsv", "nosuch://b/a.jsonl"])
    yield from each(
        kind,
        formats.write_hard_negative_texts,
        {"rows": [row], "file": str(FOLDER / "mined.jsonl")},
        file=[3, "a.csv"],
        output_format=["pair", None],
        output_scores=NOT_FLAG,
    )
    yield from each(kind, Problems, {"file": "a.tsv"}, file=[3, None])


def _folder_of_images() -> Path:
    """Two classes of one image each."""
    folder = Path(tempfile.mkdtemp())
    for name in "ab":
        (folder / name).mkdir()
        (folder / name / "1.png").write_bytes(_picture())
    return folder


def _shard() -> Path:
    """One image with its caption."""
    file = Path(tempfile.mkdtemp()) / "a.tar"
    with tarfile.open(file, "w") as archive:
        for name, content in {"1.png": _picture(), "1.txt": b"red"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def _picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    return stream.getvalue()


def _read_triples(triples: object) -> list[object]:
    return list(formats.MsMarcoTriples(triples))  # type: ignore[arg-type]


def _histories() -> Iterator[BadCall]:
    kind = "histories and reports"
    paths = [3, None, "", b"a", "a\0b"]
    yield from each(kind, read_run, None, log_dir=["a\0b", b"a", ["a"]])
    yield from each(kind, list_runs, {"log_dir": "no such folder"}, log_dir=paths)
    yield from each(kind, RunWriter, {"log_dir": "a"}, log_dir=paths, inform=[3, "print"])
    yield from each(kind, write_report, None, log_dir=["", b"a", "a\0b", FOLDER / "absent"])
    folder = Path(tempfile.mkdtemp())
    _write_run(folder)
    yield from each(
        kind, partial(read_run, folder), {}, run=["nope", 3, ""], stretch=[-1, 99, 1.5, "0"], argument="run|stretch"
    )
    yield from each(
        kind,
        write_report,
        {"log_dir": folder},
        out=[3, "", FOLDER, "a\0b", FOLDER / "absent" / "\0"],
        row_names=["abc", 3, {"nope": ["a"]}, {"t": ["a"] * 99}, ["a"] * 99],
        summary=[3, "a", ["a"]],
        run=["nope", 3],
        command=[3],
        warn=[3, "print"],
    )
    yield from each(kind, model_card_section, None, log_dir=["", b"a", "a\0b", 3, FOLDER / "absent"])
    card = folder / "README.md"
    card.write_text("# A model\n")
    bad_paths = ["", b"a", "a\0b", 3, None, FOLDER / "absent"]
    yield from each(
        kind, write_model_card_section, {"card": card, "log_dir": folder}, card=bad_paths, log_dir=bad_paths
    )
    linear = nn.Linear(3, 2)
    votes = core.kernel_votes(linear, Q, D, loss=lambda x: x.square().sum())
    good = {"votes": votes, "probes": list("abcd"), "items": list("abcdef")}
    bad = {
        "votes": [None, votes.votes],
        "probes": [list("abc"), None, "abcd", 3],
        "items": [list("ab"), None, 3],
        "limit": NOT_COUNT,
    }
    yield from each(kind, draw_votes, good, **bad)
    yield from each(
        kind, write_votes, {"path": folder / "votes.png", **good}, path=["a.txt", "", 3, None, "a\0b.png"], **bad
    )


def _write_run(folder: Path) -> None:
    writer = RunWriter(folder)
    writer.begin({"t": 0})
    for step in range(1, 4):
        writer.target("t").append_rows({"step": [step, step], "row": [0, 1], "norm": [1.0, 2.0]})
    writer.target("t").append_quantities(3, {"norm_p50": 1.5})
    writer.target("t").describe({"kind": "table", "rows": 2, "lr": 0.1})
    writer.end()


def _targets() -> Iterator[BadCall]:
    kind = "targets and observers"
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
    yield from each(
        kind,
        find_targets,
        {"module": model},
        module=[None, "model", nn.ReLU()],
        targets=["nope", [], 3, None, "", [3], ["0.weigth"]],
        max_tracked_rows=NOT_COUNT,
        row_counts=[3, "missing.npy", [1, 2], {"0.weight": [-1] * 5}],
        argument="targets|module|max_tracked_rows|row_counts",
    )
    yield from each(
        kind,
        TableTarget,
        {"name": "0.weight", "module": model},
        name=["nope", "1.bias", 3, None, ""],
        module=[None, "model"],
        max_tracked_rows=NOT_COUNT,
        row_counts=[3, [1, 2], [NAN] * 5, ["a"] * 5],
        items=["rwos", None],
        argument="name|targets|module|max_tracked_rows|row_counts|items",
    )
    yield from each(
        kind, OutputTarget, {"name": "1", "module": model[1]}, name=[3, None], module=[None, "model"], key=[3, ""]
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    yield from each(
        kind,
        NormObserver,
        {"model": model, "optimizer": optimizer},
        scheduler_every_n_steps=NOT_COUNT,
        scaler=["yes", 3],
        log_dir=[3, "", b"a", "a\0b", "s3://bucket/run"],
        name=[3, None],
        fit_every_n_steps=[0, -1, 1.5, "3"],
        window=[0, -1, 1.5, NAN, "0.2"],
        forecast_at=[0, -1, 1.5, NAN],
        max_tracked_rows=NOT_COUNT,
        row_counts=[3, "missing.npy"],
        lrs=[3, "cosine"],
        probe=[3, True],
        probe_items=NOT_COUNT,
        on_alert=[3, "print"],
        instruments=[3, [3], ["nope"], Instrument()],
        names=[3, True],
    )
    yield from each(kind, NormObserver(model, optimizer).begin, {}, steps_made=[-1, 1.5, "3", None])


def _hugging_face() -> Iterator[BadCall]:
    from importlib.util import find_spec

    if find_spec("transformers") is None:
        return
    from lightning_normdyn.integrations.hugging_face import NormDynamicsTrainerCallback

    yield from each(
        "callbacks",
        NormDynamicsTrainerCallback,
        {},
        log=[3, "print", True],
        save_history=NOT_FLAG,
        every_n_steps=NOT_COUNT,
        targets=["", [], 3],
        window=[0, 1.5],
        names=[3],
        probe=[3],
    )


GENERATORS = (_records, _readers, _histories, _targets, _hugging_face)
RECORD_CALLS = list(chain.from_iterable(generator() for generator in GENERATORS))
