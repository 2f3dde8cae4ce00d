"""Checks all embeddings before an export and summarizes them: norms, zeros, the largest number, a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import precise_norm
from lightning_normdyn.datasets.embedding_file import places_by_id
from lightning_normdyn.retrieval.indexes import Metric

_SAME_LENGTH = 2e-3  # twice what half precision leaves of a length of 1
_LARGEST_HALF = 65_504.0
_LARGEST_SINGLE = torch.finfo(torch.float32).max


class Survey(NamedTuple):
    """Embeddings as one look through them shows them.

    Attributes:
        rows: how many.
        zeros: those of length zero, whose score is 0 with every query.
        shortest: the smallest norm that is not zero; 0 if all are.
        longest: the largest norm.
        radius: the largest norm of a folded vector.
        largest: the largest number of a folded vector, without its sign.
        sample: embeddings as they are, ``[s, d]``.
    """

    rows: int
    zeros: int
    shortest: float
    longest: float
    radius: float
    largest: float
    sample: Tensor

    @property
    def same_length(self) -> bool:
        """Whether folding any exponent would multiply all vectors by one number."""
        return self.longest > 0 and self.longest / self.shortest - 1 < _SAME_LENGTH

    @property
    def unit_length(self) -> bool:
        """Whether all have length 1, as those of a model that normalizes its output."""
        return self.same_length and abs(self.longest - 1) < _SAME_LENGTH


def check_ids(ids: Sequence[str], rows: int) -> None:
    """Refuses ids that do not name each row.

    Raises:
        ValueError: if there are too few or too many, or one comes twice.
    """
    if len(ids) != rows:
        raise ValueError(f"ids: expected one for each of {rows:,} embeddings, got {len(ids):,}")
    places_by_id(ids, "ids")


def check_radius(radius: float, metric: Metric, *, half: bool) -> None:
    """Refuses lengths that would be infinite as the coordinate of a zero vector, or squared by the index.

    Args:
        radius: the length that all vectors are to have.
        metric: what the index compares by.
        half: whether vectors are stored in float16.

    Raises:
        ValueError: if it is too large.
    """
    largest, why = (_LARGEST_HALF, "float16") if half else (_LARGEST_SINGLE, "float32")
    if metric != "inner_product" and largest > _LARGEST_SINGLE**0.5:
        largest, why = _LARGEST_SINGLE**0.5, f"squares in float32, which {metric} needs"
    if radius > largest:
        raise ValueError(
            f"augment: expected folded embeddings no longer than {largest:.5g} for {why}, got one of length "
            f"{radius:.5g}; divide all embeddings by one number, which changes no ranking"
        )


def check_scores(radius: float, longest_query: float, *, compares_documents: bool) -> None:
    """Refuses lengths whose inner products would be infinite in float32, so that the best are all alike.

    Args:
        radius: the largest norm of a folded vector.
        longest_query: the largest norm of a query.
        compares_documents: whether the index compares documents with each other, as a graph does.

    Raises:
        ValueError: if they are too large.

    Example:
        >>> check_scores(1e19, 1.0, compares_documents=True)
        >>> check_scores(1e20, 1.0, compares_documents=True)
        Traceback (most recent call last):
        ValueError: embeddings: expected folded lengths whose inner products are within float32, got up to 1e+20, ...
    """
    longest = max(longest_query, radius) if compares_documents else longest_query
    if radius * longest > _LARGEST_SINGLE:
        partner = "one another" if longest == radius and compares_documents else f"queries of up to {longest_query:.3g}"
        raise ValueError(
            f"embeddings: expected folded lengths whose inner products are within float32, got up to {radius:.5g}, "
            f"with {partner}; divide all embeddings by one number, which changes no ranking"
        )


class BadRowError(ValueError):
    """A row that no export can take.

    Args:
        row: its number.
        why: what is wrong, after the row's name.
    """

    def __init__(self, row: int, why: str) -> None:
        super().__init__(row, why)
        self.row, self.why = row, why

    def named(self, id: str) -> ValueError:
        """The error with the row's id in it."""
        return ValueError(f"embeddings: row {self.row} (id {id!r}) {self.why}")


