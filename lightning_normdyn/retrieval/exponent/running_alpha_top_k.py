"""Running top-k at many exponents of the document norm, from one set of inner products."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import most_precise, most_precise_dtype, precise_norm
from lightning_normdyn.retrieval.search.excluded_pairs import ExcludedPairs
from lightning_normdyn.retrieval.search.running_top_k import RunningTopK
from lightning_normdyn.retrieval.search.tiles import Survivors, Tile
from lightning_normdyn.retrieval.search.top_k import TopK, survivors

_SLICE = 2**17
_MOST_LOG = 600.0
_MARGIN = 1e-6


class RunningAlphaTopK:
    """The best documents of each query at each exponent.

    Args:
        queries: ``[n, d]``, for their number, type and device.
        powers: of the norm beside the inner product, ``[a]``.
        k: length of each ranking.
        pairs: what must not be found, by the queries' ``numbers``.
        numbers: ``[n]``.
    """

    def __init__(self, queries: Tensor, powers: Tensor, k: int, pairs: ExcludedPairs | None, numbers: Tensor) -> None:
        self._n, self._k = len(queries), k
        self._powers = powers.to(queries.device, most_precise_dtype(queries.device))
        self._pairs, self._numbers = pairs, numbers
        self._type, self._narrow = queries.dtype, torch.finfo(queries.dtype)
        self._top_k = RunningTopK(self._n * len(powers), k, self._powers, ascending=False)

    def take(self, tile: Tile, band: NormBand, first: int, *, begin: bool = False) -> None:
        """Takes a filled tile of a band, in a chunk whose first document is number ``first``."""
        reach = float(band.log_norms.abs().amax() * self._powers.abs().amax())
        if reach > _MOST_LOG:
            check_finite_rows(band, first)
            ends = ", ".join(f"{float(end.exp()):g}" for end in band.log_norms.aminmax())
            raise ValueError(
                f"documents: expected norms whose powers are within float64, got norms between {ends} from row {first} "
                "on; scale all embeddings by one factor"
            )
        lowest = tile.scores.new_full((self._n,), self._narrow.max) if begin else self._cutoffs(band)
        tile_survivors = survivors(tile, lowest, band.documents, band.indices + first)
        if begin:
            self._begin(tile, band, first)
            return
        weights = (band.log_norms.unsqueeze(1) * self._powers).exp()
        for columns in zip(*(column.split(_SLICE) for column in tile_survivors), strict=True):
            self._offer(Survivors(*columns), band, weights, first)

    def best(self) -> TopK:
        """Scores and positions, ``[n · a, k]``."""
        self._top_k.settle()
        return TopK(self._top_k.scores, self._top_k.indices)

    def _begin(self, tile: Tile, band: NormBand, first: int) -> None:
        """Takes the best of each exponent from a first band, while there is no threshold to go by."""
        products = most_precise(tile.scores[:, : len(band.indices)])
        k = min(self._k + (0 if self._pairs is None else self._pairs.max_per_query), products.shape[1])
        for number, power in enumerate(self._powers):
            scores = products * (power * band.log_norms).exp()
            lowest = scores.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)
            rows, columns = (scores >= lowest).nonzero().unbind(1)
            indices = band.indices[columns] + first
            is_allowed = self._allowed(rows, indices)
            rows, columns, indices = rows[is_allowed], columns[is_allowed], indices[is_allowed]
            self._top_k.offer(rows * len(self._powers) + number, indices, scores[rows, columns])
        self._top_k.settle()

    def _allowed(self, rows: Tensor, indices: Tensor) -> Tensor:
        if self._pairs is None:
            return torch.ones_like(rows, dtype=torch.bool)
        return ~self._pairs.holds(self._numbers[rows], indices)

    def _cutoffs(self, band: NormBand) -> Tensor:
        """The lowest product of each query that enters a ranking at any exponent, ``[n]``.

        A document enters at power ``p`` if its product is above ``threshold · |d|^-p``, which is monotone in the norm:
        its least over the band is at one end.
        """
        ends = torch.stack((band.log_norms.amin(), band.log_norms.amax()))
        weights = (-self._powers.unsqueeze(1) * ends).exp()
        thresholds = self._top_k.thresholds.view(self._n, -1, 1)
        lowest = (thresholds * weights).amin((1, 2)).clamp(min=self._narrow.min)
        # Down by more than rounding, and by something at zero: whatever passes is looked at again.
        return (lowest - _MARGIN * lowest.abs() - self._narrow.tiny).clamp(min=self._narrow.min).to(self._type)

    def _offer(self, survivors: Survivors, band: NormBand, weights: Tensor, first: int) -> None:
        """Offers survivors wherever they enter; ``weights`` ``[b, a]`` are the powers of the band's norms."""
        top_k, a = self._top_k, len(self._powers)
        scores = weights.index_select(0, survivors.columns).mul_(most_precise(survivors.scores).unsqueeze(1))
        thresholds = top_k.thresholds.view(-1, a).index_select(0, survivors.rows)
        survivor, power = (scores >= thresholds).nonzero().unbind(1)
        rows, indices, scores = (
            survivors.rows[survivor] * a + power,
            band.indices[survivors.columns[survivor]] + first,
            scores[survivor, power],
        )
        # An equal score enters with a smaller index alone; without this, zeros would be offered again and again.
        enters = (scores > top_k.thresholds[rows]) | (indices < top_k.indices[rows, -1])
        enters &= self._allowed(survivors.rows[survivor], indices)
        top_k.offer(rows[enters], indices[enters], scores[enters])


