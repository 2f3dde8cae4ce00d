"""What a run leaves on disk about its norms, and how to read it back without a trainer."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lightning_normdyn.history.log import Outage, ParquetLog, read_parts

FOLDER = "normdyn"

TRAJECTORY = pa.schema(
    [
        ("step", pa.int64()),
        ("row", pa.int64()),
        ("norm", pa.float32()),
        # Filled at the end of a fit window alone, null elsewhere:
        ("second_moment", pa.float32()),
        ("update_probability", pa.float32()),
        ("mean_norm", pa.float32()),
        ("equilibrium_norm", pa.float32()),
        ("transient_norm", pa.float32()),
        ("forecast_norm", pa.float32()),
    ]
)
"""One line per tracked row and snapshot: the norm, and at a fit the moments and predictions that went into it."""

QUANTITIES = pa.schema([("step", pa.int64()), ("quantity", pa.string()), ("value", pa.float64())])
"""One line per logged scalar: the same values that went to the loggers."""


class TargetHistory:
    """The history of one target: ``trajectory/``, ``quantities/`` and ``target.json`` in a folder of its own.

    Args:
        folder: ``<log_dir>/normdyn/<target>``.
        outage: shared by the histories of a run, so that trouble is reported once.
    """

    def __init__(self, folder: str | os.PathLike[str], *, outage: Outage | None = None) -> None:
        self.folder = Path(folder)
        outage = outage if outage is not None else Outage()
        self.trajectory_log = ParquetLog(self.folder / "trajectory", TRAJECTORY, outage=outage)
        self.quantities_log = ParquetLog(self.folder / "quantities", QUANTITIES, outage=outage)

    def describe(self, description: dict[str, Any]) -> None:
        """Writes ``target.json``; an unwritable folder is left to the logs, which report it once."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "target.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        except OSError:
            return

    def append_quantities(self, step: int, values: dict[str, float]) -> None:
        """Adds one line per scalar."""
        self.quantities_log.append(
            {"step": [step] * len(values), "quantity": list(values), "value": list(values.values())}
        )

    def flush(self) -> None:
        """Puts all that waits in memory on disk."""
        self.trajectory_log.flush()
        self.quantities_log.flush()

    def description(self) -> dict[str, Any]:
        """Reads ``target.json``; empty where there is none."""
        file = self.folder / "target.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}

    def trajectory(self) -> pa.Table:
        """Reads the trajectory by step and row (columns of :data:`TRAJECTORY`)."""
        return _latest(read_parts(self.folder / "trajectory", TRAJECTORY), ["step", "row"])

    def quantities(self) -> pa.Table:
        """Reads the logged scalars by step (columns of :data:`QUANTITIES`)."""
        return _latest(read_parts(self.folder / "quantities", QUANTITIES), ["step", "quantity"])


def fresh_root(log_dir: str | os.PathLike[str], run: str, *, resumes: bool) -> Path:
    """The folder ``<log_dir>/normdyn`` for a run, in which no other run's history is mixed with its own.

    A history that another run left there is moved aside, to ``normdyn-1``, ``normdyn-2`` and so on, unless this run
    resumes it. Nothing is done where nothing can be written.

    Args:
        log_dir: the run's folder.
        run: what tells this run from others, the same for all monitors of a trainer.
        resumes: whether the run goes on from a checkpoint.
    """
    root = Path(log_dir) / FOLDER
    mark = root / "run"
    try:
        if root.exists() and not resumes and not (mark.exists() and mark.read_text(encoding="utf-8") == run):
            number = next(n for n in itertools.count(1) if not root.with_name(f"{FOLDER}-{n}").exists())
            root.rename(root.with_name(f"{FOLDER}-{number}"))
        root.mkdir(parents=True, exist_ok=True)
        mark.write_text(run, encoding="utf-8")
    except OSError:
        return root  # the logs that cannot write there will say so
    return root


def read_run(log_dir: str | os.PathLike[str]) -> dict[str, TargetHistory]:
    """Finds every target that a run recorded.

    Args:
        log_dir: the run's folder, which holds ``normdyn/``.

    Returns:
        Target name to its history, in alphabetical order.

    Raises:
        FileNotFoundError: if no target was recorded there.
    """
    root = Path(log_dir) / FOLDER
    found = {file.parent.name: TargetHistory(file.parent) for file in sorted(root.glob("*/target.json"))}
    if not found:
        raise FileNotFoundError(
            f"log_dir: no norm history under '{root}'; expected the folder of a run that trained with NormDynamics "
            "or NormTrajectoryMonitor"
        )
    return found


def _latest(table: pa.Table, keys: list[str]) -> pa.Table:
    """Sorts by the keys and keeps the last line of each: a resumed run repeats the steps since its checkpoint."""
    numbered = table.append_column("line", pa.array(range(len(table)), pa.int64()))
    last = numbered.group_by(keys).aggregate([("line", "max")]).sort_by([(key, "ascending") for key in keys])
    return table.take(pc.cast(last["line_max"], pa.int64()))
