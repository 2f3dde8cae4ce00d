"""Losses of the same batch, or of prefixes of its embeddings, that share their inner products."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from lightning_normdyn.core.contrast.prefix_log_sum_exp import prefix_norms
from lightning_normdyn.core.contrast.shared_sweep import Term, shared_sums
from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.core.dynamics.geometry import at_least_float32
from lightning_normdyn.losses.similarity import NormalizedSimilarity

NO_INNER_PRODUCT = "its similarity is no inner product of rescaled embeddings"


class SharedPart(NamedTuple):
    """What one loss, or one prefix of it, asks of a sweep.

    Attributes:
        similarity: of its scores.
        factor: one over its temperature, or over that of each query, ``[n]``.
        width: how many coordinates it looks at.
        term: what it sums up, still without factors.
        losses: makes the losses of this rank's queries, ``[n]``, of the outcome.
    """

    similarity: NormalizedSimilarity
    factor: float | Tensor
    width: int
    term: Term
    losses: Callable[[tuple[Tensor, ...]], Tensor]


def shared_losses(
    queries: Tensor, documents: Tensor, parts: Sequence[SharedPart], chunk_size: int | None
) -> list[Tensor]:
    """The losses of every part, each ``[n]``, of inner products that are made once.

    The longest part rescales the vectors; the scores of the others differ by factors of rows and columns, from the
    temperature and the norms of its prefix. What is learnt is in the vectors where all parts learn it, and else in the
    factors of whom it concerns: gradients that cancel would leave their rounding.

    Args:
        queries: ``[n, d]``, as they came.
        documents: the candidates of all ranks, ``[m, d]``, likewise.
        parts: what is computed.
        chunk_size: columns that are looked at together; ``None`` picks what suits the device.
    """
    base = max(parts, key=lambda part: part.width)
    widths = tuple(sorted({part.width for part in parts}))
    rows = _Side(at_least_float32(queries[:, : base.width]), widths, 0, parts)
    columns = _Side(at_least_float32(documents[:, : base.width]), widths, 1, parts)
    scale = base.factor if all(part.factor is base.factor for part in parts) else _constant(base.factor)
    anchors = _scaled(rows.vectors, scale)
    terms = [
        part.term._replace(
            row_factors=_in_precision(_with_temperature(rows.factors(part), part.factor, scale, anchors), anchors),
            column_factors=_in_precision(columns.factors(part), anchors),
            prefix=widths.index(part.width),
        )
        for part in parts
    ]
    outcomes = shared_sums(anchors, columns.vectors, terms, widths=widths, chunk_size=chunk_size)
    return [part.losses(outcome) for part, outcome in zip(parts, outcomes, strict=True)]


class _Side:
    """Vectors rescaled for the longest part, and what the norms of their prefixes make of that for the others."""

    def __init__(self, x: Tensor, widths: tuple[int, ...], number: int, parts: Sequence[SharedPart]) -> None:
        self._x, self._widths, self._number = x, widths, number
        similarity = max(parts, key=lambda part: part.width).similarity
        self._shared = similarity if all(part.similarity is similarity for part in parts) else None
        exponent = similarity.exponent(number)
        self._exponent = _constant(exponent) if self._shared is None else exponent
        self.vectors = rescale(x, self._exponent)

    @functools.cached_property
    def _logs(self) -> Tensor:
        """Of the norms of all prefixes, ``[k, n]``."""
        return prefix_norms(self._x, self._widths).log()

    def factors(self, part: SharedPart) -> Tensor | None:
        """Of a part, ``[n]``; nothing where it has the same norms to the same powers."""
        exponent, is_longest = part.similarity.exponent(self._number), part.width == self._widths[-1]
        numbers = (
            None if isinstance(exponent, Tensor) or isinstance(self._exponent, Tensor) else (exponent, self._exponent)
        )
        is_same = part.similarity is self._shared or (numbers is not None and exponent == self._exponent)
        if (is_same and is_longest) or numbers == (0.0, 0.0):
            return None
        return (self._exponent * self._logs[-1] - exponent * self._logs[self._widths.index(part.width)]).exp()


def _constant(factor: float | Tensor) -> float | Tensor:
    return factor.detach() if isinstance(factor, Tensor) else factor


def _scaled(vectors: Tensor, factor: float | Tensor) -> Tensor:
    if not isinstance(factor, Tensor):
        return vectors * factor
    return vectors * (factor[:, None] if factor.ndim else factor).to(vectors.dtype)


def _with_temperature(
    factors: Tensor | None, factor: float | Tensor, scale: float | Tensor, anchors: Tensor
) -> Tensor | None:
    """Factors that make one temperature of another, too."""
    if factor is scale or (not isinstance(factor, Tensor) and not isinstance(scale, Tensor) and factor == scale):
        return factors
    ratio = factor / scale
    return factors * ratio if factors is not None else anchors.new_ones(len(anchors)) * ratio


def _in_precision(factors: Tensor | None, vectors: Tensor) -> Tensor | None:
    return None if factors is None else factors.to(vectors.dtype)
