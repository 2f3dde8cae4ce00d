"""Base class of the four callbacks: follows the trainer's steps, logs what was read, keeps state in checkpoints."""

from __future__ import annotations

from typing import Any

import torch

from lightning_normdyn.callbacks.lightning import (
    Callback,
    LightningModule,
    Trainer,
    overrides,
    rank_zero_warn,
)
from lightning_normdyn.callbacks.run_histories import (
    Settings,
    bookmark_of_run,
    first_clash,
    history_for,
    record_settings,
)
from lightning_normdyn.callbacks.step_pace import StepPace
from lightning_normdyn.callbacks.trainer_run import has_scaler, run_of
from lightning_normdyn.capture.table import Clipping
from lightning_normdyn.caution import caution
from lightning_normdyn.core.number_checks import check_flag
from lightning_normdyn.history.run_record import Bookmark
from lightning_normdyn.history.run_writer import RunWriter
from lightning_normdyn.instruments.instrument import adapter_name
from lightning_normdyn.instruments.instrument_factory import Measures
from lightning_normdyn.instruments.observation import Observation, bookmark_of
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
        history: that it writes to; ``None`` while or where it keeps none.
        record_settings: of each target the settings that its numbers depend on, where other monitors may differ.
    """

    measures: Measures

    def __init__(self, *, save_history: bool, options: NormOptions | LookOptions) -> None:
        self.options = complete_options(options, arguments=["save_history"])
        check_flag(save_history=save_history)
        self.save_history = save_history
        self.history: RunWriter | None = None
        self.record_settings: Settings = {}
        self._observation: Observation | None = None
        self._saved_state: dict[str, Any] | None = None
        self._clipping, self._has_scaler = Clipping.NONE, False
        self._pace = StepPace()
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
        self._join_others(trainer, pl_module)
        self._pace = StepPace()
        self._observation = Observation(
            pl_module,
            run_of(trainer, pl_module, self.options["lrs"], self._pace),
            self.measures,
            self.options,
            name=type(self).__name__,
            history=self.history,
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
        bookmark = self._bookmark(trainer)
        state, self._saved_state = self._saved_state, None
        # Manual optimisation counts the steps of all optimizers as one number: of no use to any one of them.
        steps_made = trainer.global_step if pl_module.automatic_optimization else 0
        self._observation.begin(steps_made, state, bookmark=bookmark)

    @safeguarded
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Announces a step: gradients are there, not yet clipped, and unscaled if that is not left to the optimizer."""
        if self._observation is not None:
            optimizer = getattr(optimizer, "_optimizer", optimizer)
            if not pl_module.automatic_optimization:
                self._pace.note(optimizer, trainer.fit_loop.epoch_loop.total_batch_idx)
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
        return self.__dict__ | {"_observation": None, "history": None, "record_settings": {}, "_pace": StepPace()}

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

    def _join_others(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Settles which of the trainer's monitors share a history with this one, and says where numbers clash."""
        monitors = _monitors(trainer)
        earlier = monitors[: monitors.index(self)] if self in monitors else monitors
        self.history, self.record_settings = None, {}
        if len(monitors) > 1:
            self.record_settings = record_settings(pl_module, self.measures, self.options)
        if self.save_history:
            self.history = history_for(trainer, self, earlier)
        clash = first_clash(self, earlier)
        if clash is not None:
            rank_zero_warn(f"{type(self).__name__}: {clash}")

    def _bookmark(self, trainer: Trainer) -> Bookmark | None:
        """Which run goes on in the history."""
        if self.history is None:
            return None
        sharers = [monitor for monitor in _monitors(trainer) if monitor.history is self.history]
        return bookmark_of_run(trainer, self.history, (bookmark_of(monitor._saved_state) for monitor in sharers))

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
        if self._observation is None or not self._observation.has_news:
            return
        metrics = self._observation.drain()
        for key in self._observation.recorder.ended_keys():
            trainer.callback_metrics.pop(key, None)
        if not metrics:
            return
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        trainer.callback_metrics.update(zip(metrics, torch.tensor(list(metrics.values())).unbind(), strict=True))
        for logger in trainer.loggers:
            scalars = {key.replace("/", logger.group_separator): value for key, value in metrics.items()}
            logger.log_metrics(scalars, step=step)


def _last_historian(trainer: Trainer) -> NormMonitor | None:
    """The last of the trainer's monitors that keep a history, which is one for all of them."""
    return next((monitor for monitor in reversed(_monitors(trainer)) if monitor.save_history), None)


def _monitors(trainer: Trainer) -> list[NormMonitor]:
    return [callback for callback in trainer.callbacks if isinstance(callback, NormMonitor)]  # type: ignore[attr-defined]


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


def _unscales_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether gradients stay scaled up to the update under a loss scaler: a fused optimizer."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))
