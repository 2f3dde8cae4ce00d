"""Trainings of a grid in their order: learning rates, temperatures, what lies beyond a list, further seeds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from lightning_normdyn.cli.grids.job import UNTRAINED, Job
from lightning_normdyn.cli.grids.plan import Plan
from lightning_normdyn.cli.grids.processes import GridProgress
from lightning_normdyn.history.grid_findings import GridRun, read_grid_run
from lightning_normdyn.tasks.grid.tuning import SETTING_NAMES, Setting, beyond, choose

_OPTIONS = {"lr": "--lr-factors", "temperature_factor": "--temperatures"}
_UNITS = {"lr": "the config's", "temperature_factor": "auto"}


class Trainings:
    """Those that were asked for so far, each done once.

    Args:
        run: does jobs, and says why some failed.
        progress: of the grid.

    Attributes:
        runs: what has finished.
        failures: name to reason.
        notes: what a reader should know of the order.
    """

    def __init__(self, run: Callable[[Sequence[Job]], dict[str, str]], progress: GridProgress) -> None:
        self._run, self._progress = run, progress
        self.runs: list[GridRun] = []
        self.failures: dict[str, str] = {}
        self.notes: list[str] = []

    def finish(self, jobs: Iterable[Job]) -> None:
        """Does those without a result, and reads the results of all."""
        jobs = list(jobs)
        for job in jobs:
            if job.result.is_file():
                self._progress(job, 1.0)
        self.failures |= self._run([job for job in jobs if not job.result.is_file()])
        self.runs += [read_grid_run(job.result) for job in jobs if job.result.is_file() and job.variant != UNTRAINED]

    def finish_unplanned(self, jobs: Iterable[Job]) -> None:
        """The same of jobs that nobody had counted."""
        jobs = list(jobs)
        self._progress.extend(len(jobs))
        self.finish(jobs)


def train_all(
    plan: Plan, trainings: Trainings, *, is_decided: Callable[[Sequence[GridRun]], bool], budget: Budget
) -> None:
    """The whole grid: settings of each variant, then its repeats, then seeds until the answer is clear, if so planned.

    Args:
        plan: of the grid.
        trainings: that are done.
        is_decided: of all runs so far.
        budget: what may be spent.
    """
    tune(plan, trainings)
    trainings.finish(plan.repeats(choose(trainings.runs), plan.seeds[1:]))
    if plan.looks and trainings.runs:
        add_seeds(plan, trainings, is_decided=is_decided, budget=budget)


def add_seeds(
    plan: Plan, trainings: Trainings, *, is_decided: Callable[[Sequence[GridRun]], bool], budget: Budget
) -> None:
    """Repeats every variant at its choice with one seed more at a time, until the answer is clear.

    Args:
        plan: of the grid, with looks.
        trainings: that are done, those of the first seed at least.
        is_decided: of all runs so far.
        budget: what may be spent.
    """
    for seeds in plan.looks:
        if seeds > plan.looks[0]:
            jobs = plan.repeats(choose(trainings.runs), [seeds - 1])
            is_free = all(job.result.is_file() for job in jobs)
            if not is_free and not budget.allows(trainings.runs, plan):
                trainings.notes.append(
                    f"Looked after {_span(plan, seeds - 1)} of at most {plan.looks[-1]} seeds: the budget of "
                    f"{budget.minutes:g} minutes leaves no time for another. The same command with --out {plan.folder} "
                    "goes on."
                )
                return
            trainings.finish_unplanned(jobs)
        if is_decided(trainings.runs):
            trainings.notes.append(_looked(plan, seeds, "the answer was clear"))
            return
    trainings.notes.append(_looked(plan, plan.looks[-1], "the answer is open, and --max-seeds is reached"))


def _looked(plan: Plan, seeds: int, outcome: str) -> str:
    return f"Looked after {_span(plan, seeds)} of at most {plan.looks[-1]} seeds: {outcome}."


def _span(plan: Plan, seeds: int) -> str:
    return f"{plan.looks[0]} to {seeds}" if seeds > plan.looks[0] else f"{seeds}"


class Budget:
    """Time that a grid may take, from now on.

    Args:
        minutes: ``None`` for as long as it takes.
        at_once: trainings that run at the same time; ``None`` for all of a seed.
    """

    def __init__(self, minutes: float | None, at_once: int | None) -> None:
        self.minutes = math.inf if minutes is None else minutes
        self._at_once = at_once
        self._start = time.monotonic()

    def allows(self, runs: Sequence[GridRun], plan: Plan) -> bool:
        """Whether trainings of another seed would end in time, if they take as long as those so far."""
        seconds = sum(run.seconds for run in runs) / len(runs)
        rounds = math.ceil(len(plan.variants) / (self._at_once or len(plan.variants)))
        return time.monotonic() - self._start + seconds * rounds <= 60 * self.minutes


def tune(plan: Plan, trainings: Trainings) -> None:
    """Tries every learning rate at one temperature, then every temperature at the rate that validation likes best.

    A variant that likes the first or the last of a list best tries one value beyond it.

    Args:
        plan: of the grid.
        trainings: that are done.
    """
    trainings.finish(plan.trials())
    edges = _extend(plan, trainings, "lr", plan.lrs)
    others = [factor for factor in plan.temperature_factors if factor != plan.centre]
    trainings.finish(
        plan.job(variant, choice._replace(temperature_factor=factor), plan.seeds[0])
        for variant, choice in choose(trainings.runs).items()
        for factor in others
    )
    edges += _extend(plan, trainings, "temperature_factor", plan.temperature_factors)
    trainings.notes += [_of_edges(edges)] if edges else []


class ListEdge(NamedTuple):
    """A variant that did best at an end of a list.

    Attributes:
        variant: its name.
        setting: what the list is of.
        value: at the end.
        chosen: the variant's choice once a value beyond was tried: that one, or the same as ever.
    """

    variant: str
    setting: Setting
    value: float
    chosen: float


def _extend(plan: Plan, trainings: Trainings, setting: Setting, values: Sequence[float]) -> list[ListEdge]:
    """Tries one value more where a variant did best at an end of its list, and returns what came of it."""
    choices = choose(trainings.runs)
    values_beyond = {variant: beyond(values, getattr(choice, setting)) for variant, choice in choices.items()}
    further_choices = {
        variant: choices[variant]._replace(**{setting: value})
        for variant, value in values_beyond.items()
        if value is not None
    }
    trainings.finish_unplanned(plan.job(variant, choice, plan.seeds[0]) for variant, choice in further_choices.items())
    choices_now = choose(trainings.runs)
    return [
        ListEdge(variant, setting, getattr(choices[variant], setting), getattr(choices_now[variant], setting))
        for variant in further_choices
    ]


def _of_edges(edges: Sequence[ListEdge]) -> str:
    """One sentence on all of them.

    Example:
        >>> print(_of_edges([ListEdge("dot", "lr", 0.3, 0.3), ListEdge("qnorm", "lr", 0.3, 0.9)]))
        Best at an edge of their lists: dot and qnorm (learning rate 0.3); one value beyond each was tried, and is taken
        by qnorm (learning rate 0.9), where further ones may be better still: --lr-factors names them, in units of the
        config's.
    """
    better = [edge for edge in edges if edge.chosen != edge.value]
    opening = f"Best at an edge of their lists: {_named(edges, 'value')}; one value beyond each was tried, and is"
    if not better:
        return f"{opening} no better."
    ways = ", ".join(
        f"{_OPTIONS[setting]} names them, in units of {_UNITS[setting]}"
        for setting in dict.fromkeys(edge.setting for edge in better)
    )
    return f"{opening} taken by {_named(better, 'chosen')}, where further ones may be better still: {ways}."


def _named(edges: Sequence[ListEdge], value: Literal["value", "chosen"]) -> str:
    """Variants by setting and value."""
    variants: dict[str, list[str]] = {}
    for edge in edges:
        unit = "" if edge.setting == "lr" else " times auto"
        variants.setdefault(f"{SETTING_NAMES[edge.setting]} {getattr(edge, value):g}{unit}", []).append(edge.variant)
    return ", ".join(
        f"{' and '.join(filter(None, (', '.join(names[:-1]), names[-1])))} ({setting})"
        for setting, names in variants.items()
    )
