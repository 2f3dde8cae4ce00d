"""What a training of the grid says of itself on the way."""

from __future__ import annotations

import json
import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

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
