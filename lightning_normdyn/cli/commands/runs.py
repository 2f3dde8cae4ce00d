"""Commands about runs: a demo, the report of a run, also while it trains, the published figures, the configs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from lightning_normdyn.cli.commands.command import Shell, command
from lightning_normdyn.cli.values import Count, File, Folder, Name, OutputFile, Seconds, Seed

if TYPE_CHECKING:
    from lightning_normdyn.cli.demos.demo import DemoRecord
    from lightning_normdyn.cli.reports import ReportRecord
    from lightning_normdyn.cli.reproductions.reproduction import ReproductionRecord
    from lightning_normdyn.cli.shipped_configs import ConfigsRecord
    from lightning_normdyn.cli.watches.watch import WatchRecord


@command(Shell(extra=("cli", ("rich", "tensorboard"))))
def demo(
    *,
    text: Sequence[File] | None = None,
    optimizer: Literal["sgd", "adamw"] = "sgd",
    schedule: Literal["cosine", "constant"] = "cosine",
    steps: Count = 12_000,
    seed: Seed = 0,
    out: Folder | None = None,
) -> DemoRecord:
    """Train a token table on real text and compare its norms with the theory.

    Args:
        text: UTF-8 text files, plain or .gz, whose paragraphs are the corpus (default: this Python's documentation)
        optimizer: of the training
        schedule: of the learning rate
        steps: optimizer steps
        seed: of everything random
        out: a new or empty folder for the run (default: runs/demo-<time>)

    Returns:
        The numbers of the table and of ``summary.json``, and where they were saved.

    Raises:
        ValueError: if the text or the folder will not do.
        OSError: if the folder cannot be written.
    """
    from lightning_normdyn.cli.demos.demo import DemoSettings, run_demo

    return run_demo(DemoSettings(text=text, optimizer=optimizer, schedule=schedule, steps=steps, seed=seed), out)


@command(Shell(extra=("cli,report", ("matplotlib",)), positional=("run",)))
def report(*, run: Folder, out: OutputFile | None = None) -> ReportRecord:
    """Draw the report of a run that trained with NormDynamics.

    Args:
        run: the run's folder, which holds normdyn/; for a folder of runs, those below it are listed
        out: where the page goes (default: report.html in the run's folder)

    Returns:
        Where the page is.

    Raises:
        FileNotFoundError: if the folder holds no history; the message names the runs below it.
        ValueError: if a file of the run is damaged.
        DrawingError: if a figure cannot be drawn.
        OSError: if the page cannot be written.
    """
    from lightning_normdyn.cli.reports import draw_report

    return draw_report(run, out)


@command(Shell(extra=("cli,report", ("matplotlib",)), positional=("run",)))
def watch(
    *,
    run: Folder,
    out: OutputFile | None = None,
    interval: Seconds = 10.0,
    timeout: Seconds | None = None,
    once: bool = False,
    terminal: bool = False,
) -> WatchRecord:
    """Keep the report of a run up to date while it trains.

    It reads the run's history on disk alone, so that the run pays nothing for it.

    Args:
        run: the run's folder, there already or to come; of a folder of runs, the one that goes on or else the newest
        out: where the page goes (default: watch.html in the run's folder)
        interval: least time between two drawings; an open page loads itself again as often
        timeout: how long to wait for the run to begin (default: for ever)
        once: draw what is there now and end
        terminal: show it as text here, over ssh for instance, and write no page

    Returns:
        How the run ended, where the page is, and what of the history was damaged and left out.

    Raises:
        FileNotFoundError: if no run began in time, or with ``once`` there is none.
        ValueError: if ``out`` is a folder, or given with ``terminal``.
        OSError: if the page cannot be written.
        KeyboardInterrupt: where it comes in; the page stays, and no longer loads itself.
    """
    from pathlib import Path

    from lightning_normdyn.cli.watches.watch import WatchSettings, draw_once, watch_run

    if terminal and out is not None:
        raise ValueError(f"out: expected none with terminal, which writes no page, got '{out}'; leave one of them out")
    settings = WatchSettings(Path(run), None if out is None else Path(out), interval, timeout, terminal)
    return draw_once(settings) if once else watch_run(settings)


@command(Shell(extra=("cli,report", ("rich", "matplotlib"))))
def reproduce(
    *, only: Sequence[Name] | None = None, quick: bool = False, seed: Seed = 0, out: Folder | None = None
) -> ReproductionRecord:
    """Run the published figures' experiments and write each beside its published number.

    Args:
        only: these experiments alone (default: all)
        quick: few steps: shows that it runs, not what it finds
        seed: of everything random
        out: a folder for the page; one that holds a run of the same seed is gone on with (default:
            runs/reproduce-<time>)

    Returns:
        The experiments that finished, why others broke off, and the page.

    Raises:
        ValueError: if an experiment's name or the folder will not do.
        OSError: if the folder cannot be written.
    """
    from lightning_normdyn.cli.reproductions.reproduction import run_reproduction

    return run_reproduction(only, quick=quick, seed=seed, out=out)


@command(Shell(positional=("name",)))
def configs(*, name: Name | None = None, out: Folder | None = None, overwrite: bool = False) -> ConfigsRecord:
    """List the configs that come with the package, or copy one to change it.

    Args:
        name: of the config to copy, such as sts.yaml (default: list all)
        out: the folder that it is copied to (default: the current one)
        overwrite: replace the file that is there

    Returns:
        All configs with what they are for, and the copy if one was made.

    Raises:
        ValueError: if there is no such config, none is named for a copy, or the file is there already.
        OSError: if the folder cannot be written.
    """
    from lightning_normdyn.cli.shipped_configs import copy_config, list_configs

    if name is None and (out is not None or overwrite):
        raise ValueError("name: expected the config that is to be copied, got none with --out or --overwrite")
    return list_configs() if name is None else copy_config(name, out or ".", overwrite=overwrite)
