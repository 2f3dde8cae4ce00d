"""Runs the published figures' experiments, each beside the published number."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from lightning_normdyn.cli.commands.command import running_command
from lightning_normdyn.cli.demos.findings import versions
from lightning_normdyn.cli.drawn_page import DrawnPage, draw_page
from lightning_normdyn.cli.reproductions.folder import Reproduction
from lightning_normdyn.cli.signals import ending_signal
from lightning_normdyn.cli.terminal import terminal
from lightning_normdyn.history.experiment import ExperimentRecord
from lightning_normdyn.history.number import show_number
from lightning_normdyn.instruments import Verdict
from lightning_normdyn.nearest_word import nearest
from lightning_normdyn.report import DrawingError
from lightning_normdyn.report.experiments import write_reproduction
from lightning_normdyn.tasks.experiments import EXPERIMENTS
from lightning_normdyn.tasks.quiet import one_thread

PAGE = "reproduce.html"
_QUICK = "--quick takes too few steps for norms to settle: it shows that everything runs, not what it finds."


class ReproductionRecord(NamedTuple):
    """What ``normdyn reproduce`` prints.

    Attributes:
        records: of the experiments that finished, in the order of the table.
        failures: name to reason, of those that broke off.
        settings: seed and whether it was quick.
        folder: of the records and the page.
        page: the HTML file; ``None`` if no experiment finished, or drawing it failed.
        signal: that ended it early, if one did.
        drawing_error: why there is no page, if drawing it failed.
    """

    records: Mapping[str, ExperimentRecord]
    failures: Mapping[str, str]
    settings: Mapping[str, Any]
    folder: Path
    page: Path | None
    signal: int | None
    drawing_error: DrawingError | None = None

    @property
    def exit_code(self) -> int:
        """Success, an error if an experiment broke off or the page could not be drawn, or 128 + the signal."""
        if self.signal is not None:
            return 128 + self.signal
        return 1 if self.failures or self.drawing_error is not None else 0

    def print_to(self, console: Console) -> None:
        """Prints the table and where the page is."""
        for name, reason in self.failures.items():
            console.print(f"{name} broke off: {reason}")
        if not self.records:
            return
        console.print(_table(self.records), soft_wrap=False)
        for name, record in self.records.items():
            for line in _verdict_lines(record):
                console.print(f"{name}: {line}")
        if self.settings["quick"]:
            console.print(_QUICK)
        seconds = sum(record.seconds for record in self.records.values())
        console.print(f"{seconds:.0f} s in all. SRV: arXiv 2606.30625.")
        files = "numbers: summary.json; what is drawn: experiments/"
        console.print(f"Run: {self.folder} ({files})" if self.page is None else f"Page: {self.page} ({files})")


def run_reproduction(
    only: Sequence[str] | None = None, *, quick: bool = False, seed: int = 0, out: str | None = None
) -> ReproductionRecord:
    """Runs the experiments one after the other and writes their page; what finished is saved in every case.

    Args:
        only: these experiments alone.
        quick: whether steps are few.
        seed: of everything random.
        out: the folder, ``None`` for a new one.

    Raises:
        ValueError: if an experiment's name or the folder will not do.
        OSError: if the folder cannot be written.
    """
    names = _names(only)
    reproduction = Reproduction(out, {"seed": seed, "quick": quick})
    stop_signal = _run(names, reproduction, terminal())
    reproduction.save()
    finished_records = {name: reproduction.records[name] for name in EXPERIMENTS if name in reproduction.records}
    page = _draw_page(reproduction, list(finished_records.values())) if finished_records else DrawnPage()
    return ReproductionRecord(
        finished_records,
        reproduction.failures,
        reproduction.settings,
        reproduction.folder,
        page.path,
        stop_signal,
        page.error,
    )


def _names(only: Sequence[str] | None) -> list[str]:
    unknown_names = [name for name in only or () if name not in EXPERIMENTS]
    if unknown_names:
        raise ValueError(
            f"only: expected experiments among {', '.join(EXPERIMENTS)}, got '{unknown_names[0]}'"
            f"{nearest(unknown_names[0], tuple(EXPERIMENTS))}"
        )
    return [name for name in EXPERIMENTS if only is None or name in only]


def _run(names: list[str], reproduction: Reproduction, console: Console) -> int | None:
    """Runs what is not there yet; returns the signal that ended it, if one did."""
    with _progress(console, len(names)) as progress, one_thread():
        for name in names:
            progress.update(progress.task_ids[0], description=name)
            try:
                _run_one(name, reproduction)
            except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns the first into the second
                return ending_signal(stop) or int(signal.SIGINT)
            except OSError:
                raise
            except Exception as error:
                reproduction.failures[name] = f"{type(error).__name__}: {error}"
            progress.advance(progress.task_ids[0])
    return None


def _run_one(name: str, reproduction: Reproduction) -> None:
    if name in reproduction.records:
        return
    experiment = EXPERIMENTS[name]
    steps = experiment.quick if reproduction.settings["quick"] else {}
    reproduction.add(experiment.run(seed=reproduction.settings["seed"], **steps))


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Progress]:
    """A bar over experiments; a file or a pipe gets none."""
    columns = (SpinnerColumn(), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as progress:
        progress.add_task("", total=total)
        yield progress


def _draw_page(reproduction: Reproduction, records: list[ExperimentRecord]) -> DrawnPage:
    facts = {"seed": reproduction.settings["seed"], **versions()}
    if reproduction.settings["quick"]:
        facts["note:"] = _QUICK
    command = running_command()
    return draw_page(lambda: write_reproduction(reproduction.folder / PAGE, records, facts=facts, command=command))


def _verdict_lines(record: ExperimentRecord) -> list[str]:
    """What the rules say of an experiment's trainings from a warning on."""
    return [
        f"{verdict['severity'].capitalize()} ({verdict['rule']}): '{verdict['target']}': {Verdict(**verdict).text}"
        for verdict in record.verdicts
        if verdict["severity"] != "note"
    ]


def _table(records: Mapping[str, ExperimentRecord]) -> Table:
    """One line per finding, experiments apart, in 80 columns or more."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("experiment", no_wrap=True)
    table.add_column("quantity")
    table.add_column("published\nor expected", justify="right", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    for name, record in records.items():
        for place, finding in enumerate(record.findings):
            expected = show_number(finding.expected, ".4g")
            table.add_row("" if place else name, finding.quantity, expected, show_number(finding.measured, ".4g"))
        table.add_section()
    return table
