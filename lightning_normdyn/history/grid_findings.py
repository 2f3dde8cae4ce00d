"""Records of a grid: one of each training, written to JSON and read back, and one of the numbers in its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from lightning_normdyn.atomic_file import write_json
from lightning_normdyn.core.statistics.variant_comparison import VariantComparison
from lightning_normdyn.history.number import Number
from lightning_normdyn.history.origin import Origin


@dataclass(frozen=True)
class GridFindings:
    """All that a grid's report shows.

    Attributes:
        task: name of the task's class.
        headline: the measure that variants are compared by.
        comparison: of the variants on the test split.
        lrs: learning rate that each variant chose on validation.
        choices: settings of each variant, and how clearly validation preferred them.
        trials: what each variant had to choose from, trained with the first seed.
        cross: test headline by the variant that trained and the similarity that scored, means over seeds.
        diagnosis: mean over seeds of each diagnostic, by variant.
        learnt: mean over seeds of what the loss learnt, by variant.
        kappa_verdict: whether the Fisher condition numbers named the better of QNorm and DNorm, in words.
        symmetry: what the task's symmetry predicts, whether the runs agreed, and by which numbers.
        floors: measure of what needs no training, by name.
        advice: one sentence.
        runs: the trainings that these numbers are of, the chosen learning rates alone.
        notes: what the reader should know besides.
        origin: data, command, date and version.
        query_kinds: comparisons of the test queries whose documents training wants, and of all others; none where all
            are of one kind, or nobody knows.
        out_of_domain: comparisons on further sets, by set and by the similarity that scored, ``trained`` and
            ``cosine``.
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
    choices: Mapping[str, ChosenSettings] = field(default_factory=dict)
    trials: Mapping[str, Sequence[Trial]] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)
    query_kinds: Mapping[str, VariantComparison] = field(default_factory=dict)
    out_of_domain: Mapping[str, Mapping[str, VariantComparison]] = field(default_factory=dict)


class Trial(NamedTuple):
    """What a variant reached on validation with the first seed.

    Attributes:
        lr: the peak of its learning rate.
        temperature_factor: its temperature, in units of the one at which its scores spread like those of cosine.
        temperature: of its loss.
        validation: the headline; ``None`` where it is not finite.
    """

    lr: float
    temperature_factor: float
    temperature: Number
    validation: Number


class ChosenSettings(NamedTuple):
    """Settings of a variant that validation chose.

    Attributes:
        lr: the peak of its learning rate.
        lr_lead: how much better its headline is on validation than with the next best rate, at the temperature at which
            rates were tried; ``None`` without another.
        temperature_factor: its temperature, in units of the one at which its scores spread like those of cosine.
        temperature_lead: the same as ``lr_lead`` of temperatures.
        temperature: of its loss, mean over seeds.
        trials: settings that were tried.
    """

    lr: float
    lr_lead: Number
    temperature_factor: float
    temperature_lead: Number
    temperature: Number
    trials: int


@dataclass(frozen=True)
class GridRun:
    """The outcome of one training.

    Attributes:
        variant: the normalization it trained with.
        lr: the peak of its learning rate.
        seed: of everything.
        headline: the measure that variants are compared by.
        validation: its mean on the validation split, by which learning rates are chosen.
        measures: mean of every measure on the test split, under the similarity that trained.
        values: headline of each test query, by the similarity that scored it: ``trained`` and those of
            ``NORMALIZATIONS``.
        diagnosis: of the validation split: ``cohens_d``, ``query_cv``, ``document_cv``, ``kappa_qnorm``,
            ``kappa_dnorm``, ``kappa_qnorm_share``.
        learnt: what the loss learnt, such as ``gamma_query``.
        course: over training, one number an evaluation: ``step``, ``headline``, ``relevant_norm``,
            ``irrelevant_norm``.
        dynamics: last value of each scalar of ``NormDynamics``, by key.
        seconds: how long it took.
        temperature_factor: its temperature, in units of the one at which its scores spread like those of cosine.
        temperature: of its loss at the end.
        in_training: of each test query, whether training wants a document that it wants; ``None`` if nobody knows.
        out_of_domain: headline of each test query of further sets, by set and by the similarity that scored it:
            ``trained`` and ``cosine``.
    """

    variant: str
    lr: float
    seed: int
    headline: str
    validation: Number
    measures: Mapping[str, Number]
    values: Mapping[str, Sequence[Number]]
    diagnosis: Mapping[str, Number]
    learnt: Mapping[str, Number]
    course: Mapping[str, Sequence[Number]]
    dynamics: Mapping[str, Number]
    seconds: float
    temperature_factor: float = 1.0
    temperature: Number = None
    in_training: Sequence[bool] | None = None
    out_of_domain: Mapping[str, Mapping[str, Sequence[Number]]] = field(default_factory=dict)


_FORMER_NAMES = {"warmth": "temperature_factor"}


def write_grid_run(file: Path, run: GridRun) -> None:
    """Writes a run as JSON, whole or not at all."""
    write_json(file, asdict(run))


def read_grid_run(file: Path) -> GridRun:
    """Reads a run.

    Raises:
        ValueError: if it is damaged.
        FileNotFoundError: if there is none.
    """
    content_bytes = file.read_bytes()
    try:
        return GridRun(**{_FORMER_NAMES.get(name, name): value for name, value in json.loads(content_bytes).items()})
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"out: '{file}' is damaged ({error}); remove it to train that variant again") from error
