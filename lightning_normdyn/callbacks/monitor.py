"""What the monitors share: finding targets, following the trainer's steps, logging, checkpointing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lightning_normdyn._version import __version__
from lightning_normdyn.callbacks.conclusion import conclusion
from lightning_normdyn.callbacks.lightning import (
    Callback,
    LightningModule,
    Trainer,
    overrides,
    rank_zero_info,
    rank_zero_warn,
)
from lightning_normdyn.callbacks.ranks import all_calls, all_rows, merge_steps, shares_batches
from lightning_normdyn.callbacks.schedule import future_lrs
from lightning_normdyn.capture.call import Call
from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.probe import Probe
from lightning_normdyn.capture.sharded import reshard
from lightning_normdyn.capture.table import TableTarget, check_rows
from lightning_normdyn.capture.targets import Targets, check_targets, find_targets
from lightning_normdyn.core.optimizers import EquilibriumRule, equilibrium_rule, nominal_lr
from lightning_normdyn.history.log import Outage
from lightning_normdyn.history.run import TargetHistory, folder_name, fresh_root
from lightning_normdyn.instruments.base import Instrument
from lightning_normdyn.instruments.encoder_balance import EncoderBalance, EncoderPlan
from lightning_normdyn.instruments.encoder_watch import EncoderWatch
from lightning_normdyn.instruments.fit import TrainingPlan
from lightning_normdyn.instruments.output_watch import OutputCadence, OutputWatch
from lightning_normdyn.instruments.probe_source import (
    ProbeSource,
    check_probe,
    check_probe_items,
    given_calls,
    probe_of,
)
from lightning_normdyn.instruments.recorder import Recorder
from lightning_normdyn.instruments.table_watch import TableWatch
from lightning_normdyn.instruments.watch import Watch
from lightning_normdyn.instruments.weight_decays import WeightDecays

PREFIX = "normdyn"


class NormMonitor(Callback, ABC):
    """Base of the monitors: decides when to look, logs what was read, keeps it through checkpoints.

    A subclass says which instruments serve a table and at what cadence outputs are measured.

    Args:
        targets: ``"auto"`` or patterns, see :func:`lightning_normdyn.capture.targets.find_targets`.
        max_tracked_rows: most rows of a table that keep statistics of their own.
        save_history: whether trajectories and scalars also go to ``<log_dir>/normdyn/``.
        probe: see :data:`lightning_normdyn.instruments.probe_source.ProbeSource`.
        probe_items: most items of a probe.
    """

    def __init__(
        self,
        *,
        targets: Targets,
        max_tracked_rows: int,
        save_history: bool,
        probe: ProbeSource = None,
        probe_items: int = 64,
    ) -> None:
        self._targets = check_targets(targets)
        self._max_tracked_rows = check_rows(max_tracked_rows)
        self._save_history = save_history
        self._probe, self._probe_items = check_probe(probe), check_probe_items(probe_items)
        self._recorder: Recorder | None = None
        self._restored: dict[str, Any] | None = None
        self._unclipped = False
        self._target_names: list[str] = []

    @abstractmethod
    def _instruments(self, target: TableTarget, plan: TrainingPlan) -> dict[str, Instrument]:
        """The instruments that serve a table."""

    @abstractmethod
    def _output_cadence(self) -> OutputCadence:
        """How often outputs are measured."""

    def _balance(self, plan: EncoderPlan) -> EncoderBalance | None:
        """What follows the norms of a probe through an encoder; ``None`` if this monitor has no part in that."""
        del plan
        return None

    @property
    def state_key(self) -> str:
        """Tells apart the states of two monitors of one class in a checkpoint."""
        return self._generate_state_key(targets=self._targets, max_tracked_rows=self._max_tracked_rows)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the targets; a wrong pattern fails here, before anything was trained."""
        targets = find_targets(pl_module, self._targets, max_tracked_rows=self._max_tracked_rows)
        self._target_names = [target.name for target in targets]
        root = _history_root(trainer) if self._save_history else None
        outage = Outage()
        histories = [
            TargetHistory(root / folder_name(target.name), outage=outage) if root else None for target in targets
        ]
        watches = (self._watch(trainer, pl_module, *watched) for watched in zip(targets, histories, strict=True))
        self._recorder = Recorder([watch for watch in watches if watch is not None])
        self._unclipped = bool(trainer.gradient_clip_val) or overrides(pl_module, "configure_gradient_clipping")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes back the state of a checkpoint and starts to listen."""
        reshard(pl_module)
        if self._recorder is None:  # added by another callback when training had begun
            self.on_fit_start(trainer, pl_module)
        assert self._recorder is not None
        if self._restored is not None:
            try:
                self._recorder.load_state_dict(self._restored)
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                rank_zero_warn(
                    f"{type(self).__name__}: the checkpoint's norm statistics cannot be used ({error}); they start "
                    "afresh, the training itself resumes as usual"
                )
                self._restored = None
                self.on_fit_start(trainer, pl_module)
            self._restored = None
        for watch in self._recorder.watches:
            self._describe(trainer, pl_module, watch)
        # Manual optimisation counts the steps of all optimizers as one number: of no use to any one of them.
        self._recorder.begin(trainer.global_step if pl_module.automatic_optimization else 0)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Announces a step: gradients are there, not yet clipped, and unscaled if that is not left to the optimizer."""
        if self._recorder is not None:
            optimizer = getattr(optimizer, "_optimizer", optimizer)
            unclipped = self._unclipped and not _unscales_itself(trainer, optimizer)
            scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
            self._recorder.before_step(optimizer, unclipped=unclipped, scaled=scaled)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs what the step showed."""
        if self._recorder is not None:
            self._recorder.end_batch()
            self._log(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Concludes, logs the last findings and puts the history on disk."""
        if self._recorder is not None:
            self._recorder.finish()
            self._log(trainer)
            self._recorder.flush()
            self._conclude(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes every hook."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves what is known and removes every hook."""
        if self._recorder is not None:
            self._log(trainer)
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Removes every hook, whatever happened."""
        self._stop()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs; loads with ``weights_only=True``."""
        return self._recorder.state_dict() if self._recorder is not None else {}

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along: the settings, not the run under way."""
        return self.__dict__ | {"_recorder": None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state until the targets are known."""
        self._restored = state_dict or None

    def _stop(self) -> None:
        if self._recorder is not None:
            self._recorder.flush()
            self._recorder.detach()

    def _log(self, trainer: Trainer) -> None:
        assert self._recorder is not None
        drained = self._recorder.drain()
        if not drained:
            return
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        metrics = {f"{PREFIX}/{name}/{key}": value for name, values in drained.items() for key, value in values.items()}
        trainer.callback_metrics.update({key: torch.tensor(value) for key, value in metrics.items()})
        for logger in trainer.loggers:
            separated = {key.replace("/", logger.group_separator): value for key, value in metrics.items()}
            logger.log_metrics(separated, step=step)

    def _conclude(self, trainer: Trainer) -> None:
        """One line a table: what the fit came to."""
        assert self._recorder is not None
        for watch in self._recorder.watches:
            if not watch.steps and _trains(watch.target):
                rank_zero_warn(
                    f"{type(self).__name__}: no optimizer step of '{watch.target.name}' was seen: no gradient reached "
                    "it, or its optimizer was replaced or stepped without Lightning (use_pl_optimizer=False)"
                )
            found = conclusion(trainer.callback_metrics, f"{PREFIX}/{watch.target.name}/")
            if found:
                rank_zero_info(f"{type(self).__name__}: '{watch.target.name}': {found}")

    def _watch(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        target: TableTarget | OutputTarget,
        history: TargetHistory | None,
    ) -> Watch | None:
        owner = _owner(trainer, target)
        if owner is None:
            rank_zero_warn(f"{type(self).__name__}: no optimizer trains '{target.name}', so it is not watched")
            return None
        optimizer, group = owner
        if isinstance(target, OutputTarget):
            watch: Watch = self._watch_output(trainer, pl_module, target, optimizer, history)
            return watch

        def group_now() -> int:
            return _group_number(optimizer, target.parameter) or 0

        plan = _plan(trainer, pl_module, optimizer, group_now, lambda: watch.skipped)
        if trainer.world_size > 1:
            target.ids_tell = False  # this rank does not see the ids of the others
        watch = TableWatch(target, optimizer, group, self._instruments(target, plan), history)
        return watch

    def _describe(self, trainer: Trainer, pl_module: LightningModule, watch: Watch) -> None:
        """Puts on record what is watched. Not before training starts: the number of steps would load the data early."""
        owner = _owner(trainer, watch.target)
        assert owner is not None
        optimizer, group = owner
        rule = equilibrium_rule(optimizer, group)
        if watch.history is not None:
            settings, total_steps = optimizer.param_groups[group], _total_steps(trainer, pl_module)
            watch.history.describe(_description(watch.target, rule, settings, total_steps))
        if isinstance(watch.target, TableTarget) and rule.radial_decay <= 0:
            rank_zero_info(f"{type(self).__name__}: '{watch.target.name}' under {rule.optimizer}: {rule.law}")

    def _watch_output(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        target: OutputTarget,
        optimizer: torch.optim.Optimizer,
        history: TargetHistory | None,
    ) -> OutputWatch:
        balance = None
        source = probe_of(self._probe, target.name, self._target_names)
        if source is not False and any(parameter.requires_grad for parameter in target.module.parameters()):
            decays = WeightDecays(target.module, _followed(trainer), optimizer)
            training = _plan(trainer, pl_module, optimizer, lambda: decays.group_number, lambda: watch.skipped)
            make_probe = partial(self._make_probe, trainer, target, source)
            balance = self._balance(EncoderPlan(training, decays.rates, lambda: decays.group, make_probe))
        options: dict[str, Any] = {
            "loss_scale": lambda: _loss_scale(trainer),
            "merge_ranks": lambda seen: merge_steps(trainer, seen),
            "ranks": trainer.world_size,
            "history": history,
        }
        watched = target, optimizer, self._output_cadence()
        watch: OutputWatch = (
            OutputWatch(*watched, **options)
            if balance is None
            else EncoderWatch(
                *watched, balance=balance, probe_items=self._probe_items if source is None else 0, **options
            )
        )
        return watch

    def _make_probe(
        self, trainer: Trainer, target: OutputTarget, source: ProbeSource, heard: list[Call]
    ) -> Probe | None:
        """The probe of an encoder: the user's, or made of what it was called with; called on every rank."""
        if shares_batches(trainer):
            rank_zero_warn(
                f"{type(self).__name__}: some ranks share a batch (tensor parallelism), which a probe cannot follow "
                f"yet, so the norms of '{target.name}' have no balance"
            )
            return None
        calls = given_calls(source, target.name, self._probe_items)
        if calls is None:
            calls = all_calls(trainer, heard)
        if not calls:
            rank_zero_warn(
                f"{type(self).__name__}: '{target.name}' was not called with anything that could be encoded again, so "
                "its norms have no balance; give its inputs as probe="
            )
            return None
        return Probe(
            target.name,
            target.module,
            calls,
            rank=trainer.global_rank,
            ranks=trainer.world_size,
            gather=lambda rows: all_rows(trainer, rows),
            most_rows=self._max_tracked_rows,
            root=trainer.lightning_module,
        )


def _owner(trainer: Trainer, target: TableTarget | OutputTarget) -> tuple[torch.optim.Optimizer, int] | None:
    """The optimizer and the parameter group that train a table, or the first parameter of a submodule."""
    wanted = (target.parameter,) if isinstance(target, TableTarget) else tuple(target.module.parameters())
    for parameter in wanted:
        for optimizer in _followed(trainer):
            number = _group_number(optimizer, parameter)
            if number is not None:
                return optimizer, number
    if isinstance(target, OutputTarget) and _followed(trainer):
        return _followed(trainer)[0], 0
    return None


def _plan(
    trainer: Trainer,
    pl_module: LightningModule,
    optimizer: torch.optim.Optimizer,
    group: Callable[[], int],
    skipped: Callable[[], int],
) -> TrainingPlan:
    """What the trainer knows about one parameter group."""
    return TrainingPlan(
        rule=lambda: equilibrium_rule(optimizer, group()),
        total_steps=lambda: _total_steps(trainer, pl_module),
        skipped_steps=skipped,
        future_lrs=lambda steps: future_lrs(trainer, pl_module, optimizer, group(), steps),
    )


def _trains(target: TableTarget | OutputTarget) -> bool:
    """Whether a target is there to be trained."""
    return isinstance(target, OutputTarget) or target.parameter.requires_grad


def _group_number(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> int | None:
    """Which parameter group holds a parameter now."""
    groups = enumerate(optimizer.param_groups)
    return next((number for number, group in groups if any(p is parameter for p in group["params"])), None)


def _followed(trainer: Trainer) -> list[torch.optim.Optimizer]:
    """The optimizers that say when they have made a step; a look-alike of torch's may not."""
    return [optimizer for optimizer in trainer.optimizers if hasattr(optimizer, "register_step_post_hook")]


def _total_steps(trainer: Trainer, pl_module: LightningModule) -> int | None:
    """Steps that each optimizer will make in this run; ``None`` if it has no set end."""
    total = trainer.estimated_stepping_batches
    if not 0 < total < float("inf"):  # -1 for a stream of no known length
        return None
    if not pl_module.automatic_optimization and trainer.max_steps > 0:
        total = min(total, trainer.max_steps // len(trainer.optimizers))  # which counts the steps of all of them
    return max(1, int(total))


def _history_root(trainer: Trainer) -> Path | None:
    log_dir = trainer.log_dir or trainer.default_root_dir  # asked on every rank: it is broadcast
    if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
        return None
    if "://" in str(log_dir):
        rank_zero_warn(f"normdyn history: '{log_dir}' is no folder of this machine, so no norm history is saved there")
        return None
    return fresh_root(log_dir, id(trainer), resumes=trainer.ckpt_path is not None)


def _description(
    target: TableTarget | OutputTarget, rule: EquilibriumRule, group: dict[str, Any], total_steps: int | None
) -> dict[str, Any]:
    described: dict[str, Any] = {"target": target.name, "kind": target.kind}
    if isinstance(target, TableTarget):
        described |= {
            "rows": target.rows,
            "dim": target.dim,
            "tracked_rows": target.tracked_rows,
            "row_stride": target.stride,
        }
    settings = {"lr": nominal_lr(group), "weight_decay": float(group.get("weight_decay") or 0.0)}
    return (
        described
        | settings
        | {
            "optimizer": rule.optimizer,
            **({"law": rule.law} if isinstance(target, TableTarget) else {}),
            "total_steps": total_steps,
            "version": __version__,
        }
    )


def _loss_scale(trainer: Trainer) -> float:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return float(scaler.get_scale()) if scaler is not None else 1.0


def _unscales_itself(trainer: Trainer, optimizer: torch.optim.Optimizer) -> bool:
    """Whether gradients stay scaled up to the update: a fused optimizer under a loss scaler."""
    has_scaler = getattr(trainer.precision_plugin, "scaler", None) is not None
    return has_scaler and getattr(optimizer, "_step_supports_amp_scaling", False)
