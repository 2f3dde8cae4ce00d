"""Running top-k at many exponents of the document norm, from one set of inner products."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import most_precise, most_precise_dtype, precise_norm
from lightning_normdyn.retrieval.search.excluded_pairs import ExcludedPairs
from lightning_normdyn.retrieval.search.running_top_k import RunningTopK
from lightning_normdyn.retrieval.search.tiles import GROUP, Survivors, Tile
from lightning_normdyn.retrieval.search.top_k import TopK, survivors

_SLICE = 2**17
_MOST_LOG = 600.0
_MARGIN = 1e-6
_PARTS = ((0.25, 1), (1.0, 4), (math.inf, 16))
"""Parts of a band by how far apart its documents' weights are, in logarithms."""


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
                "on; take alphas nearer 0, or scale all embeddings by one factor"
            )
        if begin:
            survivors(tile, tile.scores.new_full((self._n,), self._narrow.max), band.documents, band.indices + first)
            self._begin(tile, band, first)
            return
        cutoffs = self._cutoffs(band, tile.width)
        tile_survivors = survivors(tile, cutoffs.amin(2).T, band.documents, band.indices + first)
        for columns in zip(*(column.split(_SLICE) for column in tile_survivors), strict=True):
            self._offer(Survivors(*columns), band, cutoffs, first)

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

    def _cutoffs(self, band: NormBand, width: int) -> Tensor:
        """A product that each query's ranking at each exponent takes no document below, ``[parts, n, a]``.

        The longest and the shortest documents differ so much that one cutoff for a band of them lets nearly all pass:
        it goes in parts of like norm.
        """
        low, high = band.log_norms.aminmax()
        spread = float((high - low) * self._powers.abs().amax())
        parts = math.gcd(next(parts for most, parts in _PARTS if spread <= most), width // GROUP)
        if parts == 1 or len(band.log_norms) < width:
            return self._cutoffs_between(low, high).unsqueeze(0)
        ends = torch.stack(torch.aminmax(band.log_norms.view(parts, -1), dim=1), dim=1)
        return torch.stack([self._cutoffs_between(*part_ends) for part_ends in ends])

    def _cutoffs_between(self, shortest: Tensor, longest: Tensor) -> Tensor:
        """The same of documents between two logarithms of norms, ``[n, a]``.

        A document enters at power ``p`` if its product is above ``threshold · |d|^-p``, which is monotone in the norm:
        its least is at one end.
        """
        of_shortest, of_longest = ((-self._powers * end).exp() for end in (shortest, longest))
        thresholds = self._top_k.thresholds.view(self._n, -1)
        lowest = torch.minimum(thresholds * of_shortest, thresholds * of_longest).clamp(min=self._narrow.min)
        # Down by more than rounding, and by something at zero: whatever passes is looked at again.
        return (lowest - _MARGIN * lowest.abs() - self._narrow.tiny).clamp(min=self._narrow.min).to(self._type)

    def _offer(self, survivors: Survivors, band: NormBand, cutoffs: Tensor, first: int) -> None:
        """Offers survivors wherever they enter: few do at more than one exponent, and those alone are scored."""
        top_k, a = self._top_k, len(self._powers)
        places = survivors.rows
        if len(cutoffs) > 1:
            places = places + survivors.columns.div(len(band.indices) // len(cutoffs), rounding_mode="floor") * self._n
        may_enter = survivors.scores.unsqueeze(1) > cutoffs.view(-1, a).index_select(0, places)
        survivor, power = may_enter.nonzero().unbind(1)
        # index_select takes half of the time of brackets.
        query_rows, columns, products = (column.index_select(0, survivor) for column in survivors)
        rows, indices = query_rows * a + power, band.indices.index_select(0, columns) + first
        weights = (band.log_norms.index_select(0, columns) * self._powers.index_select(0, power)).exp_()
        scores = most_precise(products).mul_(weights)
        thresholds = top_k.thresholds.index_select(0, rows)
        # An equal score enters with a smaller index alone; without this, zeros would be offered again and again.
        is_tied = scores == thresholds
        enters = scores > thresholds
        if bool(is_tied.any()):
            enters |= is_tied & (indices < top_k.indices[rows, -1])
        if self._pairs is not None:
            enters &= self._allowed(query_rows, indices)
        places = enters.nonzero().squeeze(1)
        top_k.offer(*(column.index_select(0, places) for column in (rows, indices, scores)))


class NormBand(NamedTuple):
    """Some documents of a chunk.

    Attributes:
        documents: ``[b, d]``, copied together; in the same memory for every band of a chunk.
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

    Yields:
        Each band, whose documents are there until the next one is asked for.
    """
    norms = log_norms(chunk)
    order = norms.argsort(stable=True)
    # Fresh memory for every band would have to be mapped page by page.
    copies = chunk.new_empty(min(width, len(chunk)), chunk.shape[1])
    if sample:
        is_sampled = _spread_places(len(order), width, order.device)
        yield _band(chunk, norms, order[is_sampled], copies)
        order = order[~is_sampled]
    bands = deque(order.split(width))
    while bands and len(bands[0]):
        yield _band(chunk, norms, bands.pop(), copies)
        if bands:
            yield _band(chunk, norms, bands.popleft(), copies)


def _spread_places(count: int, width: int, device: torch.device) -> Tensor:
    """A mask of at most ``width`` places: the first, the last, and some at equal steps between."""
    third = min(width, count) // 3
    is_sampled = torch.zeros(count, dtype=torch.bool, device=device)
    is_sampled[:third] = is_sampled[count - third :] = True
    middle = is_sampled[third : count - third]
    step = max(1, len(middle) // max(1, width - 2 * third))
    middle[::step][: width - 2 * third] = True
    return is_sampled


def _band(chunk: Tensor, norms: Tensor, indices: Tensor, copies: Tensor) -> NormBand:
    documents = copies[: len(indices)]
    torch.index_select(chunk, 0, indices, out=documents)
    return NormBand(documents, indices, norms.index_select(0, indices))


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
