"""Lightning is not asked to call hooks in which a monitor does nothing; all others are called, and all come back."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.trainer import call
from small_models import Lit, NoisyModel, pair_batches, seeded

from lightning_normdyn.callbacks import NormDynamics

IDLE = {"on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"}
BUSY = {"on_before_optimizer_step", "on_train_batch_end"}


class CallRecord(Profiler):
    """Notes which hooks of which callbacks Lightning calls."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def start(self, action_name):
        self.calls.append(action_name)

    def stop(self, action_name):
        pass

    def hooks_of(self, callback):
        prefix = f"[Callback]{callback.state_key}."
        return [name.removeprefix(prefix) for name in self.calls if name.startswith(prefix)]


class Bystander(Callback):
    """Does something within each step of another callback's run."""

    def __init__(self, action):
        self.action = action

    def on_before_optimizer_step(self, *_):
        self.action()


class Curious(NormDynamics):
    """Uses two of the hooks, and calls what it inherits."""

    def __init__(self, **options):
        super().__init__(**options)
        self.batches = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self.batches.append(batch_idx)

    def on_after_backward(self, trainer, pl_module):
        super().on_after_backward(trainer, pl_module)
        super().on_before_backward(trainer, pl_module, torch.zeros(()))
        self.batches.append("backward")


class Suite(Callback):
    """Passes every call on to callbacks that the trainer does not know."""

    def __init__(self, *callbacks):
        self.callbacks = callbacks

    def pass_on(self, hook, *args):
        for callback in self.callbacks:
            getattr(callback, hook)(*args)


def passed_on(hook):
    return lambda self, *args, **kwargs: self.pass_on(hook, *args, *kwargs.values())


for name in (*IDLE, *BUSY, "setup", "on_fit_start", "on_train_start", "on_train_end", "on_fit_end", "teardown"):
    setattr(Suite, name, passed_on(name))


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1)


def model():
    return Lit(seeded(NoisyModel), sgd)


def has_all_hooks(callback):
    return not IDLE & vars(callback).keys() and all(callable(getattr(callback, hook)) for hook in IDLE)


def test_hooks_with_nothing_to_do_are_not_called(fit):
    dynamics, other, record = NormDynamics(targets=["net.table.weight"]), Bystander(lambda: None), CallRecord()
    fit(model(), pair_batches(3), dynamics, other, profiler=record)
    assert IDLE.isdisjoint(record.hooks_of(dynamics))
    assert all(record.hooks_of(dynamics).count(hook) == 3 for hook in BUSY)
    assert all(record.hooks_of(other).count(hook) == 3 for hook in IDLE | BUSY)
    assert has_all_hooks(dynamics)


def test_hooks_of_a_subclass_are_called_and_may_call_their_base(fit):
    curious, record = Curious(targets=["net.table.weight"], every_n_steps=1), CallRecord()
    trainer = fit(model(), pair_batches(2), curious, profiler=record)
    assert curious.batches == [0, "backward", 1, "backward"]
    assert IDLE & set(record.hooks_of(curious)) == {"on_train_batch_start", "on_after_backward"}
    assert trainer.callback_metrics["normdyn/net.table.weight/norm_mean"] > 0
    assert has_all_hooks(curious)


def test_a_monitor_within_another_callback_keeps_the_hooks_that_are_called_there(fit):
    dynamics = NormDynamics(targets=["net.table.weight"], save_history=False, every_n_steps=1)
    trainer = fit(model(), pair_batches(3), Suite(dynamics))
    assert trainer.global_step == 3
    assert trainer.callback_metrics["normdyn/net.table.weight/norm_mean"] > 0


@pytest.mark.parametrize("error", [RuntimeError("the user's own"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_hooks_come_back_when_training_fails(fit, error):
    dynamics, states = NormDynamics(targets=["net.table.weight"]), []

    def fail():
        states.append(has_all_hooks(dynamics))
        raise error

    with pytest.raises((RuntimeError, KeyboardInterrupt, SystemExit)):
        fit(model(), pair_batches(3), dynamics, Bystander(fail))
    assert states == [False]
    assert has_all_hooks(dynamics)


def test_a_copy_that_is_made_in_mid_run_has_all_hooks(fit):
    dynamics, copies = NormDynamics(targets=["net.table.weight"]), []
    bystander = Bystander(lambda: copies.extend((copy.copy(dynamics), copy.deepcopy(dynamics))))
    fit(model(), pair_batches(2), dynamics, bystander)
    assert len(copies) == 4
    assert all(has_all_hooks(each) for each in copies)


def test_a_monitor_goes_to_another_process_as_to_spawned_ranks():
    dynamics = pickle.loads(pickle.dumps(NormDynamics(targets=["net.table.weight"])))
    assert dynamics.options["targets"] == ["net.table.weight"]


def test_a_lightning_that_would_fail_on_a_missing_hook_calls_all(fit, monkeypatch):
    plain = call._call_callback_hooks

    def without_a_check(trainer, hook_name, *args, **kwargs):
        for callback in trainer.callbacks:
            if getattr(callback, hook_name) is None:
                raise TypeError("'NoneType' object is not callable")
        plain(trainer, hook_name, *args, **kwargs)

    monkeypatch.setattr(call, "_call_callback_hooks", without_a_check)
    dynamics, record = NormDynamics(targets=["net.table.weight"]), CallRecord()
    fit(model(), pair_batches(2), dynamics, profiler=record)
    assert all(record.hooks_of(dynamics).count(hook) == 2 for hook in IDLE | BUSY)
