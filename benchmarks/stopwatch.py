"""NormDynamics that knows how long its own hooks take and how much memory it holds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.capture.table import TableTarget

_SCRATCH = ("RowBuffer", "RowReadings")


class TimedDynamics(NormDynamics):
    """NormDynamics, its own time taken at every step.

    A hook of torch is timed by two that surround it: one registered just before, one just after. What it does to the
    rest of the step (caches, the allocator) is not in here; that takes two runs side by side.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Registers the surrounding hooks too."""
        self.own_seconds: list[float] = []
        self._spent = 0.0
        layers = [layer for layer in pl_module.modules() if isinstance(layer, torch.nn.Embedding)]
        for layer in layers:
            layer.register_forward_pre_hook(lambda *_: self._enter())
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(lambda *_: self._enter())
        super().on_train_start(trainer, pl_module)
        for layer in layers:
            layer.register_forward_pre_hook(lambda *_: self._leave())
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(lambda *_: self._leave())

    def on_before_optimizer_step(self, *args: Any) -> None:
        """Timed."""
        self._enter()
        super().on_before_optimizer_step(*args)
        self._leave()

    def on_train_batch_end(self, *args: Any) -> None:
        """Timed; ends the step."""
        self._enter()
        super().on_train_batch_end(*args)
        self._leave()
        self.own_seconds.append(self._spent)
        self._spent = 0.0

    def _enter(self) -> None:
        self._entered = time.perf_counter()

    def _leave(self) -> None:
        self._spent += time.perf_counter() - self._entered


def memory(dynamics: NormDynamics) -> dict[str, float]:
    """Bytes that the callback holds of the first target, all told and per tracked row; nothing if it is no table."""
    assert dynamics._recorder is not None
    watch = dynamics._recorder.watches[0]
    if not isinstance(watch.target, TableTarget):
        return {}
    rows = watch.target.tracked_rows
    found = {tensor.untyped_storage().data_ptr(): (tensor, scratch) for tensor, scratch in _tensors(watch, False)}
    sizes = [(tensor.untyped_storage().nbytes(), scratch) for tensor, scratch in found.values()]
    checkpoint = sum(tensor.numel() * tensor.element_size() for tensor, _ in _tensors(watch.state_dict(), False))
    return {
        "tracked_rows": rows,
        "live_bytes_per_row": sum(size for size, scratch in sizes if not scratch) / rows,
        "checkpoint_bytes_per_row": checkpoint / rows,
        "scratch_bytes": sum(size for size, scratch in sizes if scratch),
    }


def _tensors(holder: Any, scratch: bool, visited: set[int] | None = None) -> Iterator[tuple[Tensor, bool]]:
    """Every tensor that an object of this package holds, the model's own left out, and whether it is scratch memory."""
    visited = set() if visited is None else visited
    if id(holder) in visited or isinstance(holder, torch.nn.Module):
        return
    visited.add(id(holder))
    if isinstance(holder, Tensor):
        if not isinstance(holder, torch.nn.Parameter):
            yield holder, scratch
    elif isinstance(holder, dict):
        for value in holder.values():
            yield from _tensors(value, scratch, visited)
    elif isinstance(holder, (list, tuple)):
        for value in holder:
            yield from _tensors(value, scratch, visited)
    elif type(holder).__module__.startswith("lightning_normdyn"):
        yield from _tensors(vars(holder), scratch or type(holder).__name__ in _SCRATCH, visited)
