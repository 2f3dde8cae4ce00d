"""Scans embeddings in one pass: the norm of every row, a random sample of rows, and the distribution of norms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import precise_norm
from lightning_normdyn.core.statistics.interval import sorted_quantile

_MOST_SAMPLED = 8_192
_MOST_NUMBERS = 2**23


class NormScan(NamedTuple):
    """What one pass over embeddings keeps.

    Attributes:
        norms: of every row, float64 ``[n]``.
        sample: rows at random without those that are zero, float64 ``[s, d]``; all of them where there are few.
        dim: d.
    """

    norms: Tensor
    sample: Tensor
    dim: int


def scan_norms(chunks: Iterable[Tensor], rows: int, *, name: str = "embeddings") -> NormScan:
    """Reads embeddings once, in bounded memory: 8 bytes a row, and 64 MiB of embeddings at most.

    Args:
        chunks: ``[some, d]`` in order.
        rows: of all chunks together.
        name: what an error calls them.

    Returns:
        The record.

    Raises:
        ValueError: if there is no row, chunks differ in d, or a row is not finite.

    Example:
        >>> scan_norms(iter([torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)]), 2).norms
        tensor([5., 0.], dtype=torch.float64)
    """
    return joined_scans([PartScanner(rows, name)(chunks, range(rows))], name)


class PartScan(NamedTuple):
    """What a pass over some of the rows keeps.

    Attributes:
        norms: of them.
        sample: those of the sample that are among them, ``[s, d]``.
        bad_count: rows that are not finite.
        first_bad: the first of these, -1 if there is none.
    """

    norms: Tensor
    sample: Tensor
    bad_count: int
    first_bad: int


@dataclass(frozen=True)
class PartScanner:
    """Scans some of the rows.

    Attributes:
        rows: of all parts together, among which the sample is drawn.
        name: what an error calls the embeddings.
    """

    rows: int
    name: str = "embeddings"

    def __call__(self, chunks: Iterable[Tensor], rows: range) -> PartScan:
        """Scans these rows.

        Args:
            chunks: ``[some, d]`` in order.
            rows: that they are.

        Raises:
            ValueError: if there are more or fewer, or chunks differ in d.
        """
        norms = torch.empty(len(rows), dtype=torch.float64)
        sample_rows, sample = torch.empty(0, dtype=torch.int64), torch.empty(0, 0, dtype=torch.float64)
        bad_count, first_bad, offset, dim = 0, -1, 0, 0
        for chunk in chunks:
            if not offset:
                dim = chunk.shape[1]
                sample_rows = _choose(self.rows, dim)
                sample_rows = sample_rows[(sample_rows >= rows.start) & (sample_rows < rows.stop)] - rows.start
                # All at once and in advance: small blocks kept between chunks would keep the chunks' memory from being
                # given back.
                sample = torch.empty(len(sample_rows), dim, dtype=torch.float64)
            end = offset + len(chunk)
            if chunk.shape[1] != dim or end > len(rows):
                raise ValueError(
                    f"{self.name}: expected [{self.rows}, {dim}] as announced, got {list(chunk.shape)} at row "
                    f"{rows.start + offset}"
                )
            bad_rows = (~chunk.isfinite().all(1)).nonzero().squeeze(1)
            if len(bad_rows):
                first_bad = rows.start + offset + int(bad_rows[0]) if not bad_count else first_bad
                bad_count += len(bad_rows)
            norms[offset:end] = precise_norm(chunk)
            low, high = torch.searchsorted(sample_rows, torch.tensor([offset, end])).tolist()
            sample[low:high] = chunk[(sample_rows[low:high] - offset).to(chunk.device)].to(sample)
            offset = end
        if offset < len(rows) or not offset:
            raise ValueError(
                f"{self.name}: expected {self.rows or 'some'} vectors, got {rows.start + offset}; is the file whole?"
            )
        return PartScan(norms, sample, bad_count, first_bad)


def joined_scans(part_scans: Iterable[PartScan], name: str = "embeddings") -> NormScan:
    """The scan of all rows.

    Args:
        part_scans: of one or more, in order.
        name: what an error calls the embeddings.

    Raises:
        ValueError: if a row is not finite.
    """
    norms, samples, bad_counts, first_bads = (list(column) for column in zip(*part_scans, strict=True))
    if sum(bad_counts):
        first_bad = min(row for row in first_bads if row >= 0)
        raise ValueError(
            f"{name}: expected finite numbers, got NaN or infinity in {sum(bad_counts)} of {sum(map(len, norms))} "
            f"rows, the first being row {first_bad}; leave such rows out or encode them again"
        )
    all_norms = norms[0] if len(norms) == 1 else torch.cat(norms)
    sample = samples[0] if len(samples) == 1 else torch.cat(samples)
    return NormScan(all_norms, sample[sample.abs().amax(1) > 0], sample.shape[1])


def _choose(rows: int, dim: int) -> Tensor:
    """Places of the sample, ascending; drawn before anything is read."""
    sample_size = min(_MOST_SAMPLED, max(1, _MOST_NUMBERS // max(1, dim)))
    return torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:sample_size].sort().values


_LEVELS = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_BINS = 60
_FRAME = (0.001, 0.999)
_ROOM = 0.5


class NormDistribution(NamedTuple):
    """Norms of all vectors but those that are zero or near dead.

    Attributes:
        rows: vectors in all.
        zeros: how many are zero; they are in none of the other numbers.
        near_dead: how many others are near dead, likewise.
        limit: norm below which a vector is near dead.
        mean: of the norms.
        cv: their standard deviation over their mean.
        quantiles: level to quantile, the smallest and the largest norm included.
        edges: of the histogram's bins, ``[b + 1]``: from the smallest to the largest norm where that is no more than
            twice as wide as from the 0.1% to the 99.9% quantile, else from a little below the one to a little above
            the other.
        counts: norms in each bin, ``[b]``.
        below: norms below the first bin.
        above: norms above the last.
    """

    rows: int
    zeros: int
    near_dead: int
    limit: float
    mean: float
    cv: float
    quantiles: dict[float, float]
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int
    above: int


def norm_distribution(norms: Tensor, *, near_dead_limit: float = 0.0) -> NormDistribution:
    """Describes norms ``[n]``.

    Args:
        norms: of all vectors.
        near_dead_limit: norm below which one counts as near dead.

    Raises:
        ValueError: if all vectors are zero.

    Example:
        >>> distribution = norm_distribution(torch.tensor([0.0, 1.0, 3.0]))
        >>> distribution.zeros, distribution.mean, distribution.cv, sum(distribution.counts)
        (1, 2.0, 0.5, 2)
    """
    zeros = int((norms == 0).sum())
    living = norms[(norms > 0) & (norms >= near_dead_limit)].double().sort().values
    if not len(living):
        raise ValueError(f"embeddings: expected vectors with a direction, got {len(norms)} that are all zero")
    mean = living.mean()
    edges = _edges(living)
    inside = (living >= edges[0]) & (living <= edges[-1])
    place = (torch.searchsorted(edges, living[inside], right=True) - 1).clamp(0, _BINS - 1)
    return NormDistribution(
        len(norms),
        zeros,
        len(norms) - zeros - len(living),
        near_dead_limit,
        float(mean),
        float((living - mean).square().mean().sqrt() / mean),
        {level: sorted_quantile(living, level) for level in _LEVELS},
        tuple(edges.tolist()),
        tuple(torch.bincount(place, minlength=_BINS).tolist()),
        int((living < edges[0]).sum()),
        int((living > edges[-1]).sum()),
    )


def _edges(ascending: Tensor) -> Tensor:
    """Edges of the histogram of sorted norms: a frame that nearly all lie in, and all of them if they are near it."""
    low, high = (sorted_quantile(ascending, level) for level in _FRAME)
    room = max(high - low, 1e-6 * high)
    smallest, largest = float(ascending[0]), float(ascending[-1])
    low = smallest if smallest >= low - _ROOM * room else low
    high = largest if largest <= high + _ROOM * room else high
    return torch.linspace(low - 0.01 * room, high + 0.01 * room, _BINS + 1, dtype=torch.float64)
