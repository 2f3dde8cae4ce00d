"""Drives the watches of a run from optimizer hooks, and turns what they read into scalars and history."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lightning_normdyn.capture.table import Clipping
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.instruments.base import Readings
from lightning_normdyn.instruments.clip_share import shared_gradient_norm
from lightning_normdyn.instruments.encoder_balance import OtherRanksError
from lightning_normdyn.instruments.watch import Watch

PREFIX = "normdyn"
STATE_VERSION = 2


class Recorder:
    """Connects watches with the optimizers whose steps they follow.

    The training loop announces a step with :meth:`before_step` once gradients are there and unscaled; that the step was
    made is learnt from the optimizer itself. Every hook that is registered is removed by :meth:`detach`.

    Args:
        watches: the targets under observation.

    Attributes:
        latest: the last finite value of every scalar, by key.
    """

    def __init__(self, watches: Sequence[Watch]) -> None:
        self.watches = list(watches)
        self.latest: dict[str, float] = {}
        self._by_optimizer: dict[int, list[Watch]] = {}
        for watch in self.watches:
            self._by_optimizer.setdefault(id(watch.optimizer), []).append(watch)
        self._handles: list[RemovableHandle] = []

    def begin(self, steps_made: int = 0) -> None:
        """Registers all hooks, after weights and state were restored.

        Args:
            steps_made: optimizer steps that the run made before, for targets whose state does not tell.
        """
        self.detach()
        optimizers = {id(watch.optimizer): watch.optimizer for watch in self.watches}
        for optimizer in optimizers.values():
            self._handles.append(optimizer.register_step_pre_hook(self._before_update))
            self._handles.append(optimizer.register_step_post_hook(self._after_step))
        for watch in self.watches:
            watch.begin(steps_made)

    def before_step(self, optimizer: torch.optim.Optimizer, *, clipping: Clipping, has_scaler: bool) -> None:
        """Announces a step of an optimizer.

        Args:
            optimizer: the one about to step.
            clipping: whether its gradients may still be clipped, or may have been.
            has_scaler: whether a loss scaler decides if the step is made.
        """
        for watch in self._by_optimizer.get(id(optimizer), ()):
            watch.before_step(clipping=clipping, has_scaler=has_scaler)

    def _before_update(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Reads gradients before the optimizer can use them as scratch space: now, or as soon as its closure returns.

        Under a fused optimizer that unscales them itself they are read after the step.
        """
        watches = [watch for watch in self._by_optimizer.get(id(optimizer), ()) if watch.wants_gradient]
        if not watches or getattr(optimizer, "grad_scale", None) is not None:
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            for watch in watches:
                watch.read_gradient()
            return None

        def closure_and_look() -> Any:
            loss = closure()
            for watch in watches:
                watch.read_gradient()
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": closure_and_look}
        return (args[0], closure_and_look, *args[2:]), kwargs

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        del args, kwargs
        with shared_gradient_norm(optimizer):
            for watch in self._by_optimizer.get(id(optimizer), ()):
                watch.after_step()

    def end_batch(self) -> None:
        """Says that no announced step is still to be made: one that was not has been skipped."""
        for watch in self.watches:
            watch.end_batch()

    def drain(self) -> dict[str, float]:
        """``normdyn/<target>/<quantity>`` to the finite scalars read since the last call, which are recorded too.

        Waits for the device once.
        """
        news = [(watch, readings) for watch in self.watches if (readings := watch.drain())]
        if not news:
            return {}
        metrics: dict[str, float] = {}
        for (watch, _), values in zip(news, _to_numbers([readings for _, readings in news]), strict=True):
            if watch.history is not None:
                watch.history.append_quantities(watch.steps, values)
            metrics |= {f"{PREFIX}/{watch.target.name}/{name}": value for name, value in values.items()}
        self.latest |= metrics
        return metrics

    def finish(self) -> None:
        """Lets every instrument conclude."""
        for watch in self.watches:
            watch.finish()

    def detach(self) -> None:
        """Removes every hook."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for watch in self.watches:
            watch.detach()

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, in tensors and plain values."""
        return {
            "version": STATE_VERSION,
            "targets": {watch.target.name: watch.state_dict() for watch in self.watches},
        }

    def load_state_dict(self, state: dict[str, Any]) -> list[str]:
        """Takes back what :meth:`state_dict` gave; a target that it does not know starts afresh.

        Returns:
            What was left out, since it is of another number of ranks, a sentence each.

        Raises:
            ValueError: if it was written by another version, or for a table of another shape.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(f"its state has version {state.get('version')}, this release reads {STATE_VERSION}")
        omissions = []
        for watch in self.watches:
            if watch.target.name in state["targets"]:
                try:
                    watch.load_state_dict(state["targets"][watch.target.name])
                except OtherRanksError as error:
                    omissions.append(str(error))
        return omissions


def _to_numbers(readings: Sequence[Readings]) -> list[dict[str, float]]:
    """All tensors become numbers, from a device in one transfer; values that are not finite are left out."""
    tensors = [value.detach() for scalars in readings for value in scalars.values() if isinstance(value, Tensor)]
    if all(tensor.device.type == "cpu" for tensor in tensors):
        numbers = iter([float(tensor) for tensor in tensors])
    else:
        numbers = iter(torch.stack([most_precise(tensor) for tensor in tensors]).tolist())
    values = [
        {name: next(numbers) if isinstance(value, Tensor) else value for name, value in scalars.items()}
        for scalars in readings
    ]
    return [{name: value for name, value in scalars.items() if math.isfinite(value)} for scalars in values]
