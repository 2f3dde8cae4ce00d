"""``alerts/``, what was found wrong with a run and when, and ``verdicts.json``, what still is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lightning_normdyn.history.checked_json import read_checked, write_checked
from lightning_normdyn.history.run_reader import RunReader
from lightning_normdyn.history.run_record import ALERTS_FOLDER
from lightning_normdyn.history.run_writer import RunWriter

VERDICTS_FILE = "verdicts.json"

ALERTS = pa.schema(
    [
        ("step", pa.int64()),
        ("rule", pa.string()),
        ("severity", pa.string()),
        ("sentence", pa.string()),
        ("cause", pa.string()),
        ("lever", pa.string()),
    ]
)
"""One line an alert, but for the target's name."""


class AlertLog:
    """The alerts of a run, one log of its history, and its standing verdicts in a small file.

    Several monitors of a run share them: each reads what the others wrote.

    Args:
        run: the history of the run.
        writer: tells this monitor from others of the run.

    Example:
        >>> import tempfile
        >>> from lightning_normdyn.history.run_reader import find_record
        >>> run = RunWriter(tempfile.mkdtemp())
        >>> run.begin({"table": 0})
        >>> AlertLog(run).append({"step": 100, "target": "table", "rule": "no_decay", "severity": "note"})
        >>> run.end()
        >>> alerts = read_alerts(RunReader(find_record(run.log_dir)))
        >>> [(alert["step"], alert["rule"], alert["lever"]) for alert in alerts]
        [(100, 'no_decay', None)]
    """

    def __init__(self, run: RunWriter, *, writer: str = "NormDynamics") -> None:
        self._run, self._writer = run, writer

    def append(self, alert: Mapping[str, Any]) -> None:
        """Adds one alert: values by the names of :data:`ALERTS`, and ``target``."""
        columns = {name: [alert.get(name)] for name in ALERTS.names}
        self._run.log(ALERTS_FOLDER, ALERTS).append(str(alert["target"]), columns)

    def stand(self, verdicts: Sequence[Mapping[str, Any]]) -> None:
        """Writes what is wrong with the run now; an empty list says that nothing is."""
        try:
            try:
                standing = read_checked(self._run.root / VERDICTS_FILE)
            except (FileNotFoundError, ValueError):
                standing = {}
            write_checked(self._run.root / VERDICTS_FILE, standing | {self._writer: list(verdicts)})
        except (OSError, TypeError, ValueError) as error:
            self._run.outage.report(self._run.root, error)


def read_alerts(reader: RunReader) -> list[Mapping[str, Any]]:
    """The alerts of a run, oldest first.

    Args:
        reader: of its history.
    """
    alerts: list[Mapping[str, Any]] = reader.all_lines(ALERTS_FOLDER, ALERTS).to_pylist()
    return alerts


def read_verdicts(folder: Path) -> list[Mapping[str, Any]] | None:
    """What stands of a run, with the names of :data:`ALERTS`; ``None`` for a run that was not judged.

    Args:
        folder: of its history.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        standing = read_checked(folder / VERDICTS_FILE)
    except FileNotFoundError:
        return None
    verdicts = {(verdict["target"], verdict["rule"]): verdict for verdicts in standing.values() for verdict in verdicts}
    return list(verdicts.values())
