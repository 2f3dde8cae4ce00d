"""The published fit of observed on predicted norms, which this package's own fits are compared with."""

from __future__ import annotations

from typing import NamedTuple


class PublishedFit(NamedTuple):
    """Slope and correlation of log observed on log predicted norm, and where they are printed.

    Attributes:
        slope: ``d log observed / d log predicted``.
        pearson_r: correlation of the two logs.
        source: paper and figure.
    """

    slope: float
    pearson_r: float
    source: str


PUBLISHED_FIT = PublishedFit(slope=0.88, pearson_r=0.97, source="SRV Fig. 3a")
"""SRV: Su, Ren, Veitch 2026, arXiv 2606.30625; the norms of a vocabulary by the full balance equation."""
