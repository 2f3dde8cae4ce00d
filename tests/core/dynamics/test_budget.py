import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core import norm_budget
from lightning_normdyn.core.dynamics.budget import UpdateSums

PROPERTY = settings(derandomize=True, max_examples=60)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

components = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
vector_triples = st.integers(1, 10).flatmap(
    lambda d: st.tuples(*[st.lists(components, min_size=d, max_size=d) for _ in range(3)])
)


def loop_budget(before, after, decay_update):
    steps = [end - start for start, end in zip(before, after, strict=True)]
    return (
        2 * math.fsum(x * decay for x, decay in zip(before, decay_update, strict=True)),
        2 * math.fsum(x * (step - decay) for x, step, decay in zip(before, steps, decay_update, strict=True)),
        math.fsum(step * step for step in steps),
        math.fsum(x * x for x in after) - math.fsum(x * x for x in before),
    )


def square(x):
    return x.double().square().sum(-1)


@PROPERTY
@given(vector_triples)
def test_every_part_equals_a_float64_loop(triple):
    before, after, decay_update = triple
    budget = norm_budget(*(torch.tensor(part, dtype=torch.float64) for part in triple))
    scale = max(abs(value) for part in triple for value in part) ** 2 * len(before)
    for part, oracle in zip(budget, loop_budget(before, after, decay_update), strict=True):
        assert float(part) == pytest.approx(oracle, abs=1e-13 * scale)


@PROPERTY
@given(vector_triples, st.sampled_from(DTYPES), st.booleans())
def test_budget_closes_in_any_precision(triple, dtype, with_decay):
    before, after, decay_update = (torch.tensor(part).to(dtype) for part in triple)
    budget = norm_budget(before, after, decay_update if with_decay else None)
    largest = square(before) + square(after) + with_decay * square(decay_update)
    assert budget.residual.dtype == torch.float64
    assert budget.residual.abs() <= 1e-12 * largest


def test_arithmetic_in_the_inputs_precision_would_not_close():
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(64, 256, generator=generator)
    after = before + 1e-3 * torch.randn(64, 256, generator=generator)
    step = after - before
    in_float32 = after.square().sum(-1) - before.square().sum(-1) - 2 * (before * step).sum(-1) - step.square().sum(-1)
    assert in_float32.abs().max() > 1e-8 * square(before).max()
    assert (norm_budget(before, after).residual.abs() <= 1e-12 * square(before)).all()


def test_residual_shows_a_part_that_is_left_out():
    before, after = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.5, 1.0]])
    budget = norm_budget(before, after)
    assert budget._replace(growth=torch.zeros(1)).residual.tolist() == pytest.approx([1.25], rel=1e-12)


def test_without_a_decay_update_drift_holds_both():
    before, after = torch.tensor([2.0, 0.0]), torch.tensor([1.9, 0.5])
    apart = norm_budget(before, after, torch.tensor([-0.1, 0.0]))
    together = norm_budget(before, after)
    assert together.decay == 0
    assert together.drift == pytest.approx(float(apart.decay + apart.drift))


def tangential_gradient(table, generator):
    noise = torch.randn(table.shape, generator=generator, dtype=table.dtype)
    along = (noise * table).sum(-1, keepdim=True) / table.square().sum(-1, keepdim=True)
    return (noise - along * table) / table.norm(dim=-1, keepdim=True)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, weight_decay=0.02)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1)


@pytest.mark.parametrize("build", [sgd, adamw])
def test_budget_telescopes_over_a_training_run(build):
    generator = torch.Generator().manual_seed(3)
    table = torch.nn.Parameter(torch.randn(8, 16, generator=generator))
    optimizer = build([table])
    settings = optimizer.param_groups[0]
    start, totals = table.detach().clone(), torch.zeros(4, 8, dtype=torch.float64)
    for _ in range(200):
        before = table.detach().clone()
        table.grad = tangential_gradient(before, generator)
        optimizer.step()
        decay_update = -settings["lr"] * settings["weight_decay"] * before
        totals += torch.stack(tuple(norm_budget(before, table.detach(), decay_update)))
    decay, drift, growth, total = totals
    torch.testing.assert_close(total, square(table.detach()) - square(start), rtol=0, atol=1e-11)
    torch.testing.assert_close(decay + drift + growth, total, rtol=0, atol=1e-11)
    assert (decay < 0).all()
    assert (growth > 0).all()


def test_plain_sgd_on_a_loss_that_sees_only_directions_has_no_drift():
    generator = torch.Generator().manual_seed(4)
    before = torch.randn(8, 16, generator=generator, dtype=torch.float64)
    table = torch.nn.Parameter(before.clone())
    table.grad = tangential_gradient(before, generator)
    sgd([table]).step()
    budget = norm_budget(before, table.detach(), -0.1 * 0.02 * before)
    torch.testing.assert_close(budget.decay, -2 * 0.1 * 0.02 * square(before), rtol=1e-12, atol=0)
    assert (budget.drift.abs() <= 1e-14 * square(before)).all()
    assert (norm_budget(before, table.detach(), 0 * before).drift.abs() > 1e-4 * square(before)).all()


@pytest.mark.parametrize(
    ("name", "after", "decay_update"),
    [("after", torch.ones(2, 4), None), ("decay_update", torch.ones(2, 3), torch.ones(3))],
)
def test_different_shapes_are_named(name, after, decay_update):
    with pytest.raises(ValueError, match=rf"{name}: expected the shape of before, \(2, 3\)"):
        norm_budget(torch.ones(2, 3), after, decay_update)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (2_000, 64)])
def test_the_sums_of_an_update_are_those_of_a_budget_and_leave_the_vectors_alone(dtype, shape):
    """Of a whole table they are read block by block, in memory of their own."""
    generator = torch.Generator().manual_seed(0)
    before, update = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    after = before + 0.01 * update
    copies = before.clone(), after.clone()
    sums, budget = UpdateSums.of(before, after), norm_budget(before, after)
    assert torch.equal(before, copies[0])
    assert torch.equal(after, copies[1])
    torch.testing.assert_close(sums.before, before.double().square().sum(1))
    torch.testing.assert_close(sums.after - sums.before, budget.total)
    torch.testing.assert_close(2 * sums.product, budget.drift)
    torch.testing.assert_close(sums.growth, budget.growth)
