"""Steps that a loss scaler skips are counted apart and leave no trace in any number."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from brute_force import expected_moments, expected_norms, expected_split, sgd_path
from plain_training import train_plainly
from pytorch_lightning.plugins.precision import MixedPrecision
from small_models import Lit, PairTable, TwoTowers, pair_batches, seeded

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.history import read_run

BATCHES = 30
TARGET = "net.table.weight"
ADAMW_LR, ADAMW_DECAY = 0.02, 0.1


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.3, weight_decay=0.05)


def adamw(net, fused):
    return torch.optim.AdamW(net.parameters(), lr=ADAMW_LR, weight_decay=ADAMW_DECAY, fused=fused)


def restless_scaler(init_scale=2.0**24):
    """Overflows at the start, and again each time that it has grown."""
    return torch.amp.GradScaler("cpu", init_scale=init_scale, growth_factor=2.0**5, growth_interval=4)


def half_precision(scaler):
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]}


def train_both(fit, configure, accumulate=1, make_scaler=restless_scaler):
    net, batches = seeded(lambda: PairTable("dot")), pair_batches(BATCHES * accumulate)
    options = {"autocast": torch.half, "scaler": make_scaler(), "accumulate": accumulate}
    _, steps = train_plainly(net, batches, configure, "table.weight", **options)
    callback = NormDynamics(every_n_steps=1, window=len(steps))
    module = Lit(net, configure)
    trainer = fit(module, batches, callback, accumulate_grad_batches=accumulate, **half_precision(make_scaler()))
    torch.testing.assert_close(net.table.weight.double(), steps[-1].after, rtol=0, atol=0)
    return steps, trainer


def made_steps(trainer, target=TARGET):
    """What was logged after each step that was made, in order; the final summary, which repeats none, left out."""
    return [logged for logged in trainer.logger.of(target).values() if "gradient_norm" in logged]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    ("configure", "effective_lr", "decay"),
    [
        pytest.param(sgd, 0.3, 0.05, id="sgd"),
        pytest.param(functools.partial(adamw, fused=False), ADAMW_LR, ADAMW_DECAY, id="adamw"),
        pytest.param(functools.partial(adamw, fused=True), ADAMW_LR, ADAMW_DECAY, id="fused adamw"),
    ],
)
def test_numbers_are_those_of_the_steps_that_were_made(fit, tmp_path, configure, effective_lr, decay, accumulate):
    steps, trainer = train_both(fit, configure, accumulate=accumulate)
    skipped = BATCHES - len(steps)
    assert skipped >= 5
    assert len(steps) >= 10
    logged = made_steps(trainer)
    assert len(logged) == len(steps)
    for number, (found, step) in enumerate(zip(logged, steps, strict=True), 1):
        decay_rate = effective_lr * decay
        expected = expected_norms(steps[:number]) | expected_split(
            step, effective_lr=effective_lr, decay_rate=decay_rate
        )
        assert {key: found[key] for key in expected} == pytest.approx(expected, rel=3e-5, abs=1e-6)
    v2, p = expected_moments(steps)
    trajectory = read_run(tmp_path)[TARGET].trajectory()
    fitted = trajectory.filter(~np.isnan(trajectory["second_moment"].to_numpy().astype(float)))
    np.testing.assert_allclose(fitted["second_moment"].to_numpy(), v2, rtol=3e-5, atol=1e-6)
    np.testing.assert_allclose(fitted["update_probability"].to_numpy(), p, rtol=1e-6)
    assert set(fitted["step"].to_pylist()) == {len(steps)}


def test_skipped_steps_are_counted_as_they_happen(fit):
    """After each made step the count is that of all skipped ones so far, and at the end of all of them."""
    steps, trainer = train_both(fit, sgd)
    logged = trainer.logger.of(TARGET)
    counts = {number: found["skipped_steps"] for number, found in logged.items() if "gradient_norm" in found}
    assert counts == {number: number - 1 - list(counts).index(number) for number in counts}
    assert counts[max(counts)] + len(steps) <= BATCHES
    assert float(trainer.callback_metrics[f"normdyn/{TARGET}/nonfinite_gradients"]) == 0


def test_a_last_step_that_is_skipped_is_counted(fit):
    """The scale grows only for the last step, which overflows."""
    net, batches = seeded(PairTable), pair_batches(5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_factor=2.0**40, growth_interval=4)
    trainer = fit(Lit(net, sgd), batches, NormDynamics(every_n_steps=1), **half_precision(scaler))
    assert len(made_steps(trainer)) == 4
    callback = trainer.callbacks[0]
    watched = callback.state_dict()["targets"][TARGET]
    assert (watched["steps"], watched["skipped"]) == (4, 1)


def test_the_transient_goes_through_the_rates_of_the_steps_that_were_made(fit, tmp_path):
    """Lightning steps the schedule on skipped steps too, so their rates are lost to the table."""

    def configure(net):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.4, weight_decay=0.05)
        return [optimizer], [
            {"scheduler": torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, BATCHES), "interval": "step"}
        ]

    steps, _ = train_both(fit, configure, make_scaler=functools.partial(restless_scaler, 2.0**10))
    assert len(steps) < BATCHES - 3
    v2, _ = expected_moments(steps)
    start = np.linalg.norm(steps[0].before.numpy(), axis=1)
    trajectory = read_run(tmp_path)[TARGET].trajectory()
    fitted = trajectory.filter(~np.isnan(trajectory["second_moment"].to_numpy().astype(float)))
    expected = sgd_path(start, v2, [step.lr for step in steps], 0.05)
    np.testing.assert_allclose(fitted["transient_norm"].to_numpy(), expected, rtol=1e-4)


def test_an_output_keeps_nothing_of_a_skipped_step(fit):
    """Without the skipped steps' batches the same numbers must come out."""
    batches = pair_batches(BATCHES)
    net = seeded(TwoTowers)
    _, steps = train_plainly(net, batches, sgd, "table.weight", autocast=torch.half, scaler=restless_scaler())
    callback = NormDynamics(targets=["net.encoder"], probe=False, every_n_steps=1)
    trainer = fit(Lit(net, sgd), batches, callback, **half_precision(restless_scaler()))
    logged = list(trainer.logger.of("net.encoder").values())
    assert len(logged) == len(steps) < BATCHES
    assert all(found["nonfinite_gradients"] == 0 for found in logged)
    assert all(found["gradient_norm"] < 10 for found in logged)
    assert logged[-1]["skipped_steps"] > 3


