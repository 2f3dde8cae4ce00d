"""``NormObserver``: norm dynamics in a plain training loop."""

from __future__ import annotations

import logging
import os
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle
from typing_extensions import Unpack

from lightning_normdyn.capture.table import Clipping
from lightning_normdyn.capture.targets import find_targets
from lightning_normdyn.caution import SettingsError, caution
from lightning_normdyn.core.dynamics.optimizer_wrappers import inner_optimizer, unwrapped_optimizer
from lightning_normdyn.core.dynamics.rates import EffectiveTrace
from lightning_normdyn.core.number_checks import check_count, check_flag
from lightning_normdyn.core.object_checks import check_name, check_path
from lightning_normdyn.history.run_writer import RunWriter
from lightning_normdyn.instruments.instrument_factory import ALL_MEASURES
from lightning_normdyn.instruments.observation import Observation, bookmark_of
from lightning_normdyn.instruments.options import NormOptions, complete_options, spelled_out
from lightning_normdyn.instruments.planned_rates import LRSchedule, PlannedRates
from lightning_normdyn.instruments.ranks import Ranks, present_ranks
from lightning_normdyn.instruments.recorder import closure_of, uncompiled, with_closure
from lightning_normdyn.instruments.safeguard import in_a_line, safeguarded, unobserved_failure
from lightning_normdyn.instruments.training_run import Run
from lightning_normdyn.instruments.verdicts.verdict import Verdict
from lightning_normdyn.passwords import without_passwords

Log = Callable[[dict[str, float], int], object]
"""Takes ``normdyn/<target>/<quantity>`` to scalars, and the number of optimizer steps made."""
_ARGUMENTS = ("total_steps", "scheduler", "scheduler_every_n_steps", "scaler", "log", "log_dir", "name")


