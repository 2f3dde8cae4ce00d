"""The command itself: trials, repeats, findings, tables, files."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_normdyn.cli.grid.plan import Plan, make_folder, read_task
from lightning_normdyn.cli.grid.processes import grid_progress, run_jobs
from lightning_normdyn.cli.grid.tables import print_findings
from lightning_normdyn.history.grid_findings import GridFindings
from lightning_normdyn.history.json_file import write_json
from lightning_normdyn.report.grid import write_grid
from lightning_normdyn.tasks.contrast.contrastive_task import ContrastiveTask
from lightning_normdyn.tasks.grid.findings import choose_lrs, find

FAILED, INTERRUPTED = 1, 130
FINDINGS_FILE = "findings.json"


def run_grid(options: argparse.Namespace, words: Sequence[str]) -> int:
    """Trains every variant and says which to take.

    Args:
        options: ``config``, ``seeds``, ``variants``, ``lr_factors``, ``jobs``, ``out``.
        words: overrides for LightningCLI.

    Returns:
        0 if all trainings ended well, 1 if some failed, 130 after Ctrl-C; whatever finished is saved, and a second
        call with the same ``out`` goes on from there.

    Raises:
        ValueError: if the configuration, a variant or the folder will not do.
        OSError: if the folder cannot be written.
    """
    console = Console(soft_wrap=True, markup=False, emoji=False, highlight=False)
    of_lightning = [word for file in options.config for word in ("--config", file)] + list(words)
    task, lr = read_task(of_lightning)
    plan = Plan(
        words=tuple(of_lightning),
        variants=_variants(task, options.variants),
        lrs=tuple(sorted({lr * factor for factor in options.lr_factors})),
        seeds=tuple(range(options.seeds)),
        folder=make_folder(options.out, of_lightning),
        threads=max(1, (os.cpu_count() or 1) // options.jobs),
    )
    try:
        with alone_in(plan.folder):
            failed = _train(plan, options.jobs, console)
    except KeyboardInterrupt:
        console.print(f"Interrupted; what has finished is in {plan.folder}. Go on with --out {plan.folder}")
        return INTERRUPTED
    for name, reason in failed.items():
        console.print(f"{name} failed: {reason}")
    if not plan.results():
        console.print(f"No training finished; what each printed is in {plan.folder}/runs/*/log.txt")
        return FAILED
    findings = find(
        plan.results(),
        task=task.__name__,
        symmetry=task.symmetry,
        floors=plan.floors(),
        planned=plan.variants,
        caveat=task.caveat,
    )
    print_findings(console, findings)
    _write(plan, findings, console)
    return FAILED if failed else 0


def _variants(task: type[ContrastiveTask], asked: Sequence[str] | None) -> tuple[str, ...]:
    unknown = [name for name in asked or () if name not in task.variants]
    if unknown:
        raise ValueError(f"variants: expected some of {', '.join(task.variants)}, got {unknown[0]!r}")
    if asked and "cosine" not in asked:
        raise ValueError(f"variants: expected cosine among them, which others are compared with, got {asked}")
    return tuple(name for name in task.variants if asked is None or name in asked)


def _train(plan: Plan, jobs: int, console: Console) -> dict[str, str]:
    trials = plan.trials()
    total = len(trials) + len(plan.variants) * (len(plan.seeds) - 1)
    with grid_progress(console, total, shown=sys.stdout.isatty()) as progress:
        failed = run_jobs(_missing(trials, progress), at_once=jobs, progress=progress)
        trained = plan.results()
        repeats = plan.repeats(choose_lrs(trained)) if trained else []
        failed |= run_jobs(_missing(repeats, progress), at_once=jobs, progress=progress)
    return failed


def _missing(jobs: Sequence[Any], progress: Any) -> list[Any]:
    """The jobs without a result; the others count as done."""
    for job in jobs:
        if job.result.is_file():
            progress(job, 1.0)
    return [job for job in jobs if not job.result.is_file()]


def _write(plan: Plan, findings: GridFindings, console: Console) -> None:
    content = asdict(findings)
    content["comparison"] = findings.comparison._asdict() | {
        "scores": {name: score.numbers() for name, score in findings.comparison.scores.items()}
    }
    content["runs"] = [f"{run.variant}, lr {run.lr:g}, seed {run.seed}" for run in findings.runs]
    write_json(plan.folder / FINDINGS_FILE, content, indent=2)
    page = write_grid(plan.folder, findings)
    console.print(f"Page: {page} (table: grid.md, figure: grid.svg, numbers: {FINDINGS_FILE}, trainings: runs/)")


try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

_FILE = ".lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other grids out of a folder; a process that ends, however it does, lets go of it.

    Raises:
        ValueError: if another process works there.
    """
    with (folder / _FILE).open("w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ValueError(f"out: another normdyn grid works in '{folder}'; wait for it, or stop it") from error
        yield
