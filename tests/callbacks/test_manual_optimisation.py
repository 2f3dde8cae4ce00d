"""Manual optimisation, several optimizers, and an optimizer that evaluates the loss several times a step."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from brute_force import expected_moments, expected_norms, expected_split
from plain_training import PlainStep
from pytorch_lightning import Callback
from pytorch_lightning.plugins.precision import MixedPrecision
from small_models import Lit, PairTable, TwoTables, pair_batches, seeded

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.history import read_run

BATCHES = 12
SETTINGS = {"queries": (0.3, 0.05), "documents": (0.1, 0.2)}
QUERIES_EVERY = 3


def optimizers(net):
    return [
        torch.optim.SGD(getattr(net, name).parameters(), lr=lr, weight_decay=decay)
        for name, (lr, decay) in SETTINGS.items()
    ]


class TwoPlayers(pl.LightningModule):
    """Documents learn from every batch, queries from every third, twice in a row."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        queries, documents = self.optimizers()
        self._step(documents, batch)
        if batch_idx % QUERIES_EVERY == 0:
            self._step(queries, batch)
            self._step(queries, batch)

    def configure_optimizers(self):
        return optimizers(self.net)

    def _step(self, optimizer, batch):
        optimizer.zero_grad()
        self.manual_backward(self.net(batch))
        optimizer.step()


def play_plainly(net, batches):
    """Every step of both tables."""
    net = copy.deepcopy(net)
    players, steps = dict(zip(SETTINGS, optimizers(net), strict=True)), {name: [] for name in SETTINGS}
    for index, batch in enumerate(batches):
        for name in ["documents"] + ["queries", "queries"] * (index % QUERIES_EVERY == 0):
            players[name].zero_grad()
            net(batch).backward()
            table = getattr(net, name).weight
            before, gradient = table.detach().double().clone(), table.grad.double().clone()
            players[name].step()
            after = table.detach().double().clone()
            steps[name].append(PlainStep(gradient, gradient, before, after, SETTINGS[name][0]))
    return steps


