"""A model under observation: its targets found, a watch on each, and what they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lightning_normdyn._version import __version__
from lightning_normdyn.capture.backward_norm import BackwardNorm
from lightning_normdyn.capture.call import Call
from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.probe import Probe, UnusableInputsError
from lightning_normdyn.capture.sharded import reshard
from lightning_normdyn.capture.table import TableTarget
from lightning_normdyn.capture.targets import find_targets
from lightning_normdyn.core.dynamics.optimizers import EquilibriumRule, equilibrium_rule, nominal_lr
from lightning_normdyn.history.log import Outage
from lightning_normdyn.history.run import TargetHistory, folder_name
from lightning_normdyn.instruments.encoder_balance import EncoderBalance, EncoderPlan
from lightning_normdyn.instruments.encoder_watch import EncoderWatch
from lightning_normdyn.instruments.fit import TrainingPlan
from lightning_normdyn.instruments.output_watch import OutputWatch
from lightning_normdyn.instruments.owner import Owner, find_owner, group_number
from lightning_normdyn.instruments.probe_source import ProbeSource, given_calls, probe_of
from lightning_normdyn.instruments.recorder import Recorder
from lightning_normdyn.instruments.run import Run
from lightning_normdyn.instruments.suite import Selection, Suite
from lightning_normdyn.instruments.table_watch import TableWatch
from lightning_normdyn.instruments.watch import Watch
from lightning_normdyn.instruments.weight_decays import WeightDecays

PREFIX = "normdyn"


class Observation:
    """Builds what a suite of instruments needs to follow the targets of a model through a run.

    Args:
        module: the model.
        run: what the training loop tells.
        suite: the instruments.
        selection: the targets.
        name: who observes, for messages.
        root: folder of the histories; ``None`` to keep none.

    Raises:
        ValueError: if a pattern matches nothing, or only what is no table of embeddings.
    """

    def __init__(
        self, module: torch.nn.Module, run: Run, suite: Suite, selection: Selection, *, name: str, root: Path | None
    ) -> None:
        self._module, self._run, self._suite, self._selection = module, run, suite, selection
        self._name, self._root = name, root
        self._target_names: list[str] = []
        self._latest: dict[str, float] = {}
        self.recorder = self._build()

    def begin(self, steps_made: int, state: dict[str, Any] | None = None) -> None:
        """Starts to listen, after the weights were restored.

        Args:
            steps_made: optimizer steps that the run made before, for targets whose state does not tell.
            state: what the recorder of an earlier run gave; if it cannot be used, the statistics start afresh.
        """
        reshard(self._module)
        if state is not None:
            try:
                self.recorder.load_state_dict(state)
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                self._warn(
                    f"the checkpoint's norm statistics cannot be used ({error}); they start afresh, the training "
                    "itself resumes as usual"
                )
                self.recorder = self._build()
        for watch in self.recorder.watches:
            self._describe(watch)
        self.recorder.begin(steps_made)

    def drain(self) -> dict[str, float]:
        """``normdyn/<target>/<quantity>`` to the finite scalars read since the last call."""
        drained = self.recorder.drain()
        found = {f"{PREFIX}/{name}/{key}": value for name, values in drained.items() for key, value in values.items()}
        self._latest |= found
        return found

    def conclude(self) -> None:
        """One line a target: what the fit came to, or that no step was seen."""
        for watch in self.recorder.watches:
            target = watch.target
            if not watch.steps and (isinstance(target, OutputTarget) or target.parameter.requires_grad):
                self._warn(
                    f"no optimizer step of '{target.name}' was seen: no gradient reached it, or its optimizer was "
                    "replaced or stepped out of sight (in Lightning: use_pl_optimizer=False)"
                )
            found = conclusion(self._latest, f"{PREFIX}/{target.name}/")
            if found:
                self._inform(f"'{target.name}': {found}")

    def stop(self) -> None:
        """Puts the history on disk and removes every hook."""
        self.recorder.flush()
        self.recorder.detach()

    def _build(self) -> Recorder:
        selection = self._selection
        targets = find_targets(self._module, selection.targets, max_tracked_rows=selection.max_tracked_rows)
        self._target_names = [target.name for target in targets]
        outage = Outage()
        watches = (self._watch(target, self._history(target.name, outage)) for target in targets)
        return Recorder([watch for watch in watches if watch is not None])

    def _history(self, name: str, outage: Outage) -> TargetHistory | None:
        return TargetHistory(self._root / folder_name(name), outage=outage) if self._root is not None else None

    def _watch(self, target: TableTarget | OutputTarget, history: TargetHistory | None) -> Watch | None:
        owner = find_owner(target, self._run.followed())
        if owner is None:
            self._warn(f"no optimizer trains '{target.name}', so it is not watched")
            return None
        if isinstance(target, OutputTarget):
            return self._watch_output(target, owner.optimizer, history)
        return self._watch_table(target, owner, history)

    def _watch_table(self, target: TableTarget, owner: Owner, history: TargetHistory | None) -> TableWatch:
        def group_now() -> int:
            return group_number(owner.optimizer, target.parameter) or 0

        plan = self._plan(owner.optimizer, group_now, lambda: watch.skipped)
        if self._run.ranks.size > 1:
            target.ids_tell = False  # this rank does not see the ids of the others
        if self._run.hears_backward:
            target.backward_norm = BackwardNorm(target.parameter, self._run.loss_scale)
        watch = TableWatch(target, *owner, self._suite.instruments(target, plan), history)
        return watch

    def _watch_output(
        self, target: OutputTarget, optimizer: torch.optim.Optimizer, history: TargetHistory | None
    ) -> OutputWatch:
        source = probe_of(self._selection.probe, target.name, self._target_names)
        balance = self._balance(target, optimizer, source, lambda: watch.skipped)
        watched = target, optimizer, self._suite.output_cadence()
        ranks = self._run.ranks
        options: dict[str, Any] = {
            "loss_scale": self._run.loss_scale,
            "merge_ranks": ranks.merge_steps,
            "ranks": ranks.size,
            "history": history,
        }
        watch: OutputWatch
        if balance is None:
            watch = OutputWatch(*watched, **options)
        else:
            items = self._selection.probe_items if source is None else 0
            watch = EncoderWatch(*watched, balance=balance, probe_items=items, **options)
        return watch

    def _balance(
        self,
        target: OutputTarget,
        optimizer: torch.optim.Optimizer,
        source: ProbeSource,
        skipped: Callable[[], int],
    ) -> EncoderBalance | None:
        if source is False or not any(parameter.requires_grad for parameter in target.module.parameters()):
            return None
        decays = WeightDecays(target.module, self._run.followed(), optimizer)
        training = self._plan(optimizer, lambda: decays.group_number, skipped)
        make_probe = partial(self._make_probe, target, source)
        return self._suite.balance(EncoderPlan(training, decays.rates, lambda: decays.group, make_probe))

    def _plan(
        self, optimizer: torch.optim.Optimizer, group: Callable[[], int], skipped: Callable[[], int]
    ) -> TrainingPlan:
        """What the run knows about one parameter group."""
        return TrainingPlan(
            rule=lambda: equilibrium_rule(optimizer, group()),
            total_steps=self._run.total_steps,
            skipped_steps=skipped,
            future_lrs=lambda steps: self._run.future_lrs(optimizer, group(), steps),
        )

    def _make_probe(
        self, target: OutputTarget, source: ProbeSource, heard: list[Call], of_all_ranks: bool
    ) -> Probe | None:
        """The probe of an encoder: the user's, or made of what it was called with; called on every rank."""
        ranks = self._run.ranks
        if ranks.share_batches:
            self._warn(
                "some ranks share a batch (tensor parallelism), which a probe cannot follow yet, so the norms of "
                f"'{target.name}' have no balance"
            )
            return None
        calls = given_calls(source, target.name, self._selection.probe_items)
        given = calls is not None
        if calls is None:
            calls = heard if of_all_ranks else ranks.all_calls(heard)
            calls = [call for call in calls if call.tensors() and call.rows() >= ranks.size]
        if not calls:
            self._warn(
                f"'{target.name}' was not called with anything that could be encoded again, so its norms have no "
                "balance; give its inputs as probe="
            )
            return None
        try:
            return Probe(
                target.name,
                target.module,
                calls,
                rank=ranks.rank,
                ranks=ranks.size,
                gather=ranks.all_rows,
                most_rows=self._selection.max_tracked_rows,
                root=self._module,
            )
        except UnusableInputsError as error:
            if given:
                raise
            self._warn(f"{error}; meanwhile its norms have no balance")
            return None

    def _describe(self, watch: Watch) -> None:
        """Puts on record what is watched. Not before training starts: the number of steps would load the data early."""
        owner = find_owner(watch.target, self._run.followed())
        assert owner is not None
        rule = equilibrium_rule(*owner)
        if watch.history is not None:
            settings = owner.optimizer.param_groups[owner.group]
            watch.history.describe(_description(watch.target, rule, settings, self._run.total_steps()))
        if isinstance(watch.target, TableTarget) and rule.radial_decay <= 0:
            self._inform(f"'{watch.target.name}' under {rule.optimizer}: {rule.law}")

    def _warn(self, message: str) -> None:
        self._run.warn(f"{self._name}: {message}")

    def _inform(self, message: str) -> None:
        self._run.inform(f"{self._name}: {message}")


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


