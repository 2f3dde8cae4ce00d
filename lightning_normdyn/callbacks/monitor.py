"""Base class of the four callbacks: follows the trainer's steps, logs what was read, keeps state in checkpoints."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import torch

from lightning_normdyn.callbacks.lightning import (
    Callback,
    LightningModule,
    Trainer,
    overrides,
    rank_zero_info,
    rank_zero_warn,
)
from lightning_normdyn.callbacks.trainer_run import has_scaler, run_of
from lightning_normdyn.capture.table import Clipping
from lightning_normdyn.caution import caution
from lightning_normdyn.core.number_checks import check_flag
from lightning_normdyn.history.run_writer import RunWriter
from lightning_normdyn.instruments.instrument import adapter_name
from lightning_normdyn.instruments.instrument_factory import Measures
from lightning_normdyn.instruments.observation import Observation, run_id_of
from lightning_normdyn.instruments.options import DEFAULTS, LookOptions, NormOptions, complete_options
from lightning_normdyn.instruments.recorder import Recorder
from lightning_normdyn.instruments.safeguard import safeguarded, unobserved_failure
from lightning_normdyn.instruments.verdicts.verdict import Verdict


class NormMonitor(Callback):
    """Base of the monitors: decides when to look, logs what was read, keeps it through checkpoints.

    Args:
        save_history: whether trajectories and scalars also go to ``<log_dir>/normdyn/``.
        options: what is looked at, and how often.

    Attributes:
        measures: what a subclass measures.
        options: all options, those left at their defaults included.
    """

    measures: Measures

    def __init__(self, *, save_history: bool, options: NormOptions | LookOptions) -> None:
        self.options = complete_options(options, arguments=["save_history"])
        check_flag(save_history=save_history)
        self.save_history = save_history
        self._observation: Observation | None = None
        self._saved_state: dict[str, Any] | None = None
        self._clipping, self._has_scaler = Clipping.NONE, False
        self._has_siblings = True  # until a trainer tells: it compares state keys first of all
        self._state_key: str | None = None

    @property
    def state_key(self) -> str:
        """Tells apart the states of two monitors of one class in a checkpoint: by every option that their states heed.

        One that is alone with its targets goes by them alone, so that a run may be resumed with other settings.
        """
        if self._state_key is None:  # Lightning asks for it several times a step
            settings = _settings(self.options) if self._has_siblings else {}
            self._state_key = self._generate_state_key(**_observed(self.options), **settings)
        return self._state_key

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Looks whether the trainer has another monitor of this class and these targets."""
        monitors = [callback for callback in trainer.callbacks if type(callback) is type(self)]  # type: ignore[attr-defined]
        observed = [_observed(monitor.options) for monitor in monitors]
        self._has_siblings, self._state_key = observed.count(_observed(self.options)) > 1, None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the targets; a wrong pattern fails here, before anything was trained."""
        self._observation = Observation(
            pl_module,
            run_of(trainer, pl_module, self.options["lrs"]),
            self.measures,
            self.options,
            name=type(self).__name__,
            history=_history_of(trainer) if self.save_history else None,
            name_holders=[getattr(trainer, "datamodule", None), pl_module],
        )
        clips = bool(trainer.gradient_clip_val) or overrides(pl_module, "configure_gradient_clipping")
        self._clipping = Clipping.AHEAD if clips else Clipping.NONE
        self._has_scaler = has_scaler(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes back the state of a checkpoint and starts to listen."""
        if self._observation is None:  # added by another callback when training had begun
            self.on_fit_start(trainer, pl_module)
        assert self._observation is not None
        run_id = _resumed_run(trainer)
        state, self._saved_state = self._saved_state, None
        # Manual optimisation counts the steps of all optimizers as one number: of no use to any one of them.
        steps_made = trainer.global_step if pl_module.automatic_optimization else 0
        self._observation.begin(steps_made, state, run_id=run_id)

    @safeguarded
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Announces a step: gradients are there, not yet clipped, and unscaled if that is not left to the optimizer."""
        if self._observation is not None:
            optimizer = getattr(optimizer, "_optimizer", optimizer)
            clipping = Clipping.NONE if self._has_scaler and _unscales_itself(optimizer) else self._clipping
            self._observation.recorder.before_step(optimizer, clipping=clipping, has_scaler=self._has_scaler)

    @safeguarded
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs what the step showed."""
        if self._observation is not None:
            self._observation.recorder.end_batch()
            self._log(trainer)

    @safeguarded
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Concludes, logs the last findings and puts the history on disk."""
        if self._observation is not None:
            self._observation.recorder.finish()
            self._log(trainer)
            self._observation.conclude()
            if self is _last_historian(trainer):
                self._observation.point_to_report()

    @safeguarded
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes every hook."""
        self._stop()

    @safeguarded
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves what is known and removes every hook."""
        self._log(trainer)
        self._stop()

    @safeguarded
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Removes every hook, whatever happened."""
        self._stop()

    @safeguarded(dict)
    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs; loads with ``weights_only=True``. The history is on disk before."""
        if self._saved_state is not None:
            return self._saved_state  # training has not begun, nor may it where the run was complete
        return self._observation.state_dict() if self._observation is not None else {}

    @property
    @safeguarded(list)
    def verdicts(self) -> list[Verdict]:
        """What the rules say of the run now, or said at its end, the worst first."""
        return self._observation.verdicts if self._observation is not None else []

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along: the settings, not the run under way."""
        return self.__dict__ | {"_observation": None}

    @safeguarded
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state until the targets are known."""
        self._saved_state = None if isinstance(state_dict, dict) and not state_dict else state_dict

    @safeguarded
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes the state of the one monitor of this class and these targets that a checkpoint has by a longer key."""
        states: dict[str, Any] = checkpoint.get("callbacks") or {}
        prefix = self._generate_state_key(**_observed(self.options)).removesuffix("}")
        names = [name for name in states if isinstance(name, str) and name.startswith(prefix)]
        if not self._has_siblings and self.state_key not in states and len(names) == 1:
            self.load_state_dict(states[names[0]])

    @property
    def _recorder(self) -> Recorder | None:
        return None if self._observation is None else self._observation.recorder

    def _switch_off(self, error: Exception) -> None:
        if self._observation is None:
            caution(unobserved_failure(type(self).__name__, error))
        else:
            self._observation.switch_off(error)

    def _stop(self) -> None:
        if self._observation is not None:
            self._observation.stop()

    def _log(self, trainer: Trainer) -> None:
        if self._observation is None:
            return
        metrics = self._observation.drain()
        for key in self._observation.recorder.ended_keys():
            trainer.callback_metrics.pop(key, None)
        if not metrics:
            return
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        trainer.callback_metrics.update(zip(metrics, torch.tensor(list(metrics.values())), strict=True))
        for logger in trainer.loggers:
            scalars = {key.replace("/", logger.group_separator): value for key, value in metrics.items()}
            logger.log_metrics(scalars, step=step)


