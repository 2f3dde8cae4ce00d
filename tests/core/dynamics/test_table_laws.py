"""Adagrad, row-wise Adagrad and SparseAdam against the optimizers themselves."""

import pytest
import torch
from third_party import RowwiseAdagrad
from trained_rows import DIM, off_by, second_moments, table, train

from lightning_normdyn.core import (
    EquilibriumRule,
    accumulated_squares,
    adagrad_norm,
    equilibrium_rule,
    weight_decay_for,
)

Adagrad, SparseAdam = torch.optim.Adagrad, torch.optim.SparseAdam
ROWS = 128
HALF_RATES = [0.1] * 700 + [0.04] * 700


def ones(rows=ROWS):
    return torch.ones(rows, dtype=torch.float64)


@pytest.mark.parametrize("presence", [1.0, 0.1])
def test_adagrad_s_accumulator_alone_gives_the_norm(presence):
    rows = table(ones())
    optimizer = Adagrad([rows], lr=0.1)
    start = train(optimizer, [0.1] * 500, presence)
    before = optimizer.state[rows]["sum"].clone()
    end = train(optimizer, [0.1] * 1500, presence, seed=2)
    after = optimizer.state[rows]["sum"]
    assert off_by(end, adagrad_norm(start, before, after, 0.1)) < 0.005
    assert off_by(end, start) > 0.05, "it stays as it is"
    assert off_by(end, adagrad_norm(start, before, after, 0.12)) > 0.02


