"""``WatchFactory``: builds the watch of a target, with the measurements, the plan and the probe that it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from lightning_normdyn.capture.backward_norm import BackwardNorm
from lightning_normdyn.capture.call import Call
from lightning_normdyn.capture.fused_table import FusedTable
from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.probe import Probe, UnusableInputsError
from lightning_normdyn.capture.sharded import computes_with_others, is_reduced_by_nobody
from lightning_normdyn.capture.table import TableTarget
from lightning_normdyn.caution import caution
from lightning_normdyn.core.dynamics.law_inputs import OptimizerMemory
from lightning_normdyn.core.dynamics.optimizer_memory import optimizer_memory
from lightning_normdyn.core.dynamics.optimizers import equilibrium_rule
from lightning_normdyn.core.sharded_tensor import are_flat_pieces
from lightning_normdyn.history.run_writer import TargetWriter
from lightning_normdyn.instruments.encoder_balance import EncoderBalance, EncoderPlan
from lightning_normdyn.instruments.encoder_watch import EncoderWatch
from lightning_normdyn.instruments.instrument import InstrumentAdapter, adapters_of
from lightning_normdyn.instruments.instrument_factory import Measures
from lightning_normdyn.instruments.options import NormOptions
from lightning_normdyn.instruments.output_watch import OutputWatch
from lightning_normdyn.instruments.parameter_groups import (
    ParameterGroup,
    WeightDecays,
    find_parameter_group,
    group_number,
)
from lightning_normdyn.instruments.probe_source import ProbeSource, probe_of, user_calls
from lightning_normdyn.instruments.table_watch import TableWatch
from lightning_normdyn.instruments.training_run import Run
from lightning_normdyn.instruments.watch import Watch
from lightning_normdyn.instruments.windowed_fit import TrainingPlan


class WatchFactory:
    """Builds the watches of a run's targets.

    Args:
        module: the model.
        run: what the training loop tells.
        measures: what is measured.
        options: what :func:`complete_options` gives; each of the instruments can be copied.
        target_names: of all targets, which options that go by target are told apart by.
        has_other_ranks: whether others train the model too, even if the run knows of none.
        warn: says a sentence to the user, on the first rank.
        say_here: says one on any rank, of what may have come up there alone.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        run: Run,
        measures: Measures,
        options: NormOptions,
        *,
        target_names: Sequence[str],
        has_other_ranks: bool,
        warn: Callable[[str], None],
        say_here: Callable[[str], None],
    ) -> None:
        self._run, self._target_names, self._has_other_ranks = run, target_names, has_other_ranks
        self._module, self._measures, self._options = module, measures, options
        self._warn, self._say_here = warn, say_here

    def watch(self, target: TableTarget | OutputTarget, history: TargetWriter | None) -> Watch | None:
        """The watch of a target; ``None``, and a warning, where no optimizer trains it.

        Args:
            target: what is watched.
            history: where rows and scalars are recorded; ``None`` to keep nothing.
        """
        trainer = find_parameter_group(target, self._run.followed())
        if trainer is None:
            self._warn(f"no optimizer trains '{target.name}', so it is not watched{_fused_hint(target)}")
            return None
        if isinstance(target, OutputTarget):
            return self._watch_output(target, trainer.optimizer, history)
        return self._watch_table(target, trainer, history)

    def _watch_table(
        self, target: TableTarget, trainer: ParameterGroup, history: TargetWriter | None
    ) -> TableWatch | None:
        def group_now() -> int:
            return group_number(trainer.optimizer, target.parameter) or 0

        if target.is_spread and self._has_other_ranks and self._run.ranks.size == 1:
            caution(f"'{target.name}': not watched, since its rows are sharded over ranks that do not take part")
            return None
        if self._has_other_ranks and is_reduced_by_nobody(target.parameter, self._module):
            self._warn(
                f"'{target.name}' is in no unit of FSDP, which reduces no gradient of it, so that each rank trains a "
                "table of its own; what is logged is the first rank's. Put it into a unit, or average its gradient by "
                "register_post_accumulate_grad_hook"
            )
        plan = self._plan(trainer.optimizer, group_now, lambda: watch.skipped_steps)
        if isinstance(target, FusedTable):
            target.group = trainer.optimizer.param_groups[trainer.number]
            plan = plan._replace(memory=lambda *_: OptimizerMemory(target.accumulated()))
        if self._has_other_ranks:
            target.ids_tell = False  # this rank does not see the ids of the others
        if self._run.hears_backward and not target.is_fused:
            target.backward_norm = BackwardNorm(target.parameter, self._run.loss_scale)
        instruments = self._measures.of_table(target, trainer.optimizer, plan, self._options) | self._adapters(target)
        watch = TableWatch(target, *trainer, instruments, history)
        return watch

    def _watch_output(
        self, target: OutputTarget, optimizer: torch.optim.Optimizer, history: TargetWriter | None
    ) -> OutputWatch:
        source = probe_of(self._options["probe"], target.name, self._target_names)
        if source is not False and are_flat_pieces(list(target.module.parameters()) or self._module.parameters()):
            self._warn(
                f"'{target.name}': FullyShardedDataParallel (FSDP1) keeps its weights as flat pieces, with which "
                "nothing can be encoded between steps, so its norms have no balance; shard it by fully_shard (FSDP2), "
                "or switch the probe off with probe=False"
            )
            source = False
        balance = self._balance(target, optimizer, source, lambda: watch.skipped_steps)
        ranks = self._run.ranks
        options: dict[str, Any] = {
            "loss_scale": self._run.loss_scale,
            "merge_ranks": ranks.merge_steps,
            "merge_vectors": partial(ranks.merge_vectors, most_rows=self._options["max_tracked_rows"]),
            "ranks": ranks.size,
            "adapters": self._adapters(target),
            "history": history,
        }
        watch: OutputWatch
        cadence = self._measures.output_cadence(self._options)
        if balance is None:
            watch = OutputWatch(target, optimizer, cadence, **options)
        else:
            items = self._options["probe_items"] if source is None else 0
            watch = EncoderWatch(target, optimizer, cadence, balance=balance, probe_items=items, **options)
        return watch

    def _adapters(self, target: TableTarget | OutputTarget) -> dict[str, InstrumentAdapter]:
        return adapters_of(self._options["instruments"], target.name, self._options["every_n_steps"], self._say_here)

    def _balance(
        self,
        target: OutputTarget,
        optimizer: torch.optim.Optimizer,
        source: ProbeSource,
        skipped_steps: Callable[[], int],
    ) -> EncoderBalance | None:
        if source is False or not any(parameter.requires_grad for parameter in target.module.parameters()):
            return None
        decays = WeightDecays(target.module, self._run.followed(), optimizer)
        training = self._plan(optimizer, lambda: decays.group_number, skipped_steps)
        make_probe = partial(self._make_probe_together, target, source)
        encoder_plan = EncoderPlan(training, decays.rates, lambda: decays.group, make_probe)
        return self._measures.of_probe(encoder_plan, self._options)

    def _plan(
        self, optimizer: torch.optim.Optimizer, group: Callable[[], int], skipped_steps: Callable[[], int]
    ) -> TrainingPlan:
        """What the run knows about one parameter group."""
        return TrainingPlan(
            rule=lambda: equilibrium_rule(optimizer, group()),
            total_steps=partial(self._run.total_steps, optimizer),
            skipped_steps=skipped_steps,
            future_rates=lambda steps, rates: self._run.future_rates(optimizer, group(), steps, rates),
            memory=lambda table, products: optimizer_memory(optimizer, table, products=products),
        )

    def _make_probe_together(
        self, target: OutputTarget, source: ProbeSource, training_calls: list[Call], of_all_ranks: bool
    ) -> Probe | None:
        """The probe of an encoder; none where a rank could not make its own."""
        ranks, probe = self._run.ranks, None
        try:
            probe = self._make_probe(target, source, training_calls, of_all_ranks)
        finally:
            if ranks.size > 1 and not of_all_ranks:
                have_probes = ranks.all_gather(torch.tensor(float(probe is not None), device=ranks.device))
        return probe if ranks.size == 1 or of_all_ranks or bool(have_probes.all()) else None

    def _make_probe(
        self, target: OutputTarget, source: ProbeSource, training_calls: list[Call], of_all_ranks: bool
    ) -> Probe | None:
        """The probe of an encoder: the user's, or made of what it was called with; called on every rank."""
        ranks = self._run.ranks
        if ranks.share_batches or (ranks.size > 1 and computes_with_others(target.module, self._module)):
            self._warn(
                "some ranks share a batch (tensor parallelism), which a probe cannot follow yet, so the norms of "
                f"'{target.name}' have no balance"
            )
            return None
        calls = user_calls(source, target.name, self._options["probe_items"], target.module)
        is_users = calls is not None
        if calls is None:
            calls = training_calls if of_all_ranks else ranks.all_calls(training_calls)
            calls = [call for call in calls if call.tensors() and call.rows() >= ranks.size]
        if not calls and of_all_ranks:
            raise ValueError(f"the probe of '{target.name}' was saved without inputs")
        if not calls:
            self._warn(_no_inputs(target))
            return None
        try:
            return Probe(
                target.name,
                target.module,
                calls,
                rank=ranks.rank,
                ranks=ranks.size,
                gather=ranks.all_rows,
                most_rows=self._options["max_tracked_rows"],
                root=self._module,
                key=target.key,
            )
        except UnusableInputsError as error:
            if is_users or of_all_ranks:
                raise
            self._warn(f"{error}; meanwhile its norms have no balance")
            return None


def _fused_hint(target: TableTarget | OutputTarget) -> str:
    """What to do where the optimizer of a table is TorchRec's own."""
    if not isinstance(target, FusedTable):
        return ""
    return "; TorchRec trains it inside of backward, which lightning_normdyn.integrations.torchrec's observer follows"


def _no_inputs(target: OutputTarget) -> str:
    """Why there is no probe of a target, and what to do."""
    if target.reads_computed_inputs:
        return (
            f"the inputs of '{target.name}' require grad, so it is a later part of an encoder and its norms have no "
            "balance; name the module that takes the batch, or the method that does with its inputs as probe=, or "
            "switch the probe off with probe=False"
        )
    return (
        f"'{target.name}' was not called with anything that could be encoded again, so its norms have no balance; give "
        "its inputs as probe="
    )
