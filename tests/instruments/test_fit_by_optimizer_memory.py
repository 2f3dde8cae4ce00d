"""Transients and forecasts in mid-run under optimizers whose laws go by what these have in store of each row."""

import pytest
import torch
from planted_table import PlantedTable, observe_planted
from third_party import AdamWScheduleFree, SGDScheduleFree

from lightning_normdyn.core import equilibrium_rule
from lightning_normdyn.core.dynamics.law_inputs import OptimizerMemory
from lightning_normdyn.core.dynamics.window import FitWindow

STEPS = 600
OPTIMIZERS = {
    "adagrad": lambda rows: torch.optim.Adagrad(rows, lr=0.03, initial_accumulator_value=1e-3),
    "adagrad, decay": lambda rows: torch.optim.Adagrad(
        rows, lr=0.03, weight_decay=0.02, initial_accumulator_value=1e-3
    ),
    "schedule-free adamw": lambda rows: AdamWScheduleFree(rows, lr=0.01, betas=(0.8, 0.98), weight_decay=0.3),
    "schedule-free sgd": lambda rows: SGDScheduleFree(rows, lr=0.02, momentum=0.6, weight_decay=0.2),
}


def planted():
    return PlantedTable(torch.full((100,), 0.5, dtype=torch.float64), 32, seed=3, start=2.0)


@pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_mid_run_norms_are_followed_and_forecast(build):
    """The last window, of steps 400 to 600, starts in mid-run; so does the forecast for the end, of step 400."""
    model = planted()
    logged = observe_planted(model, build(model.parameters()), STEPS, window=200, forecast_at=400)
    for kind in ("transient", "window_forecast", "forecast"):
        assert logged[f"{kind}_median_error"] < 0.03
    assert logged["persistence_median_error"] > 2.5 * logged["forecast_median_error"]
    assert "transient_coverage" not in logged, "no error of these laws is known"


def test_what_was_in_store_at_a_window_s_start_survives_a_checkpoint():
    rule = equilibrium_rule(torch.optim.Adagrad([torch.ones(1)]))
    window = FitWindow(torch.ones(3), "rms", None, OptimizerMemory(torch.arange(3.0)))
    resumed = FitWindow(torch.ones(3), "rms")
    resumed.load_state_dict(window.state_dict(), rule)
    assert torch.equal(resumed.memory.accumulated, torch.arange(3.0))