def _last_historian(trainer: Trainer) -> NormMonitor | None:
    """The last of the trainer's monitors that keep a history, which is one for all of them."""
    monitors = [callback for callback in trainer.callbacks if isinstance(callback, NormMonitor)]  # type: ignore[attr-defined]
    return next((monitor for monitor in reversed(monitors) if monitor.save_history), None)


def _observed(options: NormOptions) -> dict[str, Any]:
    """The options that say what is looked at."""
    return {"targets": options["targets"], "max_tracked_rows": options["max_tracked_rows"]}


_NAMED_SETTINGS = ("every_n_steps", "fit_every_n_steps", "window", "forecast_at", "probe_items")


def _settings(options: NormOptions) -> dict[str, Any]:
    """The further options that tell two monitors apart, where they differ from their defaults, in plain words."""
    settings: dict[str, Any] = {name: options[name] for name in _NAMED_SETTINGS}  # type: ignore[literal-required]
    changes = {name: value for name, value in settings.items() if value != DEFAULTS[name]}  # type: ignore[literal-required]
    instruments = [adapter_name(instrument) for instrument in options["instruments"]]
    return changes | ({"instruments": instruments} if instruments else {})


_HISTORIES: weakref.WeakKeyDictionary[Trainer, RunWriter] = weakref.WeakKeyDictionary()


def _history_of(trainer: Trainer) -> RunWriter | None:
    """The history of a trainer's run, one for all monitors; ``None`` where none is kept."""
    if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
        return None
    log_dir = _log_dir(trainer)
    if "://" in str(log_dir):
        rank_zero_warn(f"normdyn history: '{log_dir}' is no folder of this machine, so no norm history is saved there")
        return None
    history = _HISTORIES.get(trainer)
    if history is None or history.log_dir != Path(log_dir):
        history = _HISTORIES[trainer] = RunWriter(log_dir, inform=rank_zero_info)
    return history


def _resumed_run(trainer: Trainer) -> str | None:
    """Id of the run that goes on: of the checkpoint, or where there is none of the trainer's last fit."""
    monitors = [callback for callback in trainer.callbacks if isinstance(callback, NormMonitor)]  # type: ignore[attr-defined]
    run_ids = [run_id for monitor in monitors if (run_id := run_id_of(monitor._saved_state)) is not None]
    if run_ids:
        return run_ids[0]
    history = _HISTORIES.get(trainer)
    goes_on = history is not None and not trainer.ckpt_path and trainer.global_step > 0
    return history.run_id if history is not None and goes_on else None


def _log_dir(trainer: Trainer) -> str:
    """What ``trainer.log_dir`` is on the first rank: it is broadcast, and other ranks may not ask for it."""
    if not trainer.loggers:
        return str(trainer.default_root_dir)
    logger: Any = trainer.loggers[0]
    kinds = {kind.__name__ for kind in type(logger).__mro__}
    folder = logger.log_dir if kinds & {"TensorBoardLogger", "CSVLogger"} else logger.save_dir
    return str(folder or trainer.default_root_dir)


def _unscales_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether gradients stay scaled up to the update under a loss scaler: a fused optimizer."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))
