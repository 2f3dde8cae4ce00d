"""LightningCLI for the tasks: configs by name, one-sentence errors, an end in order after a signal."""

from __future__ import annotations

import warnings
from argparse import ArgumentError, ArgumentTypeError
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from types import MethodType
from typing import Any

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import Checkpoint, DeviceStatsMonitor, LearningRateMonitor, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, LRSchedulerTypeUnion, SaveConfigCallback
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_normdyn.callbacks import StepTime
from lightning_normdyn.cli.checkpoint_errors import fitting_checkpoint, loading_options
from lightning_normdyn.cli.config_errors import ConfigError, config_error, constructor_complaint, is_of_lightning
from lightning_normdyn.cli.config_text import check_config_text
from lightning_normdyn.cli.shipped_configs import config_file
from lightning_normdyn.cli.signals import sigterm_waits
from lightning_normdyn.cli.trainer_options import check_optimizer_options, check_trainer_options
from lightning_normdyn.cli.values import SEEDS
from lightning_normdyn.tasks.grid.starting_point import StartingPoint


class NormdynCLI(LightningCLI):
    """LightningCLI over any LightningModule and data module, the tasks of this package included.

    Some things differ from the stock class: a table takes its number of rows from the data where the data knows it,
    a learning-rate scheduler named on the command line advances with every step, not with every epoch, a config may be
    the bare name of a shipped one, and errors are one sentence.

    Args:
        args: words of a command line.
        run: whether the words begin with a subcommand that is run.
        command: of ``normdyn``, whose help errors point to; by default the subcommand.

    Raises:
        ConfigError: if the words or a config will not do.
    """

    def __init__(self, args: Sequence[str], *, run: bool = True, command: str | None = None) -> None:
        self._runs = run
        self.command = command or (args[0] if run and args else "fit")
        with warnings.catch_warnings():
            # main() hands over what it was given; the warning is meant for calls from other programs.
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
            super().__init__(
                seed_everything_default=0,
                parser_kwargs={"prog": "normdyn"},
                args=with_config_files(args),
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

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that raises its errors instead of printing its usage, which has some sixty lines."""
        return super().init_parser(**kwargs | {"exit_on_error": False, "allow_abbrev": False})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses; errors are one sentence that names the key, the value and the nearest right word."""
        try:
            super().parse_arguments(parser, args)
        except (ArgumentError, ArgumentTypeError) as error:
            raise config_error(error, self.command, self._keys()) from error

    def _set_seed(self) -> None:
        """Seeds as the stock class does, which says so in the log: of use where the words are all that one sees."""
        seed: int | bool | None = self._get(self.config, "seed_everything")
        if seed is False:
            return
        if seed is not None and seed is not True and not 0 <= seed < SEEDS:
            raise ConfigError(f"seed_everything: expected a whole number from 0 to {SEEDS - 1}, got {seed}")
        settings = self.config[self.subcommand] if self.subcommand else self.config
        settings["seed_everything"] = seed_everything(
            None if seed is True else seed, workers=True, verbose=self.command == "fit"
        )

    def _keys(self) -> list[str]:
        """All that a config may have."""
        parser = self._subcommand_parsers.get(self.command, self.parser) if self._runs else self.parser
        return [action.dest for action in parser._actions]

    def before_instantiate_classes(self) -> None:
        """Refuses numbers that Lightning would refuse in words of its own, or divide by."""
        check_trainer_options(self._get(self.config, "trainer") or {})
        check_optimizer_options((self._get(self.config, "optimizer") or {}).get("init_args") or {})

    def instantiate_classes(self) -> None:
        """Instantiates what the configuration names; what a constructor complains about shows as it was said."""
        try:
            super().instantiate_classes()
        except (ValueError, TypeError) as error:
            if isinstance(error, TypeError) and not is_of_lightning(error):
                raise
            raise ValueError(constructor_complaint(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer; what Lightning finds no use for among its options says where to look."""
        try:
            return super().instantiate_trainer(**kwargs)
        except MisconfigurationException as error:
            complaint = str(error).strip().rstrip(".!")
            option = "trainer.accelerator" if "backend" in complaint else "trainer"
            place = "" if "`" in complaint else f"{option}: "  # Lightning quotes the option, if it names one
            raise ConfigError(f"{place}{complaint}; check the options of the trainer") from error

    def _add_configure_optimizers_method_to_model(self, subcommand: str | None) -> None:
        """Puts the command line's optimizer in place of the model's own, once the model has all its parameters.

        A model with ``configure_model`` makes parameters there, when it knows its data or its strategy: an optimizer
        that is built before trains the others alone, or finds none.
        """
        replace_optimizers = super()._add_configure_optimizers_method_to_model
        if not is_overridden("configure_model", self.model) or not self._get(self.config_init, "optimizer"):
            replace_optimizers(subcommand)
            return

        def configure_optimizers(model: LightningModule) -> Any:
            del model.configure_optimizers
            replace_optimizers(subcommand)
            return model.configure_optimizers()

        self.model.configure_optimizers = MethodType(configure_optimizers, self.model)

    def _run_subcommand(self, subcommand: str) -> None:
        with sigterm_waits(), fitting_checkpoint(self.config[subcommand].get("ckpt_path"), self.trainer):
            super()._run_subcommand(subcommand)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """What the Trainer's method is called with; a checkpoint of a URL runs no code unless that was asked for."""
        arguments: dict[str, Any] = super()._prepare_subcommand_kwargs(subcommand)
        if arguments.get("weights_only") is None:
            arguments |= loading_options(arguments.get("ckpt_path"))
        return arguments

    def _parse_ckpt_path(self) -> None:
        """Takes the hyperparameters that a checkpoint has, as Lightning does."""
        subcommand = self.config.get("subcommand")
        checkpoint = self.config[subcommand].get("ckpt_path") if subcommand else None
        try:
            with fitting_checkpoint(checkpoint):
                super()._parse_ckpt_path()
        except (ArgumentError, ArgumentTypeError) as error:
            raise ConfigError(
                f"ckpt_path: expected hyperparameters of the model in '{checkpoint}', got others: "
                f"{config_error(error, self.command, self._keys())}"
            ) from error

    def after_fit(self) -> None:
        """Says where the run is; how to look at its norms, the callbacks say."""
        logger = self.trainer.logger
        if logger is None or isinstance(logger, DummyLogger):
            return
        folder = self.trainer.log_dir  # which the first rank tells the others: all have to ask
        if self.trainer.is_global_zero:
            print(f"Run folder: {folder}")

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


def with_config_files(words: Sequence[str]) -> list[str]:
    """The words with shipped configs in place of their bare names.

    Raises:
        FileNotFoundError: if a config is neither a file nor a shipped one.
        ConfigError: if its text will not do.
    """
    file_words = []
    for word, previous in zip(words, ["", *words], strict=False):
        if previous in ("--config", "-c"):
            file_words.append(_checked_file(word))
        elif word.startswith("--config="):
            file_words.append(f"--config={_checked_file(word.partition('=')[2])}")
        else:
            file_words.append(word)
    return file_words


def _checked_file(name: str) -> str:
    file = config_file(name)
    if any(mark in name for mark in "\n{") or not Path(file).is_file():
        return file  # a text that is a configuration itself
    check_config_text(file)
    return file


def config_words(config: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Words of LightningCLI: the configs in their order, then what overrides them."""
    return [word for file in config for word in ("--config", file)] + list(overrides)


WITHOUT_RUN = (
    "--trainer.logger=false",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_model_summary=false",
)


class UnloggedCLI(NormdynCLI):
    """For a command line with ``WITHOUT_RUN``."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Leaves out callbacks that would refuse to work so, and without which training is the same."""
        callbacks_setting = self.config_init["trainer"].get("callbacks") or []
        callbacks = callbacks_setting if isinstance(callbacks_setting, list) else [callbacks_setting]
        refuse = (Checkpoint, DeviceStatsMonitor, LearningRateMonitor, ProgressBar, StartingPoint, StepTime)
        usable = [callback for callback in callbacks if not isinstance(callback, refuse)]
        return super().instantiate_trainer(**kwargs | {"callbacks": usable})
