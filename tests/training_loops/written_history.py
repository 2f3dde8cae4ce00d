"""Histories without a training: the same run for all that write to one folder."""

from __future__ import annotations

from pathlib import Path

from lightning_normdyn.history import RunWriter
from lightning_normdyn.history.run_writer import TargetWriter

_WRITERS = {}


def writer_of(log_dir):
    """The run that writes to a folder, begun if it was not or if somebody has cleared the folder."""
    place = Path(log_dir).absolute()
    writer = _WRITERS.get(place)
    if writer is None or not (writer.root / "run.json").exists():
        writer = _WRITERS[place] = RunWriter(place)
        writer.begin({})
    return writer


class WrittenTarget(TargetWriter):
    """Puts descriptions on disk at once."""

    def describe(self, description):
        super().describe(description)
        self.run.flush()

    def name_rows(self, names):
        super().name_rows(names)
        self.run.flush()


def history_of(log_dir, target):
    """What records a target of that run."""
    return WrittenTarget(writer_of(log_dir), target)


def end_run(log_dir):
    """The run in a folder is complete."""
    _WRITERS.pop(Path(log_dir).absolute()).end()
