"""The effective rates foreseen for a run's own schedulers against those that the run then had."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from pytorch_lightning import Callback
from small_models import Lit, PairTable, pair_batches, seeded
from torch.optim import lr_scheduler

from lightning_normdyn.callbacks.trainer_run import future_rates
from lightning_normdyn.instruments.planned_rates import PlannedRates


class Foreseen(Callback):
    """Looks ahead from inside every step, as the fit does, and notes what each step really had."""

    def __init__(self, total, group=0):
        self.total, self.group = total, group
        self.sentences = []
        self.rates = PlannedRates(self.sentences.append)
        self.real, self.foreseen = [], []

    def on_train_start(self, trainer, pl_module):
        (self.optimizer,) = trainer.optimizers
        self.handle = self.optimizer.register_step_post_hook(functools.partial(self._look, trainer, pl_module))

    def on_train_end(self, trainer, pl_module):
        self.handle.remove()

    def _look(self, trainer, pl_module, optimizer, args, kwargs):
        group = optimizer.param_groups[self.group]
        self.real.append(group["lr"] / (1 - group["momentum"]))
        before = self._states(trainer)
        trace = future_rates(trainer, pl_module, optimizer, self.group, self.total - len(self.real), self.rates)
        assert self._states(trainer) == before
        self.foreseen.append([segment.mean for segment in trace.segments for _ in range(segment.steps)])

    def _states(self, trainer):
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        kept = ("last_epoch", "_last_lr", "_step_count")
        states = [[vars(c.scheduler).get(name) for name in kept] for c in trainer.lr_scheduler_configs]
        return copy.deepcopy((settings, states))


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5)


def scheduled(make, net=None, **config):
    def configure(net):
        optimizer = sgd(net)
        return [optimizer], [{"scheduler": make(optimizer), "interval": "step"} | config]

    return configure


def sequence(optimizer):
    warm_up = lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=10)
    return lr_scheduler.SequentialLR(
        optimizer, [warm_up, lr_scheduler.CosineAnnealingLR(optimizer, 30)], milestones=[10]
    )


def halving(optimizer, every=1):
    return lr_scheduler.StepLR(optimizer, every, gamma=0.5)


def chained(optimizer):
    return lr_scheduler.ChainedScheduler(
        [lr_scheduler.ExponentialLR(optimizer, 0.9), lr_scheduler.LinearLR(optimizer, 0.5, 1.0, total_iters=7)]
    )


# scheduler, its Lightning config, batches of an epoch, epochs, accumulation
EXACT = {
    "cosine": (lambda o: lr_scheduler.CosineAnnealingLR(o, 40), {}, 40, 1, 1),
    "warm restarts": (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7), {}, 40, 1, 1),
    "one cycle to its very end": (lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=40), {}, 20, 2, 1),
    "sequence": (sequence, {}, 40, 1, 1),
    "chained": (chained, {}, 40, 1, 1),
    "by epoch": (halving, {"interval": "epoch"}, 7, 4, 1),
    "every second epoch": (halving, {"interval": "epoch", "frequency": 2}, 5, 6, 1),
    "by epoch with accumulation": (halving, {"interval": "epoch"}, 8, 4, 2),
    "by epoch with a short last accumulation": (halving, {"interval": "epoch"}, 7, 4, 2),
    "every third batch": (halving, {"frequency": 3}, 9, 3, 1),
    "every third batch of an epoch of ten": (halving, {"frequency": 3}, 10, 3, 1),
    "accumulation": (lambda o: lr_scheduler.CosineAnnealingLR(o, 20), {}, 40, 1, 2),
    "every second batch with accumulation": (halving, {"frequency": 2}, 12, 2, 2),
    "every third batch with accumulation": (halving, {"frequency": 3}, 12, 2, 2),
    "every second batch, short last accumulation": (halving, {"frequency": 2}, 7, 3, 3),
}


@pytest.mark.parametrize("case", EXACT)
def test_what_was_foreseen_came_to_pass(fit, case):
    """From every step of the run, for all the steps that remain."""
    make, config, batches, epochs, accumulate = EXACT[case]
    total = -(-batches // accumulate) * epochs
    witness = Foreseen(total)
    module = Lit(seeded(PairTable), scheduled(make, **config))
    fit(module, pair_batches(batches), witness, max_epochs=epochs, accumulate_grad_batches=accumulate)
    assert len(witness.real) == total
    assert len(set(witness.real)) > 2  # else this foresees nothing
    assert not witness.sentences
    for made, foreseen in enumerate(witness.foreseen, 1):
        assert foreseen == pytest.approx(witness.real[made:], rel=1e-12), f"after {made} steps"


class GrowingWithTheTable:
    """A schedule that holds a part of the model and must not be given a copy of it."""

    def __init__(self, table):
        self.table = table

    def __call__(self, step):
        return 1 / (1 + step / self.table.num_embeddings)


@pytest.mark.parametrize("kind", ["closes over the module", "holds a submodule"])
def test_a_schedule_that_knows_the_model_does_not_copy_it(fit, monkeypatch, kind):
    def refuse(self, memo):
        raise AssertionError("the model was copied")

    class Knowing(Lit):
        def configure_optimizers(self):
            optimizer = sgd(self.net)
            rule = GrowingWithTheTable(self.net.table)
            if kind == "closes over the module":
                schedule = lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step / self.net.table.num_embeddings))
            else:
                schedule = lr_scheduler.LambdaLR(optimizer, rule)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    module, witness = Knowing(seeded(PairTable), None), Foreseen(20)
    monkeypatch.setattr(torch.nn.Module, "__deepcopy__", refuse, raising=False)
    monkeypatch.setattr(torch.nn.Parameter, "__deepcopy__", refuse)
    fit(module, pair_batches(20), witness)
    assert len(set(witness.real)) == 20
    for made, foreseen in enumerate(witness.foreseen, 1):
        assert foreseen == pytest.approx(witness.real[made:], rel=1e-12)


def test_each_parameter_group_has_its_own_rates(fit):
    def configure(net):
        optimizer = torch.optim.SGD([{"params": [], "lr": 1.0}, {"params": net.parameters(), "lr": 0.5}])
        rules = [lambda _: 1.0, lambda step: 0.9**step]
        return [optimizer], [{"scheduler": lr_scheduler.LambdaLR(optimizer, rules), "interval": "step"}]

    witness = Foreseen(12, group=1)
    fit(Lit(seeded(PairTable), configure), pair_batches(12), witness)
    assert witness.foreseen[3] == pytest.approx([0.5 * 0.9**step for step in range(4, 12)])


def test_two_schedules_of_one_optimizer(fit):
    """Warm-up by step and decay by epoch."""

    def configure(net):
        optimizer = sgd(net)
        warm_up = lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=5)
        return [optimizer], [{"scheduler": warm_up, "interval": "step"}, {"scheduler": halving(optimizer)}]

    witness = Foreseen(30)
    fit(Lit(seeded(PairTable), configure), pair_batches(10), witness, max_epochs=3)
    for made, foreseen in enumerate(witness.foreseen, 1):
        assert foreseen == pytest.approx(witness.real[made:], rel=1e-9), f"after {made} steps"


def stays(witness):
    for made, foreseen in enumerate(witness.foreseen, 1):
        assert foreseen == [witness.real[made - 1]] * (witness.total - made)


def test_no_schedule(fit):
    witness = Foreseen(10)
    fit(Lit(seeded(PairTable), sgd), pair_batches(10), witness)
    stays(witness)


def test_a_schedule_that_waits_for_a_metric_is_taken_to_stay(fit):
    class OnPlateau(Lit):
        def training_step(self, batch, batch_idx):
            self.log("loss", 1.0)
            return super().training_step(batch, batch_idx)

    configure = scheduled(
        lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
        interval="epoch",
        monitor="loss",
        reduce_on_plateau=True,
    )
    witness = Foreseen(20)
    fit(OnPlateau(seeded(PairTable), configure), pair_batches(4), witness, max_epochs=5)
    assert len(set(witness.real)) > 1
    stays(witness)


class HomeMade:
    """A scheduler of the user's own, with nothing but what Lightning asks for."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, *anything):
        self.optimizer.param_groups[0]["lr"] *= 0.9

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Delicate(lr_scheduler.LRScheduler):
    """Refuses to be stepped further than it was made for."""

    def get_lr(self):
        if self.last_epoch > 12:
            raise ValueError("stepped past the end")
        return [0.1 * 0.9**self.last_epoch]


