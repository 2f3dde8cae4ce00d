"""Every hook is removed, whatever ends the training, and none is registered twice."""

from __future__ import annotations

import pickle

import pytest
import torch
from pytorch_lightning import Callback
from small_models import Lit, NoisyModel, pair_batches, seeded

from lightning_normdyn.callbacks import EquilibriumFitMonitor, GradientSplitMonitor, NormDynamics, NormTrajectoryMonitor

TARGETS = ["net.table.weight", "net.encoder"]


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1)


def hooks(module):
    """Every kind of hook on the modules, parameters and optimizers of a LightningModule."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    on_modules = sum(len(getattr(child, kind)) for child in module.modules() for kind in kinds)
    on_parameters = sum(
        len(getattr(p, kind) or {})
        for p in module.parameters()
        for kind in ("_backward_hooks", "_post_accumulate_grad_hooks")
    )
    optimizers = module.trainer.optimizers
    on_optimizers = sum(len(o._optimizer_step_post_hooks) + len(o._optimizer_step_pre_hooks) for o in optimizers)
    return on_modules + on_parameters + on_optimizers


class Counting(Callback):
    """Counts the hooks while training runs."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(hooks(pl_module))


class Failing(Lit):
    """Raises what it is given, in the place it is given."""

    def __init__(self, *args, where, error):
        super().__init__(*args)
        self.where, self.error = where, error

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if batch_idx == 3:
            self._fail("training_step")
        return loss

    def on_fit_start(self):
        self._fail("on_fit_start")

    def on_train_start(self):
        self._fail("on_train_start")

    def on_train_end(self):
        self._fail("on_train_end")

    def _fail(self, where):
        if where == self.where:
            raise self.error


MONITORS = [NormDynamics, EquilibriumFitMonitor, GradientSplitMonitor, NormTrajectoryMonitor]


@pytest.mark.parametrize("monitor", MONITORS)
def test_hooks_live_while_training_does(fit, monitor):
    module, counting = Lit(seeded(NoisyModel), sgd), Counting()
    fit(module, pair_batches(5), monitor(targets=TARGETS), counting)
    # Encoder and optimizer, before and after; the table before a step alone whose touched rows are read.
    assert set(counting.seen) == {4 + (monitor in (NormDynamics, EquilibriumFitMonitor))}
    assert hooks(module) == 0


@pytest.mark.parametrize("error", [RuntimeError("the user's own"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("where", ["on_fit_start", "on_train_start", "training_step", "on_train_end"])
def test_hooks_are_removed_when_training_fails(fit, where, error):
    module = Failing(seeded(NoisyModel), sgd, where=where, error=error)
    with pytest.raises((RuntimeError, KeyboardInterrupt, SystemExit)):
        fit(module, pair_batches(5), NormDynamics(targets=TARGETS, every_n_steps=1))
    assert hooks(module) == 0


def test_a_second_fit_of_one_callback_neither_doubles_nor_mixes(fit):
    callback, counting = NormDynamics(targets=TARGETS, every_n_steps=1), Counting()
    first, second = (Lit(seeded(NoisyModel, seed), sgd) for seed in (0, 1))
    fit(first, pair_batches(5), callback, counting)
    torch.manual_seed(2)
    trainer = fit(second, pair_batches(5), callback, counting)
    assert set(counting.seen) == {5}
    assert hooks(second) == 0
    torch.manual_seed(2)
    fresh = fit(Lit(seeded(NoisyModel, 1), sgd), pair_batches(5), NormDynamics(targets=TARGETS, every_n_steps=1))
    for target in TARGETS:
        assert trainer.logger.of(target) == fresh.logger.of(target)


def test_a_second_fit_after_a_failure(fit):
    callback = NormDynamics(targets=TARGETS, every_n_steps=1)
    with pytest.raises(RuntimeError):
        fit(Failing(seeded(NoisyModel), sgd, where="training_step", error=RuntimeError()), pair_batches(5), callback)
    module, counting = Lit(seeded(NoisyModel), sgd), Counting()
    fit(module, pair_batches(5), callback, counting)
    assert set(counting.seen) == {5}
    assert hooks(module) == 0


def test_the_count_can_fail(fit):
    """A callback that forgets its hook is caught."""

    class Forgetful(Callback):
        def on_fit_start(self, trainer, pl_module):
            pl_module.net.table.register_forward_hook(lambda *_: None)

    module = Lit(seeded(NoisyModel), sgd)
    fit(module, pair_batches(2), Forgetful())
    assert hooks(module) == 1


def test_the_command_that_draws_the_run_is_said_once_however_many_monitors_keep_it(fit, monkeypatch, tmp_path):
    messages = []
    monkeypatch.setattr("lightning_normdyn.callbacks.trainer_run.rank_zero_info", messages.append)
    monitors = [NormTrajectoryMonitor(), EquilibriumFitMonitor(window=4), GradientSplitMonitor(save_history=False)]
    fit(Lit(seeded(NoisyModel), sgd), pair_batches(4), *monitors)
    assert sum("normdyn report" in message for message in messages) == 1
    messages.clear()
    fit(Lit(seeded(NoisyModel), sgd), pair_batches(4), NormDynamics(save_history=False))
    assert not any("normdyn report" in message for message in messages)


class Suite(Callback):
    """Passes every call on to a callback that the trainer does not know."""

    def __init__(self, callback):
        self.callback = callback


PASSED_ON = ("setup", "on_fit_start", "on_train_start", "on_before_optimizer_step", "on_train_batch_end")
PASSED_ON += ("on_train_batch_start", "on_before_zero_grad", "on_after_backward", "on_train_end", "teardown")
for hook in PASSED_ON:
    setattr(Suite, hook, lambda self, *args, hook=hook, **kwargs: getattr(self.callback, hook)(*args, *kwargs.values()))


def test_a_monitor_within_another_callback_is_called_as_any(fit):
    dynamics = NormDynamics(targets=["net.table.weight"], save_history=False, every_n_steps=1)
    trainer = fit(Lit(seeded(NoisyModel), sgd), pair_batches(3), Suite(dynamics))
    assert trainer.global_step == 3
    assert trainer.callback_metrics["normdyn/net.table.weight/norm_mean"] > 0


def test_a_monitor_goes_to_another_process_as_to_spawned_ranks():
    dynamics = pickle.loads(pickle.dumps(NormDynamics(targets=["net.table.weight"])))
    assert dynamics.options["targets"] == ["net.table.weight"]
