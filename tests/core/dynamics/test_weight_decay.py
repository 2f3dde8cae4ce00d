"""The inverse of the laws: against predictions, and against the real optimizers."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from third_party import Lion
from walks import OPTIMIZERS, optimizer_of, squared_norms_and_turns

from lightning_normdyn import equilibrium_rule, weight_decay_for

SGD, AdamW, Adam, RMSprop = torch.optim.SGD, torch.optim.AdamW, torch.optim.Adam, torch.optim.RMSprop

PROPERTY = settings(derandomize=True, max_examples=40)
by_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def rule_of(name, lr=1e-2, decay=0.0):
    return equilibrium_rule(optimizer_of(name, torch.nn.Parameter(torch.ones(1)), lr, decay))


@by_optimizer
@PROPERTY
@given(
    norm=st.floats(0.01, 100),
    lr=st.floats(1e-5, 1.0),
    second_moment=st.floats(1e-4, 1e4),
    dim=st.integers(2, 2048),
    p=st.floats(1e-3, 1.0),
)
def test_a_prediction_under_the_decay_for_a_norm_is_that_norm(name, norm, lr, second_moment, dim, p):
    gradients = {"second_moment": second_moment, "dim": dim, "update_probability": p}
    decay = weight_decay_for(rule_of(name, lr), target_norm=norm, **gradients)
    assert rule_of(name, lr, decay).predict(**gradients).item() == pytest.approx(norm, rel=1e-9)
    assert rule_of(name, lr, 2 * decay).predict(**gradients).item() != pytest.approx(norm, rel=1e-2)


@by_optimizer
@PROPERTY
@given(angle=st.floats(1e-5, 0.3), lr=st.floats(1e-5, 1.0), second_moment=st.floats(1e-4, 1e4), p=st.floats(1e-3, 1.0))
def test_the_rate_under_the_decay_for_a_rate_is_that_rate(name, angle, lr, second_moment, p):
    gradients = {"second_moment": second_moment, "dim": 64, "update_probability": p}
    decay = weight_decay_for(rule_of(name, lr), target_angular_rate=angle, **gradients)
    assert rule_of(name, lr, decay).angular_rate(**gradients).item() == pytest.approx(angle, rel=1e-9)
    assert rule_of(name, lr, 2 * decay).angular_rate(**gradients).item() != pytest.approx(angle, rel=1e-2)


# Learning rates at which norms relax to 1.5 over some 300 to 600 steps.
SETTLING = {
    "sgd": 5e-3,
    "sgd, momentum": 5e-4,
    "sgd, nesterov": 5e-4,
    "sgdw": 5e-4,
    "adamw": 1e-2,
    "adam": 1e-2,
    "nadam, decoupled": 1e-2,
    "lion": 2e-3,
}


@pytest.mark.parametrize(("name", "lr"), SETTLING.items(), ids=SETTLING.keys())
def test_the_real_optimizer_settles_at_the_target(name, lr):
    """From far below, at the norm that was asked for, and turning as fast as the law has it."""
    dim, target, spread = 64, 1.5, 2.0
    v2 = spread**2 * (dim - 1)
    decay = weight_decay_for(rule_of(name, lr), target_norm=target, second_moment=v2, dim=dim)
    rule = rule_of(name, lr, decay)
    walk = {"norm": 0.6 * target, "dim": dim, "spread": spread, "steps": 6000}
    squares, turns = squared_norms_and_turns(name, lr, decay, **walk)
    measured = squares.pow(rule.power / 2).mean() ** (1 / rule.power)
    assert measured.item() == pytest.approx(target, rel=0.01)
    rate = turns.square().mean().sqrt().item()
    along = rule.lr * rule.radial_decay if rule.decay_is_separable else 0.0  # what makes up for decay turns nothing
    assert rate == pytest.approx((rule.angular_rate(v2, dim).item() ** 2 - along**2) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ("name", "lr"), [("sgd", 2e-2), ("sgd, momentum", 2e-3), ("sgdw", 2e-3), ("adamw", 4e-3), ("lion", 1e-3)]
)
def test_the_real_optimizer_turns_at_the_target(name, lr):
    """Started where it settles, whatever the gradients: Kosson et al. 2023."""
    dim, target, spread = 64, 0.01, 1.0
    decay = weight_decay_for(rule_of(name, lr), target_angular_rate=target, dim=dim)
    norm = rule_of(name, lr, decay).predict(spread**2 * (dim - 1), dim).item()
    _, turns = squared_norms_and_turns(name, lr, decay, norm=norm, dim=dim, spread=spread, steps=4000)
    assert turns.square().mean().sqrt().item() == pytest.approx(target, rel=0.012)


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        (SGD, {"momentum": 0.9}, math.sqrt(2 * 0.01 * 0.02 / 1.9)),
        (SGD, {"momentum": 0.9, "dampening": 0.5}, math.sqrt(2 * 0.01 * 0.5 * 0.02 / 1.9)),
        (AdamW, {"betas": (0.8, 0.999)}, math.sqrt(2 * 0.01 * 0.02 * 0.2 / 1.8)),
        (RMSprop, {}, 0.01 * math.sqrt(64) / (0.01 * math.sqrt(64) * 2 / (2 * 0.02)) ** (1 / 3)),
        (Adam, {}, 0.01 * math.sqrt(64 * 0.1 / 1.9) / (0.01 * math.sqrt(64) * 2 / (2 * 0.02)) ** (1 / 3)),
    ],
)
def test_rates_of_turning_are_the_published_ones(kind, options, expected):
    rule = equilibrium_rule(kind([torch.nn.Parameter(torch.ones(1))], lr=0.01, weight_decay=0.02, **options))
    assert rule.angular_rate(4.0, 64).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("momentum", [0.5, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
def test_the_share_of_a_step_is_that_of_its_impulse_response(momentum, nesterov):
    """Feeds one gradient of 1 to the real optimizer and looks at the steps that it makes of it."""
    x = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SGD([x], lr=1.0, momentum=momentum, nesterov=nesterov)
    steps = []
    for step in range(600):
        before = x.detach().clone()
        x.grad = torch.full((1,), float(step == 0), dtype=torch.float64)
        optimizer.step()
        steps.append(float(before - x.detach()))
    share = sum(step**2 for step in steps) / sum(steps) ** 2
    rule = replace(equilibrium_rule(optimizer), radial_decay=1.0)
    assert rule.angular_rate().item() == pytest.approx(math.sqrt(2 * rule.lr * share), rel=1e-9)


def test_of_several_rows_the_middle_one_gets_the_target():
    rule = rule_of("sgd")
    moments = torch.tensor([0.0, 1.0, 16.0, 81.0])
    decay = weight_decay_for(rule, target_norm=2.0, second_moment=moments)
    norms = rule_of("sgd", decay=decay).predict(moments, 8)
    torch.testing.assert_close(norms, torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64))


def test_without_decay_nothing_settles_so_nothing_turns_at_a_set_rate():
    assert rule_of("sgd").angular_rate().item() == 0


def test_decay_for_adam_is_that_of_coupled_decay_even_if_there_is_none_yet():
    wanted = {"target_norm": 0.7, "second_moment": 9.0, "dim": 32}
    assert rule_of("adam").family == "adamw"
    assert weight_decay_for(rule_of("adam"), **wanted) == weight_decay_for(rule_of("adam", decay=0.5), **wanted)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("sgd", {}, "target_norm, target_angular_rate: expected one of the two, got None and None"),
        ("sgd", {"target_norm": 1.0, "target_angular_rate": 1.0}, "expected one of the two, got 1.0 and 1.0"),
        ("sgd", {"target_norm": 0.0}, "target_norm: expected a positive number, got 0.0"),
        ("sgd", {"target_angular_rate": math.inf}, "target_angular_rate: expected a positive number, got inf"),
        ("sgd", {"target_norm": 1.0}, "second_moment: expected a value, got None; the law of SGD needs it: R⁴ = "),
        ("adamw", {"target_norm": 1.0}, "dim: expected a value, got None; the law of AdamW needs it: R² = "),
        (
            "adam",
            {"target_angular_rate": 1.0, "second_moment": 1.0},
            "dim: expected a value, got None; the law of Adam",
        ),
        ("sgd", {"target_norm": 1.0, "second_moment": 0.0}, "expected a row that gets gradients, got none"),
    ],
)
def test_what_is_missing_is_named(name, arguments, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        weight_decay_for(rule_of(name), **arguments)


def test_a_warm_up_that_starts_at_zero_is_named():
    with pytest.raises(ValueError, match=r"rule: expected a learning rate above 0, got 0\.0; ask at the rate that"):
        weight_decay_for(rule_of("adamw", lr=0.0), target_norm=1.0, dim=8)


def test_an_optimizer_without_a_law_is_named():
    rule = equilibrium_rule(torch.optim.Adamax([torch.nn.Parameter(torch.ones(1))]))
    with pytest.raises(ValueError, match="Adamax has no known law of the norm"):
        weight_decay_for(rule, target_norm=1.0, dim=8)


def test_rare_rows_under_lion_turn_slower_at_the_same_decay():
    rule = equilibrium_rule(Lion([torch.nn.Parameter(torch.ones(1))], lr=1e-3, weight_decay=0.1))
    rare, dense = rule.angular_rate(update_probability=torch.tensor([0.01, 1.0]))
    assert rare < 0.5 * dense
