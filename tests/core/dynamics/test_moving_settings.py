"""Paths and equilibria under settings that move from step to step, against loops of single steps in float64."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lightning_normdyn.core import EffectiveTrace, RateTrace, equilibrium_rule
from lightning_normdyn.core.dynamics.step_rates import StepRates

STEPS = 900
V2 = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)
START = torch.tensor([1.5, 0.7, 1.0], dtype=torch.float64)


def course(steps=STEPS):
    """Nominal rate, momentum and decay of each step: one cycle of both, and a decay that rises tenfold."""
    phases = [step / steps for step in range(steps)]
    return [(0.02 * (1 - math.cos(2 * math.pi * t)), 0.9 - 0.3 * math.sin(math.pi * t), 0.003 * 10**t) for t in phases]


def effective(settings):
    trace = EffectiveTrace()
    for lr, momentum, decay in settings:
        trace.append(lr / (1 - momentum), decay)
    return trace


def sgd_rule(momentum=0.5, decay=0.01):
    return equilibrium_rule(torch.optim.SGD([torch.ones(1)], lr=7.0, momentum=momentum, weight_decay=decay))


def test_the_path_of_sgd_is_that_of_step_after_step():
    fourth = START.pow(4)
    for lr, momentum, decay in course():
        rate = lr / (1 - momentum)
        shrink = 1 - rate * decay
        fourth = shrink**4 * fourth + 2 * shrink**2 * rate**2 * V2
    path = sgd_rule().evolve(START, V2, 8, lrs=effective(course()))
    assert path == pytest.approx(fourth.pow(1 / 4), rel=2e-4)


def test_the_path_of_adamw_is_that_of_step_after_step():
    """At p = 1, and from norms so large that they barely move within the memory of the second moment."""
    optimizer = torch.optim.AdamW([torch.ones(1)], lr=7.0, weight_decay=0.5, betas=(0.9, 0.9))
    trace, squared = EffectiveTrace(), (START * 30).square()
    for lr, _, decay in course():
        trace.append(lr, decay)
        squared = (1 - lr * decay) ** 2 * squared + lr**2 * 8 / 1.1
    path = equilibrium_rule(optimizer).evolve(START * 30, V2, 8, lrs=trace)
    assert path == pytest.approx(squared.sqrt(), rel=1e-3)


@pytest.mark.parametrize("decays", [(0.0, 0.01), (0.01, 0.0)])
def test_decay_that_begins_or_ends_on_the_way(decays):
    trace, fourth = EffectiveTrace(), START.pow(4)
    for decay in decays:
        for _ in range(400):
            trace.append(0.05, decay)
            shrink = 1 - 0.05 * decay
            fourth = shrink**4 * fourth + 2 * shrink**2 * 0.05**2 * V2
    path = sgd_rule(decay=decays[-1]).evolve(START, V2, 8, lrs=trace)
    assert path == pytest.approx(fourth.pow(1 / 4), rel=1e-5)


def test_the_average_rule_settles_where_growth_and_decay_of_all_steps_cancel():
    """Sum of 2·e²·V² over the steps against that of 4·e·lambda·R⁴, for a norm that stays."""
    rates = [(lr / (1 - momentum), decay) for lr, momentum, decay in course()]
    norm = sgd_rule().averaged(effective(course())).predict(V2, 8)
    growth = math.fsum(2 * rate**2 for rate, _ in rates) * V2
    decay = math.fsum(4 * rate * decay for rate, decay in rates) * norm.pow(4)
    assert growth == pytest.approx(decay, rel=1e-12)
    assert sgd_rule().averaged(effective(course())).relaxation_steps() > 0


@pytest.mark.parametrize("steps", [1, 255, 256, 3001])
def test_settings_that_stay_give_what_nominal_rates_give(steps):
    lrs = [0.1 / (1 + 0.01 * step) for step in range(steps)]
    rule, trace = sgd_rule(), EffectiveTrace()
    for lr in lrs:
        trace.append(lr * rule.lr_gain, rule.radial_decay)
    path, nominal = rule.evolve(START, V2, 8, lrs=trace), rule.evolve(START, V2, 8, lrs=lrs)
    assert path == pytest.approx(nominal, rel=1e-13)
    settled = rule.at(nominal_lr=RateTrace.of(lrs).noise_rate)
    assert rule.averaged(trace).predict(V2, 8) == pytest.approx(settled.predict(V2, 8), rel=1e-13)
    constant = EffectiveTrace.constant(0.3, 0.01, steps)
    assert constant.is_constant
    assert steps == 1 or not trace.is_constant


@pytest.mark.parametrize("steps", [10, 700])
def test_sums_are_exact_however_they_were_merged_and_survive_a_checkpoint(steps):
    trace = effective(course(steps))
    rates = [lr / (1 - momentum) for lr, momentum, _ in course(steps)]
    products = [rate * decay for rate, (_, _, decay) in zip(rates, course(steps), strict=True)]
    restored = EffectiveTrace()
    restored.load_state_dict(json.loads(json.dumps(trace.state_dict())))
    for known in (trace, restored):
        assert len(known.segments) <= 256
        assert known.mean == pytest.approx(math.fsum(rates) / steps, rel=1e-12)
        assert known.mean_square == pytest.approx(math.fsum(rate**2 for rate in rates) / steps, rel=1e-12)
        assert known.radial_decay == pytest.approx(math.fsum(products) / math.fsum(rates), rel=1e-12)


def test_a_trace_of_an_earlier_release_is_read_as_it_was_then():
    """Nominal rates, three sums a segment: momentum and decay of now stand for all of it."""
    lrs = [0.1 / (1 + step) for step in range(300)]
    rule, restored = sgd_rule(), EffectiveTrace()
    state = RateTrace.of(lrs).state_dict()
    restored.load_state_dict(state, lr_gain=rule.lr_gain, radial_decay=rule.radial_decay)
    assert rule.evolve(START, V2, 8, lrs=restored) == pytest.approx(rule.evolve(START, V2, 8, lrs=lrs), rel=1e-13)
    restored.append(0.2, 0.01)
    assert restored.steps == 301


def test_an_edit_of_any_setting_is_read_at_once():
    optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1, momentum=0.9, dampening=0.0, weight_decay=0.01)
    rates, (group,) = StepRates(optimizer), optimizer.param_groups
    for name, value, expected in [
        ("lr", 0.2, (2.0, 0.01)),
        ("momentum", 0.5, (0.4, 0.01)),
        ("dampening", 0.5, (0.2, 0.01)),
        ("weight_decay", 0.03, (0.2, 0.03)),
    ]:
        group[name] = value
        assert rates.read(group) == pytest.approx(expected)
