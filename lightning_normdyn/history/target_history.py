"""The norm history of a run on disk: one folder a target, written while it trains, read back without a trainer."""

from __future__ import annotations

import itertools
import json
import os
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lightning_normdyn.atomic_file import write_atomically
from lightning_normdyn.history.log import Outage, ParquetLog, read_parts
from lightning_normdyn.history.run_mark import RunMark

FOLDER = "normdyn"
_LONGEST_NAME = 150

TRAJECTORY = pa.schema(
    [
        ("step", pa.int64()),
        ("row", pa.int64()),
        ("norm", pa.float32()),
        # Filled at the end of a fit window alone, null elsewhere:
        ("second_moment", pa.float32()),
        ("second_moment_stderr", pa.float32()),
        ("update_probability", pa.float32()),
        ("kurtosis", pa.float32()),
        ("mean_norm", pa.float32()),
        ("norm_width", pa.float32()),
        ("equilibrium_norm_stderr", pa.float32()),
        ("equilibrium_gap_stderr", pa.float32()),
        ("equilibrium_norm", pa.float32()),
        ("transient_norm", pa.float32()),
        ("forecast_norm", pa.float32()),
        # Of the probe items of an encoder:
        ("radial_decay", pa.float32()),
        ("radial_decay_stderr", pa.float32()),
        ("drift", pa.float32()),
        ("drift_stderr", pa.float32()),
        ("growth", pa.float32()),
        ("growth_stderr", pa.float32()),
        ("angular_update", pa.float32()),
        ("variance_norm", pa.float32()),
        ("drift_norm", pa.float32()),
        ("balance_norm", pa.float32()),
    ]
)
"""One line per tracked row or probe item and snapshot: the norm, and at a fit what went into it and came of it."""

QUANTITY_SCHEMA = pa.schema([("step", pa.int64()), ("quantity", pa.string()), ("value", pa.float64())])
"""One line per logged scalar: the same values that went to the loggers."""


ReadParts = Callable[[Path, pa.Schema], pa.Table]
"""How the parts of a log are read: at once, or by a :class:`~lightning_normdyn.history.part_cache.PartCache`."""


