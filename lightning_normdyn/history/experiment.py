"""Records of reproduced experiments: measured beside expected numbers, and arrays for figures, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lightning_normdyn.atomic_file import write_json


class Finding(NamedTuple):
    """One measured number beside the one that was expected.

    Attributes:
        quantity: what was measured.
        expected: the published or derived value; ``None`` where only the figure's shape is known.
        source: where ``expected`` comes from.
        measured: what came out; ``None`` where the run was too small to tell.
    """

    quantity: str
    expected: float | None
    source: str
    measured: float | None


@dataclass(frozen=True)
class ExperimentRecord:
    """The outcome of one experiment: numbers for the table, arrays for the figure.

    Attributes:
        name: the experiment.
        findings: measured beside expected.
        arrays: what the figure draws, finite numbers by name.
        settings: what it was run with.
        seconds: how long it took.
        verdicts: what the rules said of its trainings at their ends, as :class:`lightning_normdyn.instruments.Verdict`
            names it.
    """

    name: str
    findings: tuple[Finding, ...]
    arrays: Mapping[str, Sequence[float]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    verdicts: Sequence[Mapping[str, Any]] = ()

    def finding(self, quantity: str) -> Finding:
        """The finding of a quantity.

        Raises:
            KeyError: if the experiment measures no such thing.
        """
        for finding in self.findings:
            if finding.quantity == quantity:
                return finding
        raise KeyError(quantity)


def write_experiment(file: Path, record: ExperimentRecord) -> None:
    """Writes a record as JSON, whole or not at all.

    Args:
        file: where it goes; the folder is made.
        record: what to write.

    Raises:
        ValueError: if an array holds NaN or infinity.
        OSError: if the file cannot be written.
    """
    content = asdict(record) | {"findings": [finding._asdict() for finding in record.findings]}
    write_json(file, content)


def read_experiment(file: Path) -> ExperimentRecord:
    """Reads a record.

    Args:
        file: what :func:`write_experiment` wrote.

    Raises:
        ValueError: if it is damaged.
        FileNotFoundError: if there is none.
    """
    content_bytes = file.read_bytes()
    try:
        content = json.loads(content_bytes)
        findings = tuple(Finding(**finding) for finding in content["findings"])
        return ExperimentRecord(**content | {"findings": findings, "verdicts": tuple(content.get("verdicts", ()))})
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"out: '{file}' is damaged ({error}); remove it to run that experiment again") from error
