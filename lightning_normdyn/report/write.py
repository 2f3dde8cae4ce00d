"""From a run's folder to its report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_normdyn.history import TargetHistory, read_run
from lightning_normdyn.report.canvas import drawing_style
from lightning_normdyn.report.page import page
from lightning_normdyn.report.record import fits_labels, read_record
from lightning_normdyn.report.run_name import run_name


def write_report(
    log_dir: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    labels: Sequence[str] | None = None,
    summary: Mapping[str, Any] | None = None,
) -> Path:
    """Writes one self-contained HTML page about a run, finished or still going, from the history on disk.

    Args:
        log_dir: the run's folder, which holds ``normdyn/``.
        out: where the page goes; ``<log_dir>/report.html`` if left out.
        labels: names of a table's rows (vocabulary words), one per row; they name the longest and shortest rows.
        summary: headline numbers of a demo: slope, pearson_r, median_relative_error (transient-corrected prediction),
            equilibrium_slope, transient_skill, forecast_skill and so on. Without it each target shows its last logged
            values.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: if ``log_dir`` holds no history.
        ValueError: if no table has as many rows as there are labels.
    """
    run = read_run(log_dir)
    if labels is not None:
        _check_labels(labels, run)
    records = [
        read_record(name, history, anchor=f"target-{number}", labels=labels)
        for number, (name, history) in enumerate(run.items(), start=1)
    ]
    with drawing_style():
        text = page(run_name(Path(log_dir).resolve()), records, summary)
    path = Path(out) if out is not None else Path(log_dir) / "report.html"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OSError(
            f"out: cannot write the page to '{path}' ({error.strerror}); name a file in a folder of yours"
        ) from error
    return path


def _check_labels(labels: Sequence[str], run: Mapping[str, TargetHistory]) -> None:
    descriptions = {name: history.description() for name, history in run.items()}
    if not any(fits_labels(description, labels) for description in descriptions.values()):
        tables = ", ".join(f"{name}: {found.get('rows')}" for name, found in descriptions.items() if found.get("rows"))
        raise ValueError(
            f"labels: expected one name per row of a table, got {len(labels)} names "
            f"(rows per table: {tables or 'none'}); pass the vocabulary in the order of the table's rows"
        )
