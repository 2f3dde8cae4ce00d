"""The folder of a reproduction: every experiment is saved as it ends, so that a later run goes on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_normdyn.cli.demos.findings import versions
from lightning_normdyn.cli.run_folder import SUMMARY_FILE, create_run_folder, make_writable, write_summary
from lightning_normdyn.history.experiment import ExperimentRecord, read_experiment, write_experiment

_RECORDS = "experiments"


class Reproduction:
    """The experiments that have finished, in memory and on disk.

    Args:
        out: a new or empty folder, or one in which an earlier reproduction was left; ``None`` makes one.
        settings: what all experiments of a folder share.

    Raises:
        ValueError: if ``out`` holds something else, or a reproduction with other settings.
        OSError: if ``out`` cannot be written.
    """

    def __init__(self, out: str | None, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self.records: dict[str, ExperimentRecord] = {}
        self.failures: dict[str, str] = {}
        if out is not None and (Path(out) / SUMMARY_FILE).is_file():
            self.folder = Path(out)
            make_writable(self.folder)
            self._go_on()
        else:
            self.folder = create_run_folder(out, command="reproduce")

    def add(self, record: ExperimentRecord) -> None:
        """Keeps a finished experiment and saves it."""
        write_experiment(self._file(record.name), record)
        self.records[record.name] = record
        self.save()

    def save(self) -> None:
        """Writes ``summary.json``."""
        experiments = {
            name: {
                "findings": [finding._asdict() for finding in record.findings],
                "settings": dict(record.settings),
                "seconds": round(record.seconds, 2),
                "verdicts": [dict(verdict) for verdict in record.verdicts],
            }
            for name, record in self.records.items()
        }
        summary = {**self.settings, "experiments": experiments, "failed": self.failures, "versions": versions()}
        write_summary(self.folder, summary)

    def _go_on(self) -> None:
        file = self.folder / SUMMARY_FILE
        try:
            summary = json.loads(file.read_text(encoding="utf-8"))
            names = list(summary["experiments"])
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(
                f"out: '{file}' is no summary of a reproduction; expected a new or empty folder, or one that "
                "normdyn reproduce left"
            ) from error
        for name, value in self.settings.items():
            if summary.get(name) != value:
                raise ValueError(
                    f"out: '{self.folder}' holds a run with {name} {summary.get(name)}, got {value}; "
                    "choose another folder"
                )
        self.records = {name: read_experiment(self._file(name)) for name in names}

    def _file(self, name: str) -> Path:
        return self.folder / _RECORDS / f"{name}.json"
