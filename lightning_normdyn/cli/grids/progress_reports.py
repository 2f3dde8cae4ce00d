"""What a training of the grid says of itself on the way."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch.nn import Module

from lightning_normdyn.core.sharded_tensor import of_this_rank

_SECONDS = 0.5


class Course(Callback):
    """Keeps the headline and the norms of relevant and irrelevant documents at every validation.

    Args:
        headline: name of the measure.
    """

    def __init__(self, headline: str) -> None:
        self.headline = headline
        self.columns: dict[str, list[float | None]] = {
            name: [] for name in ("step", "headline", "relevant_norm", "irrelevant_norm")
        }
        self._weights: tuple[bytes, int] = b"", -1

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keeps what tells the weights that encode from others."""
        if not (trainer.sanity_checking or batch_idx or dataloader_idx):
            self._weights = fingerprint(pl_module), trainer.global_step

    def ends_with(self, trainer: Trainer) -> bool:
        """Whether the last validation was of the weights that training ended with, on every rank."""
        same = self._weights == (fingerprint(trainer.lightning_module), trainer.global_step)
        return bool(trainer.strategy.reduce_boolean_decision(same, all=True))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds a point, unless it is only tried whether validation runs, or training is over."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        metrics = trainer.callback_metrics
        self.columns["step"].append(float(trainer.global_step))
        for column in ("headline", "relevant_norm", "irrelevant_norm"):
            key = f"val/{self.headline if column == 'headline' else column}"
            self.columns[column].append(float(metrics[key]) if key in metrics else None)


class Announcement(Callback):
    """Prints the share of the steps that are done, one JSON line now and then, for who waits for this process."""

    def __init__(self) -> None:
        self._last = -_SECONDS

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Says how far training is."""
        time_now = time.monotonic()
        if trainer.is_global_zero and time_now - self._last >= _SECONDS:
            self._last = time_now
            print(json.dumps({"done": trainer.global_step / max(trainer.estimated_stepping_batches, 1)}), flush=True)


def fingerprint(module: Module) -> bytes:
    """A digest of all weights and buffers of this rank: equal for equal numbers, whoever changed them and how.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 2)
        >>> before = fingerprint(layer)
        >>> layer.weight.data[0, 0] += 1
        >>> fingerprint(layer) == before
        False
    """
    digest = hashlib.blake2b(digest_size=16)
    for tensor in (*module.parameters(), *module.buffers()):
        local = of_this_rank(tensor.detach()).contiguous().cpu()
        digest.update(local.flatten().view(torch.uint8).numpy().data)
    return digest.digest()


def announced(line: str) -> float | None:
    """The share that a line of :class:`Announcement` tells, or None for any other line.

    Example:
        >>> announced('{"done": 0.25}'), announced("Epoch 1")
        (0.25, None)
    """
    try:
        return float(json.loads(line)["done"])
    except (ValueError, TypeError, KeyError):
        return None