class TargetHistory:
    """The history of one target: ``trajectory/``, ``quantities/``, ``target.json`` and, if known, ``row_names.json``.

    Args:
        folder: ``<log_dir>/normdyn/<target>``.
        outage: shared by the histories of a run, so that trouble is reported once.
        read: reads the parts of a log, called with its folder and schema.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, outage: Outage | None = None, read: ReadParts = read_parts
    ) -> None:
        self.folder = Path(folder)
        self._read_parts = read
        self._description: dict[str, Any] = {}
        self._row_names: dict[int, str] = {}
        outage = outage if outage is not None else Outage()
        self.trajectory_log = ParquetLog(self.folder / "trajectory", TRAJECTORY, outage=outage)
        self.quantities_log = ParquetLog(self.folder / "quantities", QUANTITY_SCHEMA, outage=outage)

    def describe(self, description: dict[str, Any]) -> None:
        """Writes ``target.json``, whole or not at all; trouble is left to the logs, which report it once."""
        self._description = description
        self._write("target.json", description, indent=2)

    def name_rows(self, names: Mapping[int, str]) -> None:
        """Writes ``row_names.json``: row number to name. Nothing is written where there are none."""
        self._row_names = dict(names)
        if names:
            self._write("row_names.json", {"rows": list(names), "names": list(names.values())})

    def _write(self, name: str, content: Any, *, indent: int | None = None) -> None:
        try:
            write_atomically(self.folder / name, (json.dumps(content, indent=indent) + "\n").encode("utf-8"))
        except (OSError, ValueError):
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
        if self._description and not (self.folder / "target.json").exists():
            self.describe(self._description)  # somebody cleared the folder while the run went on
            self.name_rows(self._row_names)

    def description(self) -> dict[str, Any]:
        """Reads ``target.json``; empty where there is none.

        Raises:
            ValueError: if it is damaged.
        """
        return dict(self._read("target.json"))

    def row_names(self) -> dict[int, str]:
        """Reads ``row_names.json``: row number to name, for the rows of a table that were tracked; empty for none.

        Raises:
            ValueError: if it is damaged.
        """
        content = self._read("row_names.json")
        if not content:
            return {}
        rows, names = content.get("rows"), content.get("names")
        if not (_all_are(int, rows) and _all_are(str, names) and len(rows) == len(names)):
            raise ValueError(
                f"log_dir: '{self.folder / 'row_names.json'}' is damaged (expected rows and names, lists of one length "
                "of whole numbers and texts); restore it, or remove it to draw rows without names"
            )
        return dict(zip(rows, names, strict=True))

    def _read(self, name: str) -> Any:
        file = self.folder / name
        if not file.exists():
            return {}
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"log_dir: '{file}' is damaged ({error}); restore it, or remove that target") from error

    def trajectory(self) -> pa.Table:
        """Reads the trajectory by step and row (columns of :data:`TRAJECTORY`)."""
        return _latest(self._read_parts(self.folder / "trajectory", TRAJECTORY), ["step", "row"])

    def quantities(self) -> pa.Table:
        """Reads the logged scalars by step (columns of :data:`QUANTITY_SCHEMA`)."""
        return _latest(self._read_parts(self.folder / "quantities", QUANTITY_SCHEMA), ["step", "quantity"])


def _all_are(kind: type, values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def folder_name(target: str) -> str:
    """A folder name for a target, whatever its module is called.

    Example:
        >>> folder_name("encoder.table.weight"), folder_name("towers.user/item.weight")
        ('encoder.table.weight', 'towers.user_item.weight')
    """
    name = re.sub(r"[^\w.+=@-]", "_", target).lstrip(".") or "_"
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    return f"{name.encode()[:_LONGEST_NAME].decode(errors='ignore')}-{zlib.crc32(target.encode()):08x}"


def fresh_root(log_dir: str | os.PathLike[str], trainer_id: int, *, resumes: bool) -> Path:
    """The folder ``<log_dir>/normdyn`` for a run, in which no other run's history is mixed with its own.

    A history that a finished run left there is moved aside, to ``normdyn-1``, ``normdyn-2`` and so on, unless this run
    resumes it. A folder that is no history, or that another process still writes to, stays where it is, and this run
    takes the next free name instead. Nothing is done where nothing can be written.

    Args:
        log_dir: the run's folder.
        trainer_id: what tells this run from others of the process, the same for all monitors of a trainer.
        resumes: whether the run goes on from a checkpoint.
    """
    root = Path(log_dir) / FOLDER
    run = RunMark.here(trainer_id)
    try:
        earlier = RunMark.read(root)
        if root.exists() and earlier != run:
            if earlier is None or (earlier.process != run.process and earlier.is_alive):
                root = _next_free(root)
            elif not resumes:
                root.rename(_next_free(root))
        root.mkdir(parents=True, exist_ok=True)
        run.write(root)
    except OSError:
        return root  # the logs that cannot write there will say so
    return root


def _next_free(root: Path) -> Path:
    return next(free for n in itertools.count(1) if not os.path.lexists(free := root.with_name(f"{root.name}-{n}")))


def read_run(log_dir: str | os.PathLike[str], *, read: ReadParts = read_parts) -> dict[str, TargetHistory]:
    """Finds every target that a run recorded.

    Args:
        log_dir: the run's folder, which holds ``normdyn/``.
        read: reads the parts of a log, called with its folder and schema.

    Returns:
        Target name to its history, in alphabetical order.

    Raises:
        FileNotFoundError: if no target was recorded there.
    """
    root = Path(log_dir) / FOLDER
    histories = [TargetHistory(file.parent, read=read) for file in sorted(root.glob("*/target.json"))]
    by_target = {str(history.description().get("target", history.folder.name)): history for history in histories}
    if not by_target:
        raise FileNotFoundError(
            f"log_dir: no norm history under '{root}'; expected the folder of a run that trained with NormDynamics "
            "or NormTrajectoryMonitor"
        )
    return by_target


def _latest(table: pa.Table, keys: list[str]) -> pa.Table:
    """Sorts by the keys and keeps the last line of each: a resumed run repeats the steps since its checkpoint."""
    lines = table.append_column("line", pa.array(range(len(table)), pa.int64()))
    last = lines.group_by(keys).aggregate([("line", "max")]).sort_by([(key, "ascending") for key in keys])
    return table.take(pc.cast(last["line_max"], pa.int64()))
