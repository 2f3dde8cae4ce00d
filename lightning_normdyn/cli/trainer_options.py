"""Numbers of the Trainer and of an optimizer that Lightning and torch name in their own words, late or not at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from lightning_normdyn.cli.config_errors import ConfigError


class NumberRange(NamedTuple):
    """The numbers that an option takes.

    Attributes:
        least: the smallest.
        unlimited: what -1 stands for; empty where it is no number to pass.
        meaning: what the option is, to end the sentence with.
    """

    least: int
    unlimited: str = ""
    meaning: str = ""

    def admits(self, number: float) -> bool:
        """Whether a number is in it.

        Example:
            >>> NumberRange(1, unlimited="all").admits(-1), NumberRange(1).admits(-1)
            (True, False)
        """
        return number >= self.least or (bool(self.unlimited) and number == -1)

    @property
    def words(self) -> str:
        """The numbers in words."""
        return f"{self.least} or more" + (f", or -1 for {self.unlimited}" if self.unlimited else "")


_RANGES = {
    "devices": NumberRange(1, "all", "how many to train on"),
    "num_nodes": NumberRange(1, meaning="how many machines"),
    "max_epochs": NumberRange(0, "no end"),
    "min_epochs": NumberRange(0),
    "max_steps": NumberRange(0, "no end"),
    "min_steps": NumberRange(0),
    "num_sanity_val_steps": NumberRange(0, "all batches"),
    "check_val_every_n_epoch": NumberRange(1),
    "val_check_interval": NumberRange(0, meaning="a share of an epoch, or batches"),
    "log_every_n_steps": NumberRange(0, meaning="0 for never"),
    "accumulate_grad_batches": NumberRange(1, meaning="1 accumulates nothing"),
    "gradient_clip_val": NumberRange(0, meaning="null clips nothing"),
}


def check_trainer_options(options: Mapping[str, Any]) -> None:
    """Refuses numbers of ``trainer`` that no training can have.

    Args:
        options: of the Trainer, by name.

    Raises:
        ConfigError: naming the first of them, what was expected and what came.

    Example:
        >>> check_trainer_options({"accelerator": "cpu", "devices": "-2"})
        Traceback (most recent call last):
            ...
        lightning_normdyn.cli.config_errors.ConfigError: trainer.devices: expected 'auto' or a number of ...
    """
    _check_cpu(options)
    for name, expected in _RANGES.items():
        number = _number(options.get(name))
        if number is not None and not expected.admits(number):
            meaning = f"; {expected.meaning}" if expected.meaning else ""
            raise ConfigError(f"trainer.{name}: expected {expected.words}, got {options[name]}{meaning}")


def _check_cpu(options: Mapping[str, Any]) -> None:
    """Of a CPU Lightning takes a whole number of processes alone: it does not know how many all of them would be."""
    devices, accelerator = options.get("devices"), options.get("accelerator") or "auto"
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not has_gpu)
    digits = str(devices).strip()
    if on_cpu and devices not in (None, "auto") and not (digits.isdecimal() and int(digits) > 0):
        raise ConfigError(
            f"trainer.devices: expected 'auto' or a number of processes, 1 or more, on the CPU, got {devices}"
        )


def check_optimizer_options(options: Mapping[str, Any]) -> None:
    """Refuses a negative learning rate or decay of the command line's optimizer.

    Args:
        options: its ``init_args``.

    Raises:
        ConfigError: naming the option and what came.

    Example:
        >>> check_optimizer_options({"lr": 0.1, "weight_decay": -1})
        Traceback (most recent call last):
            ...
        lightning_normdyn.cli.config_errors.ConfigError: optimizer.weight_decay: expected a number, 0 or more, got -1
    """
    for name in ("lr", "weight_decay"):
        number = _number(options.get(name))
        if number is not None and not 0 <= number < math.inf:
            raise ConfigError(f"optimizer.{name}: expected a number, 0 or more, got {options[name]}")


def _number(value: object) -> float | None:
    """A number, or one that is written as a text, as ``devices`` is; ``None`` for lists, words and nothing."""
    try:
        return None if isinstance(value, bool) or value is None else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
