"""The pilot of a grid: two variants, two seeds, and what they say of the gain that the whole grid could see."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from lightning_normdyn.cli.grids.job import Job
from lightning_normdyn.cli.grids.plan import Plan
from lightning_normdyn.cli.grids.trainings import Trainings
from lightning_normdyn.core.statistics.variance_components import VarianceComponents
from lightning_normdyn.history.grid_findings import GridRun
from lightning_normdyn.tasks.grid.tuning import Choice

_SEEDS = (2, 3, 5, 10)
_TIMES_QUERIES = (1, 4)
_LIKELY = 0.8
_LEAST_SHOWN = 5e-5
_REFERENCE, _OTHER = "cosine", "qnorm"


class PowerRow(NamedTuple):
    """What a grid with some number of seeds would take and see.

    Attributes:
        seeds: trainings of each variant.
        trainings: of the whole grid.
        minutes: that they take.
        gains: smallest visible gain by number of queries.
        likely_gain: the same with the pilot's queries, where seeds spread by as much as two of them may hide.
    """

    seeds: int
    trainings: int
    minutes: float
    gains: Mapping[int, float]
    likely_gain: float


class PilotRecord(NamedTuple):
    """What ``normdyn grid --plan`` prints.

    Attributes:
        folder: of the grid, which goes on from there.
        failures: name to reason, of the trainings that failed.
        headline: the measure.
        variants: that the pilot trained.
        queries: of the test.
        rows: by number of seeds; none if a training failed.
        least_gain: that no number of seeds makes smaller, for want of queries.
        choice: what the pilot trained with.
    """

    folder: Path
    failures: Mapping[str, str]
    headline: str = ""
    variants: tuple[str, ...] = ()
    queries: int = 0
    rows: Sequence[PowerRow] = ()
    least_gain: float = math.nan
    choice: Choice | None = None

    @property
    def exit_code(self) -> int:
        """Success, or an error if a training failed."""
        return 0 if self.rows else 1

    def print_to(self, console: Console) -> None:
        """Prints the table and how to read it."""
        for name, reason in self.failures.items():
            console.print(f"{name} failed: {reason}")
        if not self.rows:
            console.print(f"No plan without the pilot; what each printed is in {self.folder}/runs/*/log.txt")
            return
        title = f"Smallest gain in {self.headline} that would be seen four times in five"
        table = Table(title=title, title_justify="left")
        table.box, table.pad_edge = box.SIMPLE_HEAD, False
        for heading in ("seeds", "trainings", "minutes", *(f"{n} test items" for n in self.rows[0].gains), "at worst"):
            table.add_column(heading, justify="right")
        for row in self.rows:
            gains = [f"{gain:.4f}" for gain in (*row.gains.values(), row.likely_gain)]
            table.add_row(f"{row.seeds}", f"{row.trainings}", f"{row.minutes:.3g}", *gains)
        console.print(table)
        limit = (
            f" No number of seeds shows a gain below {self.least_gain:.4f} with {self.queries} test items."
            if self.least_gain >= _LEAST_SHOWN
            else ""
        )
        place = (
            ""
            if self.choice is None
            else f" at learning rate {self.choice.lr:g} and temperature {self.choice.temperature_factor:g} times auto"
        )
        console.print(
            f"From {' and '.join(self.variants)} with two seeds each{place}. At worst: with {self.queries} test items, "
            f"if seeds spread by as much as two of them hide one time in five.{limit} A value that a variant's list is "
            "extended by is a training more."
        )
        console.print(f"The grid goes on from these trainings with --out {self.folder}, without --plan.")


def pilot_variants(variants: Sequence[str]) -> tuple[str, ...]:
    """Cosine and one other.

    Args:
        variants: of the grid, cosine among them.

    Raises:
        ValueError: if there is no other.

    Example:
        >>> pilot_variants(("cosine", "dot", "qnorm")), pilot_variants(("cosine", "dnorm"))
        (('cosine', 'qnorm'), ('cosine', 'dnorm'))
    """
    others = [variant for variant in variants if variant != _REFERENCE]
    if not others:
        raise ValueError("variants: expected one beside cosine for the pilot of --plan, got cosine alone; name two")
    return _REFERENCE, _OTHER if _OTHER in others else others[0]


def pilot_jobs(plan: Plan) -> list[Job]:
    """Two variants with two seeds, amid both lists: the grid needs some of these trainings too."""
    choice = pilot_choice(plan)
    return [plan.job(variant, choice, seed) for variant in pilot_variants(plan.variants) for seed in (0, 1)]


def pilot_choice(plan: Plan) -> Choice:
    """The rate amid the list, of two the later one, and the temperature at which rates are tried."""
    return Choice(plan.lrs[len(plan.lrs) // 2], plan.centre)


def train_pilot(plan: Plan, trainings: Trainings) -> None:
    """Does them."""
    trainings.finish(pilot_jobs(plan))


def power_of(plan: Plan, runs: Sequence[GridRun], failures: Mapping[str, str], *, at_once: int | None) -> PilotRecord:
    """What the whole grid could see, from the pilot's trainings.

    Args:
        plan: of the whole grid.
        runs: of the pilot.
        failures: name to reason.
        at_once: trainings that run at the same time; ``None`` for one of each variant.
    """
    variants = tuple(dict.fromkeys(run.variant for run in runs))
    if failures or len(runs) != 2 * len(variants) or len(variants) != 2:
        return PilotRecord(plan.folder, failures)
    values = torch.tensor(
        [
            [
                [math.nan if value is None else value for value in run.values["trained"]]
                for run in runs
                if run.variant == variant
            ]
            for variant in variants
        ],
        dtype=torch.float64,
    )
    values = values[..., values.isfinite().all(0).all(0)]
    queries = values.shape[2]
    if queries < 2:
        return PilotRecord(plan.folder, {"pilot": f"expected two test items or more with a measure, got {queries}"})
    components = VarianceComponents.of(values)
    seconds = sum(run.seconds for run in runs) / len(runs)
    rows = [
        _row(plan, components, seeds, queries, seconds=seconds / (at_once or len(plan.variants)))
        for seeds in sorted({*_SEEDS, max(2, len(plan.seeds))})
    ]
    return PilotRecord(
        plan.folder,
        {},
        runs[0].headline,
        variants,
        queries,
        rows,
        _gain(components._replace(trainings=0.0, residual=0.0), plan, 2, queries),
        pilot_choice(plan),
    )


def _row(plan: Plan, components: VarianceComponents, seeds: int, queries: int, *, seconds: float) -> PowerRow:
    gains = {queries * times: _gain(components, plan, seeds, queries * times) for times in _TIMES_QUERIES}
    likely_gain = _gain(components.with_trainings(_LIKELY, queries=queries), plan, seeds, queries)
    trainings = plan.trainings(seeds)
    return PowerRow(seeds, trainings, trainings * seconds / 60, gains, likely_gain)


def _gain(components: VarianceComponents, plan: Plan, seeds: int, queries: int) -> float:
    return components.visible_gain(variants=len(plan.variants), seeds=seeds, queries=queries)
