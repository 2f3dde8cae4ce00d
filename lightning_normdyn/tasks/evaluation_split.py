"""What a task is evaluated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_normdyn.datasets import Judgements


@dataclass(frozen=True)
class EvaluationSplit:
    """Two sides that are encoded apart, and what is known about their pairs.

    Attributes:
        queries: inputs of the query encoder, one for each query.
        documents: inputs of the document encoder.
        judgements: pairs of positions in the two.
        excluded: pairs that no ranking may show.
        popularity: how often training has each document, ``[m]``, where that is of interest.
    """

    queries: Sequence[Any]
    documents: Sequence[Any]
    judgements: Judgements
    excluded: Judgements | None = None
    popularity: Tensor | None = None
