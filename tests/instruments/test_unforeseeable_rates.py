"""Schedules that nobody can run ahead are said once, and ``lrs=`` passes the rates instead."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from planted_table import PlantedTable

from lightning_normdyn import NormObserver

STEPS = 400
SENTENCE = "SGD are set by something that cannot be run ahead"


def cosine(step):
    return 0.025 * (1 + math.cos(math.pi * step / STEPS))


class SteppedWithNumbers:
    """As timm's schedulers: ``step`` wants to be told where it is."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, epoch):
        self.optimizer.param_groups[0]["lr"] = cosine(epoch)


def train(set_lr, make_scheduler=None, **options):
    """What is logged, and the sentences about schedules."""
    model = PlantedTable(torch.linspace(0.3, 1, 60, dtype=torch.float64), 32, seed=2)
    optimizer, logged = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.01), {}
    scheduler = None if make_scheduler is None else make_scheduler(optimizer)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        log = lambda metrics, _: logged.update(metrics)  # noqa: E731
        with NormObserver(model, optimizer, total_steps=STEPS, scheduler=scheduler, log=log, **options):
            for step in range(STEPS):
                optimizer.param_groups[0]["lr"] = set_lr(step)
                optimizer.zero_grad(set_to_none=True)
                model().backward()
                optimizer.step()
    sentences = [str(warning.message) for warning in record if SENTENCE in str(warning.message)]
    return {key.rsplit("/", 1)[1]: value for key, value in logged.items()}, sentences


SCHEDULERS = {"a plain function": None, "numbers": SteppedWithNumbers, "a function as scheduler": lambda _: cosine}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_schedule_that_cannot_be_run_ahead_is_said_once_and_lrs_stand_in(kind):
    blind, sentences = train(cosine, SCHEDULERS[kind])
    assert len(sentences) == 1
    assert "lrs=" in sentences[0]
    told, sentences = train(cosine, SCHEDULERS[kind], lrs=cosine)
    assert not sentences
    assert told["forecast_median_error"] < 0.02 < 3 * blind["forecast_median_error"]
    assert told["forecast_median_error"] < 0.5 * blind["forecast_median_error"]


def test_a_single_edit_in_mid_run_is_said_too():
    _, sentences = train(lambda step: 0.05 if step < 250 else 0.01)
    assert len(sentences) == 1


def test_a_rate_that_stays_is_not_said():
    assert train(lambda _: 0.05)[1] == []


def run_short(model, optimizer, lrs):
    with NormObserver(model, optimizer, total_steps=40, window=10, lrs=lrs):
        for _ in range(30):
            model(torch.arange(6)).square().sum().backward()
            optimizer.step()


@pytest.mark.parametrize("lrs", [lambda _: 1 / 0, lambda _: math.nan])
def test_lrs_that_give_no_rates_end_nothing(lrs):
    model = torch.nn.Embedding(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="^lrs: ") as record:
        run_short(model, optimizer, lrs)
    assert len([warning for warning in record if str(warning.message).startswith("lrs: ")]) == 1


def test_lrs_must_be_a_function():
    model = torch.nn.Embedding(6, 3)
    with pytest.raises(ValueError, match="lrs: expected a function from the number of a step"):
        NormObserver(model, torch.optim.SGD(model.parameters(), lr=0.1), lrs=0.1)
