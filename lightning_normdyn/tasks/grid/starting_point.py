"""Callback that measures a model before its first step, and says whether it is open which norms are worth keeping."""

from __future__ import annotations

import math

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_normdyn.callbacks.encoding import RankShares, encode_share
from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.losses.contrastive import ContrastiveLoss
from lightning_normdyn.retrieval import AlphaSweep, sweep_alpha
from lightning_normdyn.tasks.contrast.contrast_data import ContrastData
from lightning_normdyn.tasks.contrast.contrastive_task import ContrastiveTask, refuse_diverged
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.contrast.evaluation_split import EvaluationSplit
from lightning_normdyn.tasks.contrast.text_contrast import TextContrast
from lightning_normdyn.tasks.grid.advice import sweep_headline
from lightning_normdyn.tasks.grid.norm_question import NormQuestion


class StartingPoint(Callback):
    """Measures the validation split before the first step: where training starts from, and what norms could give.

    Logs the measures as ``start/<measure>`` at step 0, and prints once how far norms vary after pooling, what exponents
    of the norm gain on the encoder as it is, what the Fisher information says with its confidence, and the temperatures
    at which the variants compare, logged as ``start/<number>``. Nothing of the training changes. A run that is gone on
    with, or a trial run (``fast_dev_run``), has no starting point.

    Args:
        queries: at most so many of the split, evenly spaced.
        documents: at most so many: those that are judged for the queries, which are all taken, and others, evenly
            spaced. Where some are left out, measures are of an easier search, which is said.

    Raises:
        ValueError: if a number is out of its range; when a fit starts, if the task is none of texts.

    Attributes:
        question: what was found; ``None`` before, and where no document is relevant to a query.
    """

    def __init__(self, *, queries: int = 1_000, documents: int = 10_000) -> None:
        check_count(queries=queries, documents=documents)
        self.queries, self.documents = queries, documents
        self.question: NormQuestion | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses what it cannot measure, before anything is encoded."""
        if stage == "fit" and not isinstance(pl_module, TextContrast):
            raise ValueError(
                f"StartingPoint: expected a task of texts, such as Retrieval or Sts, got {type(pl_module).__name__}; "
                "leave the callback out"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures, logs and prints."""
        if trainer.global_step or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        data = getattr(trainer, "datamodule", None)
        assert isinstance(pl_module, TextContrast)
        if not isinstance(data, ContrastData):
            raise ValueError(
                f"StartingPoint: expected a data module of lightning_normdyn.tasks, got {type(data).__name__}; pass it "
                "as trainer.fit(model, datamodule=...), or leave the callback out"
            )
        split = data.evaluation("validation")
        part = thinned(split, self.queries, self.documents)
        encoded = self._encoded(trainer, pl_module, part, data.evaluation_batch_size)
        if not len(encoded.judgements.relevant().grades):
            pl_module.print(
                "Before training: nothing is measured, for no document of the split is relevant to a query."
            )
            return
        measures = {name: float(v.nanmean()) for name, v in pl_module.trained_measures(encoded).items()}
        self._ask(pl_module, encoded)
        numbers = {} if self.question is None else self.question.numbers()
        self._log(trainer, {f"start/{name}": value for name, value in {**measures, **numbers}.items()})
        first_line = _measured(measures, pl_module.contrast.similarity.normalization, split, part)
        for line in [first_line, *([] if self.question is None else self.question.sentences())]:
            pl_module.print(line)

    def _encoded(self, trainer: Trainer, task: ContrastiveTask, split: EvaluationSplit, batch_size: int) -> Encoded:
        shares = RankShares(trainer)
        encoders = (task.encode_queries, task.encode_documents)
        sides = []
        for name, inputs, encode in zip(
            ("queries", "documents"), (split.queries, split.documents), encoders, strict=True
        ):
            share = encode_share(
                trainer,
                task,
                encode,
                inputs,
                collate=list,
                batch_size=batch_size,
                shares=shares,
                description=f"{name} before training",
            )
            sides.append(shares.gather_rows(share.to(task.device), len(inputs)).cpu())
        refuse_diverged("validation", queries=sides[0], documents=sides[1])
        return Encoded.of(sides[0], sides[1], split)

    def _ask(self, task: ContrastiveTask, encoded: Encoded) -> None:
        sweep = _swept(task, encoded)
        if not sweep.values.isfinite().all(0).any():
            return
        temperature = float(task.contrast.temperature)
        if math.isfinite(temperature):
            self.question = NormQuestion.of(encoded, sweep, temperature=temperature, exponents=task.trained_exponents)
        else:  # 'auto' finds one in the first batch, by the spread of cosine's scores at its own
            self.question = NormQuestion.of(encoded, sweep, temperature=ContrastiveLoss.cosine_temperature)

    def _log(self, trainer: Trainer, numbers: dict[str, float]) -> None:
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        for logger in trainer.loggers:
            logger.log_metrics(
                {name.replace("/", logger.group_separator): value for name, value in finite.items()}, step=0
            )


def thinned(split: EvaluationSplit, queries: int, documents: int) -> EvaluationSplit:
    """At most so many queries of a split, evenly spaced, and of its documents those that they want and others.

    Args:
        split: whole.
        queries: to take.
        documents: to take, and more if more are judged for the queries.

    Example:
        >>> from lightning_normdyn.datasets import Judgements
        >>> judged = Judgements.of((place, 2 * place, 1.0) for place in range(5))
        >>> part = thinned(EvaluationSplit(list("abcde"), list("0123456789"), judged), 2, 4)
        >>> part.queries, part.documents, part.judgements.documents.tolist()
        (['a', 'e'], ['0', '1', '8', '9'], [0, 2])
    """
    has_query = _spaced(len(split.queries), queries)
    judged = torch.zeros(len(split.documents), dtype=torch.bool)
    judged[split.judgements.documents[has_query[split.judgements.queries]]] = True
    is_other = _spaced(int((~judged).sum()), max(0, documents - int(judged.sum())))
    has_document = judged.clone()
    has_document[~judged] = is_other
    if has_query.all() and has_document.all():
        return split
    return split.select(has_query, has_document)


def _spaced(count: int, most: int) -> Tensor:
    """Which of so many to take, bool ``[count]``."""
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().long()] = True
    return chosen


def _swept(task: ContrastiveTask, encoded: Encoded) -> AlphaSweep:
    """A measure at every exponent of the norm: the task's own where sides can be exchanged, else NDCG@10."""
    if not task.symmetry.symmetric:
        pairs = encoded.excluded_pairs
        excluded = None if pairs is None else (pairs.queries, pairs.documents)
        return sweep_alpha(encoded.queries, encoded.documents, encoded.judgements, excluded_pairs=excluded)
    return sweep_headline(task, encoded)


def _measured(measures: dict[str, float], normalization: str, split: EvaluationSplit, part: EvaluationSplit) -> str:
    """What the model reaches before any training, by which score, and on what."""
    values = ", ".join(f"{name} {value:.4f}" for name, value in measures.items() if math.isfinite(value))
    cut = [
        f"{len(taken):,} of {len(whole):,} {side}"
        for side, taken, whole in (
            ("queries", part.queries, split.queries),
            ("documents", part.documents, split.documents),
        )
        if len(taken) < len(whole)
    ]
    note = f" (of {' and '.join(cut)}, so that it is no measure of the whole)" if cut else ""
    return f"Before training, scored by {normalization}: {values}{note}."
