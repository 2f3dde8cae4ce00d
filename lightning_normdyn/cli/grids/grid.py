"""Runs a grid: trials at several learning rates, repeats with other seeds, findings, files."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from lightning_normdyn.atomic_file import write_json
from lightning_normdyn.cli.commands.command import running_command
from lightning_normdyn.cli.configuration import read_origin, read_trainer
from lightning_normdyn.cli.drawn_page import DrawnPage, draw_page
from lightning_normdyn.cli.grids.cluster_trainings import TrainingNeeds, run_on_cluster
from lightning_normdyn.cli.grids.pilot import PilotRecord, pilot_jobs, pilot_variants, power_of, train_pilot
from lightning_normdyn.cli.grids.plan import LOOKS_FILE, Plan, fix_looks
from lightning_normdyn.cli.grids.processes import grid_progress, run_jobs
from lightning_normdyn.cli.grids.settings import GridSettings, planned
from lightning_normdyn.cli.grids.summary import print_findings
from lightning_normdyn.cli.grids.trainings import Budget, Trainings, train_all
from lightning_normdyn.cli.ray_cluster import cluster_of
from lightning_normdyn.cli.signals import ending_signal
from lightning_normdyn.cli.terminal import terminal
from lightning_normdyn.core.statistics.variant_comparison import VariantComparison
from lightning_normdyn.history.grid_findings import GridFindings
from lightning_normdyn.history.number import measured
from lightning_normdyn.report import DrawingError
from lightning_normdyn.report.grid import write_grid
from lightning_normdyn.tasks.grid.findings import find

FINDINGS_FILE = "findings.json"


class GridRecord(NamedTuple):
    """What ``normdyn grid`` prints.

    Attributes:
        folder: of the grid; a second call with it goes on from there.
        findings: ``None`` if no training finished, or a signal came first.
        failures: name to reason, of the trainings that failed.
        page: the HTML file, if there are findings and they could be drawn.
        signal: that ended it early, if one did.
        drawing_error: why there is no page, if drawing it failed.
    """

    folder: Path
    findings: GridFindings | None
    failures: Mapping[str, str]
    page: Path | None
    signal: int | None = None
    drawing_error: DrawingError | None = None

    @property
    def exit_code(self) -> int:
        """Success, an error if a training failed or the page could not be drawn, or 128 + the signal."""
        if self.signal is not None:
            return 128 + self.signal
        return 1 if self.failures or self.findings is None or self.drawing_error is not None else 0

    def print_to(self, console: Console) -> None:
        """Prints the tables, the advice, and where the page is."""
        if self.signal is not None:
            word = "Terminated" if self.signal == signal.SIGTERM else "Interrupted"
            console.print(f"{word}; what has finished is in {self.folder}. Go on with --out {self.folder}")
            return
        for name, reason in self.failures.items():
            console.print(f"{name} failed: {reason}")
        if self.findings is None:
            console.print(f"No training finished; what each printed is in {self.folder}/runs/*/log.txt")
            return
        print_findings(console, self.findings)
        if self.page is None:
            console.print(f"Grid: {self.folder} (table: grid.md, numbers: {FINDINGS_FILE}, trainings: runs/)")
            return
        console.print(
            f"Page: {self.page} (table: grid.md, figure: grid.svg, numbers: {FINDINGS_FILE}, trainings: runs/)"
        )


def run_grid(settings: GridSettings, out: str | None) -> GridRecord:
    """Trains every variant and says which to take; whatever finished is saved.

    Args:
        settings: of the grid.
        out: its folder, ``None`` for a new one.

    Raises:
        ValueError: if the configuration, a variant or the folder will not do.
        OSError: if the folder cannot be written.
    """
    task, plan = planned(settings, out)
    conclude = partial(
        find,
        task=task.__name__,
        symmetry=task.symmetry,
        variants=plan.variants,
        caveat=task.caveat,
        margin=settings.margin,
        looks=plan.looks,
    )
    order = partial(
        train_all,
        is_decided=lambda runs: conclude(runs).comparison.answer != "undecided",
        budget=Budget(settings.budget, settings.at_once),
    )
    try:
        with alone_in(plan.folder):
            if plan.looks:
                fix_looks(plan.folder, plan.looks)
            trainings = _train(settings, plan, 1 + plan.trainings(len(plan.seeds)), order)
    except KeyboardInterrupt as stop:
        return GridRecord(plan.folder, None, {}, None, ending_signal(stop))
    if not trainings.runs:
        return GridRecord(plan.folder, None, trainings.failures, None)
    findings = conclude(trainings.runs, floors=plan.floors())
    notes = [*findings.notes, *trainings.notes]
    if not plan.looks and (plan.folder / LOOKS_FILE).is_file():
        notes.append("These trainings were looked at before, and intervals are of one look: pass --sequential again.")
    if findings.comparison.seeds == 1:
        notes.append(f"More seeds: {_with_more_seeds(plan.folder)}")
    findings = replace(findings, notes=notes, origin=read_origin(plan.words))
    page = _write(plan, findings)
    return GridRecord(plan.folder, findings, trainings.failures, page.path, drawing_error=page.error)


def plan_grid(settings: GridSettings, out: str | None) -> PilotRecord | GridRecord:
    """Trains a pilot, two variants with two seeds each, and says what the grid could see and how long it takes.

    Args:
        settings: of the grid.
        out: its folder, ``None`` for a new one; the grid itself goes on from there.

    Returns:
        The plan, or what a grid returns that a signal ended early.

    Raises:
        ValueError: if the configuration, a variant or the folder will not do.
        OSError: if the folder cannot be written.
    """
    _, plan = planned(settings, out)
    pilot_variants(plan.variants)
    try:
        with alone_in(plan.folder):
            trainings = _train(settings, plan, len(pilot_jobs(plan)), train_pilot)
    except KeyboardInterrupt as stop:
        return GridRecord(plan.folder, None, {}, None, ending_signal(stop))
    return power_of(plan, trainings.runs, trainings.failures, at_once=settings.at_once)


def _train(settings: GridSettings, plan: Plan, total: int, order: Callable[[Plan, Trainings], None]) -> Trainings:
    """Trains in some order, where the settings say; the plan gets the threads that there are."""
    console = terminal()
    with cluster_of(settings.engine) as cluster:
        run: Callable[..., dict[str, str]] = partial(run_jobs, at_once=settings.at_once or 1)
        if cluster is not None:
            needs = TrainingNeeds.of(read_trainer(plan.words), cluster, trainings=len(plan.trials()))
            run, plan = partial(run_on_cluster, cluster=cluster, needs=needs), replace(plan, threads=needs.threads)
        with grid_progress(console, total, is_watched=console.is_terminal) as progress:
            trainings = Trainings(partial(run, progress=progress), progress)
            order(plan, trainings)
    return trainings


def _with_more_seeds(folder: Path) -> str:
    """The command that goes on with this grid: three seeds, the trainings that are there among them."""
    words = shlex.split(running_command())
    for option in ("--seeds", "--out"):
        if option in words:
            place = words.index(option)
            del words[place : place + 2]
    return shlex.join([*words, "--seeds", "3", "--out", str(folder)])


def _write(plan: Plan, findings: GridFindings) -> DrawnPage:
    content = asdict(findings)
    content["comparison"] = _plain(findings.comparison)
    content["query_kinds"] = {name: _plain(comparison) for name, comparison in findings.query_kinds.items()}
    content["out_of_domain"] = {
        name: {similarity: _plain(comparison) for similarity, comparison in comparisons.items()}
        for name, comparisons in findings.out_of_domain.items()
    }
    content["runs"] = [f"{run.variant}, lr {run.lr:g}, seed {run.seed}" for run in findings.runs]
    content["origin"] = findings.origin._asdict()
    content["choices"] = {variant: choice._asdict() for variant, choice in findings.choices.items()}
    content["trials"] = {variant: [trial._asdict() for trial in trials] for variant, trials in findings.trials.items()}
    write_json(plan.folder / FINDINGS_FILE, content, indent=2)
    return draw_page(lambda: write_grid(plan.folder, findings))


def _plain(comparison: VariantComparison) -> dict[str, Any]:
    return comparison._asdict() | {
        "answer": comparison.answer,
        "visible_gain": measured(comparison.visible_gain),
        "scores": {name: score.numbers() for name, score in comparison.scores.items()},
    }


try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

_FILE = ".lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other grids out of a folder; a process that ends, however it does, lets go of it.

    Raises:
        ValueError: if another process works there, or the lock's place is taken by a link or a folder.
    """
    # Links that somebody laid there are not followed, or another file would be emptied.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(folder / _FILE, flags, 0o666)
    except OSError as error:
        raise ValueError(
            f"out: expected a file of its own at '{folder / _FILE}', which locks the folder, got something else "
            f"({error.strerror}); remove it"
        ) from error
    with os.fdopen(descriptor, "r+") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ValueError(f"out: another normdyn grid works in '{folder}'; wait for it, or stop it") from error
        yield
