"""LightningCLI for the tasks: ``normdyn fit | validate | test | predict``."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from inspect import signature
from typing import Any

from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, DeviceStatsMonitor, LearningRateMonitor, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, LRSchedulerTypeUnion, SaveConfigCallback
from pytorch_lightning.loggers.logger import DummyLogger
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class NormdynCLI(LightningCLI):
    """LightningCLI over any LightningModule and data module, the tasks of this package included.

    Two things differ from the stock class: a table takes its number of rows from the data where the data knows it,
    and a learning-rate scheduler given on the command line advances with every step, not with every epoch.
    """

    def __init__(self, args: Sequence[str], *, run: bool = True) -> None:
        self._runs = run
        with warnings.catch_warnings():
            # main() hands over what it was given; the warning is meant for calls from other programs.
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
            super().__init__(
                seed_everything_default=0,
                parser_kwargs={"prog": "normdyn"},
                args=list(args),
                run=run,
                # A command that trains again and again keeps its own record of what it was asked.
                save_config_callback=SaveConfigCallback if run else None,
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Gives the model the number of rows that the data needs; takes the ``config.yaml`` that ``fit`` saved."""
        parser.link_arguments("data", "model.init_args.table_rows", compute_fn=_table_rows, apply_on="instantiate")
        if not self._runs:
            for name in set(signature(Trainer.fit).parameters) - self.subcommands()["fit"] - {"self"}:
                parser.add_argument(f"--{name}", default=None, help="of fit, whose saved configuration has it")

    def instantiate_classes(self) -> None:
        """Instantiates what the configuration names; what a constructor complains about shows as it was said."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise ValueError(_complaint(error)) from error

    def after_fit(self) -> None:
        """Says where the run is."""
        logger = self.trainer.logger
        if logger is not None and not isinstance(logger, DummyLogger) and self.trainer.is_global_zero:
            print(f"Run folder: {self.trainer.log_dir}")

    @staticmethod
    def configure_optimizers(
        lightning_module: LightningModule, optimizer: Optimizer, lr_scheduler: LRSchedulerTypeUnion | None = None
    ) -> Any:
        """What replaces the model's own optimizers when the command line names others."""
        if not isinstance(lr_scheduler, LRScheduler):
            return LightningCLI.configure_optimizers(lightning_module, optimizer, lr_scheduler)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}


def _table_rows(data: LightningDataModule | None) -> int | None:
    return getattr(data, "table_rows", None)


def _complaint(error: ValueError) -> str:
    """Digs out what a constructor said from what jsonargparse says around it."""
    text = str(error)
    if text.startswith("Call to compute_fn of link") and error.__cause__ is not None:
        return str(error.__cause__)
    if text.startswith("Does not validate against any of the Union"):
        alternatives = re.findall(r"^\s*- (.*)$", text, re.MULTILINE)
        return next((said for said in alternatives if not said.startswith("Expected a")), text)
    return text


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
