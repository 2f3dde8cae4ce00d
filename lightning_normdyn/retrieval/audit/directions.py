"""Health of directions, from a random sample of embeddings: effective rank, common direction, uniformity, hubness."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike
from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.statistics.directions import (
    MOST_PAIRED,
    common_direction,
    finite_rows,
    uniformity,
    unit_rows,
)
from lightning_normdyn.core.statistics.effective_rank import EffectiveRank, effective_rank
from lightning_normdyn.core.statistics.interval import Interval
from lightning_normdyn.retrieval.search.document_chunks import Documents, as_documents, document_chunks
from lightning_normdyn.retrieval.uses.hubness import Hubness, hubness

_CHUNK_NUMBERS = 2**22
_LEAST = 20


class DirectionHealth(NamedTuple):
    """What directions say, whatever the norms are.

    Attributes:
        sampled_rows: vectors that were looked at.
        rows: vectors with a direction in all; where they are more, the others are a random sample of them.
        effective_rank: how many directions the vectors spread over about their mean.
        common_direction: share of the squared length that lies along the mean, which is the mean cosine of two vectors.
        uniformity: how evenly directions lie on the sphere; less is more even.
        hubness: how unevenly vectors are among the nearest of others.
    """

    sampled_rows: int
    rows: int
    effective_rank: EffectiveRank
    common_direction: Interval
    uniformity: Interval
    hubness: Hubness

    @property
    def sample_note(self) -> str:
        """Words that call a sample a sample; empty where all vectors were looked at."""
        if self.sampled_rows == self.rows:
            return ""
        return f", of a random sample of {self.sampled_rows:,} of {self.rows:,} vectors"

    @property
    def sentence(self) -> str:
        """The finding."""
        rank, hubs = self.effective_rank, self.hubness
        if not math.isfinite(rank.interval.value):
            return f"All vectors have one direction{self.sample_note}: cosines tell none of them from another."
        unseen = ", though so few vectors cannot show them all" if rank.has_unseen_dimensions else ""
        return (
            f"Directions spread over {_ends(rank.interval, 0)} of {rank.dim} dimensions (effective rank){unseen}; "
            f"{max(0.0, self.common_direction.value):.0%} of their squared length is one common direction. How often a "
            f"vector is among another's {hubs.k} nearest has a skewness of {_ends(hubs.skewness, 1)}, where "
            f"chance alone has {hubs.k**-0.5:.1f} and marked hubs begin at 1, and "
            f"{hubs.anti_hubs.value:.0%} are among nobody's{self.sample_note}."
        )


def direction_health(documents: Documents, *, k: int = 10) -> DirectionHealth | None:
    """Measures directions of embeddings however they come, in one pass and in bounded memory.

    Args:
        documents: ``[m, d]``, as :func:`~lightning_normdyn.retrieval.exact_top_k` takes them: a tensor, an array, a
            memmap, or an iterable of chunks. Of more than 8,192 with a direction a random sample is looked at.
        k: neighbours that hubness counts.

    Returns:
        The record; ``None`` of fewer than 20 vectors with a direction.

    Raises:
        ValueError: if they are no finite ``[m, d]``, or k is no count.

    Example:
        >>> vectors = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
        >>> health = direction_health(vectors.split(100))
        >>> health.sampled_rows, round(health.effective_rank.interval.value, 1)
        (300, 16.0)
    """
    check_count(k=k, hint="10 is usual")
    sample, rows = _sampled(as_documents(documents))
    return health_of(sample, rows, k=k)


def health_of(sample: Tensor, rows: int, *, k: int = 10) -> DirectionHealth | None:
    """Measures a sample.

    Args:
        sample: vectors with a direction, ``[s, d]``.
        rows: of how many it is a random sample.
        k: neighbours that hubness counts.
    """
    if len(sample) < _LEAST:
        return None
    sample = unit_rows("documents", sample[:MOST_PAIRED])
    return DirectionHealth(
        len(sample),
        rows,
        effective_rank(sample),
        common_direction(sample),
        uniformity(sample),
        hubness(sample, k=k),
    )


def _sampled(documents: Documents) -> tuple[Tensor, int]:
    """Rows at random of those that are not zero, and how many of these there are: those with the smallest of keys."""
    generator = torch.Generator().manual_seed(0)
    sample, keys, count, offset = torch.empty(0, 0), torch.empty(0, dtype=torch.float64), 0, 0
    for chunk in _chunks(documents):
        rows = finite_rows("documents", chunk, first_row=offset).cpu()
        if offset and rows.shape[1] != sample.shape[1]:
            raise ValueError(
                f"documents: expected chunks [some, {sample.shape[1]}] as the first, got {list(rows.shape)} at row "
                f"{offset}; pass embeddings of one model"
            )
        directions = rows[(rows != 0).any(1)]
        keys = torch.cat((keys, torch.rand(len(directions), generator=generator, dtype=torch.float64)))
        sample = torch.cat((sample, directions)) if offset else directions
        if len(keys) > MOST_PAIRED:
            keys, places = keys.topk(MOST_PAIRED, largest=False)
            sample = sample[places]
        count, offset = count + len(directions), offset + len(rows)
    return sample, count


def _chunks(documents: Documents) -> Iterator[ArrayLike]:
    shape = getattr(documents, "shape", None)
    if shape is None:
        if not isinstance(documents, Iterable):
            raise ValueError(
                f"documents: expected [m, d], or chunks of it, got {type(documents).__name__}; pass a tensor, an array "
                "or an iterable of either"
            )
        yield from cast("Iterable[ArrayLike]", documents)
        return
    if len(shape) != 2:
        raise ValueError(f"documents: expected [m, d], got {list(shape)}; a single one is documents[None]")
    yield from document_chunks(documents, max(1, _CHUNK_NUMBERS // max(1, shape[1])), shape[1])


def _ends(interval: Interval, digits: int) -> str:
    """A number with its interval, where it has one."""
    value, low, high = (f"{end:.{digits}f}".replace("-", "−") for end in interval)
    return f"{value} ({low} to {high})" if math.isfinite(interval.low) else value
