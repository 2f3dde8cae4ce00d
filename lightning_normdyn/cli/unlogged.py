"""LightningCLI for trainings and evaluations that leave no run behind."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Checkpoint, DeviceStatsMonitor, LearningRateMonitor, ProgressBar

from lightning_normdyn.cli.fit import NormdynCLI

WITHOUT_RUN = (
    "--trainer.logger=false",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_model_summary=false",
)


class UnloggedCLI(NormdynCLI):
    """For a command line with ``WITHOUT_RUN``."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Leaves out callbacks that would refuse to work so, and without which training is the same."""
        configured = self.config_init["trainer"].get("callbacks") or []
        callbacks = configured if isinstance(configured, list) else [configured]
        refuse = (Checkpoint, DeviceStatsMonitor, LearningRateMonitor, ProgressBar)
        kept = [one for one in callbacks if not isinstance(one, refuse)]
        return super().instantiate_trainer(**kwargs | {"callbacks": kept})