@dataclass(frozen=True)
class PartSurveyor:
    """Looks through some of the rows.

    Attributes:
        fold: makes of a chunk what will be written.
        rows: of all parts together, among which the sample is drawn.
        sample_size: rows to keep.
        half: whether folded vectors must fit into float16, and none of them become zero there.
        seed: of the draw.
    """

    fold: Callable[[Tensor], Tensor]
    rows: int
    sample_size: int
    half: bool = False
    seed: int = 0

    def __call__(self, chunks: Iterable[Tensor], rows: range) -> Survey:
        """Looks through these rows.

        Args:
            chunks: ``[n, d]`` each, in order.
            rows: that they are.

        Raises:
            BadRowError: if one is not finite or, when folded, too large or nothing in float16.
        """
        sample_rows = torch.randperm(self.rows, generator=torch.Generator().manual_seed(self.seed))
        sample_rows = sample_rows[: self.sample_size].sort().values
        norms, sample_chunks, zeros, largest, radius, offset = [], [], 0, 0.0, 0.0, rows.start
        for chunk in chunks:
            _refuse(
                ~chunk.isfinite().all(1),
                offset,
                "expected finite numbers, got NaN or infinite ones (float16 ends at "
                "65,504); leave the row out or encode it again",
            )
            vectors = _folded(chunk, self.fold, offset)
            if self.half:
                _check_half(vectors, offset)
            chunk_norms = precise_norm(chunk)
            positive_norms = chunk_norms[chunk_norms > 0]
            zeros += len(chunk_norms) - len(positive_norms)
            norms += [positive_norms.min(), positive_norms.max()] if len(positive_norms) else []
            largest = max(largest, float(vectors.abs().max()))
            radius = max(radius, float(precise_norm(vectors).max()))
            local_rows = sample_rows[(sample_rows >= offset) & (sample_rows < offset + len(chunk))] - offset
            sample_chunks.append(chunk[local_rows])
            offset += len(chunk)
        shortest, longest = (float(min(norms)), float(max(norms))) if norms else (0.0, 0.0)
        sample = torch.cat(sample_chunks) if sample_chunks else torch.empty(0, 0)
        return Survey(offset - rows.start, zeros, shortest, longest, radius, largest, sample)


def joined_surveys(part_surveys: Iterable[Survey], ids: Sequence[str]) -> Survey:
    """The survey of all rows.

    Args:
        part_surveys: of some of them each, in order, as they come.
        ids: of all rows.

    Raises:
        ValueError: if there is no row, or a bad one comes up in a part, with its number and id.
    """
    if not ids:
        raise ValueError("embeddings: expected at least one vector, got none")
    try:
        surveys = list(part_surveys)
    except BadRowError as error:
        raise error.named(ids[error.row]) from error
    shortest = [part.shortest for part in surveys if part.longest]
    return Survey(
        sum(part.rows for part in surveys),
        sum(part.zeros for part in surveys),
        min(shortest, default=0.0),
        max(part.longest for part in surveys),
        max(part.radius for part in surveys),
        max(part.largest for part in surveys),
        surveys[0].sample if len(surveys) == 1 else torch.cat([part.sample for part in surveys]),
    )


def _check_half(vectors: Tensor, offset: int) -> None:
    _refuse(
        vectors.abs().amax(1) > _LARGEST_HALF,
        offset,
        "is too large for float16 once it is folded; keep "
        "float32, or divide all embeddings by one number, which changes no ranking",
    )
    _refuse(
        vectors.any(1) & ~vectors.half().any(1),
        offset,
        "is so small once it is folded that float16 makes it zero; keep "
        "float32, or multiply all embeddings by one number, which changes no ranking",
    )


def _folded(chunk: Tensor, fold: Callable[[Tensor], Tensor], offset: int) -> Tensor:
    try:
        return fold(chunk)
    except ValueError as error:
        raise ValueError(f"{error}; the chunk begins at row {offset} of the embeddings") from error


def _refuse(is_bad: Tensor, offset: int, why: str) -> None:
    if is_bad.any():
        raise BadRowError(offset + int(is_bad.nonzero()[0]), why)
