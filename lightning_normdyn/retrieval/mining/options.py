"""Which documents count as hard negatives: options of the miner, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_normdyn.core.number_checks import check_count, check_finite_number, check_not_negative
from lightning_normdyn.core.object_checks import check_choice

SamplingStrategy = Literal["top", "random"]
_POOL = 10


@dataclass(frozen=True)
class MiningOptions:
    """Which documents count as hard negatives of a query, in the words of sentence-transformers.

    Positive-aware limits are those of NV-Retriever (arXiv 2407.15831): ``absolute_margin`` is TopK-MarginPos,
    ``relative_margin=0.05`` is TopK-PercPos at 95%.

    Args:
        num_negatives: of a query.
        range_min: how many of the closest documents that meet all limits are passed over.
        range_max: how many of the closest documents that are no positives are looked at; all of them if left out.
        max_score: the highest score of a negative.
        min_score: the lowest.
        absolute_margin: how far below the score of the positive a negative must be.
        relative_margin: the same as a share of that score's size.
        sampling_strategy: ``top`` takes the closest; ``random`` draws from all that ``range_max`` leaves, or from the
            ``10 · num_negatives`` closest if it is left out.
        seed: of the draw.

    Raises:
        ValueError: if an option is out of its range, or the range of ranks is too small.

    Example:
        >>> options = MiningOptions(num_negatives=2, relative_margin=0.05)
        >>> options.ceilings(torch.tensor([0.8, -0.4]))
        tensor([ 0.7600, -0.4200])
    """

    num_negatives: int = 3
    range_min: int = 0
    range_max: int | None = None
    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    sampling_strategy: SamplingStrategy = "top"
    seed: int = 0

    def __post_init__(self) -> None:
        check_count(num_negatives=self.num_negatives)
        check_count(0, range_min=self.range_min, seed=self.seed)
        numbers: dict[str, Any] = {"max_score": self.max_score, "min_score": self.min_score}
        margins: dict[str, Any] = {"absolute_margin": self.absolute_margin, "relative_margin": self.relative_margin}
        check_finite_number(**{name: number for name, number in numbers.items() if number is not None})
        check_not_negative(**{name: margin for name, margin in margins.items() if margin is not None})
        check_choice(get_args(SamplingStrategy), sampling_strategy=self.sampling_strategy)
        if self.range_max is not None:
            check_count(range_max=self.range_max)
            least = self.range_min + self.num_negatives
            if self.range_max < least:
                raise ValueError(
                    f"range_max: expected range_min + num_negatives, {least}, or more, got {self.range_max}; raise it, "
                    "or lower one of the others"
                )
        if self.max_score is not None and self.min_score is not None and self.max_score < self.min_score:
            raise ValueError(
                f"max_score: expected at least min_score, {self.min_score:g}, got {self.max_score:g}; exchange the two"
            )

    @property
    def has_margin(self) -> bool:
        """Whether a limit is measured from the positive's score."""
        return self.absolute_margin is not None or self.relative_margin is not None

    @property
    def depth(self) -> int:
        """How many documents of each query a search must give: all that ``range_max`` lets in, or as many as needed."""
        if self.range_max is not None:
            return self.range_max
        return self.range_min + self.num_negatives * (_POOL if self.sampling_strategy == "random" else 1)

    def ceilings(self, positive_scores: Tensor) -> Tensor:
        """The highest score that a negative of each query may have.

        Args:
            positive_scores: of each query's positive that scores lowest, ``[n]``.
        """
        ceilings = torch.full_like(positive_scores, torch.inf)
        if self.absolute_margin is not None:
            ceilings = ceilings.minimum(positive_scores - self.absolute_margin)
        if self.relative_margin is not None:
            # Times (1 - margin) would lift the limit of a positive that scores below zero.
            ceilings = ceilings.minimum(positive_scores - self.relative_margin * positive_scores.abs())
        return ceilings if self.max_score is None else ceilings.clamp(max=self.max_score)

    def columns(self, is_allowed: Tensor) -> Tensor:
        """Which columns of a search's result are taken, best first, int64 ``[n, num_negatives]``; -1 for none.

        Args:
            is_allowed: which results meet the limits, bool ``[n, depth]``, on the CPU.
        """
        ranks = is_allowed.cumsum(1) - 1
        is_allowed = is_allowed & (ranks >= self.range_min)
        keys = -torch.arange(is_allowed.shape[1], dtype=torch.float64).expand(is_allowed.shape)
        if self.sampling_strategy == "random":
            generator = torch.Generator().manual_seed(self.seed)
            keys = torch.rand(is_allowed.shape, generator=generator, dtype=torch.float64)
        keys = torch.nn.functional.pad(keys.where(is_allowed, -torch.inf), (0, self.num_negatives), value=-torch.inf)
        best, columns = keys.topk(self.num_negatives, dim=1)
        absent = keys.shape[1]
        columns = columns.where(best > -torch.inf, absent).sort(dim=1).values
        return columns.where(columns < absent, -1)
