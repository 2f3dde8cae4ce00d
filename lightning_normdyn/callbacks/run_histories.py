"""The histories of a trainer's run: one for all monitors, but for those that would overwrite each other's numbers."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import nn

from lightning_normdyn.callbacks.lightning import Trainer, rank_zero_info, rank_zero_warn
from lightning_normdyn.capture.table import TableTarget
from lightning_normdyn.capture.targets import find_targets
from lightning_normdyn.history.run_record import Bookmark
from lightning_normdyn.history.run_writer import RunWriter
from lightning_normdyn.instruments.instrument_factory import Measures
from lightning_normdyn.instruments.options import NormOptions

Settings = Mapping[str, Mapping[str, object]]
"""Of each target the settings that its numbers depend on, by name."""


class Recording(Protocol):
    """A monitor, as far as its record goes."""

    record_settings: Settings
    history: RunWriter | None


class Clash(NamedTuple):
    """Two monitors that measure the same of a target with other settings, whose numbers have the same names.

    Attributes:
        other: class of the earlier monitor.
        target: its name.
        setting: that differs.
        values: of the earlier monitor and of the later one.
        is_recorded: whether both keep a history.
    """

    other: str
    target: str
    setting: str
    values: tuple[object, object]
    is_recorded: bool

    def __str__(self) -> str:
        earlier, later = (f"{self.setting}={value}" for value in self.values)
        records = "; their records are kept apart, in a folder each" if self.is_recorded else ""
        return (
            f"another callback, {self.other}, measures '{self.target}' too, with {earlier} where this one has {later}, "
            f"and both log by the same keys, the later in the place of the earlier{records}; keep one of them, or give "
            "each targets of its own"
        )


def record_settings(module: nn.Module, measures: Measures, options: NormOptions) -> Settings:
    """Of each target of a monitor the settings that its numbers depend on.

    Args:
        module: the model.
        measures: what the monitor measures.
        options: its own.

    Raises:
        ValueError: if a pattern matches nothing.
    """
    targets = find_targets(module, options["targets"], max_tracked_rows=options["max_tracked_rows"])
    return {target.name: dict(_settings(target, measures, options)) for target in targets}


def _settings(target: object, measures: Measures, options: NormOptions) -> Iterable[tuple[str, object]]:
    for instrument in options["instruments"]:
        yield from ((f"instruments ({quantity})", _Same(instrument)) for quantity in instrument.quantities)
    is_table = isinstance(target, TableTarget)
    if isinstance(target, TableTarget):
        yield "max_tracked_rows", target.tracked_rows
        yield "row_counts", _Same(options["row_counts"])
    elif options["probe"] is False:
        return
    if measures.fit:
        names = (*_FIT_SETTINGS, "fit_every_n_steps") if is_table else (*_FIT_SETTINGS, "probe_items")
        yield from ((name, options[name]) for name in names)  # type: ignore[literal-required]
        name = "lrs" if is_table else "probe"
        yield name, _Same(options[name])  # type: ignore[literal-required]


_FIT_SETTINGS = ("every_n_steps", "window", "forecast_at")


class _Same:
    """Equal where it holds the very same object: arrays and functions have no other equality that would do."""

    def __init__(self, item: object) -> None:
        self._item = item

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._item is self._item

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return "None" if self._item is None else f"{type(self._item).__name__} at {id(self._item):#x}"


def first_clash(monitor: Recording, predecessors: Sequence[Recording]) -> Clash | None:
    """The first target and setting in which a monitor differs from one that is there already; ``None`` if none does.

    Args:
        monitor: the later one.
        predecessors: the earlier ones.
    """
    for predecessor in predecessors:
        for target, settings in monitor.record_settings.items():
            earlier = predecessor.record_settings.get(target, {})
            for name, value in settings.items():
                if name in earlier and earlier[name] != value:
                    is_recorded = monitor.history is not None and predecessor.history is not None
                    return Clash(type(predecessor).__name__, target, name, (earlier[name], value), is_recorded)
    return None


_WRITERS: weakref.WeakKeyDictionary[Trainer, list[RunWriter]] = weakref.WeakKeyDictionary()


def history_for(trainer: Trainer, monitor: Recording, predecessors: Sequence[Recording]) -> RunWriter | None:
    """The history that a monitor writes to: the first in which nothing of it would be overwritten.

    Args:
        trainer: whose run it is.
        monitor: the monitor.
        predecessors: the earlier ones of the trainer.

    Returns:
        ``None`` where none is kept.
    """
    if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
        return None
    log_dir = log_folder(trainer)
    if "://" in str(log_dir):
        rank_zero_warn(f"normdyn history: '{log_dir}' is no folder of this machine, so no norm history is saved there")
        return None
    writers = _WRITERS.setdefault(trainer, [])
    if writers and writers[0].log_dir != Path(log_dir):
        writers.clear()
    for writer in writers:
        sharers = [predecessor for predecessor in predecessors if predecessor.history is writer]
        if first_clash(monitor, sharers) is None:
            return writer
    writers.append(RunWriter(log_dir, inform=rank_zero_info))
    return writers[-1]


def bookmark_of_run(trainer: Trainer, history: RunWriter, saved: Iterable[Bookmark | None]) -> Bookmark | None:
    """Which run goes on in a history: that of the checkpoint, or where there is none of the trainer's last fit.

    Args:
        trainer: whose run it is.
        history: of some of its monitors.
        saved: what the checkpoint says, monitor by monitor.
    """
    bookmark = next((bookmark for bookmark in saved if bookmark is not None), None)
    goes_on = not trainer.ckpt_path and trainer.global_step > 0
    return history.bookmark if bookmark is None and goes_on else bookmark


def log_folder(trainer: Trainer) -> str:
    """What ``trainer.log_dir`` is on the first rank: it is broadcast, and other ranks may not ask for it.

    Args:
        trainer: whose run it is.
    """
    if not trainer.loggers:
        return str(trainer.default_root_dir)
    logger: Any = trainer.loggers[0]
    kinds = {kind.__name__ for kind in type(logger).__mro__}
    if "MLFlowLogger" in kinds:  # takes every folder in its own for an experiment
        return str(trainer.default_root_dir)
    folder = logger.log_dir if kinds & {"TensorBoardLogger", "CSVLogger"} else logger.save_dir
    return str(folder or trainer.default_root_dir)
