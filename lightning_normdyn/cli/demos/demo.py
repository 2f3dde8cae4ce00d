"""Trains on real text and compares the norms with the theory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pytorch_lightning import Trainer, seed_everything
from rich import box
from rich.console import Console
from rich.table import Table

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.cli.commands.command import running_command
from lightning_normdyn.cli.demos.findings import Findings, Prediction, versions
from lightning_normdyn.cli.demos.training import train
from lightning_normdyn.cli.run_folder import create_run_folder, write_summary, write_vocabulary
from lightning_normdyn.cli.terminal import terminal
from lightning_normdyn.cli.user_errors import MissingExtraError, one_sentence, require
from lightning_normdyn.core.dynamics.published_fit import PUBLISHED_FIT
from lightning_normdyn.history.number import show_number
from lightning_normdyn.instruments.quantities import LITTLE_MOVE
from lightning_normdyn.report import DrawingError, write_report
from lightning_normdyn.tasks import TokenContrast, TokenPairs

CONTENTS = "summary.json, vocabulary.tsv, metrics.csv, TensorBoard events, histories in normdyn/"
FAR = 0.5
"""A median error of the equilibrium law above which norms still carry their random start."""


class DemoSettings(NamedTuple):
    """How the demo trains.

    Attributes:
        text: files of the corpus; ``None`` for this Python's documentation.
        optimizer: ``sgd`` or ``adamw``.
        schedule: of the learning rate.
        steps: of the optimizer.
        seed: of everything random.
    """

    text: Sequence[str] | None
    optimizer: Literal["sgd", "adamw"]
    schedule: Literal["cosine", "constant"]
    steps: int
    seed: int


class DemoRecord(NamedTuple):
    """What ``normdyn demo`` prints and saves.

    Attributes:
        corpus: what was trained on, in a sentence.
        predictions: the rows of the table.
        summary: the content of ``summary.json``.
        folder: of the run.
        notes: where files are, and what could not be saved.
        signal: that ended the run early, if one did.
        drawing_error: why there is no report, if drawing it failed.
    """

    corpus: str
    predictions: Sequence[Prediction]
    summary: Mapping[str, Any]
    folder: Path
    notes: Sequence[str]
    signal: int | None
    drawing_error: DrawingError | None = None

    @property
    def exit_code(self) -> int:
        """Success, an error if the report could not be drawn, or 128 + the signal."""
        return int(self.drawing_error is not None) if self.signal is None else 128 + self.signal

    def print_to(self, console: Console) -> None:
        """Prints the table, what to make of it, and where the files are."""
        console.print(prediction_table(self.predictions), soft_wrap=False)
        console.print(CAPTION)
        if (self.summary["equilibrium_median_error"] or 0.0) > FAR:
            move = self.summary["transient_persistence_error"]
            stays = move is not None and move < LITTLE_MOVE
            repetition = ": so early the lower two rows mostly repeat where they started" * stays
            console.print(f"The norms are still far from equilibrium{repetition}. Train longer with --steps.")
        correlation = show_number(self.summary["log_frequency_correlation"], ".3f")
        console.print(f"Log norm against log word frequency: r = {correlation}")
        console.print(f"{self.summary['steps']:,} steps in {self.summary['seconds']:.0f} s.")
        for note in self.notes:
            console.print(note)


def run_demo(settings: DemoSettings, out: str | None) -> DemoRecord:
    """Trains and saves what was measured; after a signal too.

    Args:
        settings: of the training.
        out: the run's folder, ``None`` for a new one.

    Raises:
        ValueError: if the text or the folder will not do.
        OSError: if the folder cannot be written.
    """
    start_time = time.perf_counter()
    folder = create_run_folder(out)
    data = _load_data(settings, folder)
    opening = _opening(settings, data)
    terminal().print(opening)
    seed_everything(settings.seed, verbose=False)
    module = TokenContrast(data.table_rows, optimizer=settings.optimizer, schedule=settings.schedule)
    trainer, stop_signal = train(module, data, steps=settings.steps, folder=folder)
    findings = Findings(trainer.callback_metrics, module.table.weight, data.vocabulary.counts)
    summary = {
        **findings.summary(),
        "verdicts": _verdicts(trainer),
        "seconds": round(time.perf_counter() - start_time, 2),
        "steps": trainer.global_step,
        **_settings(settings, data),
    }
    notes = _save(folder, data, summary)
    report_notes, drawing_error = _write_report(folder, data.vocabulary.words, summary)
    return DemoRecord(
        opening, findings.predictions(), summary, folder, [*notes, *report_notes], stop_signal, drawing_error
    )


def _verdicts(trainer: Trainer) -> list[dict[str, Any]]:
    """What the rules say of the run at its end."""
    monitors = [callback for callback in trainer.callbacks if isinstance(callback, NormDynamics)]  # type: ignore[attr-defined]
    return [verdict._asdict() for monitor in monitors for verdict in monitor.verdicts]


def _load_data(settings: DemoSettings, folder: Path) -> TokenPairs:
    """Reads the corpus before anything is trained; a corpus that will not do leaves no empty folder behind."""
    files = None if settings.text is None else list(settings.text)
    data = TokenPairs(files, steps_per_epoch=settings.steps, seed=settings.seed)
    try:
        data.setup("fit")
    except BaseException:
        with suppress(OSError):
            folder.rmdir()
        raise
    return data


def _opening(settings: DemoSettings, data: TokenPairs) -> str:
    corpus, rows = data.corpus, data.table_rows
    skipped_note = f" ({corpus.skipped_files} unreadable files skipped)" if corpus.skipped_files else ""
    return (
        f"Corpus: {corpus.name}, {len(corpus.documents):,} documents, {corpus.words:,} words{skipped_note}; "
        f"the {rows:,} most frequent words are trained for {settings.steps:,} steps "
        f"with {settings.optimizer} under a {settings.schedule} learning rate."
    )


def _settings(settings: DemoSettings, data: TokenPairs) -> dict[str, Any]:
    corpus = data.corpus
    return {
        "optimizer": settings.optimizer,
        "schedule": settings.schedule,
        "seed": settings.seed,
        "corpus": {
            "name": corpus.name,
            "documents": len(corpus.documents),
            "words": corpus.words,
            "vocabulary": data.table_rows,
        },
        "versions": versions(),
    }


def _save(folder: Path, data: TokenPairs, summary: dict[str, Any]) -> list[str]:
    """Writes what can be written; the numbers will be on the screen, so nothing here may end in an error."""
    try:
        write_summary(folder, summary)
        write_vocabulary(folder, data.vocabulary)
    except OSError as error:
        return [f"The summary could not be saved in {folder} ({error.strerror})."]
    return [f"Run: {folder} ({CONTENTS})"]


def _write_report(folder: Path, words: list[str], summary: dict[str, Any]) -> tuple[Sequence[str], DrawingError | None]:
    """Draws the report; returns notes about it, and what went wrong with the drawing itself."""
    try:
        require("matplotlib", extra="cli,report")
        page = write_report(folder, row_names=words, summary=summary, command=running_command())
    except (MissingExtraError, OSError) as error:
        return (f"No report.html: {one_sentence(error)}",), None
    except DrawingError as error:
        return (), error
    except Exception as error:  # nothing may come between the numbers and the screen
        drawing_error = DrawingError(f"drawing failed ({type(error).__name__}: {error})")
        drawing_error.__cause__ = error
        return (), drawing_error
    return (f"Report: {page}",), None


CAPTION = (
    "In brackets: the published values, Su, Ren, Veitch 2026 (arXiv 2606.30625), Fig. 3a. They are of least squares, "
    "which counts rare rows, whose norms and predictions chance moves most, like all others; the other lines weigh "
    "each row by that."
)


def prediction_table(predictions: Sequence[Prediction]) -> Table:
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
            f"{show_number(row.slope, '.3f')} ({PUBLISHED_FIT.slope})",
            f"{show_number(row.pearson_r, '.4f')} ({PUBLISHED_FIT.pearson_r})",
            show_number(row.median_error, ".2%"),
            show_number(row.persistence_error, ".1%"),
            show_number(row.skill, ".2f"),
        )
    return table
