"""The record of a sweep: a ranking measure of every query at every exponent of the document norm."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class AlphaSweep(NamedTuple):
    """A measure of every query's ranking at every exponent.

    Attributes:
        alphas: exponents of the document norm in the score, ascending, ``[a]``; 0 is among them.
        values: the measure of each query at each of them, float64 ``[a, n]``; NaN for a query without judgements.
        measure: its name, such as ``ndcg@10``.
    """

    alphas: Tensor
    values: Tensor
    measure: str
