"""``normdyn report``: the page about a run, drawn from its history on disk."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lightning_normdyn.cli.run_folder import SUMMARY_FILE, read_words
from lightning_normdyn.report import write_report


def run_report(options: argparse.Namespace) -> int:
    """Draws the report.

    Args:
        options: ``run``, the run's folder, and ``out``, where the page goes or ``None``.

    Raises:
        FileNotFoundError: if the folder holds no history.
    """
    run = Path(options.run)
    page = write_report(run, out=options.out, labels=read_words(run), summary=_read_summary(run))
    print(f"Report: {page}")
    return 0


def _read_summary(run: Path) -> dict[str, Any] | None:
    file = run / SUMMARY_FILE
    if not file.exists():
        return None
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"run: '{file}' is damaged ({error}); remove it to draw the report without") from error
