"""The report of a run: one self-contained page, made from the history on disk."""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lightning_normdyn.core.dynamics.published_fit import PUBLISHED_FIT
from lightning_normdyn.core.object_checks import check_callable, check_instance, check_path
from lightning_normdyn.history import TargetHistory
from lightning_normdyn.history.alert_log import read_verdicts
from lightning_normdyn.history.origin import Origin
from lightning_normdyn.history.run_reader import RunReader, find_record
from lightning_normdyn.history.run_record import RunRecord, list_runs
from lightning_normdyn.report.kit.page import NORM_LAW_PAPER, Link, Page, write_page
from lightning_normdyn.report.run.target_record import TargetRecord, fits_labels, latest_step, read_record

Labels = Sequence[str] | Mapping[str, Sequence[str]]
"""Names of a table's rows, in the order of the rows; for several tables by the name of the target."""


def write_report(
    log_dir: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    row_names: Labels | None = None,
    summary: Mapping[str, Any] | None = None,
    command: str = "",
    run: str | None = None,
    warn: Callable[[str], object] = lambda message: warnings.warn(message, stacklevel=3),
) -> Path:
    """Writes one self-contained HTML page about a run, finished or still going, from the history on disk.

    Args:
        log_dir: the run's folder, which holds ``normdyn/``, or such a history itself.
        out: where the page goes; ``<log_dir>/report.html`` if left out.
        row_names: names of a table's rows (vocabulary words), one per row; they name the longest and shortest rows. A
            sequence names the rows of every table of that many rows, a mapping those of each target by its name.
        summary: headline numbers of a demo: slope, pearson_r, median_relative_error (transient-corrected prediction),
            equilibrium_slope, transient_skill, forecast_skill and so on. Without it each target shows its last logged
            values.
        command: that made the page, for its last line.
        run: which run, where several lie in the folder, as :func:`~lightning_normdyn.history.read_run` takes it.
        warn: hears of damaged files, which are left out, a sentence each; the page says so too.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: if ``log_dir`` holds no history.
        ValueError: if an argument is of another kind, no table has as many rows as there are names, or a mapping
            names what the run does not hold.
        DrawingError: if a figure cannot be drawn.
        OSError: if the page cannot be written.
    """
    _check_arguments(log_dir, out, row_names, summary)
    check_instance(str, command=command)
    check_callable("of a message", warn=warn)
    reader = RunReader(find_record(log_dir, run), warn=warn)
    records = read_records(reader, row_names)
    if not records:
        raise FileNotFoundError(f"log_dir: '{reader.record.folder}' has no target yet; wait until training has begun")
    verdicts = reader.checked(read_verdicts)
    page = report_page(run_name(Path(log_dir).resolve()), records, summary, command=command, verdicts=verdicts)
    notes = [*other_runs(reader.record), *(f"Left out: {damage}." for damage in reader.damaged)]
    page = dataclasses.replace(page, notes=[*page.notes, *notes])
    path = Path(out) if out is not None else Path(log_dir) / "report.html"
    try:
        return write_page(path, page)
    except OSError as error:
        raise OSError(
            f"out: cannot write the page to '{path}' ({error.strerror}); name a file in a folder of yours"
        ) from error


def other_runs(record: RunRecord) -> list[str]:
    """A sentence that names the other runs beside one; none where it is alone.

    Args:
        record: of the run.
    """
    others = [str(other) for other in list_runs(record.folder.parent) if other.folder.name != record.folder.name]
    return [f"This is {record}; beside it lie {'; '.join(others)}."] if others else []


def read_records(reader: RunReader, row_names: Labels | None = None) -> list[TargetRecord]:
    """Reads all targets of a run.

    Args:
        reader: of its history.
        row_names: names of rows, as :func:`write_report` takes them.

    Raises:
        ValueError: if names fit no table.
    """
    run = reader.targets()
    labels_of_target = _labels_by_target(row_names, run)
    return [
        read_record(name, history, anchor=f"target-{number}", labels=labels_of_target.get(name))
        for number, (name, history) in enumerate(run.items(), start=1)
    ]


def _check_arguments(log_dir: object, out: object, row_names: object, summary: object) -> None:
    """Refuses what is of another kind than the signature says, before anything is read."""
    check_path("run's folder", log_dir=log_dir)
    if out is not None:
        check_path(out=out)
    if summary is not None and not isinstance(summary, Mapping):
        raise ValueError(f"summary: expected numbers by their names, got {summary!r}")
    for names in row_names.values() if isinstance(row_names, Mapping) else [] if row_names is None else [row_names]:
        if not isinstance(names, Sequence) or isinstance(names, str | bytes):
            raise ValueError(f"row_names: expected a list of names, one a row, or such lists by target, got {names!r}")


