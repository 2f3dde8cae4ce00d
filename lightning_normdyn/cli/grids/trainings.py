"""Trainings of a grid in their order: learning rates, temperatures, what lies beyond a list, further seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lightning_normdyn.cli.grids.job import UNTRAINED, Job
from lightning_normdyn.cli.grids.plan import Plan
from lightning_normdyn.cli.grids.processes import GridProgress
from lightning_normdyn.history.grid_findings import GridRun, read_grid_run
from lightning_normdyn.tasks.grid.tuning import SETTING_NAMES, Choice, Setting, beyond, choose

_OPTIONS = {"lr": "--lr-factors", "warmth": "--temperatures"}
_UNITS = {"lr": "the config's", "warmth": "auto"}


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


def tune(plan: Plan, trainings: Trainings) -> None:
    """Tries every learning rate at one temperature, then every temperature at the rate that validation likes best.

    A variant that likes the first or the last of a list best tries one value beyond it.

    Args:
        plan: of the grid.
        trainings: that are done.
    """
    trainings.finish(plan.trials())
    _extend(plan, trainings, "lr", plan.lrs)
    others = [warmth for warmth in plan.warmths if warmth != plan.centre]
    trainings.finish(
        plan.job(variant, choice._replace(warmth=warmth), plan.seeds[0])
        for variant, choice in choose(trainings.runs).items()
        for warmth in others
    )
    _extend(plan, trainings, "warmth", plan.warmths)


def _extend(plan: Plan, trainings: Trainings, setting: Setting, values: Sequence[float]) -> None:
    """Tries one value more where a variant did best at an end of its list, and notes what came of it."""
    choices = choose(trainings.runs)
    values_beyond = {variant: beyond(values, getattr(choice, setting)) for variant, choice in choices.items()}
    further_choices = {
        variant: choices[variant]._replace(**{setting: value})
        for variant, value in values_beyond.items()
        if value is not None
    }
    trainings.finish_unplanned(plan.job(variant, choice, plan.seeds[0]) for variant, choice in further_choices.items())
    choices_now = choose(trainings.runs)
    trainings.notes += [_note(variant, setting, choices[variant], choices_now[variant]) for variant in further_choices]


def _note(variant: str, setting: Setting, choice: Choice, choice_now: Choice) -> str:
    name, value, value_now = SETTING_NAMES[setting], getattr(choice, setting), getattr(choice_now, setting)
    unit = "" if setting == "lr" else " times auto"
    if value == value_now:
        return (
            f"{variant} did best at the edge of its list, {name} {value:g}{unit}; one beyond it was tried, and is no "
            "better."
        )
    return (
        f"{variant} did best at the edge of its list, {name} {value:g}{unit}, and better yet at one beyond it, "
        f"{value_now:g}{unit}, which it takes: further ones may be better still; {_OPTIONS[setting]} names them, in "
        f"units of {_UNITS[setting]}."
    )
