"""What a whole grid found: the numbers of its tables and the sentence at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_normdyn.core.variant_comparison import VariantComparison
from lightning_normdyn.history.grid_run import GridRun
from lightning_normdyn.history.number import Number


@dataclass(frozen=True)
class GridFindings:
    """All that a grid's report shows.

    Attributes:
        task: name of the task's class.
        headline: the measure that variants are compared by.
        comparison: of the variants on the test split.
        lrs: learning rate that each variant chose on validation.
        cross: test headline by the variant that trained and the similarity that scored, means over seeds.
        diagnosis: mean over seeds of each diagnostic, by variant.
        learnt: mean over seeds of what the loss learnt, by variant.
        kappa_verdict: whether the Fisher condition numbers named the better of QNorm and DNorm, in words.
        symmetry: what the task's symmetry predicts, whether the runs agreed, and by which numbers.
        floors: measure of what needs no training, by name.
        advice: one sentence.
        runs: the trainings that these numbers are of, the chosen learning rates alone.
        notes: what the reader should know besides.
    """

    task: str
    headline: str
    comparison: VariantComparison
    lrs: Mapping[str, float]
    cross: Mapping[str, Mapping[str, Number]]
    diagnosis: Mapping[str, Mapping[str, Number]]
    learnt: Mapping[str, Mapping[str, Number]]
    kappa_verdict: str
    symmetry: tuple[str, str, str]
    floors: Mapping[str, float]
    advice: str
    runs: Sequence[GridRun]
    notes: Sequence[str] = ()
