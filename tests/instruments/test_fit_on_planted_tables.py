"""The logged fit on tables whose rows get planted noise, from every step to one in a hundred."""

import tracemalloc

import numpy as np
import pytest
import torch
from planted_table import PlantedTable, observe_planted, zipf

from lightning_normdyn.history import read_run


def sgd(model, momentum=0.5, weight_decay=2e-3):
    return torch.optim.SGD(model.parameters(), lr=0.4, momentum=momentum, weight_decay=weight_decay)


def assert_honest(logged, kind="equilibrium", slope=0.03, r=0.99):
    assert logged[f"{kind}_slope"] == pytest.approx(1, abs=slope)
    assert logged[f"{kind}_slope_stderr"] < 0.02
    assert logged[f"{kind}_pearson_r"] >= r
    assert 0.85 <= logged[f"{kind}_coverage"] <= 0.97
    assert 0.75 < logged[f"{kind}_excess"] < 1.2


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"window": 0.5}], ids=["default", "half"])
def test_a_zipf_table_under_sgd(options):
    model = PlantedTable(zipf(), 32, seed=11)
    logged = observe_planted(model, sgd(model), 4_000, **options)
    assert_honest(logged)
    assert logged["equilibrium_judged_rows"] > 250
    assert logged["equilibrium_least_squares_slope"] < logged["equilibrium_slope"] - 0.005
    assert logged["transient_slope"] == pytest.approx(1, abs=0.03)
    assert 0.85 <= logged["transient_coverage"] <= 0.97
    assert 0.85 <= logged["forecast_coverage"] <= 0.97


@pytest.mark.slow
def test_rows_that_are_met_in_a_hundredth_of_the_steps():
    model = PlantedTable(torch.full((300,), 0.01, dtype=torch.float64), 32, seed=12)
    model.sizes = torch.logspace(-1, 1, 300)
    logged = observe_planted(model, sgd(model, weight_decay=5e-4), 8_000)
    assert_honest(logged)
    assert logged["equilibrium_judged_rows"] > 250


@pytest.mark.slow
def test_a_cosine_schedule():
    """The equilibrium law is far off, and says so; the path is right, and says that."""
    model = PlantedTable(zipf(), 32, seed=13, start=2.0)
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4_000)
    logged = observe_planted(model, optimizer, 4_000, schedule)
    assert_honest(logged, "transient")
    assert logged["equilibrium_coverage"] < 0.1
    assert logged["equilibrium_excess"] > 3
    assert logged["forecast_slope"] == pytest.approx(1, abs=0.03)
    assert 0.85 <= logged["forecast_coverage"] <= 0.97
    assert logged["forecast_skill_low"] < logged["forecast_skill"] < logged["forecast_skill_high"]


@pytest.mark.slow
def test_adamw_with_frequencies_across_its_memory():
    """300 rows met in 0.4% to all of the steps, 1 - beta2 being 1%."""
    probability = torch.logspace(0, np.log10(0.004), 300, dtype=torch.float64)
    model = PlantedTable(probability, 16, seed=14, start=0.6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.004, weight_decay=0.05, betas=(0.9, 0.99))
    logged = observe_planted(model, optimizer, 12_000)
    assert logged["equilibrium_slope"] == pytest.approx(1, abs=0.05)
    assert 0.85 <= logged["equilibrium_coverage"] <= 0.97
    assert logged["equilibrium_judged_rows"] > 200


@pytest.mark.parametrize("ids_tell", [True, False], ids=["ids tell the rows", "ids do not"])
def test_rows_short_of_readings_are_read_whenever_they_are_touched(tmp_path, ids_tell):
    """The second window of 1,500 steps is thinned to every other; a row met in 2% of them is read in all."""
    probability = torch.tensor([1.0] * 5 + [0.02] * 45, dtype=torch.float64)
    model = PlantedTable(probability, 8, seed=15)
    if not ids_tell:
        model.tied = torch.nn.Linear(8, 50, bias=False)
        model.tied.weight = model.table.weight
    observe_planted(model, sgd(model), 3_000, window=1_500, log_dir=tmp_path)
    touches = np.bincount(torch.cat(model.touched[1_500:]).numpy(), minlength=50)
    trajectory = read_run(tmp_path)["table.weight"].trajectory()
    last = trajectory.filter(trajectory["step"].to_numpy() == 3_000)
    share = last["update_probability"].to_numpy()
    np.testing.assert_allclose(share[5:] * 1_500, touches[5:], atol=1e-3)
    np.testing.assert_allclose(share[:5], 1)
    stderr, moment = last["second_moment_stderr"].to_numpy(), last["second_moment"].to_numpy()
    np.testing.assert_allclose((stderr / moment)[5:] ** 2, (1 / share[5:] - 1) / 1_500, rtol=1e-4)


def test_a_long_cadence_costs_no_memory():
    model = PlantedTable(zipf(), 32, seed=13)
    tracemalloc.start()
    try:
        observe_planted(model, sgd(model), 3, every_n_steps=10**7, fit_every_n_steps=10**7)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20e6