@spelled_out(NormOptions)
class NormObserver:
    """Norm trajectories, gradient split and equilibrium fit of a model that any loop trains.

    As a context manager around the loop it hears every step from the optimizer itself, and nothing in the loop changes.
    A loop calls :meth:`before_step` besides, once gradients are there, in three cases: a loss scaler may skip the step
    (else skipped steps are not counted), gradients are clipped on several ranks (else their norm before clipping is not
    known), or the optimizer is none of torch's and takes no hooks (then :meth:`after_step` as well).

    Args:
        model: the model, not wrapped.
        optimizer: what trains it: one optimizer or several.
        total_steps: steps that each optimizer will make; ``None`` if the run has no set end, and then no forecast.
        scheduler: learning-rate schedulers, one or several, stepped after every step of their optimizer; ``None`` where
            the rate stays.
        scheduler_every_n_steps: every how many steps instead: those of an epoch, for one that is stepped by epoch.
        scaler: the loss scaler, if there is one; gradients that it scaled are then reported in the loss's own scale.
        log: called with the scalars and the number of steps made whenever there are new ones, on the first rank alone.
        log_dir: a history goes to ``<log_dir>/normdyn/``; ``None`` to keep none.
        name: what messages begin with.

    Attributes:
        name_holders: objects whose ``vocabulary``, ``tokenizer`` or ``row_names`` may name the rows of a table.

    Raises:
        ValueError: if a pattern matches nothing, a setting is out of range, or no optimizer trains any target.

    Example:
        >>> table = nn.Embedding(10, 4)
        >>> optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
        >>> with NormObserver(table, optimizer, log=lambda metrics, step: print(step, len(metrics) > 10)):
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         table(torch.tensor([1, 2])).square().sum().backward()
        ...         optimizer.step()
        1 True
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        *,
        total_steps: int | None = None,
        scheduler: Any = None,
        scheduler_every_n_steps: int = 1,
        scaler: torch.amp.GradScaler | None = None,
        log: Log | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        name: str = "NormObserver",
        **options: Unpack[NormOptions],
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(f"model: expected a module of torch, got {type(model).__name__}; pass the model itself")
        self._model, self._optimizers = model, _as_list(optimizer)
        if not self._optimizers or not all(hasattr(each, "param_groups") for each in self._optimizers):
            raise ValueError(
                f"optimizer: expected an optimizer of torch, or several, got {optimizer!r}; pass what is stepped"
            )
        if log is not None and not callable(log):
            raise ValueError(f"log: expected a function of metrics and the step, got {log!r}; pass one, such as print")
        if total_steps is not None:
            check_count(total_steps=total_steps, hint="leave it out for a run without a set end")
        check_count(scheduler_every_n_steps=scheduler_every_n_steps)
        if scaler is not None and not hasattr(scaler, "get_scale"):
            raise ValueError(
                f"scaler: expected torch.amp.GradScaler, got {scaler!r}; leave it out without a loss scale"
            )
        if log_dir is not None:
            check_path("folder", log_dir=log_dir, hint="leave it out to keep no history")
            spelled = os.fspath(log_dir)
            if "://" in spelled:  # a disk would take it for a folder that is named like its scheme
                raise ValueError(
                    f"log_dir: expected a folder on this machine, got the URL {without_passwords(spelled)!r}; "
                    "name a path, and copy the history when the run has ended"
                )
        check_name(name=name)
        self._total_steps, self._scaler = total_steps, scaler
        self._schedulers, self._scheduler_every = _as_list(scheduler), scheduler_every_n_steps
        for each in self._schedulers:
            if not (callable(each) or hasattr(each, "step")):
                raise ValueError(f"scheduler: expected one that can step, or a function, got {each!r}; pass it itself")
        self._log, self._log_dir, self._name = log, log_dir, name
        self.name_holders: list[object] = [model]
        self._options = complete_options(options, arguments=_ARGUMENTS)
        # A wrong pattern fails here.
        find_targets(model, self._options["targets"], max_tracked_rows=self._options["max_tracked_rows"])
        self._ranks = Ranks()
        self._rates = PlannedRates(_warn, self._options["lrs"])
        self._observation: Observation | None = None
        self._saved_state: Mapping[str, Any] | None = None
        self._announced_ids: set[int] = set()
        self._stepping: torch.optim.Optimizer | None = None
        self._clock: torch.optim.Optimizer | None = None
        self._has_named_hookless = False
        self._strangers: weakref.WeakKeyDictionary[torch.optim.Optimizer, int] = weakref.WeakKeyDictionary()
        self._succeeded: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._handles: list[RemovableHandle] = []

    def begin(self, steps_made: int = 0) -> None:
        """Starts to listen, after weights and state were restored.

        Args:
            steps_made: optimizer steps that the run made before, in case no state tells.
        """
        check_count(0, steps_made=steps_made)
        self.close()
        self._ranks = present_ranks(next((p.device for p in self._model.parameters()), torch.device("cpu")))
        state, self._saved_state = self._saved_state, None
        history = None
        if self._log_dir is not None and self._ranks.rank == 0:
            history = RunWriter(self._log_dir, inform=_inform)
        self._observation = Observation(
            self._model,
            self._run(),
            ALL_MEASURES,
            self._options,
            name=self._name,
            history=history,
            name_holders=self.name_holders,
        )
        if not self._observation.recorder.watches and not self._observation.awaits_tables:
            self._observation = None
            raise ValueError(
                "optimizer: expected one that trains a target of the model, got none that does; is it the optimizer of "
                "another model?"
            )
        try:
            self._observation.begin(steps_made, state, bookmark=bookmark_of(state))
        except BaseException:
            self.close()
            raise
        # Of all optimizers, one that takes the place of another included. Torch calls these hooks before an optimizer's
        # own and after them: a step is announced before its gradient is read, and reported after it was looked at.
        # Neither is compiled where the optimizer's step is.
        self._handles.append(register_optimizer_step_pre_hook(uncompiled(self._hear_step)))
        self._handles.append(register_optimizer_step_post_hook(uncompiled(self._end_step)))

    @safeguarded
    def before_step(self, optimizer: torch.optim.Optimizer | None = None, *, clipped: bool = False) -> None:
        """Announces a step: gradients are there and unscaled.

        Args:
            optimizer: the one about to step; ``None`` for all.
            clipped: whether gradients may have been clipped already.
        """
        try:
            check_flag(clipped=clipped)
        except ValueError as error:
            raise SettingsError(*error.args) from None
        for stepping in self._optimizers if optimizer is None else [_unwrapped(optimizer)]:
            self._announce(stepping, Clipping.PAST if clipped else Clipping.AHEAD)
            self._announced_ids.add(id(stepping))
            if not _takes_hooks(stepping) and self._observation is not None:
                self._observation.recorder.read_gradients(stepping)

    @safeguarded
    def after_step(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Says that an announced step was made, for an optimizer that is not one of torch's and takes no hooks.

        Args:
            optimizer: the one that stepped; ``None`` for all that take no hooks.
        """
        for stepped in self._optimizers if optimizer is None else [_unwrapped(optimizer)]:
            if not _takes_hooks(stepped):
                self._complete(stepped)

    @safeguarded
    def finish(self) -> None:
        """Concludes after the last step: logs the last findings, puts the history on disk and removes every hook."""
        if self._observation is not None and self._handles:
            self._observation.recorder.end_batch()
            self._observation.recorder.finish()
            self._report()
            self._observation.conclude()
            self._observation.point_to_report()
        self.close()

    @safeguarded(dict)
    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs; loads with ``weights_only=True``. The history is on disk before."""
        if self._saved_state is not None:
            return dict(self._saved_state)  # it has not begun: what it was given is all there is
        return {} if self._observation is None else self._observation.state_dict()

    @safeguarded
    def flush(self) -> None:
        """Puts the history on disk, ahead of a checkpoint that :meth:`state_dict` goes into later."""
        if self._observation is not None:
            self._observation.flush()

    @property
    @safeguarded(list)
    def verdicts(self) -> list[Verdict]:
        """What the rules say of the run now, or said at its end, the worst first."""
        return self._observation.verdicts if self._observation is not None else []

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave, before it begins to listen.

        Raises:
            RuntimeError: if it listens already.
        """
        if self._handles:
            raise RuntimeError("state: expected before the observer begins to listen; load it ahead of the with block")
        self._saved_state = None if isinstance(state, Mapping) and not state else state

    def __enter__(self) -> NormObserver:
        if not self._handles:
            self.begin()
        return self

    @safeguarded
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del error, trace
        if kind is None:
            self.finish()
        else:
            self.close()

    def _run(self) -> Run:
        first = self._ranks.rank == 0
        return Run(
            optimizers=lambda: self._optimizers,
            total_steps=lambda _optimizer=None: self._total_steps,
            future_rates=self._future_rates,
            loss_scale=self._loss_scale,
            ranks=self._ranks,
            hears_backward=self._ranks.size == 1,
            warn=_warn if first else _say_nothing,
            inform=_inform if first else _say_nothing,
            hears=lambda _: True,
        )

    @safeguarded
    def _hear_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        """The optimizer is about to step: announces it, unless the loop has, or once a closure has given gradients."""
        whole = self._whole_of(optimizer)
        if whole is not None:
            return self._hear_part(optimizer, whole, args, kwargs)
        if not self._is_followed(optimizer):
            return None
        self._stepping = optimizer
        if id(optimizer) in self._announced_ids:
            return None
        if closure_of(args, kwargs) is None:
            self._announce(optimizer, Clipping.PAST)
            self._announced_ids.add(id(optimizer))
            return None
        if inner_optimizer(optimizer) is not None:
            return None  # it may evaluate the closure at other weights than the step starts from
        return with_closure(args, kwargs, after=partial(self._announce_once, optimizer, _versions(optimizer)))

    def _whole_of(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer | None:
        """The optimizer under observation that has this one inside and moves weights with it; ``None`` for none."""
        return next((whole for whole in self._optimizers if inner_optimizer(whole) is optimizer), None)

    def _hear_part(
        self, part: torch.optim.Optimizer, whole: torch.optim.Optimizer, args: Any, kwargs: Any
    ) -> tuple[Any, Any] | None:
        """An optimizer inside of another is about to step: that is the step of the whole, if it did not say so."""
        if id(whole) in self._announced_ids or self._observation is None:
            return None
        if not _takes_hooks(whole):
            if not self._has_named_hookless:
                _warn(
                    f"{self._name}: {type(whole).__name__} is no optimizer of torch and does not say when it steps, so "
                    "nothing is measured; call before_step() ahead of its step and after_step() behind it"
                )
            self._has_named_hookless = True
            return None
        if closure_of(args, kwargs) is not None:
            return with_closure(args, kwargs, after=partial(self._announce_once, whole))
        self._announce_once(whole)
        self._observation.recorder.read_gradients(whole)
        self._clock = part
        return None

    @safeguarded
    def _announce_once(self, optimizer: torch.optim.Optimizer, versions: list[int] | None = None) -> None:
        """Announces a step if nobody has; from inside a closure only where weights are as they were at its start."""
        has_moved = versions is not None and versions != _versions(optimizer)
        if id(optimizer) not in self._announced_ids and not has_moved:
            self._announce(optimizer, Clipping.PAST)
            self._announced_ids.add(id(optimizer))

    def _is_followed(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether an optimizer trains the model; one that takes the place of another is followed from now on."""
        if any(optimizer is known for known in self._optimizers):
            return True
        size = sum(len(group["params"]) for group in optimizer.param_groups)
        # One that steps inside of another's step is a part of that, as in ZeroRedundancyOptimizer.
        if self._stepping is not None or self._strangers.get(optimizer) == size or self._observation is None:
            return False
        self._strangers[optimizer] = size
        is_successor = self._observation.is_trained_by(optimizer)
        if is_successor:
            self._optimizers = [optimizer, *self._left_beside(optimizer)]
        return is_successor

    def _left_beside(self, successor: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
        """The optimizers that may step besides one that is new: not those whose parameters it has, until they do."""
        if successor in self._succeeded:
            return self._optimizers
        ids = _parameter_ids(successor)
        self._succeeded.update(
            known for known in self._optimizers if _takes_hooks(known) and _parameter_ids(known) <= ids
        )
        return [known for known in self._optimizers if not (_takes_hooks(known) and known in self._succeeded)]

    def _announce(self, optimizer: torch.optim.Optimizer, clipping: Clipping) -> None:
        if self._observation is not None:
            has_scaler = self._scaler is not None and self._scaler.is_enabled()
            self._observation.recorder.before_step(optimizer, clipping=clipping, has_scaler=has_scaler)

    @safeguarded
    def _end_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """The step was made, and the recorder has looked at it."""
        del args, kwargs
        if optimizer is self._clock:
            whole, self._clock = self._whole_of(optimizer), None
            if whole is not None:
                self._complete(whole)
        if optimizer is self._stepping:
            self._stepping = None
            self._announced_ids.discard(id(optimizer))
            self._report()

    def _complete(self, optimizer: torch.optim.Optimizer) -> None:
        """Looks at a step that no hook of the optimizer's own tells of."""
        if self._observation is not None:
            self._observation.recorder.after_step(optimizer)
            self._announced_ids.discard(id(optimizer))
            self._report()

    def _report(self) -> None:
        assert self._observation is not None
        metrics = self._observation.drain()
        if metrics and self._log is not None and self._ranks.rank == 0:
            try:
                self._log(metrics, max(watch.steps for watch in self._observation.recorder.watches))
            except Exception as error:  # the user's: whatever it does, the training goes on
                self._log = None
                _warn(f"{self._name}: log: it failed ({in_a_line(error)}) and is not called again")

    def switch_off(self, error: Exception) -> None:
        """Ends all observation because of an error of the loop's own callback; the training goes on."""
        self._switch_off(error)

    def _switch_off(self, error: Exception) -> None:
        self._detach()
        if self._observation is None:
            _warn(unobserved_failure(self._name, error))
        else:
            self._observation.switch_off(error)

    @safeguarded
    def close(self) -> None:
        """Puts the history on disk and removes every hook, concluding nothing."""
        self._detach()
        if self._observation is not None:
            self._observation.stop()

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._announced_ids.clear()
        self._stepping = self._clock = None

    def _loss_scale(self) -> float:
        return float(self._scaler.get_scale()) if self._scaler is not None else 1.0

    def _future_rates(
        self, optimizer: torch.optim.Optimizer, group: int, steps: int, past: EffectiveTrace
    ) -> EffectiveTrace | None:
        is_due = lambda step: step % self._scheduler_every == 0  # noqa: E731
        all_schedules = [LRSchedule.of(scheduler, is_due, self._ranks.size) for scheduler in self._schedulers]
        schedules = [schedule for schedule in all_schedules if self._drives(schedule.scheduler, optimizer)]
        first = self._steps_tried(optimizer)
        model = [*self._model.modules(), *self._model.parameters()]
        if len(self._optimizers) == 1 and len(schedules) < len(self._schedulers) and self._options["lrs"] is None:
            self._rates.say_unforeseeable(optimizer)  # a function, or a scheduler that hides what it drives
        return self._rates.trace(
            optimizer, group, schedules, range(first, first + steps), steps, first=first, past=past, keep=model
        )

    def _drives(self, scheduler: Any, optimizer: torch.optim.Optimizer) -> bool:
        """Whether a scheduler sets the rates of an optimizer, or of the one inside of it, whose groups are the same."""
        driven = getattr(scheduler, "optimizer", None)
        return driven is not None and _unwrapped(driven) in (optimizer, inner_optimizer(optimizer))

    def _steps_tried(self, optimizer: torch.optim.Optimizer) -> int:
        assert self._observation is not None
        watches = (watch for watch in self._observation.recorder.watches if watch.optimizer is optimizer)
        return max((watch.steps + watch.skipped_steps for watch in watches), default=0)


def _as_list(one_or_several: Any) -> list[Any]:
    if one_or_several is None:
        return []
    items = one_or_several if isinstance(one_or_several, (list, tuple)) else [one_or_several]
    return [_unwrapped(item) for item in items]


def _unwrapped(item: Any) -> Any:
    """An optimizer out of what only passes its steps on; anything else as it is."""
    return unwrapped_optimizer(item) if isinstance(item, torch.optim.Optimizer) else item


def _versions(optimizer: torch.optim.Optimizer) -> list[int]:
    """How often each parameter of an optimizer was written to."""
    return [parameter._version for group in optimizer.param_groups for parameter in group["params"]]


def _parameter_ids(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def _takes_hooks(optimizer: Any) -> bool:
    return hasattr(optimizer, "register_step_post_hook")


def _warn(message: str) -> None:
    caution(message, stacklevel=2)


def _inform(message: str) -> None:
    """Logs a sentence; where logging as it is set up would swallow it, it goes where warnings go.

    Whoever gives the package's logger a level has chosen what to hear.
    """
    logger = logging.getLogger(__name__)
    if logger.hasHandlers() and logger.isEnabledFor(logging.INFO):
        logger.info(message)
    elif logging.getLogger(_PACKAGE).level == logging.NOTSET:
        print(message, file=sys.stderr)


_PACKAGE = __name__.partition(".")[0]


def _say_nothing(message: str) -> None:
    """On every rank but the first."""