class NormBand(NamedTuple):
    """Some documents of a chunk.

    Attributes:
        documents: ``[b, d]``, copied together.
        indices: their positions in the chunk, ``[b]``.
        log_norms: float64 ``[b]``; of a zero vector that of the shortest other one, for it scores 0 whatever it is.
    """

    documents: Tensor
    indices: Tensor
    log_norms: Tensor


def check_finite_rows(band: NormBand, first: int) -> None:
    """Refuses documents with an infinite number, whose norms no factor would bring back.

    Args:
        band: some of a chunk.
        first: number of the chunk's first document.

    Raises:
        ValueError: naming the first such row.
    """
    bad_rows = band.indices[~band.documents.isfinite().all(1)]
    if len(bad_rows):
        raise ValueError(
            f"documents: expected finite numbers, got NaN or infinite ones in row {first + int(bad_rows.min())}; leave "
            "such rows out or encode them again"
        )


def norm_bands(chunk: Tensor, width: int, *, sample: bool) -> Iterator[NormBand]:
    """Splits a chunk ``[rows, d]`` into bands of ``width`` documents of like norm, the longest and the shortest first.

    High exponents find their best among the long and low ones among the short: what comes later then enters few
    rankings.

    Args:
        chunk: documents.
        width: of a band.
        sample: whether the first band is of all norms instead, a third each of the shortest, the longest and of a
            cross-section, so that the thresholds of every exponent are good from the start.
    """
    norms = log_norms(chunk)
    order = norms.argsort(stable=True)
    if sample:
        is_sampled = _spread_places(len(order), width, order.device)
        yield _band(chunk, norms, order[is_sampled])
        order = order[~is_sampled]
    bands = deque(order.split(width))
    while bands and len(bands[0]):
        yield _band(chunk, norms, bands.pop())
        if bands:
            yield _band(chunk, norms, bands.popleft())


def _spread_places(count: int, width: int, device: torch.device) -> Tensor:
    """A mask of at most ``width`` places: the first, the last, and some at equal steps between."""
    third = min(width, count) // 3
    is_sampled = torch.zeros(count, dtype=torch.bool, device=device)
    is_sampled[:third] = is_sampled[count - third :] = True
    middle = is_sampled[third : count - third]
    step = max(1, len(middle) // max(1, width - 2 * third))
    middle[::step][: width - 2 * third] = True
    return is_sampled


def _band(chunk: Tensor, norms: Tensor, indices: Tensor) -> NormBand:
    return NormBand(chunk.index_select(0, indices), indices, norms[indices])


def log_norms(chunk: Tensor) -> Tensor:
    """Logarithms of norms in float64, as :class:`NormBand` has them."""
    norms = torch.linalg.vector_norm(chunk, dim=1)
    # A float32 square over- or underflows from 1e19 up and 1e-19 down; to convert all rows would cost a copy.
    extreme = ((norms < 1e-15) | ~(norms < 1e15)).nonzero().squeeze(1)
    norms = most_precise(norms)
    if len(extreme):
        norms[extreme] = precise_norm(chunk[extreme])
    positive = norms > 0
    shortest = norms.where(positive, torch.inf).amin() if len(norms) else norms.sum()
    return norms.where(positive, shortest if bool(shortest < torch.inf) else 1.0).log()
