"""The observer changes nothing: weights, buffers and random state are bit for bit those of a run without it."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.plugins.precision import MixedPrecision
from small_models import Batches, Lit, NoisyModel, PairTable, TwoTowers, pair_batches, seeded

from lightning_normdyn.callbacks import EquilibriumFitMonitor, GradientSplitMonitor, NormDynamics, NormTrajectoryMonitor

STEPS = 200
TARGETS = ["net.table.weight", "net.encoder", "net.linear.weight"]

OPTIMIZERS = {
    "sgd": lambda net: torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.01),
    "sgd with momentum": lambda net: torch.optim.SGD(
        net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01
    ),
    "adamw": lambda net: torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1),
    "adam with l2": lambda net: torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=0.1),
    "rmsprop": lambda net: torch.optim.RMSprop(net.parameters(), lr=0.01, weight_decay=0.1),
}


def scaled_half():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024, growth_interval=50)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]}


PRECISIONS = {"32": dict, "bf16-mixed": lambda: {"precision": "bf16-mixed"}, "16-mixed": scaled_half}


def train(fit, net, configure, callbacks, *, steps=STEPS, **options):
    """Trains from a fixed seed and returns all that training leaves: weights, optimizer and random state."""
    torch.manual_seed(7)
    module = Lit(net, configure)
    trainer = fit(module, pair_batches(steps), *callbacks, logger=False, **options)
    left = dict(module.state_dict())
    for number, state in trainer.optimizers[0].state_dict()["state"].items():
        left |= {f"{number}.{name}": value for name, value in state.items() if isinstance(value, torch.Tensor)}
    return left | {"random state": torch.random.get_rng_state()}


def assert_identical(observed, alone):
    assert observed.keys() == alone.keys()
    different = [name for name in alone if not torch.equal(observed[name], alone[name])]
    assert not different


def everything(**options):
    """All that can be observed: a table, an encoder through a probe, a weight as a table; at a restless cadence."""
    return NormDynamics(targets=TARGETS, every_n_steps=3, window=40, **options)


def setups_of_two_hundred_steps():
    """Every optimizer in every precision with and without accumulation; ``make test`` has precisions by turns.

    Each optimizer meets one of them or two, and each precision two optimizers, with accumulation and without.
    """
    setups = itertools.product(enumerate(OPTIMIZERS), enumerate(PRECISIONS), (1, 2))
    for (first, optimizer), (second, precision), accumulate in setups:
        is_its_turn = (first + 2 * second + accumulate) % 5 == 0
        yield pytest.param(optimizer, precision, accumulate, marks=[] if is_its_turn else [pytest.mark.exhaustive])


@pytest.mark.parametrize(("optimizer", "precision", "accumulate"), list(setups_of_two_hundred_steps()))
def test_two_hundred_steps_are_bit_identical(fit, optimizer, precision, accumulate):
    run = functools.partial(
        train, fit, configure=OPTIMIZERS[optimizer], steps=STEPS * accumulate, accumulate_grad_batches=accumulate
    )
    alone = run(seeded(NoisyModel), callbacks=[], **PRECISIONS[precision]())
    observed = run(seeded(NoisyModel), callbacks=[everything()], **PRECISIONS[precision]())
    assert_identical(observed, alone)
    assert not torch.equal(alone["net.table.weight"], seeded(NoisyModel).table.weight)


class OneRandomNumber(Callback):
    """A careless observer."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 10:
            torch.rand(1)


class OneTouch(Callback):
    """An observer that rounds what it looks at."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 10:
            gradient = pl_module.net.table.weight.grad
            gradient.copy_(gradient.bfloat16())


@pytest.mark.parametrize("careless", [OneRandomNumber, OneTouch])
def test_the_comparison_can_fail(fit, careless):
    """One random number, or one rounded gradient, shows in the weights."""
    run = functools.partial(train, fit, configure=OPTIMIZERS["sgd"], steps=30)
    with pytest.raises(AssertionError, match=r"net\.table\.weight"):
        assert_identical(run(seeded(NoisyModel), callbacks=[careless()]), run(seeded(NoisyModel), callbacks=[]))


@pytest.mark.parametrize(
    "callback",
    [
        lambda: NormDynamics(every_n_steps=1, window=7, max_tracked_rows=9),
        lambda: EquilibriumFitMonitor(window=7),
        lambda: GradientSplitMonitor(every_n_steps=1),
        lambda: NormTrajectoryMonitor(every_n_steps=1),
    ],
)
@pytest.mark.parametrize(
    ("make", "configure"),
    [
        pytest.param(functools.partial(PairTable, padding_idx=0), OPTIMIZERS["adamw"], id="padding"),
        pytest.param(
            functools.partial(PairTable, sparse=True),
            lambda net: torch.optim.SparseAdam(net.parameters(), lr=0.01),
            id="sparse",
        ),
        pytest.param(
            TwoTowers, lambda net: torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=3, history_size=4), id="lbfgs"
        ),
    ],
)
def test_each_monitor_on_other_tables(fit, make, configure, callback):
    run = functools.partial(train, fit, configure=configure, steps=30)
    assert_identical(run(seeded(make), callbacks=[callback()]), run(seeded(make), callbacks=[]))


@pytest.mark.parametrize("fused", [False, True])
def test_skipped_steps_and_clipping(fit, fused):
    """A scaler that overflows at the start, and what Lightning does between gradient and step."""

    def options():
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**28, growth_interval=10)
        clip = {} if fused else {"gradient_clip_val": 0.1}
        return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]} | clip

    run = functools.partial(
        train, fit, configure=lambda net: torch.optim.AdamW(net.parameters(), lr=0.01, fused=fused), steps=50
    )
    alone = run(seeded(NoisyModel), callbacks=[], **options())
    assert_identical(run(seeded(NoisyModel), callbacks=[everything()], **options()), alone)


SCHEDULES = {
    "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60),
    "one cycle": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=60),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_looking_ahead_moves_no_schedule(fit, schedule):
    def configure(net):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
        return [optimizer], [{"scheduler": SCHEDULES[schedule](optimizer), "interval": "step"}]

    run = functools.partial(train, fit, configure=configure, steps=60)
    observed = run(seeded(NoisyModel), callbacks=[NormDynamics(every_n_steps=5, window=5)])
    assert_identical(observed, run(seeded(NoisyModel), callbacks=[]))


class Shuffled(Lit):
    """Draws at every point where order could matter: loading data, and starting to fit after the callbacks did."""

    loaded = 0

    def train_dataloader(self):
        self.loaded += 1
        return Batches(torch.stack(pair_batches(10))[torch.randperm(10)])

    def on_fit_start(self):
        with torch.no_grad():
            self.net.table.weight.add_(0.01 * torch.randn_like(self.net.table.weight))


def test_data_is_loaded_when_it_would_be_anyway(tmp_path):
    """Asking a Trainer for its number of steps can load the data, and draw from the random state, before their time."""
    left = []
    for callbacks in ([], [NormDynamics(window=5)]):
        torch.manual_seed(3)
        module = Shuffled(seeded(PairTable), OPTIMIZERS["sgd"])
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=3,
            reload_dataloaders_every_n_epochs=1,
            logger=False,
            callbacks=callbacks,
            default_root_dir=tmp_path,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module)
        left.append(module.state_dict() | {"loaded": torch.tensor(module.loaded)})
    assert_identical(*left)
