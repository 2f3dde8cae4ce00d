"""Every logged number against the same training in a plain loop and formulas worked out row by row."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from brute_force import (
    budget_total,
    expected_balance,
    expected_kurtosis,
    expected_moments,
    expected_norms,
    expected_split,
    log_log,
    sgd_path,
)
from plain_training import train_plainly
from pytorch_lightning.plugins.precision import MixedPrecision
from small_models import DIM, ROWS, Lit, PairTable, pair_batches, seeded

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.core import equilibrium_rule
from lightning_normdyn.history import read_run

STEPS = 24
TABLE, TARGET = "table.weight", "net.table.weight"


class Law(NamedTuple):
    """An optimizer, and what the theory says about it.

    Attributes:
        configure: makes it for a network.
        effective_lr: learning rate over (1 - momentum).
        decay: weight decay.
        separable: whether the part of an update that decay made is known.
        power: the power of R in the equilibrium.
        equilibrium: maps ``V²``, ``p`` and kurtosis to the equilibrium norm.
        path: maps norms at the start, ``V²``, ``p`` and kurtosis to the norms at the end of the window.
    """

    configure: Any
    effective_lr: float
    decay: float
    separable: bool
    power: int
    equilibrium: Any
    path: Any


def optimizer(kind, net, **options):
    return kind(net.parameters(), **options)


def sgd_law(lr=0.3, momentum=0.0, dampening=0.0):
    decay = 0.05
    effective = lr * (1 - dampening) / (1 - momentum)
    return Law(
        functools.partial(
            optimizer, torch.optim.SGD, lr=lr, momentum=momentum, dampening=dampening, weight_decay=decay
        ),
        effective,
        decay,
        True,
        4,
        lambda v2, _p, _k: (effective * v2 / (2 * decay)) ** 0.25,
        lambda start, v2, _p, _k: sgd_path(start, v2, [effective] * STEPS, decay),
    )


def ruled_law(kind, effective, decay, *, separable, power, **options):
    """A law whose constants are integrals or averages of their own, held against simulations in tests/core/dynamics.

    What is looked at here is that the window hands the rule the right moments, rates and start.
    """
    configure = functools.partial(optimizer, kind, weight_decay=decay, **options)

    def rule():
        return equilibrium_rule(configure(PairTable("dot")))

    def equilibrium(v2, p, kurtosis):
        return (
            rule().predict(torch.from_numpy(v2), DIM, torch.from_numpy(p), kurtosis=torch.from_numpy(kurtosis)).numpy()
        )

    def path(start, v2, p, kurtosis):
        start, v2, p = map(torch.from_numpy, (start, v2, p))
        return (
            rule().evolve(start, v2, DIM, p, lrs=[options["lr"]] * STEPS, kurtosis=torch.from_numpy(kurtosis)).numpy()
        )

    return Law(configure, effective, decay, separable, power, equilibrium, path)


def adamw_law(lr=0.02, decay=0.1, beta1=0.8, beta2=0.95):
    return ruled_law(torch.optim.AdamW, lr, decay, separable=True, power=2, lr=lr, betas=(beta1, beta2))


def coupled_law(kind, lr=0.02, momentum=0.0, **options):
    """With so little decay that the second moment keeps up with it, as the law has it."""
    return ruled_law(kind, lr / (1 - momentum), 0.001, separable=False, power=3, lr=lr, **options)


LAWS = {
    "sgd": sgd_law(),
    "sgd with momentum": sgd_law(lr=0.05, momentum=0.8, dampening=0.1),
    "adamw": adamw_law(),
    "adam with l2": coupled_law(torch.optim.Adam, betas=(0.8, 0.95)),
    "rmsprop with momentum": coupled_law(torch.optim.RMSprop, lr=0.005, momentum=0.5, alpha=0.95),
}
LAWS["rmsprop with momentum"].configure.keywords["momentum"] = 0.5


def clip_norm(parameters):
    torch.nn.utils.clip_grad_norm_(parameters, 0.5)


def clip_value(parameters):
    torch.nn.utils.clip_grad_value_(parameters, 0.03)


def scaled_half():
    return MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024))


# What the plain loop does, and what the Trainer is told.
LOOPS = {
    "float32": ({}, dict),
    "bf16-mixed": ({"autocast": torch.bfloat16}, lambda: {"precision": "bf16-mixed"}),
    "16-mixed": (
        {"autocast": torch.half, "scaler": torch.amp.GradScaler("cpu", init_scale=1024)},
        lambda: {"plugins": [scaled_half()]},
    ),
    "accumulation": ({"accumulate": 2}, lambda: {"accumulate_grad_batches": 2}),
    "clipped by norm": ({"clip": clip_norm}, lambda: {"gradient_clip_val": 0.5}),
    "clipped by value": (
        {"clip": clip_value},
        lambda: {"gradient_clip_val": 0.03, "gradient_clip_algorithm": "value"},
    ),
    "all at once": (
        {
            "autocast": torch.half,
            "scaler": torch.amp.GradScaler("cpu", init_scale=1024),
            "accumulate": 2,
            "clip": clip_norm,
        },
        lambda: {"plugins": [scaled_half()], "accumulate_grad_batches": 2, "gradient_clip_val": 0.5},
    ),
}
CASES = [pytest.param(law, "float32", id=law) for law in LAWS] + [
    pytest.param("sgd", loop, id=loop) for loop in LOOPS if loop != "float32"
]


def assert_scalars(logged, steps, law, rel=2e-5):
    """Norms, split and budget at every step."""
    for number, step in enumerate(steps, 1):
        decay_rate = law.effective_lr * law.decay if law.separable else None
        expected = expected_norms(steps[:number]) | expected_split(
            step, effective_lr=law.effective_lr, decay_rate=decay_rate
        )
        found = {key: logged[number][key] for key in expected}
        assert found == pytest.approx(expected, rel=rel, abs=rel * 0.05)
        parts = [logged[number][f"budget_{part}"] for part in ("decay", "drift", "growth")]
        assert sum(parts) == pytest.approx(budget_total(step), rel=rel, abs=rel * 0.05)
        assert logged[number]["budget_residual"] < 1e-12
        assert logged[number]["skipped_steps"] == 0


def last_rows(folder, target=TARGET):
    """The columns that the history has at the fit."""
    trajectory = read_run(folder)[target].trajectory()
    columns = {name: trajectory[name].to_numpy() for name in trajectory.column_names}
    fitted = ~np.isnan(columns["second_moment"].astype(float))
    return {name: column[fitted].astype(float) for name, column in columns.items()}


def expected_rows(steps, law):
    """Moments and predictions of one window that began with the first step."""
    (v2, p), kurtosis = expected_moments(steps), expected_kurtosis(steps)
    norms = np.array([np.linalg.norm(step.after.numpy(), axis=1) for step in steps])
    start = np.linalg.norm(steps[0].before.numpy(), axis=1)
    return {
        "norm": norms[-1],
        "second_moment": v2,
        "update_probability": p,
        "kurtosis": kurtosis,
        # Where steps do not depend on the norm, as under AdamW, R² is what moves linearly.
        "mean_norm": (norms**2).mean(0) ** 0.5 if law.power == 2 else np.exp(np.log(norms).mean(0)),
        "equilibrium_norm": law.equilibrium(v2, p, kurtosis),
        "transient_norm": law.path(start, v2, p, kurtosis),
        "forecast_norm": norms[-1],  # the run ends where the window does
    }


def assert_fit(logged, rows):
    """Logged quality of the predictions, from the rows that were ever updated."""
    updated = rows["update_probability"] > 0
    for name, observed in (("equilibrium", "mean_norm"), ("transient", "norm")):
        expected = log_log(rows[f"{name}_norm"][updated], rows[observed][updated])
        plain = f"{name}_least_squares" if f"{name}_judged_rows" in logged else name
        prefixes = dict.fromkeys(expected, plain) | {"median_error": name}
        found = {key: logged[f"{prefix}_{key}"] for key, prefix in prefixes.items() if f"{prefix}_{key}" in logged}
        assert found == pytest.approx({key: expected[key] for key in found}, rel=2e-3), name
        spread = np.log(rows[f"{name}_norm"][updated]).std(ddof=1)
        assert ("slope" in found) == (spread > 0.02), "a line through equal predictions is noise"
        assert "median_error" in found


def assert_skill(logged, start, rows):
    """The transient beside 'stays as it was'."""
    updated = rows["update_probability"] > 0
    persistence, error = (
        np.median(np.abs(predicted / rows["norm"] - 1)[updated]) for predicted in (start, rows["transient_norm"])
    )
    assert logged["transient_persistence_error"] == pytest.approx(persistence, rel=1e-4)
    assert logged["transient_skill"] == pytest.approx(1 - error / persistence, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(("law", "loop"), CASES)
def test_every_quantity_is_what_a_plain_loop_finds(fit, tmp_path, law, loop):
    law, (plainly, trainer_options) = LAWS[law], LOOPS[loop]
    per_step = plainly.get("accumulate", 1)
    net, batches = seeded(lambda: PairTable("dot")), pair_batches(STEPS * per_step)
    _, steps = train_plainly(net, batches, law.configure, TABLE, **plainly)
    module = Lit(net, law.configure)
    trainer = fit(module, batches, NormDynamics(every_n_steps=1, window=STEPS), **trainer_options())
    logged = trainer.logger.of(TARGET)

    assert len(steps) == STEPS
    assert set(logged) >= {*range(1, STEPS + 1)}
    torch.testing.assert_close(net.table.weight.double(), steps[-1].after, rtol=0, atol=0)  # else this compares nothing
    assert_scalars(logged, steps, law)
    rows, expected = last_rows(tmp_path), expected_rows(steps, law)
    for name, column in expected.items():
        integrated = name == "transient_norm" and law.power != 4  # in larger steps than here; of rows that are used
        some = expected["update_probability"] > 0 if integrated else slice(None)
        rel = 1e-2 if integrated else 1e-5
        np.testing.assert_allclose(rows[name][some], column[some], rtol=rel, atol=1e-7, err_msg=name)
    assert_fit(logged[STEPS], expected | {"transient_norm": rows["transient_norm"]})
    assert_skill(logged[STEPS], np.linalg.norm(steps[0].before.numpy(), axis=1), rows)


def simulated_norms(configure, start, v2, p, kurtosis, steps, copies=100):
    """Root mean square norms of copies of each row after some steps of the optimizer itself, in float64.

    Gradients have random directions across the row and sizes of a gamma distribution; the optimizer's memory of them
    has settled at the start.
    """
    generator = torch.Generator().manual_seed(2)
    start, v2, p, kurtosis = (torch.from_numpy(values).repeat_interleave(copies) for values in (start, v2, p, kurtosis))
    x = torch.randn(len(start), DIM, generator=generator, dtype=torch.float64)
    rows = torch.nn.Parameter(x / x.norm(dim=1, keepdim=True) * start.unsqueeze(1))
    holder = torch.nn.Module()
    holder.rows = rows
    optimizer = configure(holder)
    (group,) = optimizer.param_groups
    lr, decay = group["lr"], group["weight_decay"]
    shape = 1 / (kurtosis - 1).clamp(min=1e-3)
    for step in range(-400, steps):
        group["lr"], group["weight_decay"] = (lr, decay) if step >= 0 else (0.0, 0.0)
        square = rows.detach().square().sum(1, keepdim=True)
        g = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
        g -= rows.detach() * (rows.detach() * g).sum(1, keepdim=True) / square
        size = torch._standard_gamma(shape, generator=generator) / shape * v2 / p
        touched = torch.rand(len(p), generator=generator, dtype=torch.float64) < p
        rows.grad = g / g.norm(dim=1, keepdim=True) * ((size * touched).sqrt().unsqueeze(1) / square.sqrt())
        optimizer.step()
    return rows.detach().square().sum(1).view(-1, copies).mean(1).sqrt().numpy()


@pytest.mark.parametrize("name", ["adamw", "adam with l2", "rmsprop with momentum"])
def test_predictions_are_those_of_simulated_rows(name):
    """At the moments of a run: what the rule makes of them, which the tests above hold the log against."""
    law, net, batches = LAWS[name], seeded(lambda: PairTable("dot")), pair_batches(STEPS)
    _, steps = train_plainly(net, batches, law.configure, TABLE)
    (v2, p), kurtosis = expected_moments(steps), expected_kurtosis(steps)
    some = p > 0.25
    start, v2, p, kurtosis = np.linalg.norm(steps[0].before.numpy(), axis=1)[some], v2[some], p[some], kurtosis[some]
    path = simulated_norms(law.configure, start, v2, p, kurtosis, STEPS)
    error, change = np.log(law.path(start, v2, p, kurtosis) / path), np.log(path / start)
    np.testing.assert_allclose(error, 0, atol=0.006)
    assert np.linalg.norm(error) < 0.3 * np.linalg.norm(change), "else it would be as good as 'stays as it is'"
    if law.separable:  # else some rows need thousands of steps
        settled = law.equilibrium(v2, p, kurtosis)
        simulated = simulated_norms(law.configure, settled, v2, p, kurtosis, 1_000)
        np.testing.assert_allclose(simulated / settled, 1, atol=0.03)
        assert simulated.mean() / settled.mean() == pytest.approx(1, abs=0.01)


def test_numbers_hold_against_training_in_float64(fit, tmp_path):
    law, net, batches = LAWS["sgd"], seeded(lambda: PairTable("dot")), pair_batches(STEPS)
    _, steps = train_plainly(net, batches, law.configure, TABLE, precise=True)
    trainer = fit(Lit(net, law.configure), batches, NormDynamics(every_n_steps=1, window=STEPS))
    assert_scalars(trainer.logger.of(TARGET), steps, law, rel=1e-3)
    rows = last_rows(tmp_path)
    np.testing.assert_allclose(rows["second_moment"], expected_moments(steps)[0], rtol=1e-3, atol=1e-7)


def test_balance_and_stationarity(fit):
    law, net, batches = LAWS["sgd"], seeded(lambda: PairTable("dot")), pair_batches(STEPS)
    _, steps = train_plainly(net, batches, law.configure, TABLE)
    logged = fit(Lit(net, law.configure), batches, NormDynamics(window=STEPS)).logger.of(TARGET)[STEPS]
    root, stationarity = expected_balance(steps, law.effective_lr, law.decay)
    updated = expected_moments(steps)[1] > 0
    rms = np.sqrt(np.mean([np.square(step.after.numpy()).sum(1) for step in steps], axis=0))
    error = log_log(root[updated], rms[updated])["median_error"]
    assert logged["balance_median_error"] == pytest.approx(error, rel=1e-3)
    assert logged["stationarity"] == pytest.approx(stationarity, rel=1e-3)
    assert logged["relaxation_steps"] == pytest.approx(1 / (4 * law.effective_lr * law.decay))


@pytest.mark.parametrize(("loss", "low", "high"), [("cosine", 0, 1e-5), ("dot", 0.05, 1)])
def test_only_a_loss_that_sees_lengths_has_radial_gradients(fit, loss, low, high):
    net, batches = seeded(lambda: PairTable(loss)), pair_batches(8)
    logged = fit(Lit(net, LAWS["sgd"].configure), batches, NormDynamics(every_n_steps=1)).logger.of(TARGET)
    assert all(low <= logged[step]["radial_fraction"] < high for step in range(1, 9))


def test_a_schedule_is_followed(fit, tmp_path):
    """Rates change every step: the transient goes through each of them."""

    def configure(net):
        rates = torch.optim.SGD(net.parameters(), lr=0.4, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(rates, STEPS)
        return [rates], [{"scheduler": schedule, "interval": "step"}]

    net, batches = seeded(PairTable), pair_batches(STEPS)
    _, steps = train_plainly(net, batches, configure, TABLE)
    fit(Lit(net, configure), batches, NormDynamics(window=STEPS))
    start, (v2, _) = np.linalg.norm(steps[0].before.numpy(), axis=1), expected_moments(steps)
    lrs = np.array([step.lr for step in steps])
    assert lrs[-1] < 0.01 < lrs[0] == 0.4
    rows = last_rows(tmp_path)
    np.testing.assert_allclose(rows["transient_norm"], sgd_path(start, v2, lrs, 0.05), rtol=1e-5)
    settled = (lrs**2).mean() / lrs.mean()
    np.testing.assert_allclose(rows["equilibrium_norm"], (settled * v2 / (2 * 0.05)) ** 0.25, rtol=1e-5)


def test_no_weight_decay_has_no_equilibrium_but_a_path(fit, tmp_path):
    def configure(net):
        return torch.optim.SGD(net.parameters(), lr=0.3)

    net, batches = seeded(PairTable), pair_batches(STEPS)
    _, steps = train_plainly(net, batches, configure, TABLE)
    logged = fit(Lit(net, configure), batches, NormDynamics(every_n_steps=1, window=STEPS)).logger.of(TARGET)[STEPS]
    assert "equilibrium_slope" not in logged
    assert "relaxation_steps" not in logged
    assert logged["budget_decay"] == 0
    start, (v2, _) = np.linalg.norm(steps[0].before.numpy(), axis=1), expected_moments(steps)
    np.testing.assert_allclose(
        last_rows(tmp_path)["transient_norm"], (start**4 + 2 * STEPS * 0.09 * v2) ** 0.25, rtol=1e-5
    )
    assert len(last_rows(tmp_path)["norm"]) == ROWS


class ClippingItself(Lit):
    """Clips in its own way, or only looks."""

    clips = True

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        if self.clips:
            clip_value(list(self.net.parameters()))


def test_clipping_of_the_users_own(fit):
    law, net, batches = LAWS["sgd"], seeded(lambda: PairTable("dot")), pair_batches(STEPS)
    _, steps = train_plainly(net, batches, law.configure, TABLE, clip=clip_value)
    trainer = fit(ClippingItself(net, law.configure), batches, NormDynamics(every_n_steps=1))
    assert trainer.logger.of(TARGET)[1]["clip_ratio"] < 0.9
    assert_scalars(trainer.logger.of(TARGET), steps, law)


def test_a_fused_optimizer_unscales_after_the_users_own_clipping(fit):
    """When that hook runs, the gradients are still scaled: what was before it is not told from what is after."""

    def fused(net):
        return torch.optim.AdamW(net.parameters(), lr=0.02, weight_decay=0.1, betas=(0.8, 0.95), fused=True)

    plainly, trainer_options = LOOPS["16-mixed"]
    net, batches = seeded(lambda: PairTable("dot")), pair_batches(STEPS)
    _, steps = train_plainly(net, batches, fused, TABLE, **plainly)
    module = ClippingItself(net, fused)
    module.clips = False
    trainer = fit(module, batches, NormDynamics(every_n_steps=1), **trainer_options())
    assert_scalars(trainer.logger.of(TARGET), steps, LAWS["adamw"])
