"""Near-dead rows get a norm and a direction back, and the gradient that they spoil is that of a healthy table."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_normdyn import InfoNCE, repair_rows

ROWS, DIM = 200, 16
DEAD = [3, 50, 199]


def table_of(dtype=torch.float32, seed=0):
    rows = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    norms = torch.rand(ROWS, generator=torch.Generator().manual_seed(seed + 1)).add(0.5)
    return (rows / rows.norm(dim=1, keepdim=True) * norms.unsqueeze(1)).to(dtype)


def damaged(table, factor=1e-12):
    table = table.clone()
    table[DEAD] *= factor
    return torch.nn.Parameter(table)


def expected_row(directions_of, take_from, row, neighbours):
    """By plain loops: the mean direction of the rows nearest in angle, at the median norm of the others."""
    source, target = directions_of.double().tolist(), take_from.double().tolist()
    healthy = [i for i in range(ROWS) if i not in DEAD]

    def unit(vector):
        return [x / math.hypot(*vector) for x in vector]

    cosines = {i: sum(a * b for a, b in zip(unit(source[i]), unit(source[row]), strict=True)) for i in healthy}
    nearest = sorted(healthy, key=cosines.__getitem__)[-neighbours:]
    mean = [sum(unit(target[i])[k] for i in nearest) for k in range(DIM)]
    norms = sorted(math.hypot(*target[i]) for i in healthy)
    return torch.tensor([x * norms[(len(norms) - 1) // 2] for x in unit(mean)], dtype=torch.float64)


@pytest.mark.parametrize("named", [True, False])
def test_rows_lie_among_their_neighbours_at_the_median_norm(named):
    table, other = damaged(table_of()), table_of(seed=5)
    output = torch.nn.Parameter(other.clone())
    before = table.detach().clone()
    repaired = repair_rows(table, torch.tensor(DEAD) if named else None, output=output, neighbours=5)
    assert sorted(repaired.tolist()) == DEAD
    for row in DEAD:
        torch.testing.assert_close(table[row].double(), expected_row(before, before, row, 5), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(output[row].double(), expected_row(before, other, row, 5), rtol=1e-5, atol=1e-6)
    others = [row for row in range(ROWS) if row not in DEAD]
    assert torch.equal(table[others], before[others])
    assert torch.equal(output[others], other[others])


def test_a_tied_output_is_repaired_once():
    table, alone = damaged(table_of()), damaged(table_of())
    head = torch.nn.Linear(DIM, ROWS, bias=False)
    head.weight = table
    repair_rows(table, output=head.weight)
    repair_rows(alone)
    assert torch.equal(table, alone)


def gradient_norm(table, ids):
    table.grad = None
    InfoNCE(temperature=0.1)(table[ids[0]], table[ids[1]]).backward()
    return float(torch.linalg.vector_norm(table.grad.double()))


@pytest.mark.parametrize("method", ["neighbours", "redraw"])
def test_the_spike_of_the_first_step_is_gone(method):
    """A normalised loss has a gradient of V/R: at R = 1e-12 it is 10¹² as large, and gone after the repair."""
    healthy, table = torch.nn.Parameter(table_of()), damaged(table_of())
    ids = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3))[:64].view(2, 32)
    ids[0, :2], ids[1, 2] = torch.tensor(DEAD[:2]), DEAD[2]
    usual, spoilt = gradient_norm(healthy, ids), gradient_norm(table, ids)
    assert spoilt > 1e10 * usual
    repair_rows(table, method=method, generator=torch.Generator().manual_seed(4))
    assert gradient_norm(table, ids) < 2 * usual
    torch.nn.utils.clip_grad_norm_([table], usual)
    shares = table.grad.double().square().sum(1) / table.grad.double().square().sum()
    assert shares[DEAD].max() < 0.2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_zeros_and_half_precision(dtype):
    table = damaged(table_of(dtype), factor=0.0)
    assert sorted(repair_rows(table, generator=torch.Generator().manual_seed(1)).tolist()) == DEAD
    norms = table.detach().double().norm(dim=1)
    assert torch.allclose(norms[DEAD], norms.median(), rtol=0.02)
    directions = table.detach().double()[DEAD]
    assert (torch.corrcoef(directions).fill_diagonal_(0).abs() < 0.95).all()  # each was drawn anew


def test_a_healthy_table_stays_as_it_is():
    table = torch.nn.Parameter(table_of())
    assert not len(repair_rows(table))
    assert torch.equal(table, table_of())


def test_a_mask_names_rows():
    table, mask = damaged(table_of()), torch.zeros(ROWS, dtype=torch.bool)
    mask[DEAD] = True
    assert repair_rows(table, mask).tolist() == DEAD


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": torch.tensor([ROWS])}, f"rows: expected numbers from 0 to {ROWS - 1}"),
        ({"rows": torch.tensor([0.5])}, "rows: expected numbers"),
        ({"rows": torch.ones(3, dtype=torch.bool)}, "rows: expected numbers"),
        ({"rows": torch.arange(ROWS)}, "rows: expected rows besides those to be repaired"),
        ({"output": torch.ones(3, DIM)}, f"output: expected the {ROWS} rows of table, got 3"),
        ({"output": torch.ones(3)}, "output: expected a matrix of rows"),
        ({"method": "mean"}, "method: expected 'neighbours' or 'redraw', got 'mean'"),
        ({"neighbours": 0}, "neighbours"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        repair_rows(table_of(), **options)
