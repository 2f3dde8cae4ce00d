"""Semantic textual similarity: correlation of scores with graded pairs of texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.core.number_checks import check_finite_number, check_flag
from lightning_normdyn.datasets import GradedPairs, Judgements
from lightning_normdyn.losses import CoSENT
from lightning_normdyn.tasks.contrast.contrast_data import ContrastData, Split, TrainingPair, check_source
from lightning_normdyn.tasks.contrast.encoded import Encoded, Exponents
from lightning_normdyn.tasks.contrast.evaluation_split import EvaluationSplit
from lightning_normdyn.tasks.contrast.symmetry import FunctionalSymmetry
from lightning_normdyn.tasks.contrast.text_contrast import TextContrast
from lightning_normdyn.tasks.encoders import TextEncoder
from lightning_normdyn.tasks.encoders.text_words import identifier_words
from lightning_normdyn.tasks.sources import GradedPairsSource, StandardLibraryNames


class Sts(TextContrast):
    """One encoder for two texts that can be exchanged, measured by how scores go along with people's grades.

    Args:
        encoder: of texts; :class:`~lightning_normdyn.tasks.encoders.SmallTextEncoder` if left out.
        symmetric: whether each text of a pair picks the other; else the first picks the second. Under ``cosent`` no
            text picks another, and it means nothing.
        options: of :class:`~lightning_normdyn.tasks.TextContrast`, :class:`ContrastiveTask` and
            its loss. With ``loss="cosent"`` pairs come into the order of their grades
            (:class:`~lightning_normdyn.losses.CoSENT`), which wants ``StsData(grades="all")``; with any other, texts
            that are alike find each other.

    Raises:
        ValueError: if an argument is out of its range; in training, if the data's ``grades`` are not those of the loss.
    """

    symmetry = FunctionalSymmetry(True, "either text may come first")
    headline = "spearman"

    def __init__(self, *, encoder: TextEncoder | None = None, symmetric: bool = True, **options: Any) -> None:
        check_flag(symmetric=symmetric)
        if options.get("loss") != "cosent":
            options["symmetric"] = symmetric
        super().__init__(encoder=encoder, shared_encoder=True, **options)

    def encode_queries(self, inputs: Sequence[str]) -> Tensor:
        """Embeddings ``[b, d]`` of texts."""
        return self.towers.encode(inputs)

    def encode_documents(self, inputs: Sequence[str]) -> Tensor:
        """Embeddings ``[b, d]`` of texts."""
        return self.towers.encode(inputs)

    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        """The loss of a batch of alike pairs or, under ``cosent``, of pairs with ``grades``."""
        if isinstance(self.contrast, CoSENT):
            if "grades" not in batch:
                raise ValueError(
                    "grades: expected 'all' for the loss 'cosent', which compares grades, got 'alike'; set it for the "
                    "data, as by --data.grades all"
                )
            queries, documents, grades = list(batch["queries"]), list(batch["documents"]), batch["grades"]
            if self.mini_batch_size is None:
                encoded = self.encode_queries(queries), self.encode_documents(documents)
                return self.contrastive_loss(*encoded, grades=grades)
            return self.cached_contrastive_loss(
                queries,
                documents,
                encode_query=self.encode_queries,
                encode_document=self.encode_documents,
                chunk_size=self.mini_batch_size,
                grades=grades,
            )
        if "grades" in batch:
            raise ValueError(
                "grades: expected 'alike' for a loss that takes every pair for alike, got 'all'; leave it out, or set "
                "the model's loss to 'cosent', as by --model.loss cosent"
            )
        return super().loss(batch)

    def measures(self, encoded: Encoded, exponents: Exponents) -> dict[str, Tensor]:
        """What every pair adds to Spearman's and to Pearson's correlation of scores with grades, see pearson_shares."""
        judgements = encoded.judgements
        first = rescale(encoded.queries, exponents[0])[judgements.queries]
        second = rescale(encoded.documents, exponents[1])[judgements.documents]
        scores = (first.double() * second.double()).sum(1)
        shares = {
            "spearman": spearman_shares(scores, judgements.grades),
            "pearson": pearson_shares(scores, judgements.grades),
        }
        return {name: _of_queries(share, judgements, len(encoded.queries)) for name, share in shares.items()}


class StsData(ContrastData):
    """Pairs of texts with grades.

    Training pairs are those of ``train`` that are graded above a threshold, the other texts of a batch being their
    negatives, or all of them with their grades, for a loss that goes by these. Evaluation grades count from the
    threshold, which moves no correlation and makes the positive ones those of pairs that are alike.

    Args:
        source: where they come from; summaries of the running Python's standard library if left out.
        alike_above: the grade above which two texts count as alike, in the unit of the source.
        grades: which train: those of ``alike`` pairs, or ``all`` for a model whose loss is ``cosent``.
        options: of :class:`ContrastData`.

    Raises:
        ValueError: if the source lacks a split, or no grade of it lies above the threshold.
    """

    def __init__(
        self,
        source: GradedPairsSource | None = None,
        *,
        alike_above: float = 3.0,
        grades: Literal["alike", "all"] = "alike",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.source = StandardLibraryNames() if source is None else source
        check_source(self.source)
        check_finite_number(alike_above=alike_above)
        if grades not in ("alike", "all"):
            raise ValueError(f"grades: expected 'alike' or 'all', got {grades!r}")
        self.alike_above = alike_above
        self.grades = grades
        self._splits: dict[str, EvaluationSplit] = {}

    @cached_property
    def pairs(self) -> dict[str, GradedPairs]:
        """The set, read on first use."""
        return self.source.read()

    @cached_property
    def _training(self) -> TextPairs:
        pairs = self._graded("train")
        if self.grades == "all":
            return TextPairs(pairs)
        alike_pairs = TextPairs(pairs, self.alike_above)
        if len(pairs) and not len(alike_pairs):
            raise self._none_alike("train", pairs)
        return alike_pairs

    def training_pairs(self) -> TextPairs:
        """The pairs of the training split that are alike, or all of them."""
        return self._training

    def evaluation(self, split: Split) -> EvaluationSplit:
        """The first texts, the second texts, and their grades."""
        if split not in self._splits:
            pairs = self._graded(split)
            places = torch.arange(len(pairs))
            judgements = Judgements(places, places, pairs.grades - self.alike_above)
            if not len(judgements.relevant().grades):
                raise self._none_alike(split, pairs)
            self._splits[split] = EvaluationSplit(pairs.first, pairs.second, judgements)
        return self._splits[split]

    def _none_alike(self, split: str, pairs: GradedPairs) -> ValueError:
        return ValueError(
            f"alike_above: expected a threshold below some grade of the {split} split, got {self.alike_above} where "
            f"grades end at {float(pairs.grades.max())}"
        )

    def floors(self, split: Split) -> dict[str, float]:
        """Spearman's correlation of grades with the share of words that two texts have in common (Jaccard)."""
        sides = self.evaluation(split)
        overlap = [_overlap(*pair) for pair in zip(sides.queries, sides.documents, strict=True)]
        return {"word_overlap": float(spearman_shares(torch.tensor(overlap), sides.judgements.grades).mean())}

    def _graded(self, split: str) -> GradedPairs:
        if split not in self.pairs:
            raise ValueError(f"source: expected a split '{split}', got {', '.join(self.pairs) or 'none'}")
        return self.pairs[split]


