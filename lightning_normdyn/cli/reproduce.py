"""``normdyn reproduce``: the published figures' experiments, each beside the published number."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from lightning_normdyn.cli.findings import versions
from lightning_normdyn.cli.reproduction import Reproduction
from lightning_normdyn.report.experiments import write_reproduction
from lightning_normdyn.tasks.experiments import EXPERIMENTS
from lightning_normdyn.tasks.quiet import one_thread

FAILED, INTERRUPTED = 1, 130
PAGE = "reproduce.html"
_QUICK = "--quick takes too few steps for norms to settle: it shows that everything runs, not what it finds."


def run_reproduce(options: argparse.Namespace) -> int:
    """Runs the experiments one after the other, then prints and writes what they found.

    Args:
        options: ``only``, ``quick``, ``seed``, ``out``.

    Returns:
        0 once all experiments have run, whatever they found; 1 if one broke off with an error, 130 after Ctrl-C. Those
        that finished are saved and shown in every case.

    Raises:
        ValueError: if an experiment's name or the folder will not do.
        OSError: if the folder cannot be written.
    """
    names = _chosen(options.only)
    console = Console(soft_wrap=True, markup=False, emoji=False, highlight=False)
    reproduction = Reproduction(options.out, {"seed": options.seed, "quick": options.quick})
    interrupted = _run(names, reproduction, options, console)
    reproduction.save()
    _show(console, reproduction)
    if interrupted:
        return INTERRUPTED
    return FAILED if reproduction.failed else 0


def _chosen(only: list[str] | None) -> list[str]:
    unknown = [name for name in only or [] if name not in EXPERIMENTS]
    if unknown:
        raise ValueError(f"only: expected experiments among {', '.join(EXPERIMENTS)}, got '{unknown[0]}'")
    return [name for name in EXPERIMENTS if only is None or name in only]


def _run(names: list[str], reproduction: Reproduction, options: argparse.Namespace, console: Console) -> bool:
    """Runs what is not there yet; says whether Ctrl-C ended it."""
    with _progress(console, len(names)) as progress, one_thread():
        for name in names:
            progress.update(progress.task_ids[0], description=name)
            try:
                _run_one(name, reproduction, options)
            except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
                return True
            except OSError:
                raise
            except Exception as error:
                reproduction.failed[name] = f"{type(error).__name__}: {error}"
            progress.advance(progress.task_ids[0])
    return False


def _run_one(name: str, reproduction: Reproduction, options: argparse.Namespace) -> None:
    if name in reproduction.records:
        return
    experiment = EXPERIMENTS[name]
    steps = experiment.quick if options.quick else {}
    reproduction.add(experiment.run(seed=options.seed, **steps))


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Progress]:
    """A bar over experiments; a file or a pipe gets none."""
    columns = (SpinnerColumn(), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not sys.stdout.isatty()) as progress:
        progress.add_task("", total=total)
        yield progress


def _show(console: Console, reproduction: Reproduction) -> None:
    records = [reproduction.records[name] for name in EXPERIMENTS if name in reproduction.records]
    for name, reason in reproduction.failed.items():
        console.print(f"{name} broke off: {reason}")
    if not records:
        return
    console.print(_table(reproduction), soft_wrap=False)
    if reproduction.settings["quick"]:
        console.print(_QUICK)
    console.print(f"{sum(record.seconds for record in records):.0f} s in all. SRV: arXiv 2606.30625.")
    facts = {"seed": reproduction.settings["seed"], **versions()}
    if reproduction.settings["quick"]:
        facts["note:"] = _QUICK
    page = write_reproduction(reproduction.folder / PAGE, records, facts=facts)
    console.print(f"Page: {page} (numbers: summary.json; what is drawn: experiments/)")


def _table(reproduction: Reproduction) -> Table:
    """One line per finding, experiments apart, in 80 columns or more."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("experiment", no_wrap=True)
    table.add_column("quantity")
    table.add_column("published\nor expected", justify="right", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    for name in EXPERIMENTS:
        if name not in reproduction.records:
            continue
        for place, found in enumerate(reproduction.records[name].findings):
            expected = "–" if found.expected is None else f"{found.expected:.4g}"
            measured = "–" if found.measured is None else f"{found.measured:.4g}"
            table.add_row("" if place else name, found.quantity, expected, measured)
        table.add_section()
    return table
