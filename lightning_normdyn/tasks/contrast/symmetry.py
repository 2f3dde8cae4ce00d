"""Functional symmetry of a task, and what it predicts about keeping norms."""

from __future__ import annotations

from typing import NamedTuple


class FunctionalSymmetry(NamedTuple):
    """Whether the two sides of a task can be exchanged, and why.

    Where they can, a similarity should treat them alike, so cosine and dot are candidates and keeping one side's norm
    alone (qnorm, dnorm) is predicted to hurt; where they cannot, keeping a norm is predicted to cost nothing and often
    to help (arXiv 2602.09229, section 3).

    Attributes:
        symmetric: whether exchanging the sides changes nothing.
        reason: one clause that says what the sides are.
    """

    symmetric: bool
    reason: str

    @property
    def prediction(self) -> str:
        """What follows for the grid, as a sentence."""
        if self.symmetric:
            return f"symmetric ({self.reason}): cosine or dot should beat qnorm and dnorm"
        return f"asymmetric ({self.reason}): qnorm or dnorm should be at least as good as cosine"