@pytest.mark.parametrize("presence", [1.0, 0.1])
def test_a_row_wise_accumulator_alone_gives_the_norm(presence):
    rows = table(ones())
    optimizer = RowwiseAdagrad([rows], lr=0.1)
    start = train(optimizer, [0.1] * 500, presence)
    before = optimizer.state[rows]["momentum1"].squeeze(1).clone()
    end = train(optimizer, [0.1] * 1500, presence, seed=2)
    after = optimizer.state[rows]["momentum1"].squeeze(1)
    assert off_by(end, adagrad_norm(start, before, after, 0.1, dim=DIM)) < 0.005
    assert off_by(end, adagrad_norm(start, before, after, 0.1, dim=DIM // 2)) > 0.02


@pytest.mark.parametrize(("presence", "weight_decay"), [(1.0, 0.0), (0.1, 0.0), (1.0, 0.3), (0.1, 0.1)])
def test_adagrad_s_path_is_predicted_from_the_gradients(presence, weight_decay):
    rows = table(ones())
    optimizer = Adagrad([rows], lr=0.1, weight_decay=weight_decay, initial_accumulator_value=1.0)
    start = train(optimizer, [0.1] * 600, presence)
    accumulated = accumulated_squares(optimizer, rows)
    rule, v2 = equilibrium_rule(optimizer), second_moments(ROWS, presence)
    end = train(optimizer, HALF_RATES, presence, seed=2)

    def predicted(**changes):
        arguments = {"second_moment": v2, "accumulated": accumulated, "lrs": HALF_RATES} | changes
        return rule.evolve(start, dim=DIM, update_probability=presence, **arguments)

    assert off_by(end, predicted()) < 0.01
    assert off_by(end, start) > 0.05, "it stays as it is"
    assert off_by(end, predicted(accumulated=3 * accumulated)) > 0.025


def test_adagrad_is_followed_from_its_first_step_on():
    """When the accumulator is empty the first steps are the largest, 1/n of the sum each."""
    rows = table(2 * ones(512))
    optimizer = Adagrad([rows], lr=0.05)
    accumulated = accumulated_squares(optimizer, rows)
    assert torch.equal(accumulated, torch.zeros(512, dtype=torch.float64))
    predicted = equilibrium_rule(optimizer).evolve(
        2 * ones(512), second_moments(512), DIM, lrs=[0.05] * 300, accumulated=accumulated
    )
    assert off_by(train(optimizer, [0.05] * 300), predicted) < 0.01


ROWWISE = {
    "none": ("rowwise_adagrad", 0.0),
    "l2": ("rowwise_adagrad", 0.1),
    "decouple": ("rowwise_adagradw", 0.01),
}


@pytest.mark.parametrize("presence", [1.0, 0.1])
@pytest.mark.parametrize("mode", ROWWISE)
def test_row_wise_adagrad_is_followed_and_decays_touched_rows_alone(mode, presence):
    family, weight_decay = ROWWISE[mode]
    rows = table(ones())
    optimizer = RowwiseAdagrad([rows], weight_decay=weight_decay, weight_decay_mode=mode)
    start = train(optimizer, [0.1] * 600, presence)
    accumulated = DIM * optimizer.state[rows]["momentum1"].squeeze(1)
    end = train(optimizer, HALF_RATES, presence, seed=2)
    rule = EquilibriumRule("EXACT_ROWWISE_ADAGRAD", family, 0.1, 1.0, weight_decay)
    path = {"second_moment": second_moments(ROWS, presence), "accumulated": accumulated, "lrs": HALF_RATES, "dim": DIM}
    assert off_by(end, rule.evolve(start, update_probability=presence, **path)) < 0.02
    if weight_decay and presence < 1:
        everywhere = EquilibriumRule("Adagrad", "adagrad", 0.1, 1.0, weight_decay)
        if mode == "l2":
            assert off_by(end, everywhere.evolve(start, update_probability=presence, **path)) > 0.05


def test_a_row_that_is_never_met_keeps_its_norm_under_row_wise_adagrad():
    rule = EquilibriumRule("EXACT_ROWWISE_ADAGRAD", "rowwise_adagradw", 0.1, 1.0, 0.5)
    end = rule.evolve(ones(1), 0 * ones(1), DIM, 0.0, lrs=[0.1] * 1000, accumulated=ones(1))
    assert end.item() == 1.0


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adagrad_has_no_equilibrium_and_says_so(decay):
    rule = equilibrium_rule(Adagrad([torch.nn.Parameter(torch.ones(2, 3))], weight_decay=decay))
    assert not rule.settles
    assert rule.predict(1.0, 3).item() == (0.0 if decay else torch.inf)
    assert rule.law.startswith("no norm is an equilibrium" if decay else "no equilibrium without weight decay")
    assert not rule.path_is_known()
    with pytest.raises(ValueError, match=r"accumulated: expected the sum .* Adagrad steps by all gradients so far"):
        rule.evolve(torch.ones(2), torch.ones(2), 3, lrs=[0.1])
    with pytest.raises(ValueError, match="expected an optimizer under which norms settle, got Adagrad"):
        weight_decay_for(rule, target_norm=1.0, dim=3)
    with pytest.raises(ValueError, match="expected an optimizer under which norms settle, got Adagrad"):
        rule.angular_rate()


def test_adagrad_s_lr_decay_is_refused_with_its_equal():
    def followed(scheduled):
        rows = table(ones(8))
        optimizer = Adagrad([rows], lr=0.1, lr_decay=0.0 if scheduled else 0.01)
        rates = [0.1 / (1 + 0.01 * step) for step in range(200)] if scheduled else [0.1] * 200
        return train(optimizer, rates), equilibrium_rule(optimizer)

    (by_option, refused), (by_schedule, known) = followed(scheduled=False), followed(scheduled=True)
    torch.testing.assert_close(by_option, by_schedule, rtol=1e-5, atol=0)
    assert "LambdaLR(optimizer, lambda step: 1 / (1 + lr_decay * step))" in refused.reason
    assert known.family == "adagrad"


def test_an_optimizer_that_accumulates_nothing_has_no_accumulator():
    rows = table(ones(8))
    assert accumulated_squares(torch.optim.SGD([rows], lr=0.1), rows) is None
    assert accumulated_squares(Adagrad([table(ones(8))]), rows) is None


def test_torchrec_s_dense_reference_is_refused_with_the_reason():
    kind = type("RowWiseAdagrad", (Adagrad,), {})
    reason = equilibrium_rule(kind([torch.nn.Parameter(torch.ones(2, 3))])).reason
    assert "moves a row by the mean of its gradient" in reason
    assert "EquilibriumRule('EXACT_ROWWISE_ADAGRAD', 'rowwise_adagrad'" in reason


@pytest.mark.parametrize(
    ("before", "after", "dim", "message"),
    [
        (torch.ones(2, 3), torch.ones(2), None, r"expected accumulators of one shape, got \(2, 3\) and \(2,\)"),
        (torch.ones(2), torch.ones(2), None, "dim: expected the length of a row, got None"),
    ],
)
def test_accumulators_that_do_not_fit_are_named(before, after, dim, message):
    with pytest.raises(ValueError, match=message):
        adagrad_norm(torch.ones(2), before, after, 0.1, dim=dim)


@pytest.mark.parametrize(("presence", "tolerance"), [(1.0, 0.01), (0.1, 0.02), (0.02, 0.04)])
def test_sparse_adam_grows_by_its_touches(presence, tolerance):
    start, lr = 2.0, 3e-3
    rows = table(start * ones())
    optimizer = SparseAdam([rows], lr=lr, betas=(0.9, 0.98))
    train(optimizer, [0.0] * int(150 / presence), presence, sparse=True)
    lrs = [lr] * int(1200 / presence**0.5)
    end = train(optimizer, lrs, presence, sparse=True, seed=2)
    rule, v2 = equilibrium_rule(optimizer), second_moments(ROWS, presence)
    assert off_by(end, rule.evolve(start * ones(), v2, DIM, presence, lrs=lrs)) < tolerance
    assert rule.law == "no equilibrium without weight decay: R² grows by lr²·d·p a step"
    if presence < 1:
        assert off_by(end, rule.evolve(start * ones(), v2, DIM, 1.0, lrs=lrs)) > 0.1
