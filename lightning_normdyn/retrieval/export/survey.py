"""Checks all embeddings before an export and summarizes them: norms, zeros, the largest number, a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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


def survey(
    chunks: Iterable[Tensor],
    fold: Callable[[Tensor], Tensor],
    ids: Sequence[str],
    *,
    sample_size: int,
    half: bool,
    seed: int = 0,
) -> Survey:
    """Looks through embeddings, a chunk at a time.

    Args:
        chunks: ``[n, d]`` each, in the order of ``ids``.
        fold: makes of a chunk what will be written.
        ids: of all rows.
        sample_size: rows to keep, drawn at random; all of them if there are fewer.
        half: whether folded vectors must fit into float16, and none of them become zero there.
        seed: of the draw.

    Raises:
        ValueError: if there is no row, or one is not finite or, when folded, too large or nothing in float16, with its
            number and id.
    """
    if not ids:
        raise ValueError("embeddings: expected at least one vector, got none")
    sample_rows = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))[:sample_size].sort().values
    norms, sample_chunks, zeros, largest, radius, offset = [], [], 0, 0.0, 0.0, 0
    for chunk in chunks:
        _refuse(
            ~chunk.isfinite().all(1),
            offset,
            ids,
            "expected finite numbers, got NaN or infinite ones (float16 ends at "
            "65,504); leave the row out or encode it again",
        )
        vectors = _folded(chunk, fold, offset)
        if half:
            _refuse(
                vectors.abs().amax(1) > _LARGEST_HALF,
                offset,
                ids,
                "is too large for float16 once it is folded; keep "
                "float32, or divide all embeddings by one number, which changes no ranking",
            )
            _refuse(
                vectors.any(1) & ~vectors.half().any(1),
                offset,
                ids,
                "is so small once it is folded that float16 makes it zero; keep "
                "float32, or multiply all embeddings by one number, which changes no ranking",
            )
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
    return Survey(offset, zeros, shortest, longest, radius, largest, torch.cat(sample_chunks))


def _folded(chunk: Tensor, fold: Callable[[Tensor], Tensor], offset: int) -> Tensor:
    try:
        return fold(chunk)
    except ValueError as error:
        raise ValueError(f"{error}; the chunk begins at row {offset} of the embeddings") from error


def _refuse(is_bad: Tensor, offset: int, ids: Sequence[str], why: str) -> None:
    if is_bad.any():
        row = offset + int(is_bad.nonzero()[0])
        raise ValueError(f"embeddings: row {row} (id {ids[row]!r}) {why}")
