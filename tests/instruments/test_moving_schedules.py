"""Runs whose momentum or weight decay moves are predicted as well as those in which both stay, on real SGD."""

from __future__ import annotations

import pytest
import torch
from planted_table import PlantedTable, observe_planted

STEPS = 2_400


class RisingDecay:
    """Weight decay from 0.003 to 0.03 by the end of the run, as a scheduler of one's own sets it."""

    def __init__(self, optimizer):
        self.optimizer, self.steps = optimizer, 0

    def step(self):
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["weight_decay"] = 0.003 * 10 ** (self.steps / STEPS)


def one_cycle(optimizer, **options):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.04, total_steps=STEPS + 1, **options)


def train(make_scheduler, momentum=0.5):
    model = PlantedTable(torch.linspace(0.3, 1, 100, dtype=torch.float64), 32, seed=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=momentum, weight_decay=0.003)
    scheduler = None if make_scheduler is None else make_scheduler(optimizer)
    return observe_planted(model, optimizer, STEPS, scheduler, window=0.5)


@pytest.fixture(scope="module")
def steady():
    return train(None)


def test_a_decay_that_moves_costs_no_accuracy(steady):
    moved = train(RisingDecay)
    assert moved["transient_median_error"] <= steady["transient_median_error"] + 0.01
    assert moved["transient_slope"] == pytest.approx(1, abs=0.01)
    assert moved["forecast_median_error"] <= 0.02
    assert moved["forecast_skill"] >= 0.95


def test_a_momentum_that_cycles_costs_no_accuracy():
    moved, fixed = train(one_cycle), train(lambda optimizer: one_cycle(optimizer, cycle_momentum=False))
    assert moved["transient_median_error"] <= fixed["transient_median_error"] + 0.005
    assert moved["forecast_median_error"] <= fixed["forecast_median_error"] + 0.01
    assert moved["forecast_skill"] >= 0.9


def test_a_group_that_is_edited_in_mid_run_is_followed(steady):
    class Edit(RisingDecay):
        def step(self):
            self.steps += 1
            if self.steps == STEPS - 400:  # within the last window
                self.optimizer.param_groups[0].update(momentum=0.7, weight_decay=0.0)

    moved = train(Edit)
    assert moved["transient_median_error"] <= steady["transient_median_error"] + 0.005
