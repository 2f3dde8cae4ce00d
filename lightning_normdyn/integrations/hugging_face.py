"""A callback that records norm dynamics in the Trainer of transformers and its subclass in sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from typing_extensions import Unpack

from lightning_normdyn.atomic_file import atomic_file
from lightning_normdyn.caution import caution
from lightning_normdyn.core.number_checks import check_flag
from lightning_normdyn.core.object_checks import check_callable
from lightning_normdyn.instruments.observer import NormObserver
from lightning_normdyn.instruments.options import NormOptions, complete_options, spelled_out
from lightning_normdyn.instruments.safeguard import in_a_line, safeguarded, unobserved_failure
from lightning_normdyn.instruments.verdicts.verdict import Verdict

STATE_FILE = "normdyn.pt"


@spelled_out(NormOptions)
class NormDynamicsTrainerCallback(TrainerCallback):
    """Norm trajectories, gradient split and equilibrium fit, with the numbers that ``NormDynamics`` gives in Lightning.

    A callback has no way of its own to the trainer's loggers, so the trainer lends it one:
    ``trainer.add_callback(NormDynamicsTrainerCallback(log=trainer.log))``. Without ``log`` the scalars go to
    ``trainer.state.log_history`` and to the history on disk alone. The console gets a line a target at the end, and
    warnings meanwhile: what the trainer's own callbacks would print of the scalars is kept from them. State is kept in
    each checkpoint as ``normdyn.pt`` and taken back from ``args.resume_from_checkpoint``, or else from
    ``checkpoint-<step>`` below ``args.output_dir``.

    The Trainer tells no callback that training failed: hooks then stay until the next ``train()`` or :meth:`close`.

    Args:
        log: the trainer's own ``log``.
        save_history: whether to keep a history in ``<output_dir>/normdyn/``.
    """

    def __init__(
        self,
        *,
        log: Callable[[dict[str, float]], object] | None = None,
        save_history: bool = True,
        **options: Unpack[NormOptions],
    ) -> None:
        check_callable("of metrics, such as trainer.log", optional=True, log=log)
        check_flag(save_history=save_history)
        complete_options(
            options, arguments=("log", "save_history")
        )  # what is out of range fails here, not when training begins
        self._options = options
        self._log, self._save_history = log, save_history
        self._observer: NormObserver | None = None
        self._has_scaler = False
        self._waiting: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        """Finds the targets, takes back the state of a checkpoint and starts to listen."""
        self.close()
        optimizer = objects["optimizer"]
        scaler = getattr(optimizer, "scaler", None)  # accelerate's wrapper holds it
        self._has_scaler = scaler is not None
        self._observer = NormObserver(
            objects["model"],
            optimizer,
            total_steps=state.max_steps if state.max_steps > 0 else None,
            scheduler=objects["lr_scheduler"],
            scaler=scaler,
            log=self._keep,
            log_dir=Path(args.output_dir) if self._save_history and args.output_dir else None,
            name=type(self).__name__,
            **self._options,
        )
        self._observer.name_holders.append(SimpleNamespace(tokenizer=objects.get("processing_class")))
        if state.global_step:
            self._restore(self._observer, args, state)
        self._observer.begin(steps_made=state.global_step)

    @safeguarded
    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        """Announces a step that a loss scaler may skip: gradients are unscaled and clipped."""
        if self._observer is not None and self._has_scaler:
            self._observer.before_step(clipped=True)

    @safeguarded
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        """Logs what the step showed, under its number."""
        self._send(state, control)
        if self._observer is not None and control.should_save:
            self._observer.flush()  # what led to a checkpoint is on disk before it

    @safeguarded
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any) -> None:
        """Adds the state to the checkpoint that was just written."""
        folder = _checkpoint(args, state)
        if self._observer is not None and state.is_world_process_zero and folder.is_dir():
            with atomic_file(folder / STATE_FILE) as temporary:
                torch.save(self._observer.state_dict(), temporary)

    @safeguarded
    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        """Concludes after the last step, before the best weights are put in and the loggers close."""
        if control.should_training_stop:
            self._finish(state, control)

    @safeguarded
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        """Concludes, if the last epoch did not, and removes every hook."""
        self._finish(state, control)

    @property
    @safeguarded(list)
    def verdicts(self) -> list[Verdict]:
        """What the rules say of the run now, or said at its end, the worst first."""
        return self._observer.verdicts if self._observer is not None else []

    def _switch_off(self, error: Exception) -> None:
        if self._observer is None:
            caution(unobserved_failure(type(self).__name__, error))
        else:
            self._observer.switch_off(error)

    @safeguarded
    def close(self) -> None:
        """Removes every hook, for a training that failed."""
        if self._observer is not None:
            self._observer.close()
        self._observer = None

    def _finish(self, state: TrainerState, control: TrainerControl) -> None:
        if self._observer is not None:
            self._observer.finish()
            self._send(state, control)

    def _keep(self, metrics: dict[str, float], step: int) -> None:
        """Takes what was read inside of a step, whose number the trainer has not counted yet."""
        del step
        self._waiting |= metrics

    def _send(self, state: TrainerState, control: TrainerControl) -> None:
        metrics, self._waiting = self._waiting, {}
        if not metrics:
            return
        if self._log is None:
            state.log_history.append({**metrics, "step": state.global_step})
            return
        wants_log = control.should_log
        with _quiet_console(self._log):
            self._log(metrics)
        control.should_log = wants_log  # the trainer takes any log for the one that it was to make

    def _restore(self, observer: NormObserver, args: TrainingArguments, state: TrainerState) -> None:
        checkpoint = args.resume_from_checkpoint
        folders = [*([Path(checkpoint)] if checkpoint else []), _checkpoint(args, state)]
        file = next((folder / STATE_FILE for folder in folders if (folder / STATE_FILE).is_file()), None)
        if file is not None:
            observer.load_state_dict(_state_in(file))
        elif state.is_world_process_zero:
            caution(
                f"{type(self).__name__}: no '{STATE_FILE}' in '{folders[0]}', so norm statistics start afresh; name "
                "the folder of the checkpoint in TrainingArguments(resume_from_checkpoint=...)",
                stacklevel=2,
            )


@contextmanager
def _quiet_console(log: Callable[[dict[str, float]], object]) -> Iterator[None]:
    """Keeps what a trainer logs meanwhile from its callbacks that print all of it, which is for reporters alone."""
    handler = getattr(getattr(log, "__self__", None), "callback_handler", None)
    if handler is None:
        yield
        return
    callbacks = handler.callbacks
    handler.callbacks = [each for each in callbacks if not isinstance(each, (PrinterCallback, ProgressCallback))]
    try:
        yield
    finally:
        handler.callbacks = callbacks


def _state_in(file: Path) -> Any:
    """What a file of a checkpoint holds; what cannot be read is left to the observer to refuse."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or foreign file makes torch raise
        return f"'{file}' cannot be read, {in_a_line(error)}"


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
