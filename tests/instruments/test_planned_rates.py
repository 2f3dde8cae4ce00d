"""Rates of long plans: run ahead once, exact, and never without an end."""

from __future__ import annotations

import math
from array import array

import pytest
import torch

from lightning_normdyn.core import RateTrace
from lightning_normdyn.instruments import NormObserver
from lightning_normdyn.instruments.planned_rates import MOST_STEPS_AHEAD, LRSchedule, PlannedRates, run_ahead


def traced_one_by_one(lrs):
    trace = RateTrace()
    for lr in lrs:
        trace.append(lr)
    return trace


@pytest.mark.parametrize("steps", [0, 1, 255, 256, 257, 5_000, 70_001])
def test_rates_that_come_together_make_the_trace_of_those_that_come_one_by_one(steps):
    lrs = array("d", [0.1 * (1 + math.cos(0.001 * step)) for step in range(steps)])
    begun = traced_one_by_one(lrs[:100])
    begun.extend(lrs[100:])
    for trace in (RateTrace.of(lrs), RateTrace.of(iter(lrs)), begun):
        assert_alike(trace, traced_one_by_one(lrs))
    assert_alike(RateTrace.constant(0.3, steps), traced_one_by_one([0.3] * steps))


def assert_alike(trace, expected):
    assert [segment.steps for segment in trace.segments] == [segment.steps for segment in expected.segments]
    for segment, other in zip(trace.segments, expected.segments, strict=True):
        assert segment == pytest.approx(other, rel=1e-12)


def test_a_billion_steps_at_one_rate_are_no_work():
    trace = RateTrace.constant(0.1, 10**9)
    assert (trace.steps, trace.mean) == (10**9, pytest.approx(0.1))


def train(total_steps, steps, schedule, **options):
    """Calls of the schedule's function, and what is logged, by step."""
    net = torch.nn.Embedding(6, 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.1)
    calls, logged = [], {}

    def factor(step):
        calls.append(step)
        return schedule(step)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    with NormObserver(
        net,
        optimizer,
        scheduler=scheduler,
        total_steps=total_steps,
        window=5,
        log=lambda metrics, step: logged.update({step: metrics}),
        **options,
    ) as observer:
        for _ in range(steps):
            optimizer.zero_grad()
            net(torch.arange(6)).square().sum().backward()
            optimizer.step()
            scheduler.step()
        del observer
    return calls, logged


def test_a_schedule_is_run_ahead_once_for_all_windows():
    calls, _ = train(20_000, 50, lambda step: 1 / (1 + step))
    assert len(calls) <= 1 + 50 + 20_000  # ten windows


@pytest.mark.parametrize("skip", [0, 1, 7])
def test_a_later_look_gives_what_running_ahead_from_there_gives(skip):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    schedules, rates = [LRSchedule(scheduler, lambda step: step % 2 == 0)], PlannedRates(pytest.fail)
    rates.trace(optimizer, 0, schedules, range(1, 31), 30)
    for step in range(1, 1 + skip):
        optimizer.step()
        if step % 2 == 0:
            scheduler.step()
    later = rates.trace(optimizer, 0, schedules, iter(()), 30 - skip)  # reads nothing: all is known
    assert later.segments == run_ahead(optimizer, 0, schedules, range(1 + skip, 31)).trace(30 - skip).segments


def test_a_rate_that_was_not_foreseen_is_run_ahead_anew():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.MultiplicativeLR(optimizer, lambda _: 0.5)
    schedules, rates = [LRSchedule(scheduler, lambda _: True)], PlannedRates(pytest.fail)
    assert rates.trace(optimizer, 0, schedules, range(3), 3).mean == pytest.approx((0.5 + 0.25 + 0.125) / 3)
    optimizer.param_groups[0]["lr"] = 8.0
    assert rates.trace(optimizer, 0, schedules, range(2), 2).mean == pytest.approx((4 + 2) / 2)


def test_a_plan_that_is_too_long_for_its_schedule_is_said_once_and_nothing_is_forecast():
    with pytest.warns(UserWarning, match="^a schedule is run ahead 2,000,000 steps at most") as record:
        calls, logged = train(10**9, 30, lambda step: 1 / (1 + step), forecast_at=10)
    assert len(record) == 1
    assert "total_steps of NormObserver" in str(record[0].message)
    assert len(calls) == 31
    assert "normdyn/weight/transient_median_error" in logged[10]
    assert MOST_STEPS_AHEAD == 2_000_000
