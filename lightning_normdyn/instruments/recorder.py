"""Drives the watches of a run from optimizer hooks, and turns what they read into scalars and history."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import methodcaller
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lightning_normdyn.capture.table import Clipping
from lightning_normdyn.caution import contained
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.instruments.base import Readings
from lightning_normdyn.instruments.clip_share import shared_gradient_norm
from lightning_normdyn.instruments.encoder_balance import OtherRanksError
from lightning_normdyn.instruments.state_check import fields, mapped, optional, whole, word
from lightning_normdyn.instruments.state_forms import alerts_form
from lightning_normdyn.instruments.watch import Watch

PREFIX = "normdyn"
STATE_VERSION = 2
RUN_ID, RUN_STRETCH, RUN_FOLDER = "run", "stretch", "folder"
"""Where a state says which run it is of, which stretch of that and in which folder."""


def _raise(watch: Watch | None, error: Exception) -> None:
    del watch
    raise error


Hook = TypeVar("Hook", bound=Callable[..., Any])


def uncompiled(hook: Hook) -> Hook:
    """A hook of an optimizer's step that runs as it is where the step is compiled, as by ``torch.compile``.

    Traced, it would be compiled again for every state that it is in. Where nothing is traced it is called directly,
    since torch's own wrapper takes longer than a hook with nothing to do.
    """
    reason = "norms are observed outside of the graph: compile the optimizer's step without fullgraph=True"
    outside = torch.compiler.disable(hook, reason=reason)

    @functools.wraps(hook)
    def uncompiled_hook(*args: Any) -> Any:
        return outside(*args) if torch.compiler.is_dynamo_compiling() else hook(*args)

    return uncompiled_hook  # type: ignore[return-value]


_READ_GRADIENT = methodcaller("read_gradient")


class Contingencies(NamedTuple):
    """What is done where a run does not go as usual.

    Attributes:
        on_error: takes the watch in which an error came up, or ``None`` for one that concerns all of them, and the
            error; raises it only where it may end the training.
        on_change: is called where parameters, modules or optimizers are not what they were.
    """

    on_error: Callable[[Watch | None, Exception], None] = _raise
    on_change: Callable[[], None] = lambda: None


class Recorder:
    """Connects watches with the optimizers whose steps they follow.

    The training loop announces a step with :meth:`before_step` once gradients are there and unscaled; that the step was
    made is learnt from the optimizer itself. Every hook that is registered is removed by :meth:`detach`.

    Args:
        watches: the targets under observation.
        contingencies: what is done where something fails or changes; by default errors are raised.

    Attributes:
        latest: the last finite value of every scalar, by key.
        dormant: parameters that are frozen, whose training is a change.
    """

    def __init__(self, watches: Sequence[Watch], contingencies: Contingencies | None = None) -> None:
        self.watches = list(watches)
        self.latest: dict[str, float] = {}
        self.dormant: list[torch.nn.Parameter] = []
        self._contingencies = contingencies or Contingencies()
        self._by_optimizer: dict[int, list[Watch]] = {}
        for watch in self.watches:
            self._by_optimizer.setdefault(id(watch.optimizer), []).append(watch)
        self._groups: dict[int, _Groups] = {}
        self._heard_ids: set[int] = set()
        self._ended_keys: list[str] = []
        self._handles: list[RemovableHandle] = []

    def begin(self, steps_made: int = 0, optimizers: Sequence[torch.optim.Optimizer] = ()) -> None:
        """Registers all hooks, after weights and state were restored.

        Args:
            steps_made: optimizer steps that the run made before, for targets whose state does not tell.
            optimizers: all that train the model, those that train no target included.
        """
        self.detach()
        self._groups = {id(optimizer): _Groups.of(optimizer) for optimizer in optimizers}
        for watch in self.watches:
            self._listen_to(watch.optimizer)
        for watch in self.watches:
            watch.begin(steps_made, on_error=self._handler(watch))

    def _listen_to(self, optimizer: torch.optim.Optimizer) -> None:
        """Registers hooks on an optimizer, once.

        Under ``torch.compile(optimizer.step)`` they run as they are, before and after the compiled update.
        """
        self._groups.setdefault(id(optimizer), _Groups.of(optimizer))
        if id(optimizer) not in self._heard_ids:
            self._heard_ids.add(id(optimizer))
            if not hasattr(optimizer, "register_step_post_hook"):
                return  # the loop says when it steps
            on_error = self._handler(None)
            before = uncompiled(contained(self._before_update, on_error))
            after = uncompiled(contained(self._after_step, on_error))
            self._handles.append(optimizer.register_step_pre_hook(before))
            self._handles.append(optimizer.register_step_post_hook(after))

    def _handler(self, watch: Watch | None) -> Callable[[Exception], None]:
        return lambda error: self._contingencies.on_error(watch, error)

    def _for_each(self, watches: Iterable[Watch], action: Callable[[Watch], object]) -> None:
        """Does something with each watch; what fails concerns that one alone."""
        for watch in tuple(watches):
            try:
                action(watch)
            except Exception as error:  # noqa: PERF203 - whatever it is, the training must not end with it
                self._contingencies.on_error(watch, error)

    def add(self, watch: Watch, steps_made: int) -> None:
        """Begins to follow a target in mid-run, between the announcement of a step and the next.

        Args:
            watch: follows it.
            steps_made: optimizer steps that were made before.
        """
        self.watches.append(watch)
        self._by_optimizer.setdefault(id(watch.optimizer), []).append(watch)
        self._listen_to(watch.optimizer)
        watch.begin(steps_made, on_error=self._handler(watch), in_mid_step=True)

    def remove(self, watch: Watch) -> None:
        """Follows a target no longer: its hooks go, its keys end, what it has recorded goes on disk."""
        self.watches.remove(watch)
        self._by_optimizer[id(watch.optimizer)].remove(watch)
        self.end_keys(watch)
        watch.detach()
        if watch.history is not None:
            watch.history.flush()

    def end_keys(self, watch: Watch) -> None:
        """Makes the scalars of a target stale."""
        prefix = f"{PREFIX}/{watch.target.name}"
        keys = [key for key in self.latest if key.rpartition("/")[0] == prefix]
        self._ended_keys += keys
        for key in keys:
            del self.latest[key]

    def ended_keys(self) -> list[str]:
        """The keys that ended since the last call."""
        keys, self._ended_keys = self._ended_keys, []
        return keys

    def before_step(self, optimizer: torch.optim.Optimizer, *, clipping: Clipping, has_scaler: bool) -> None:
        """Announces a step of an optimizer.

        Args:
            optimizer: the one about to step.
            clipping: whether its gradients may still be clipped, or may have been.
            has_scaler: whether a loss scaler decides if the step is made.
        """
        if self._has_changed(optimizer):
            self._contingencies.on_change()
            self._groups[id(optimizer)] = _Groups.of(optimizer)
        watches = self._by_optimizer.get(id(optimizer), ())
        self._for_each(watches, methodcaller("before_step", clipping=clipping, has_scaler=has_scaler))

    def _has_changed(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether parameters, modules or groups of an optimizer are not what they were."""
        groups = self._groups.get(id(optimizer))
        if groups is None or groups.sizes != _sizes(optimizer):
            return True
        for watch in self._by_optimizer.get(id(optimizer), ()):
            if watch.has_changed():
                return True
        return bool(self.dormant) and any(parameter.requires_grad for parameter in self.dormant)

    def _before_update(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Reads gradients before the optimizer can use them as scratch space: now, or as soon as its closure returns.

        Under a fused optimizer that unscales them itself they are read after the step.
        """
        if getattr(optimizer, "grad_scale", None) is not None:
            return None
        if closure_of(args, kwargs) is not None:
            # LBFGS searches from where the step began, and evaluates again elsewhere.
            is_search = isinstance(optimizer, torch.optim.LBFGS)
            return with_closure(args, kwargs, after=partial(self.read_gradients, optimizer), first_only=is_search)
        self.read_gradients(optimizer)
        return None

    def read_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Looks at the gradients of a step that was announced and is about to be made, where no hook says so."""
        self._for_each(self._by_optimizer.get(id(optimizer), ()), _READ_GRADIENT)

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Completes a step that was announced and made, where no hook says so."""
        self._after_step(optimizer, (), {})

    def _after_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del args, kwargs
        watches = self._by_optimizer.get(id(optimizer), ())
        if len(watches) > 1:
            with shared_gradient_norm(optimizer):
                self._for_each(watches, Watch.after_step)
        else:
            self._for_each(watches, Watch.after_step)

    def end_batch(self) -> None:
        """Says that no announced step is still to be made: one that was not has been skipped."""
        self._for_each(self.watches, Watch.end_batch)

    @property
    def has_news(self) -> bool:
        """Whether a watch may have read something, or keys have ended."""
        for watch in self.watches:
            if watch.may_have_news:
                return True
        return bool(self._ended_keys)

    def drain(self) -> dict[str, float]:
        """``normdyn/<target>/<quantity>`` to the finite scalars read since the last call, which are recorded too.

        Waits for the device once.
        """
        news: list[tuple[Watch, Readings]] = []
        watches = [watch for watch in self.watches if watch.may_have_news]
        if not watches:
            return {}
        self._for_each(watches, lambda watch: news.append((watch, watch.drain())))
        news = [(watch, readings) for watch, readings in news if readings]
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
        """Lets every instrument conclude, but for those of targets that nothing trains for now."""
        self._for_each([watch for watch in self.watches if not watch.is_paused], lambda watch: watch.finish())

    def detach(self) -> None:
        """Removes every hook."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._heard_ids.clear()
        self._for_each(self.watches, lambda watch: watch.detach())

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, in tensors and plain values."""
        states: dict[str, Any] = {}
        self._for_each(self.watches, lambda watch: states.update({watch.target.name: watch.state_dict()}))
        return {"version": STATE_VERSION, "targets": states}

    def load_state_dict(self, state: dict[str, Any]) -> list[str]:
        """Takes back what :meth:`state_dict` gave; a target that it does not know starts afresh.

        Returns:
            What was left out, since it is of another number of ranks, a sentence each.

        Raises:
            ValueError: if it was written by another version, for a table of another shape, or is spoilt.
        """
        self.check_state(state)
        omissions = []
        for watch in self.watches:
            if watch.target.name in state["targets"]:
                try:
                    watch.load_state_dict(state["targets"][watch.target.name])
                except OtherRanksError as error:
                    omissions.append(str(error))
        return omissions

    def check_state(self, state: Any) -> None:
        """Looks at all of a state before any of it is believed.

        Raises:
            ValueError: if it was written by another version, for a table of another shape, or is spoilt.
        """
        if not isinstance(state, dict):
            raise ValueError(state if isinstance(state, str) else f"expected a dict, got a {type(state).__name__}")
        version = state.get("version")
        if type(version) is not int or version != STATE_VERSION:
            raise ValueError(f"its state has version {version!r:.50}, this release reads {STATE_VERSION}")
        run = {RUN_ID: optional(word()), RUN_STRETCH: optional(whole()), RUN_FOLDER: optional(word())}
        allowed = {"alerts": alerts_form(), **run}
        fields({"targets": mapped(lambda *_: None)}, later=allowed)(state, "its state")
        for watch in self.watches:
            if watch.target.name in state["targets"]:
                watch.check_state(state["targets"][watch.target.name])


def closure_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any] | None:
    """The closure that an optimizer's ``step`` was called with; ``None`` for none."""
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    return closure if callable(closure) else None


def with_closure(
    args: tuple[Any, ...], kwargs: dict[str, Any], *, after: Callable[[], object], first_only: bool = False
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What ``step`` was called with, where something is done after each evaluation of the closure, or the first alone.

    Example:
        >>> args, _ = with_closure(("optimizer", lambda: 3), {}, after=lambda: print("evaluated"))
        >>> args[1]()
        evaluated
        3
    """
    closure = closure_of(args, kwargs)
    assert closure is not None

    evaluations = itertools.count()

    def closure_and_look() -> Any:
        loss = closure()
        if not next(evaluations) or not first_only:
            after()
        return loss

    if "closure" in kwargs:
        return args, {**kwargs, "closure": closure_and_look}
    return (args[0], closure_and_look, *args[2:]), kwargs


class _Groups(NamedTuple):
    """An optimizer, which is kept alive here, and how many parameters each of its groups had."""

    optimizer: torch.optim.Optimizer
    sizes: list[int]

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> _Groups:
        return cls(optimizer, _sizes(optimizer))


def _sizes(optimizer: torch.optim.Optimizer) -> list[int]:
    return [len(group["params"]) for group in optimizer.param_groups]


def _to_numbers(readings: Sequence[Readings]) -> list[dict[str, float]]:
    """All tensors become numbers, from a device in one transfer; values that are not finite are left out."""
    tensors = [value for scalars in readings for value in scalars.values() if isinstance(value, Tensor)]
    if all(tensor.device.type == "cpu" for tensor in tensors):
        numbers = iter([float(tensor.item()) for tensor in tensors])
    else:
        numbers = iter(torch.stack([most_precise(tensor.detach()) for tensor in tensors]).tolist())
    values = [
        {name: next(numbers) if isinstance(value, Tensor) else value for name, value in scalars.items()}
        for scalars in readings
    ]
    return [{name: value for name, value in scalars.items() if math.isfinite(value)} for scalars in values]
