"""Muon and Adafactor against torch's own, and Muon's memory against its iteration at another size."""

import math

import pytest
import torch
from trained_rows import DIM, GROUPS, off_by, second_moments, spreads, table, train
from walks import tangential_noise

from lightning_normdyn.core import equilibrium_rule
from lightning_normdyn.core.dynamics.matrix_laws import muon_memory

Muon = torch.optim.__dict__.get("Muon")
Adafactor = torch.optim.__dict__.get("Adafactor")
with_muon = pytest.mark.skipif(Muon is None, reason="this torch has no Muon")
with_adafactor = pytest.mark.skipif(Adafactor is None, reason="this torch has no Adafactor")


def squared_norms_under_muon(optimizer, lrs, seed=1):
    """``|X|²`` after each step of a matrix on white noise across it, as of a loss that sees its direction alone."""
    generator = torch.Generator().manual_seed(seed)
    (group,) = optimizer.param_groups
    (matrix,) = group["params"]
    x = matrix.detach()
    for lr in lrs:
        group["lr"] = lr
        matrix.grad = tangential_noise(x.flatten(), 1.0, generator).view_as(x)
        optimizer.step()
        yield x.double().square().sum().item()


def matrix_of(norm, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return torch.nn.Parameter(x * (norm / x.norm()))


MUON = {
    "no momentum": ((16, 16), {"lr": 0.02, "momentum": 0.0, "nesterov": False, "weight_decay": 0.5}),
    "nesterov, as torch has it": ((16, 16), {"lr": 0.002, "weight_decay": 0.5}),
    "plain momentum": ((16, 16), {"lr": 0.002, "momentum": 0.9, "nesterov": False, "weight_decay": 0.5}),
    "tall": ((64, 16), {"lr": 0.002, "weight_decay": 0.5}),
    "wide": ((12, 48), {"lr": 0.002, "weight_decay": 0.5}),
    "tall, rate matched to AdamW": ((64, 16), {"lr": 0.002, "weight_decay": 0.5, "adjust_lr_fn": "match_rms_adamw"}),
    "fewer iterations": ((16, 16), {"lr": 0.002, "weight_decay": 0.5, "ns_steps": 3}),
}


@with_muon
@pytest.mark.parametrize(("shape", "options"), MUON.values(), ids=MUON.keys())
def test_a_matrix_under_muon_settles_as_its_law_says(shape, options):
    rule = equilibrium_rule(Muon([matrix_of(1.0, shape)], **options))
    predicted = rule.predict(None, shape[0] * shape[1]).item()
    matrix = matrix_of(predicted, shape)
    squares = list(squared_norms_under_muon(Muon([matrix], **options), [options["lr"]] * 2000))
    measured = math.sqrt(sum(squares[500:]) / 1500)
    assert measured == pytest.approx(predicted, rel=0.02)
    assert rule.at(1.1 * rule.lr).predict(None, shape[0] * shape[1]).item() != pytest.approx(measured, rel=0.02)
    rows = matrix.detach().norm(dim=1).square().mean().sqrt().item()
    assert rule.predict(None, shape[1]).item() == pytest.approx(rows, rel=0.1), "the last norm, of a row"


@with_muon
@pytest.mark.parametrize("start", [0.5, 2.0])
def test_muon_is_followed_through_a_schedule(start):
    shape, options = MUON["nesterov, as torch has it"]
    lrs = [0.002 * (1 + math.cos(math.pi * step / 1500)) / 2 for step in range(1500)]
    norm = start * equilibrium_rule(Muon([matrix_of(1.0, shape)], **options)).predict(None, 256).item()
    optimizer = Muon([matrix_of(norm, shape)], **options)
    *_, square = squared_norms_under_muon(optimizer, [0.0] * 100 + lrs)
    start_norm = torch.tensor([norm], dtype=torch.float64)
    predicted = equilibrium_rule(optimizer).evolve(start_norm, torch.ones(1), 256, lrs=lrs).item()
    assert math.sqrt(square) == pytest.approx(predicted, rel=0.02)
    assert norm != pytest.approx(predicted, rel=0.1)


@with_muon
def test_decay_for_a_norm_under_muon_is_in_the_optimizer_s_unit():
    shape, options = MUON["tall, rate matched to AdamW"]
    rule = equilibrium_rule(Muon([matrix_of(1.0, shape)], **options))
    decay = rule.decay_for_norm(1.7, None, 1024).item() / rule.decay_gain
    again = equilibrium_rule(Muon([matrix_of(1.0, shape)], **options | {"weight_decay": decay}))
    assert again.predict(None, 1024).item() == pytest.approx(1.7)
    turns = again.angular_rate().item()
    assert turns == pytest.approx(math.sqrt(2 * options["lr"] * decay / again.step_memory.persistence))


@pytest.mark.parametrize("shape", [(64, 64), (128, 32), (24, 160)])
def test_muon_s_memory_is_that_of_its_iteration_at_the_real_size(shape):
    """Orthogonalised at full size by torch's own iteration, in bfloat16; gradients k steps apart share mu^k."""
    iteration = pytest.importorskip("torch.optim._muon")._zeropower_via_newtonschulz
    generator, momentum = torch.Generator().manual_seed(3), 0.8

    def update(matrix):
        return iteration(matrix, (3.4445, -4.775, 2.0315), 5, 1e-7).double()

    square, products = 0.0, 0.0
    for _ in range(6):
        first, second = torch.randn(2, *shape, generator=generator)
        now = update(first)
        square += now.square().sum().item() / 6
        for lag in range(1, 25):
            shared, rest = momentum**lag, math.sqrt(1 - momentum ** (2 * lag))
            later = update(shared * first + rest * second) + update(shared * first - rest * second)
            products += (now * later).sum().item() / 6
    persistence = 1 + products / square
    memory = muon_memory(shape, momentum, False)
    assert memory.mean_square * shape[0] * shape[1] == pytest.approx(square, rel=0.02)
    assert memory.persistence == pytest.approx(persistence, rel=0.02)
    assert muon_memory(shape, momentum, True).persistence != pytest.approx(persistence, rel=0.03)
    assert muon_memory(shape, 0.0, False).persistence == 1.0


@with_muon
def test_a_group_of_several_shapes_is_refused_under_muon():
    rule = equilibrium_rule(Muon([matrix_of(1.0, (4, 4)), matrix_of(1.0, (4, 8))]))
    assert rule.family is None
    assert "this group has 2 shapes: give each a parameter group of its own" in rule.reason


ADAFACTOR_ROWS = 128


@with_adafactor
@pytest.mark.parametrize(
    ("lr", "weight_decay", "presence"), [(0.01, 0.0, 1.0), (0.02, 0.01, 1.0), (0.02, 0.03, 1.0), (0.02, 0.01, 0.1)]
)
def test_a_table_under_adafactor_draws_together_and_grows_as_its_law_says(lr, weight_decay, presence):
    start = spreads(ADAFACTOR_ROWS)
    rows = table(start)
    optimizer = Adafactor([rows], lr=lr, weight_decay=weight_decay)
    v2 = second_moments(ADAFACTOR_ROWS, presence)
    at_start = equilibrium_rule(optimizer)
    middle = train(optimizer, [lr] * 1500, presence)
    lrs = [lr] * 1500
    assert off_by(middle, at_start.evolve(start, v2, DIM, presence, lrs=lrs)) < 0.02
    in_mid_run = equilibrium_rule(optimizer)
    assert (at_start.steps_made, in_mid_run.steps_made) == (0, 1500)
    assert in_mid_run.steps_earlier(1500) == at_start
    end = train(optimizer, lrs, presence, seed=2)
    assert off_by(end, in_mid_run.evolve(middle, v2, DIM, presence, lrs=lrs)) < 0.02
    assert off_by(end, middle) > 0.03, "it stays as it is"
    groups = end.view(GROUPS, -1).mean(1)
    assert groups.max() / groups.min() < 0.7 * spreads(ADAFACTOR_ROWS).max() / spreads(ADAFACTOR_ROWS).min()


@with_adafactor
def test_half_the_rate_is_the_decay_that_keeps_adafactor_s_norms():
    rows = table(2 * torch.ones(ADAFACTOR_ROWS))
    optimizer = Adafactor([rows], lr=0.02, weight_decay=0.01)
    end = train(optimizer, [0.02] * 1500)
    assert float((end.square().mean().sqrt() / 2 - 1).abs()) < 0.01


@with_adafactor
@pytest.mark.parametrize(("decay", "limit"), [(0.0, math.inf), (0.004, math.inf), (0.006, 0.0)])
def test_adafactor_has_no_equilibrium_and_says_so(decay, limit):
    rule = equilibrium_rule(Adafactor([torch.nn.Parameter(torch.ones(2, 3))], lr=0.01, weight_decay=decay))
    assert not rule.settles
    assert rule.predict(1.0, 3).item() == limit
    assert math.isnan(rule.relaxation_steps())


@with_adafactor
def test_another_clipping_than_torch_s_is_refused_under_adafactor():
    assert (
        "another beta2_decay, eps or d"
        in equilibrium_rule(Adafactor([torch.nn.Parameter(torch.ones(2, 3))], d=2.0)).reason
    )