def test_the_overflow_of_another_parameter_skips_the_step_of_the_table(fit):
    """The table's own gradient is finite; the step is not made all the same."""

    class Overflowing(PairTable):
        def __init__(self):
            super().__init__()
            self.other = torch.nn.Parameter(torch.ones(()))
            self.calls = 0

        def forward(self, pairs):
            self.calls += 1
            return super().forward(pairs) + (torch.inf if self.calls == 3 else 0.1) * self.other

    net = seeded(Overflowing)
    trainer = fit(
        Lit(net, sgd),
        pair_batches(6),
        NormDynamics(every_n_steps=1, window=5),
        **half_precision(torch.amp.GradScaler("cpu", init_scale=8)),
    )
    logged = trainer.logger.of(TARGET)
    assert 3 not in logged
    assert [logged[step]["skipped_steps"] for step in (1, 2, 4, 5, 6)] == [0, 0, 1, 1, 1]
    fit_step = logged[6]
    assert fit_step["nonfinite_gradients"] == 0
    assert fit_step["transient_least_squares_slope"] == pytest.approx(1, abs=0.2)


def test_the_forecast_is_for_the_steps_that_are_left(fit, tmp_path):
    """Of the batches to come, none makes up for those that were skipped."""
    window = 5
    net, batches = seeded(PairTable), pair_batches(BATCHES)
    scaler = functools.partial(torch.amp.GradScaler, "cpu", init_scale=2.0**24)
    _, steps = train_plainly(net, batches, sgd, "table.weight", autocast=torch.half, scaler=scaler())
    callback = NormDynamics(window=window, forecast_at=0.5)
    trainer = fit(Lit(net, sgd), batches, callback, **half_precision(scaler()))
    trajectory = read_run(tmp_path)[TARGET].trajectory()
    fitted = trajectory.filter(np.equal(trajectory["step"].to_numpy(), window))
    v2, _ = expected_moments(steps[:window])
    norm = np.linalg.norm(steps[window - 1].after.numpy(), axis=1)
    batch, skipped = next(
        (batch, int(found["skipped_steps"]))
        for batch, found in trainer.logger.of(TARGET).items()
        if "stationarity" in found
    )
    assert batch == window + skipped
    assert skipped > 0.1 * BATCHES
    expected = sgd_path(norm, v2, [0.3] * (BATCHES - batch), 0.05)
    np.testing.assert_allclose(fitted["forecast_norm"].to_numpy(), expected, rtol=1e-4)
    assert "forecast_skill" in trainer.logger.of(TARGET)[BATCHES + 1]