def test_two_optimizers_at_different_rates(fit, tmp_path):
    """Each table counts the steps of its own optimizer; of several steps in a batch the last is logged."""
    net, batches = seeded(TwoTables), pair_batches(BATCHES)
    expected = play_plainly(net, batches)
    assert {name: len(steps) for name, steps in expected.items()} == {"queries": 8, "documents": 12}
    trainer = fit(TwoPlayers(net), batches, NormDynamics(every_n_steps=1, window=4))
    for name, steps in expected.items():
        lr, decay = SETTINGS[name]
        target = f"net.{name}.weight"
        torch.testing.assert_close(getattr(net, name).weight.double(), steps[-1].after, rtol=0, atol=0)
        logged = [found for found in trainer.logger.of(target).values() if "gradient_norm" in found]
        seen = steps if name == "documents" else steps[1::2]
        assert len(logged) == len(seen)
        for number, (found, step) in enumerate(zip(logged, seen, strict=True), 1):
            quantities = expected_norms(steps[: number * len(steps) // len(seen)]) | expected_split(
                step, effective_lr=lr, decay_rate=lr * decay
            )
            assert {key: found[key] for key in quantities} == pytest.approx(quantities, rel=2e-5, abs=1e-6)
            assert found["skipped_steps"] == 0
        assert_windows(read_run(tmp_path)[target].trajectory(), steps)


def assert_windows(trajectory, steps):
    moments = trajectory.filter(~np.isnan(trajectory["second_moment"].to_numpy().astype(float)))
    ends = sorted(set(moments["step"].to_pylist()))
    assert ends == [4 * (i + 1) for i in range(len(steps) // 4)]
    for end in ends:
        found = moments.filter(np.equal(moments["step"].to_numpy(), end))
        v2, p = expected_moments(steps[end - 4 : end])
        np.testing.assert_allclose(found["second_moment"].to_numpy(), v2, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found["update_probability"].to_numpy(), p, rtol=1e-6)


def test_a_scaler_under_manual_optimisation(fit):
    """Gradients are unscaled, and overflown steps not counted, for each optimizer on its own."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler=scaler)]
    trainer = fit(TwoPlayers(seeded(TwoTables)), pair_batches(60), NormDynamics(every_n_steps=1), plugins=plugins)
    for name, most_steps in (("queries", 40), ("documents", 60)):
        watched = trainer.callbacks[0].state_dict()["targets"][f"net.{name}.weight"]
        assert watched["steps"] + watched["skipped"] == most_steps
        assert watched["skipped"] > 0
        logged = trainer.logger.of(f"net.{name}.weight").values()
        assert all(found["gradient_norm"] < 10 for found in logged if "gradient_norm" in found)


@pytest.mark.parametrize(
    ("options", "total"),
    [
        pytest.param({"max_epochs": 2}, 2 * BATCHES, id="epochs: each optimizer may step in every batch"),
        pytest.param({"max_epochs": -1, "max_steps": 16}, 8, id="steps: those of both together, alike at first"),
    ],
)
def test_the_number_of_steps_to_come(fit, tmp_path, options, total):
    fit(TwoPlayers(seeded(TwoTables)), pair_batches(BATCHES), NormDynamics(every_n_steps=1), **options)
    described = read_run(tmp_path)["net.documents.weight"].description()
    assert described["total_steps"] == total
    assert described["lr"] == SETTINGS["documents"][0]


class Totals(Callback):
    """What the monitor takes each optimizer's steps in the whole run for, batch by batch."""

    def __init__(self):
        self.totals = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        run = trainer.callbacks[0]._observation._run
        self.totals.append([run.total_steps(optimizer) for optimizer in trainer.optimizers])


@pytest.mark.parametrize(
    ("batches", "options"),
    [(41, {"max_epochs": 2}), (40, {"max_epochs": 1}), (60, {"max_epochs": -1, "max_steps": 51})],
)
def test_optimizers_at_different_rates_end_after_different_numbers_of_steps(fit, batches, options):
    """From their second turns on; the forecast for the end of each is judged at its own last step."""
    witness, callback = Totals(), NormDynamics(every_n_steps=1, window=0.25)
    trainer = fit(TwoPlayers(seeded(TwoTables)), pair_batches(batches), callback, witness, **options)
    steps = {name: callback.state_dict()["targets"][f"net.{name}.weight"]["steps"] for name in SETTINGS}
    assert steps["queries"] < 0.8 * steps["documents"]
    assert all(totals == list(steps.values()) for totals in witness.totals[QUERIES_EVERY:])
    for name in SETTINGS:
        assert [m for m in trainer.logger.of(f"net.{name}.weight").values() if "forecast_skill" in m]


class BeforeAndAfter(Callback):
    """Norms around each batch, seen from outside."""

    def __init__(self):
        self.steps = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        weight = pl_module.net.table.weight
        (self.gradient,) = torch.autograd.grad(pl_module.net(batch), weight)
        self.before = pl_module.net.table.weight.detach().double().clone()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        after = pl_module.net.table.weight.detach().double().clone()
        gradient = self.gradient.double()
        self.steps.append(PlainStep(gradient, gradient, self.before, after, 0.0))


def test_lbfgs_is_one_step_however_often_it_evaluates(fit):
    """Its update is measured as a whole; no law of the norm is known, so nothing is predicted."""

    def configure(net):
        return torch.optim.LBFGS(net.parameters(), lr=0.3, max_iter=4)

    witness, callback = BeforeAndAfter(), NormDynamics(every_n_steps=1, window=5)
    trainer = fit(Lit(seeded(lambda: PairTable("dot")), configure), pair_batches(10), callback, witness)
    logged = trainer.logger.of("net.table.weight")
    assert callback.state_dict()["targets"]["net.table.weight"]["steps"] == 10
    assert callback.state_dict()["targets"]["net.table.weight"]["skipped"] == 0
    for number, step in enumerate(witness.steps, 1):
        expected = expected_norms(witness.steps[:number])
        assert {key: logged[number][key] for key in expected} == pytest.approx(expected, rel=1e-5)
        growth = ((step.after - step.before).square().sum(1) / step.before.square().sum(1)).mean().item()
        assert logged[number]["budget_growth"] == pytest.approx(growth, rel=1e-4, abs=1e-6)
        assert logged[number].keys().isdisjoint({"budget_decay", "budget_drift"})  # nobody knows how it decays
        of_gradient = expected_split(step, effective_lr=0.3, decay_rate=None)
        for key in ("gradient_norm", "clip_ratio", "radial_fraction", "effective_lr"):
            assert logged[number][key] == pytest.approx(of_gradient[key], rel=1e-5), (number, key)
    assert not [key for key in logged[10] if key.startswith(("equilibrium", "transient", "forecast", "balance"))]