_SETTLING = 0.5


def conclusion(metrics: Mapping[str, Any], prefix: str) -> str:
    """Puts the fit of one target into words; empty if there was none.

    Args:
        metrics: the trainer's metrics.
        prefix: what the target's keys start with.

    Example:
        >>> conclusion({"a/transient_slope": 1.0, "a/transient_median_error": 0.012, "a/forecast_skill": 0.9}, "a/")
        'norms predicted with slope 1.00, 1.2% off (median); forecast for the end: skill 0.90'
    """
    found = {key.removeprefix(prefix): float(value) for key, value in metrics.items() if key.startswith(prefix)}
    parts = []
    if "transient_median_error" in found:
        fit = [f"slope {found['transient_slope']:.2f}"] if "transient_slope" in found else []
        fit += [f"r {found['transient_pearson_r']:.3f}"] if "transient_pearson_r" in found else []
        parts.append("norms predicted with " + ", ".join([*fit, f"{found['transient_median_error']:.1%} off (median)"]))
    if "equilibrium_median_error" in found:
        parts.append(f"{found['equilibrium_median_error']:.1%} away from equilibrium")
    if found.get("stationarity", 1.0) < _SETTLING:
        parts.append("not settled: the norms mostly repeat where they started")
    if "forecast_skill" in found:
        parts.append(f"forecast for the end: skill {found['forecast_skill']:.2f}")
    return "; ".join(parts)
