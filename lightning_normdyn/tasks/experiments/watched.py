"""A training run under ``NormDynamics`` whose fit windows come back as tensors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.history import read_run
from lightning_normdyn.history.alert_log import read_verdicts
from lightning_normdyn.history.run_record import FOLDER
from lightning_normdyn.tasks.quiet import one_thread, quiet_lightning

_NO_WORKERS = r".*does not have many workers"


@dataclass(frozen=True)
class Window:
    """What one fit window said about every row or probe item.

    Attributes:
        step: the step at which it closed.
        columns: columns of :data:`lightning_normdyn.history.TRAJECTORY` in float64, ``[rows]`` each, NaN where a column
            says nothing about a row.
    """

    step: int
    columns: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        """A column, ``[rows]``."""
        return self.columns[name]


class WatchedRun(NamedTuple):
    """What the callback saw of a run.

    Attributes:
        windows: the fit windows, oldest first.
        verdicts: what the rules said at its end, the worst first, as :class:`lightning_normdyn.instruments.Verdict`
            names it.
    """

    windows: list[Window]
    verdicts: list[Mapping[str, Any]]


def watch(
    module: LightningModule,
    data: LightningDataModule | Iterable[Any],
    *,
    steps: int,
    target: str,
    **dynamics: Any,
) -> WatchedRun:
    """Trains on one thread of the CPU and reads what the callback saw of one target.

    Args:
        module: the model, trained in place.
        data: its batches, at least ``steps`` of them.
        steps: optimizer steps.
        target: the one name that is watched.
        dynamics: options of :class:`lightning_normdyn.callbacks.NormDynamics`.

    Returns:
        The fit windows, and what the rules said.
    """
    source = {"datamodule" if isinstance(data, LightningDataModule) else "train_dataloaders": data}
    with tempfile.TemporaryDirectory() as folder, quiet_lightning(_NO_WORKERS), one_thread():
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            max_steps=steps,
            default_root_dir=folder,
            callbacks=[NormDynamics(targets=[target], **dynamics)],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(module, **source)  # type: ignore[arg-type]
        return WatchedRun(_windows(folder, target), read_verdicts(Path(folder) / FOLDER) or [])


def _windows(folder: str, target: str) -> list[Window]:
    table = read_run(folder)[target].trajectory()
    columns = {name: torch.from_numpy(table[name].to_numpy().astype("float64")) for name in table.column_names}
    steps = columns["step"][columns["second_moment"].isfinite()].unique().tolist()
    return [
        Window(int(step), {name: column[columns["step"] == step] for name, column in columns.items()}) for step in steps
    ]
