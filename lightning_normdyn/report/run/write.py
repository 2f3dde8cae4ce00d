"""From a run's folder to its report."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lightning_normdyn.history import TargetHistory, read_run
from lightning_normdyn.report.kit.canvas import drawing_style
from lightning_normdyn.report.kit.document import document
from lightning_normdyn.report.run.headline import PAPER, from_summary, headline
from lightning_normdyn.report.run.record import TargetRecord, fits_labels, read_record
from lightning_normdyn.report.run.section import section


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


_SOURCE = f"""<p>[1] Su, Ren, Veitch 2026, <a href="{PAPER}">arXiv 2606.30625</a>, Fig. 3a: log-log slope 0.88,
r 0.97 over a vocabulary, from the full balance equation. Every fit here is of log observed on log predicted norm,
over the points drawn; errors are |predicted − observed| / observed.</p>"""


def page(run: str, records: Sequence[TargetRecord], summary: Mapping[str, Any] | None) -> str:
    """The whole report as one HTML document.

    Args:
        run: the run's name.
        records: its targets.
        summary: headline numbers of a demo, or None to show each target's own.
    """
    head = headline(from_summary(summary)) if summary else ""
    sections = "".join(section(record, with_headline=not summary) for record in records)
    return document(
        f"Norm report: {run}",
        header=f"{_run_facts(summary or {})}{head}{_contents(records)}",
        main=sections,
        footer=f"{_SOURCE}{_maker(records)}",
    )


def _run_facts(summary: Mapping[str, Any]) -> str:
    parts = [str(summary["optimizer"])] if summary.get("optimizer") else []
    if isinstance(summary.get("steps"), int):
        parts.append(f"{summary['steps']:,} steps")
    versions = summary.get("versions")
    if isinstance(versions, Mapping):
        parts += [f"{name} {version}" for name, version in versions.items()]
    elif versions:
        parts.append(str(versions))
    return f'<p class="facts">{escape(" · ".join(parts))}</p>' if parts else ""


def _contents(records: Sequence[TargetRecord]) -> str:
    if len(records) < 2:
        return ""
    items = "".join(f'<li><a href="#{record.anchor}">{escape(record.name)}</a></li>' for record in records)
    return f'<nav aria-label="Targets"><ul>{items}</ul></nav>'


def _maker(records: Sequence[TargetRecord]) -> str:
    versions = sorted({str(record.description["version"]) for record in records if "version" in record.description})
    return f"<p>Recorded by lightning_normdyn {escape(', '.join(versions))}.</p>" if versions else ""


_VERSION = re.compile(r"version_\d+")


def run_name(folder: Path) -> str:
    """The folder's name, with its parent's where it is but a version's number.

    Args:
        folder: the run's folder, absolute.

    Example:
        >>> run_name(Path("/logs/words/version_0")), run_name(Path("/logs/words"))
        ('words/version_0', 'words')
    """
    return "/".join(folder.parts[-2:]) if _VERSION.fullmatch(folder.name) and folder.parent.name else folder.name
