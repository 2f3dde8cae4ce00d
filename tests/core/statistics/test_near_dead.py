"""Rows far below the bulk are found, wherever they are planted, and healthy tables raise no alarm."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core.statistics.near_dead import near_dead_rows

ROWS = 4000


def gaussian(rows, dim, seed=0):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dim", [1, 2, 3, 8, 64, 768])
def test_random_tables_raise_no_alarm(dim, seed):
    found = near_dead_rows(gaussian(ROWS, dim, seed).norm(dim=1), dim)
    assert not len(found.rows)
    assert found.limit < 0.11 * found.median


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_rare_rows_in_their_equilibrium_raise_no_alarm(exponent):
    """AdamW's law over a Zipf vocabulary: norms fall as the root of the frequency, without a gap."""
    share = torch.arange(1.0, 50_001, dtype=torch.float64) ** -exponent
    norms = (share / (share + 1e-3)).sqrt() * gaussian(50_000, 1).abs().squeeze(1).mul(0.05).exp()
    assert not len(near_dead_rows(norms, 256).rows)


@settings(max_examples=60, deadline=None)
@given(
    dim=st.integers(4, 128),
    planted=st.integers(1, 1200),
    depth=st.floats(10.0, 30.0),
    spread=st.floats(0.0, 0.6),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**30),
)
def test_planted_rows_are_found_whatever_the_scale(dim, planted, depth, spread, scale, seed):
    """A minority taken down by decay alone, ``R = R(0)·exp(-depth)``; the bulk has a spread of its own.

    No other row is named but one that chance has made as short as the documented level allows, one table in a hundred:
    it is named without the planted rows as well.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = gaussian(ROWS, dim, seed).norm(dim=1) * torch.randn(ROWS, generator=generator).mul(spread).exp() * scale
    order = torch.randperm(ROWS, generator=generator)
    rows, others = order[:planted], order[planted:]
    by_chance = others[near_dead_rows(norms[others], dim).rows]
    norms[rows] *= math.exp(-depth)
    near_dead = set(near_dead_rows(norms, dim).rows.tolist())
    assert near_dead >= set(rows.tolist())
    assert near_dead - set(rows.tolist()) <= set(by_chance.tolist())


@pytest.mark.parametrize("dim", [1, 2, 4, 16])
def test_chance_names_a_row_in_one_table_of_a_hundred_at_most(dim):
    """The level that the last term of the limit stands for, of 2,000 tables of random rows."""
    tables, rows = 2_000, 300
    norms = gaussian(tables * rows, dim, seed=dim).norm(dim=1).view(tables, rows)
    alarms = sum(len(near_dead_rows(table, dim).rows) > 0 for table in norms)
    assert alarms <= 0.01 * tables + 3 * math.sqrt(0.01 * tables)


@pytest.mark.parametrize("dead_share", [0.6, 0.9])
def test_most_of_a_table_may_be_dead(dead_share):
    norms = gaussian(ROWS, 32).norm(dim=1)
    norms[: int(dead_share * ROWS)] *= 1e-5
    assert near_dead_rows(norms, 32).rows.sort().values.tolist() == list(range(int(dead_share * ROWS)))


def test_a_few_huge_rows_make_no_others_dead():
    norms = gaussian(ROWS, 32).norm(dim=1)
    norms[:5] *= 1e4
    assert not len(near_dead_rows(norms, 32).rows)


def test_zeros_are_counted_and_come_first():
    norms = torch.cat((gaussian(50, 16).norm(dim=1), torch.tensor([1e-9, 0.0, 1e-12, 0.0])))
    found = near_dead_rows(norms, 16)
    assert found.rows.tolist() == [51, 53, 52, 50]
    assert found.zeros == 2
    assert near_dead_rows(torch.zeros(3), 16).rows.tolist() == [0, 1, 2]
    assert not len(near_dead_rows(torch.ones(1), 16).rows)


@pytest.mark.parametrize("norms", [torch.ones(2, 2), torch.tensor([1.0, math.nan]), torch.tensor([-1.0, 1.0])])
def test_what_is_no_norm_is_refused(norms):
    with pytest.raises(ValueError, match=r"norms: expected finite norms \[n\]"):
        near_dead_rows(norms, 4)
