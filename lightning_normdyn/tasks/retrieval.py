"""Retrieval: queries seek the documents that answer them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from lightning_normdyn.core.ranking import map_at, mrr_at, ndcg_at, recall_at
from lightning_normdyn.datasets import JudgedTexts, Judgements
from lightning_normdyn.tasks.contrast_data import ContrastData, Split, TrainingPair
from lightning_normdyn.tasks.contrastive_task import ContrastiveTask
from lightning_normdyn.tasks.encoded import Encoded, Exponents
from lightning_normdyn.tasks.encoders import TextEncoder
from lightning_normdyn.tasks.evaluation_split import EvaluationSplit
from lightning_normdyn.tasks.ranking_measures import ranking_measures
from lightning_normdyn.tasks.sources import JudgedTextsSource, StandardLibraryDocstrings
from lightning_normdyn.tasks.symmetry import FunctionalSymmetry
from lightning_normdyn.tasks.text_towers import TextTowers

_DEPTH = 100


class Retrieval(ContrastiveTask):
    """A dual encoder that finds documents by query.

    Args:
        encoder: of texts, such as :class:`~lightning_normdyn.tasks.encoders.SmallTextEncoder`, the default, or
            :class:`~lightning_normdyn.tasks.encoders.PretrainedTextEncoder` with a name or a local path.
        shared: whether one encoder serves queries and documents.
        options: of :class:`ContrastiveTask` and its loss.
    """

    symmetry = FunctionalSymmetry(False, "queries seek, documents are found")
    headline = "ndcg@10"

    def __init__(self, *, encoder: TextEncoder | None = None, shared: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.towers = TextTowers(encoder, shared=shared)

    def encode_queries(self, inputs: Sequence[str]) -> Tensor:
        """Embeddings ``[b, d]`` of texts."""
        return self.towers.encode_queries(inputs)

    def encode_documents(self, inputs: Sequence[str]) -> Tensor:
        """Embeddings ``[b, d]`` of texts."""
        return self.towers.encode_documents(inputs)

    def measures(self, encoded: Encoded, exponents: Exponents) -> dict[str, Tensor]:
        """NDCG@10, MRR@10, recall at 10 and 100, and MAP@100 of every query."""
        of_depth = {
            "ndcg@10": partial(ndcg_at, k=10),
            "mrr@10": partial(mrr_at, k=10),
            "recall@10": partial(recall_at, k=10),
            "recall@100": partial(recall_at, k=100),
            "map@100": partial(map_at, k=100),
        }
        return ranking_measures(encoded, exponents, of_depth, depth=_DEPTH)

    def on_validation_epoch_end(self) -> None:
        """Measures the validation split, and says once if texts were cut."""
        super().on_validation_epoch_end()
        self.towers.tell_truncation()


class RetrievalData(ContrastData):
    """Queries, documents and judgements.

    Training pairs are the relevant pairs of ``train``. Every split searches all documents.

    Args:
        source: where they come from; the docstrings of the running Python's standard library if left out.
        validation_share: of the training queries, kept for validation where the source has no such split.
        options: of :class:`ContrastData`.

    Raises:
        ValueError: if an argument is out of its range, or the source lacks a split.
    """

    def __init__(
        self, source: JudgedTextsSource | None = None, *, validation_share: float = 0.1, **options: Any
    ) -> None:
        super().__init__(**options)
        if not 0 < validation_share <= 0.5:
            raise ValueError(f"validation_share: expected a share above 0, at most 0.5, got {validation_share}")
        self.source = StandardLibraryDocstrings() if source is None else source
        self.validation_share = validation_share
        self._splits: dict[str, EvaluationSplit] = {}

    @cached_property
    def texts(self) -> JudgedTexts:
        """The set, read on first use."""
        return self.source.read()

    def training_pairs(self) -> RelevantPairs:
        """The relevant pairs of the training split."""
        return RelevantPairs(self.texts, self._judged("train"))

    def evaluation(self, split: Split) -> EvaluationSplit:
        """The queries that the split judges, and all documents."""
        if split not in self._splits:
            self._splits[split] = _evaluated(self.texts, self._judged(split))
        return self._splits[split]

    @cached_property
    def _judgements(self) -> dict[str, Judgements]:
        return with_validation(self.texts.judgements, self.validation_share)

    def _judged(self, split: str) -> Judgements:
        if split not in self._judgements:
            raise ValueError(f"source: expected a split '{split}', got {', '.join(self._judgements) or 'none'}")
        return self._judgements[split]


def with_validation(judgements: Mapping[str, Judgements], share: float) -> dict[str, Judgements]:
    """Judgements with a validation split, taken from the training queries at even distances if there was none.

    Args:
        judgements: split to pairs.
        share: of the training queries, which then are judged by ``validation`` alone; the nearest of 1/2, 1/3, ....

    Example:
        >>> train = Judgements.of([(0, 5, 1.0), (1, 6, 1.0), (1, 7, 1.0), (2, 8, 1.0)])
        >>> split = with_validation({"train": train}, 0.5)
        >>> split["train"].documents, split["validation"].documents
        (tensor([5, 8]), tensor([6, 7]))
    """
    if "validation" in judgements or "train" not in judgements:
        return dict(judgements)
    train = judgements["train"]
    places = train.queries.unique(return_inverse=True)[1]
    every = round(1 / share)
    held = places % every == every - 1
    parts = {"train": ~held, "validation": held}
    return {**judgements, **{name: Judgements(*(column[part] for column in train)) for name, part in parts.items()}}


class RelevantPairs:
    """The relevant pairs of a split, as pairs to train on."""

    def __init__(self, texts: JudgedTexts, judgements: Judgements) -> None:
        self.texts = texts
        self.relevant = judgements.relevant()

    def __len__(self) -> int:
        return len(self.relevant.grades)

    def __getitem__(self, place: int) -> TrainingPair:
        query, document = int(self.relevant.queries[place]), int(self.relevant.documents[place])
        return TrainingPair(self.texts.queries.texts[query], self.texts.documents.texts[document], query, document)


def _evaluated(texts: JudgedTexts, judgements: Judgements) -> EvaluationSplit:
    places, of_pairs = judgements.queries.unique(return_inverse=True)
    return EvaluationSplit(
        [texts.queries.texts[place] for place in places.tolist()],
        texts.documents.texts,
        judgements._replace(queries=of_pairs),
    )
