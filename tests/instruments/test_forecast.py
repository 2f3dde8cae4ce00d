"""The forecast and its skill, against a plain loop; and each monitor alone against all of them together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from brute_force import adamw_path, expected_moments, log_log, sgd_path
from plain_training import train_plainly
from pytorch_lightning import Callback
from small_models import DIM, Lit, PairTable, pair_batches, seeded

from lightning_normdyn.callbacks import EquilibriumFitMonitor, GradientSplitMonitor, NormDynamics, NormTrajectoryMonitor
from lightning_normdyn.history import read_run

STEPS = 100
TARGET = "net.table.weight"
DECAY = 0.05


def cosine_sgd(net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.4, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, eta_min=0.04)
    return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def cosine_adamw(net):
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02, weight_decay=1.0, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, eta_min=0.002)
    return [optimizer], [{"scheduler": schedule, "interval": "step"}]


PATHS = {
    "sgd": (cosine_sgd, lambda norm, v2, _p, lrs: sgd_path(norm, v2, lrs, DECAY), 1e-5),
    "adamw": (cosine_adamw, lambda norm, _v2, p, lrs: adamw_path(norm, p, lrs, 1.0, DIM, 0.95), 5e-3),
}


def norms(step):
    return np.linalg.norm(step.after.numpy(), axis=1)


@pytest.mark.parametrize("optimizer", PATHS)
def test_the_forecast_made_at_forty_percent(fit, tmp_path, optimizer):
    """Moments of steps 21 to 40, through the very rates of steps 41 to 100, judged at the end and by the window."""
    configure, path, rel = PATHS[optimizer]
    net, batches = seeded(PairTable), pair_batches(STEPS)
    _, steps = train_plainly(net, batches, configure, "table.weight")
    lrs = [step.lr for step in steps]
    trainer = fit(Lit(net, configure), batches, NormDynamics(window=20, forecast_at=0.4))
    logged = trainer.logger.of(TARGET)

    v2, p = expected_moments(steps[20:40])
    forecast = path(norms(steps[39]), v2, p, lrs[40:])
    trajectory = read_run(tmp_path)[TARGET].trajectory()
    made = trajectory.filter(np.equal(trajectory["step"].to_numpy(), 40))
    used = p > 0
    np.testing.assert_allclose(made["forecast_norm"].to_numpy()[used], forecast[used], rtol=rel)
    assert_forecast(logged[STEPS], forecast[used], norms(steps[39])[used], norms(steps[-1])[used], rel)
    v2, p = expected_moments(steps[40:60])
    one_ahead, used = path(norms(steps[59]), v2, p, lrs[60:80]), p > 0
    expected = log_log(one_ahead[used], norms(steps[79])[used])["median_error"]
    assert logged[80]["window_forecast_median_error"] == pytest.approx(expected, rel=10 * rel, abs=rel)
    persistence = np.median(np.abs(norms(steps[59]) / norms(steps[79]) - 1)[used])
    assert logged[80]["window_forecast_skill"] == pytest.approx(1 - expected / persistence, abs=10 * rel)
    assert not [key for key in logged[80] if key.startswith("forecast")], "the end has not come"


def assert_forecast(logged, forecast, stays, observed, rel):
    expected = log_log(forecast, observed)
    persistence = np.median(np.abs(stays - observed) / observed)
    line = "forecast_least_squares" if "forecast_judged_rows" in logged else "forecast"
    for name, prefix in (("slope", line), ("pearson_r", line), ("median_error", "forecast")):
        assert logged[f"{prefix}_{name}"] == pytest.approx(expected[name], rel=10 * rel, abs=rel)
    assert logged["persistence_median_error"] == pytest.approx(persistence, rel=1e-4)
    skill = 1 - expected["median_error"] / persistence
    assert logged["forecast_skill"] == pytest.approx(skill, abs=10 * rel)


def test_on_noise_the_forecast_comes_true(fit):
    """The law's own setting: tangential white noise on every row in every step."""

    class Noise(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(200, 32)

        def forward(self, seeds):
            directions = torch.randn(200, 32, generator=torch.Generator().manual_seed(int(seeds[0])))
            scale = torch.linspace(0.5, 2, 200)[:, None]
            return (scale * directions * torch.nn.functional.normalize(self.table.weight, dim=1)).sum()

    def configure(net):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 400)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    batches = [torch.tensor([seed]) for seed in range(400)]
    callback = NormDynamics(window=80, save_history=False)
    metrics = fit(Lit(seeded(Noise), configure), batches, callback).callback_metrics
    found = {key.removeprefix(f"normdyn/{TARGET}/"): float(value) for key, value in metrics.items()}
    assert found["transient_slope"] == pytest.approx(1, abs=0.03)
    assert found["transient_pearson_r"] > 0.99
    assert found["transient_median_error"] < 0.02
    assert found["forecast_median_error"] < 0.05
    assert found["forecast_skill"] > 0.7