class OwnStep(Lit):
    def lr_scheduler_step(self, scheduler, metric):
        scheduler.step()


def test_a_scheduler_of_a_stranger_is_taken_to_stay(fit):
    witness = Foreseen(10)
    fit(OwnStep(seeded(PairTable), scheduled(HomeMade)), pair_batches(10), witness)
    assert witness.real[-1] == pytest.approx(0.2 * 0.9**9)
    stays(witness)


def test_a_scheduler_that_fails_beyond_its_end_keeps_its_last_rate(fit):
    """More steps are asked for than it allows, as when a loss scaler skipped some: the run must not die of it."""
    witness = Foreseen(20)
    fit(Lit(seeded(PairTable), scheduled(Delicate)), pair_batches(12), witness)
    assert len(witness.real) == 12
    assert witness.foreseen[0] == pytest.approx([0.2 * 0.9 ** min(step, 12) for step in range(1, 20)])


@pytest.mark.parametrize("configure", [scheduled(HomeMade)])
def test_what_cannot_be_run_ahead_is_said_once_and_lrs_stand_in(fit, configure):
    blind, told = Foreseen(10), Foreseen(10)
    told.rates = PlannedRates(told.sentences.append, lambda step: 0.1 * 0.9**step)
    for witness in (blind, told):
        fit(OwnStep(seeded(PairTable), configure), pair_batches(10), witness)
    assert len(blind.sentences) == 1
    assert "lrs=" in blind.sentences[0]
    assert not told.sentences
    for made, foreseen in enumerate(told.foreseen, 1):
        assert foreseen == pytest.approx(told.real[made:], rel=1e-12)