class TextPairs:
    """Graded pairs as pairs to train on; equal texts have equal ids.

    Args:
        pairs: pairs with their grades.
        threshold: of the grade, which a pair must exceed, whose grade is then of no more interest; all pairs with
            their grades if left out.
    """

    def __init__(self, pairs: GradedPairs, threshold: float | None = None) -> None:
        self.pairs = pairs
        self.has_grades = threshold is None
        is_trained = pairs.grades > (-math.inf if threshold is None else threshold)
        self.places = is_trained.nonzero().flatten().tolist()
        self._ids: dict[str, int] = {}
        for text in (*pairs.first, *pairs.second):
            self._ids.setdefault(text, len(self._ids))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, item: int) -> TrainingPair:
        place = self.places[item]
        first, second = self.pairs.first[place], self.pairs.second[place]
        grade = float(self.pairs.grades[place]) if self.has_grades else None
        return TrainingPair(first, second, self._ids[first], self._ids[second], grade=grade)


def _of_queries(shares: Tensor, judgements: Judgements, queries: int) -> Tensor:
    values = torch.full((queries,), torch.nan, dtype=torch.float64)
    values[judgements.queries] = shares
    return values


def _overlap(first: str, second: str) -> float:
    words = [{word.lower() for word in identifier_words(text)} for text in (first, second)]
    return len(words[0] & words[1]) / max(1, len(words[0] | words[1]))


def pearson_shares(x: Tensor, y: Tensor) -> Tensor:
    """What each item adds to Pearson's correlation: ``r + zx·zy − r/2·(zx² + zy²)`` of its standard scores.

    That is the correlation plus the item's influence on it (Devlin, Gnanadesikan, Kettenring 1975,
    doi:10.1093/biomet/62.3.531), so that resampling means of it is resampling the correlation: products of standard
    scores have the same mean but take mean and spread for known, and vary twice as much near r = 0.8.

    Args:
        x: ``[n]``.
        y: ``[n]``.

    Returns:
        float64 ``[n]``, whose mean is the correlation exactly; NaN where one of the two does not vary.

    Example:
        >>> pearson_shares(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 4.0, 2.0])).mean()
        tensor(0.5000, dtype=torch.float64)
    """
    first, second = _standard(x.double()), _standard(y.double())
    products = first * second
    return products + products.mean() * (1 - (first.square() + second.square()) / 2)


def spearman_shares(x: Tensor, y: Tensor) -> Tensor:
    """The same for Spearman's: of ranks, equal values sharing their mean rank, taken for known.

    Example:
        >>> spearman_shares(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, 9.0, 8.0])).mean()
        tensor(0.5000, dtype=torch.float64)
    """
    return pearson_shares(_ranks(x), _ranks(y))


def _standard(x: Tensor) -> Tensor:
    if not len(x):
        return x
    deviations = x - x.mean()
    spread = deviations.square().mean().sqrt()
    # Rounding leaves a constant at something that is not quite nothing.
    return deviations / torch.where(spread > 1e-12 * x.abs().max(), spread, torch.nan)


def _ranks(x: Tensor) -> Tensor:
    if x.isnan().any():
        return torch.full(x.shape, torch.nan, dtype=torch.float64)
    _, places, counts = x.unique(return_inverse=True, return_counts=True)
    ranks: Tensor = (counts.cumsum(0) - (counts - 1) / 2).double()
    return ranks[places]
