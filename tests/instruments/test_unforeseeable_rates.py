"""Schedules that nobody can run ahead are said once, and ``lrs=`` passes the rates instead."""

from __future__ import annotations

import contextlib
import math
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from planted_table import PlantedTable, observe_planted

from lightning_normdyn import NormObserver
from lightning_normdyn.instruments.planned_rates import LRSchedule, run_ahead

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


def adjuster(optimizer):
    """As open_clip's schedules: a function that sets the rate of a step and gives it."""

    def adjust(step):
        lr = cosine(step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        return lr

    return adjust


def test_lrs_that_set_the_rate_leave_the_optimizer_alone():
    model = PlantedTable(torch.linspace(0.3, 1, 60, dtype=torch.float64), 32, seed=2)
    optimizer, rates, logged = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.01), [], {}
    schedule = adjuster(optimizer)
    with NormObserver(model, optimizer, total_steps=STEPS, lrs=schedule, log=lambda metrics, _: logged.update(metrics)):
        for step in range(STEPS):
            schedule(step)
            optimizer.zero_grad(set_to_none=True)
            model().backward()
            optimizer.step()
            rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [cosine(step) for step in range(STEPS)]
    assert logged["normdyn/table.weight/forecast_median_error"] < 0.02


def by_open_clip(optimizer):
    scheduler = pytest.importorskip("open_clip_train.scheduler", exc_type=ImportError)
    adjust = scheduler.cosine_lr(optimizer, 0.05, 20, STEPS)
    return adjust, adjust, lambda _: None


def by_timm(optimizer):
    module = pytest.importorskip("timm.scheduler", exc_type=ImportError)
    scheduler = module.CosineLRScheduler(optimizer, STEPS, warmup_t=20, warmup_lr_init=1e-3, t_in_epochs=False)
    return lambda step: scheduler._get_lr(step)[0], lambda _: None, lambda step: scheduler.step_update(step + 1)


@pytest.mark.parametrize("configure", [by_open_clip, by_timm])
def test_rates_as_the_guide_passes_them_are_those_that_are_set(configure):
    """And the optimizer's course is what it is without them."""
    courses = []
    for is_observed in (False, True):
        model = PlantedTable(torch.linspace(0.3, 1, 20, dtype=torch.float64), 8, seed=2)
        optimizer, rates = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.01), []
        lrs, before, after = configure(optimizer)
        observer = NormObserver(model, optimizer, total_steps=STEPS, lrs=lrs) if is_observed else None
        with observer or contextlib.nullcontext():
            for step in range(STEPS):
                before(step)
                optimizer.zero_grad(set_to_none=True)
                model().backward()
                optimizer.step()
                rates.append(optimizer.param_groups[0]["lr"])
                after(step)
        courses.append(rates)
    assert courses[0] == courses[1]
    assert [lrs(step) for step in range(STEPS)] == pytest.approx(courses[0])


def test_a_scheduler_that_accelerate_prepared_is_run_ahead():
    accelerate = pytest.importorskip("accelerate")
    prepare = accelerate.Accelerator(cpu=True).prepare

    def train_prepared(is_wrapped):
        wrap = prepare if is_wrapped else lambda *both: both
        model = PlantedTable(torch.linspace(0.3, 1, 60, dtype=torch.float64), 32, seed=2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.01)
        optimizer, scheduler = wrap(optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS))
        return observe_planted(model, optimizer, STEPS, scheduler)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=f".*{SENTENCE}")
        assert train_prepared(is_wrapped=True) == train_prepared(is_wrapped=False)


@pytest.mark.parametrize("split_batches", [False, True])
@pytest.mark.parametrize("with_optimizer", [False, True])
def test_accelerates_scheduler_steps_once_for_each_process(monkeypatch, split_batches, with_optimizer):
    """Held against the wrapper itself, told that there are two processes; past its end OneCycleLR stays."""
    accelerate = pytest.importorskip("accelerate")
    from accelerate.scheduler import AcceleratedScheduler

    optimizer = accelerate.Accelerator(cpu=True).prepare(torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0))
    monkeypatch.setattr("accelerate.scheduler.AcceleratorState", lambda: SimpleNamespace(num_processes=2))
    make = partial(torch.optim.lr_scheduler.OneCycleLR, optimizer.optimizer, 1.0, total_steps=20)
    options = {"step_with_optimizer": with_optimizer, "split_batches": split_batches}
    scheduler = AcceleratedScheduler(make(), optimizer, **options)
    schedule = LRSchedule.of(scheduler, lambda _: True, 2)
    steps = 12 if with_optimizer and not split_batches else 18
    lrs = list(run_ahead(optimizer.optimizer, 0, [schedule], range(steps)).lrs)
    real_lrs, gains = [], []
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        group = optimizer.param_groups[0]
        real_lrs.append(group["lr"])
        gains.append(1 / (1 - group["momentum"]))
    assert lrs == pytest.approx([lr * gain for lr, gain in zip(real_lrs, gains, strict=True)], rel=1e-12)


def test_lrs_must_be_a_function():
    model = torch.nn.Embedding(6, 3)
    with pytest.raises(ValueError, match="lrs: expected a function from the number of a step"):
        NormObserver(model, torch.optim.SGD(model.parameters(), lr=0.1), lrs=0.1)