def _labels_by_target(labels: Labels | None, run: Mapping[str, TargetHistory]) -> dict[str, Sequence[str]]:
    """The names of each target's rows.

    Raises:
        ValueError: if names fit no target.
    """
    if labels is None or (isinstance(labels, Mapping) and not labels):
        return {}
    descriptions = {name: history.description() for name, history in run.items()}
    if isinstance(labels, Mapping):
        by_target = {name: labels[_name(name, descriptions)] for name in run if _name(name, descriptions) in labels}
        unknown_names = set(labels) - {_name(name, descriptions) for name in run}
        if unknown_names:
            targets = ", ".join(_name(name, descriptions) for name in run)
            raise ValueError(f"row_names: expected names for targets among {targets}, got {sorted(unknown_names)[0]!r}")
    else:
        by_target = dict.fromkeys(run, labels)
    fitting = {name: names for name, names in by_target.items() if fits_labels(descriptions[name], names)}
    misfits = by_target.keys() - fitting.keys() if isinstance(labels, Mapping) else set()
    if not fitting or misfits:
        _refuse_labels(by_target[min(misfits or by_target)], descriptions)
    return fitting


def _name(target: str, descriptions: Mapping[str, Mapping[str, Any]]) -> str:
    return str(descriptions[target].get("target", target))


def _refuse_labels(labels: Sequence[str], descriptions: Mapping[str, Mapping[str, Any]]) -> None:
    tables = ", ".join(f"{name}: {table.get('rows')}" for name, table in descriptions.items() if table.get("rows"))
    raise ValueError(
        f"row_names: expected one name per row of a table, got {len(labels)} names "
        f"(rows per table: {tables or 'none'}); pass the vocabulary in the order of the table's rows"
    )


_SOURCE = Markup(
    f"""<p>[1] Su, Ren, Veitch 2026, <a href="{NORM_LAW_PAPER}">arXiv 2606.30625</a>, Fig. 3a: log-log
slope {PUBLISHED_FIT.slope}, r {PUBLISHED_FIT.pearson_r} over the vocabulary of a language model, from the full balance
equation: what was reached there, no target for other models. Every fit here is of log observed on log predicted norm,
over all rows of its panel; errors are |predicted − observed| / observed.</p>"""
)


def report_page(
    run: str,
    records: Sequence[TargetRecord],
    summary: Mapping[str, Any] | None,
    *,
    command: str = "",
    verdicts: Sequence[Mapping[str, Any]] | None = None,
) -> Page:
    """The whole report.

    Args:
        run: the run's name.
        records: its targets.
        summary: headline numbers of a demo, or None to show each target's own.
        command: that makes the page, for its last line.
        verdicts: what the rules say of the run; ``None`` if it was not judged.

    Raises:
        DrawingError: if a figure cannot be drawn.
    """
    # Imported where it is drawn: whoever reads records alone needs no matplotlib.
    from lightning_normdyn.report.kit.figure import drawing_style
    from lightning_normdyn.report.run.headline import from_summary, headline, verdict_card
    from lightning_normdyn.report.run.target_section import section

    head = headline(from_summary(summary)) if summary else Markup()
    with drawing_style():
        sections = [section(record, with_headline=not summary) for record in records]
    return Page(
        title=f"Norm report: {run}",
        main=verdict_card(verdicts, last_step=latest_step(records)) + head + Markup("\n").join(sections),
        facts=_run_facts(summary or {}),
        contents=[Link(record.anchor, record.name) for record in records],
        contents_name="Targets",
        sources=_SOURCE,
        origin=Origin(data=_recorded_by(records), command=command),
    )


def _run_facts(summary: Mapping[str, Any]) -> list[str]:
    statements = [str(summary["optimizer"])] if summary.get("optimizer") else []
    if isinstance(summary.get("steps"), int):
        statements.append(f"{summary['steps']:,} steps")
    versions = summary.get("versions")
    if isinstance(versions, Mapping):
        statements += [f"{name} {version}" for name, version in versions.items()]
    elif versions:
        statements.append(str(versions))
    return statements


def _recorded_by(records: Sequence[TargetRecord]) -> str:
    versions = sorted({str(record.description["version"]) for record in records if "version" in record.description})
    return f"a run recorded by lightning_normdyn {', '.join(versions)}" if versions else ""


_DEFAULT_NAMES = ("lightning_logs", "tb_logs", "logs", "runs")
_VERSION = re.compile(r"version_\d+")


def run_name(folder: Path) -> str:
    """The folder's name, with its parents' as long as it is but a version's number or Lightning's own default.

    Args:
        folder: the run's folder, absolute.

    Example:
        >>> run_name(Path("/logs/words/version_0")), run_name(Path("/logs/words"))
        ('words/version_0', 'words')
        >>> run_name(Path("/home/me/towers/lightning_logs/version_0"))
        'towers/lightning_logs/version_0'
    """
    names = folder.relative_to(folder.anchor).parts
    first = len(names) - 1
    while first > 0 and (_VERSION.fullmatch(names[first]) or names[first] in _DEFAULT_NAMES):
        first -= 1
    return "/".join(names[max(first, 0) :])