def test_a_run_that_stops_early_is_not_judged_by_a_forecast_for_its_end(fit):
    class Stopping(Lit):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.trainer.should_stop = batch_idx == 59

    trainer = fit(Stopping(seeded(PairTable), cosine_sgd), pair_batches(STEPS), NormDynamics(window=20))
    assert trainer.global_step == 60
    assert not [key for key in trainer.logger.of(TARGET).get(61, {}) if key.startswith("forecast")]


def test_each_monitor_alone_logs_what_all_together_do(fit, tmp_path):
    """The same keys, the same values, the same rows on disk; and together they log nothing else."""
    together = NormDynamics(every_n_steps=10, window=25)
    alone = [
        NormTrajectoryMonitor(every_n_steps=10),
        GradientSplitMonitor(every_n_steps=10),
        EquilibriumFitMonitor(every_n_steps=10, window=25),
    ]
    batches = pair_batches(STEPS)
    whole = fit(Lit(seeded(PairTable), cosine_sgd), batches, together, default_root_dir=tmp_path / "whole")
    parts = {}
    for callback in alone:
        name = type(callback).__name__
        trainer = fit(Lit(seeded(PairTable), cosine_sgd), batches, callback, default_root_dir=tmp_path / name)
        for step, found in trainer.logger.of(TARGET).items():
            shared = parts.setdefault(step, {}).keys() & found.keys()
            assert shared <= {"skipped_steps"}
            parts[step] |= found
    assert parts == whole.logger.of(TARGET)

    rows = {
        name: read_run(tmp_path / name)[TARGET].trajectory()
        for name in ("whole", "NormTrajectoryMonitor", "EquilibriumFitMonitor")
    }
    snapshots = rows["NormTrajectoryMonitor"].to_pylist()
    fits = rows["EquilibriumFitMonitor"].to_pylist()
    by_place = {(line["step"], line["row"]): line for line in rows["whole"].to_pylist()}
    assert {(line["step"], line["row"]) for line in snapshots + fits} == by_place.keys()
    assert all(str(by_place[line["step"], line["row"]]) == str(line) for line in fits)  # a NaN is no equal of itself
    assert all(by_place[line["step"], line["row"]]["norm"] == line["norm"] for line in snapshots)


def test_all_monitors_in_one_trainer(fit):
    """Side by side they agree with NormDynamics in the same run."""
    batches = pair_batches(STEPS)
    callbacks = [
        NormDynamics(every_n_steps=10, window=25, save_history=False),
        NormTrajectoryMonitor(every_n_steps=10, save_history=False),
        GradientSplitMonitor(every_n_steps=10, save_history=False),
        EquilibriumFitMonitor(every_n_steps=10, window=25, save_history=False),
    ]
    trainer = fit(Lit(seeded(PairTable), cosine_sgd), batches, *callbacks)
    seen = {}
    for step, metrics in trainer.logger.calls:
        for key, value in metrics.items():
            assert seen.setdefault((step, key), value) == value


class AveragesAtTheEnd(Callback):
    """Puts other weights in once training is over, as weight averaging does."""

    def on_train_end(self, trainer, pl_module):
        with torch.no_grad():
            pl_module.net.table.weight.mul_(3)


def test_weights_that_are_averaged_at_the_end_do_not_spoil_the_judgement(fit):
    skills = []
    for before in ([], [AveragesAtTheEnd()]):
        monitor = NormDynamics(window=20, forecast_at=0.4, save_history=False)
        trainer = fit(Lit(seeded(PairTable), cosine_sgd), pair_batches(STEPS), *before, monitor)
        skills.append(float(trainer.callback_metrics[f"normdyn/{TARGET}/forecast_skill"]))
    assert skills[0] == skills[1]
