"""``alerts.parquet``, what was found wrong with a run and when, and ``verdicts.json``, what still is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lightning_normdyn.atomic_file import atomic_file, write_json
from lightning_normdyn.history.log import Outage

ALERTS_FILE = "alerts.parquet"
VERDICTS_FILE = "verdicts.json"

ALERTS = pa.schema(
    [
        ("step", pa.int64()),
        ("target", pa.string()),
        ("rule", pa.string()),
        ("severity", pa.string()),
        ("sentence", pa.string()),
        ("cause", pa.string()),
        ("lever", pa.string()),
    ]
)
"""One line an alert."""


class AlertLog:
    """The alerts of a run in one small file, and its standing verdicts in another, each written whole or not at all.

    Several monitors of a run share the files: each reads what the others wrote.

    Args:
        folder: the run's ``normdyn`` folder; alerts that a run left there which this one resumes are kept.
        writer: tells this monitor from others of the run.
        outage: shared with the other logs of the run.

    Example:
        >>> import tempfile
        >>> log = AlertLog(tempfile.mkdtemp())
        >>> log.append({"step": 100, "target": "table", "rule": "no_decay", "severity": "note"})
        >>> [(alert["step"], alert["rule"], alert["lever"]) for alert in read_alerts(log.folder)]
        [(100, 'no_decay', None)]
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, writer: str = "NormDynamics", outage: Outage | None = None
    ) -> None:
        self.folder = Path(folder)
        self._writer = writer
        self._outage = outage if outage is not None else Outage()

    def append(self, alert: Mapping[str, Any]) -> None:
        """Adds one alert: values by the columns of :data:`ALERTS`."""
        if self._outage.has_occurred:
            return
        try:
            alerts = [*read_alerts(self.folder), alert]
            lines = [{name: line.get(name) for name in ALERTS.names} for line in alerts]
            with atomic_file(self.folder / ALERTS_FILE) as temporary, temporary.open("wb") as stream:
                pq.write_table(pa.Table.from_pylist(lines, ALERTS), stream)
        except (OSError, ValueError, pa.ArrowException) as error:
            self._outage.report(self.folder, error)

    def stand(self, verdicts: Sequence[Mapping[str, Any]]) -> None:
        """Writes what is wrong with the run now; an empty list says that nothing is."""
        if self._outage.has_occurred:
            return
        try:
            standing = _read_standing(self.folder) | {self._writer: list(verdicts)}
            write_json(self.folder / VERDICTS_FILE, standing)
        except (OSError, ValueError) as error:
            self._outage.report(self.folder, error)


def read_alerts(folder: str | os.PathLike[str]) -> list[Mapping[str, Any]]:
    """The alerts of a run, oldest first; none where the file is missing.

    Args:
        folder: the run's ``normdyn`` folder.

    Raises:
        ValueError: if the file is damaged.
    """
    file = Path(folder) / ALERTS_FILE
    if not file.exists():
        return []
    try:
        with file.open("rb") as stream:
            alerts: Sequence[Mapping[str, Any]] = pq.read_table(stream, columns=ALERTS.names).to_pylist()
    except pa.ArrowException as error:
        raise ValueError(f"history: '{file}' is damaged ({error}); remove it to read the rest") from error
    return list(alerts)


def read_verdicts(folder: str | os.PathLike[str]) -> list[Mapping[str, Any]] | None:
    """What stands of a run, with the names of :data:`ALERTS`; ``None`` for a run that was not judged.

    Args:
        folder: the run's ``normdyn`` folder.

    Raises:
        ValueError: if the file is damaged.
    """
    standing = _read_standing(folder)
    verdicts = {(verdict["target"], verdict["rule"]): verdict for verdicts in standing.values() for verdict in verdicts}
    return list(verdicts.values()) if standing else None


def _read_standing(folder: str | os.PathLike[str]) -> dict[str, list[Mapping[str, Any]]]:
    """Verdicts by the monitor that wrote them."""
    file = Path(folder) / VERDICTS_FILE
    if not file.exists():
        return {}
    try:
        standing = json.loads(file.read_text(encoding="utf-8"))
        is_sound = all(
            isinstance(verdict, dict) and set(ALERTS.names) <= verdict.keys()
            for verdicts in standing.values()
            for verdict in verdicts
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"history: '{file}' is damaged ({error}); remove it to read the rest") from error
    if not is_sound:
        raise ValueError(
            f"history: '{file}' is damaged (expected verdicts by their monitor); remove it to read the rest"
        )
    return dict(standing)
