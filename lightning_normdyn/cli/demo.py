"""``normdyn demo``: train on real text in front of the user and compare the norms with the theory."""

from __future__ import annotations

import argparse
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytorch_lightning import seed_everything
from rich import box
from rich.console import Console
from rich.table import Table

from lightning_normdyn.cli.extras import MissingExtraError, require
from lightning_normdyn.cli.findings import Findings, Prediction, versions
from lightning_normdyn.cli.run_folder import create_run_folder, write_summary, write_vocabulary
from lightning_normdyn.cli.training import train
from lightning_normdyn.history.number import show_number
from lightning_normdyn.tasks import TokenContrast, TokenPairs

INTERRUPTED = 130
CONTENTS = "summary.json, vocabulary.tsv, metrics.csv, TensorBoard events, histories in normdyn/"
FAR = 0.5
"""A median error of the equilibrium law above which norms still carry their random start."""


def run_demo(options: argparse.Namespace) -> int:
    """Trains, prints what was found and writes it to the run's folder.

    Args:
        options: ``text``, ``optimizer``, ``schedule``, ``steps``, ``seed``, ``out``.

    Returns:
        0, or 130 if Ctrl-C ended the run early; either way what is known was printed and saved.

    Raises:
        ValueError: if the text or the folder will not do.
        OSError: if the folder cannot be written.
    """
    started = time.perf_counter()
    console = Console(soft_wrap=True, markup=False, emoji=False, highlight=False)
    folder = create_run_folder(options.out)
    data = _load_data(options, folder)
    console.print(_opening(options, data))
    seed_everything(options.seed, verbose=False)
    module = TokenContrast(data.table_rows, optimizer=options.optimizer, schedule=options.schedule)
    trainer = train(module, data, steps=options.steps, folder=folder)
    findings = Findings(trainer.callback_metrics, module.table.weight, data.vocabulary.counts)
    summary = {
        **findings.summary(),
        "seconds": round(time.perf_counter() - started, 2),
        "steps": trainer.global_step,
        **_settings(options, data),
    }
    _show(console, findings, summary)
    _save(console, folder, data, summary)
    return 0 if trainer.global_step >= options.steps else INTERRUPTED


def _load_data(options: argparse.Namespace, folder: Path) -> TokenPairs:
    """Reads the corpus before anything is trained; a corpus that will not do leaves no empty folder behind."""
    data = TokenPairs(options.text, steps_per_epoch=options.steps, seed=options.seed)
    try:
        data.setup("fit")
    except BaseException:
        with suppress(OSError):
            folder.rmdir()
        raise
    return data


def _opening(options: argparse.Namespace, data: TokenPairs) -> str:
    corpus, rows = data.corpus, data.table_rows
    skipped = f" ({corpus.skipped_files} unreadable files skipped)" if corpus.skipped_files else ""
    return (
        f"Corpus: {corpus.name}, {len(corpus.documents):,} documents, {corpus.words:,} words{skipped}; "
        f"the {rows:,} most frequent words are trained for {options.steps:,} steps "
        f"with {options.optimizer} under a {options.schedule} learning rate."
    )


def _settings(options: argparse.Namespace, data: TokenPairs) -> dict[str, Any]:
    corpus = data.corpus
    return {
        "optimizer": options.optimizer,
        "schedule": options.schedule,
        "seed": options.seed,
        "corpus": {
            "name": corpus.name,
            "documents": len(corpus.documents),
            "words": corpus.words,
            "vocabulary": data.table_rows,
        },
        "versions": versions(),
    }


def _show(console: Console, findings: Findings, summary: dict[str, Any]) -> None:
    console.print(prediction_table(findings.predictions()), soft_wrap=False)
    console.print(CAPTION)
    if (findings.quantity("equilibrium_median_error") or 0.0) > FAR:
        console.print(
            "The norms are still far from equilibrium: so early the lower two rows mostly repeat where they started. "
            "Train longer with --steps."
        )
    correlation = findings.log_frequency_correlation
    shown = "–" if correlation is None else f"{correlation:.3f}"
    console.print(f"Log norm against log word frequency: r = {shown}")
    console.print(f"{summary['steps']:,} steps in {summary['seconds']:.0f} s.")


def _save(console: Console, folder: Path, data: TokenPairs, summary: dict[str, Any]) -> None:
    """Writes what can be written; the numbers are on the screen already, so nothing here may end in an error."""
    try:
        write_summary(folder, summary)
        write_vocabulary(folder, data.vocabulary)
        console.print(f"Run: {folder} ({CONTENTS})")
    except OSError as error:
        console.print(f"The summary could not be saved in {folder} ({error.strerror}).")
    _write_report(console, folder, data.vocabulary.words, summary)


def _write_report(console: Console, folder: Path, words: list[str], summary: dict[str, Any]) -> None:
    try:
        require("matplotlib", extra="cli,report")
        from lightning_normdyn.report import write_report

        console.print(f"Report: {write_report(folder, labels=words, summary=summary)}")
    except MissingExtraError as error:
        console.print(f"No report.html: {error}")
    except Exception as error:
        console.print(f"No report.html: drawing it failed ({type(error).__name__}: {error}).")


PUBLISHED_SLOPE = 0.88
PUBLISHED_PEARSON_R = 0.97
CAPTION = "In brackets: the published values, Su, Ren, Veitch 2026 (arXiv 2606.30625), Fig. 3a."


def prediction_table(predictions: list[Prediction]) -> Table:
    """Lays out predictions, each beside the published values.

    Args:
        predictions: one per line.
    """
    table = Table(
        title="Predicted against observed norm",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("prediction", no_wrap=True)
    for heading in ("slope", "Pearson r", "median\nerror", "'stays\nas it is'", "skill"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in predictions:
        table.add_row(
            row.label,
            f"{show_number(row.slope, '.3f')} ({PUBLISHED_SLOPE})",
            f"{show_number(row.pearson_r, '.4f')} ({PUBLISHED_PEARSON_R})",
            show_number(row.median_error, ".2%"),
            show_number(row.persistence_error, ".1%"),
            show_number(row.skill, ".2f"),
        )
    return table
