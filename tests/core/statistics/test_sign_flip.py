"""The randomisation test against all sign patterns written out, and its level; Holm against its definition."""

import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core.statistics.sign_flip import holm, sign_flip_test


def every_pattern(differences):
    """Share of all 2^n sign patterns whose largest statistic reaches each observed one."""
    rows = [[float(x) for x in row] for row in differences]
    sizes = [sum(x * x for x in row) ** 0.5 for row in rows]
    reached = [0] * len(rows)
    patterns = list(itertools.product((-1, 1), repeat=len(rows[0])))
    for signs in patterns:
        largest = max(
            sum(s * x for s, x in zip(signs, row, strict=True)) / size for row, size in zip(rows, sizes, strict=True)
        )
        for at, (row, size) in enumerate(zip(rows, sizes, strict=True)):
            reached[at] += largest >= sum(row) / size - 1e-9
    return [number / len(patterns) for number in reached]


@pytest.mark.parametrize("seed", range(4))
def test_p_values_are_those_of_all_patterns(seed):
    x = torch.randn(3, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.4
    found = sign_flip_test(x, flips=20_000)
    assert found.p_values.tolist() == pytest.approx(every_pattern(x), abs=0.015)
    assert found.p_value == min(found.p_values.tolist())


def test_the_level_is_kept_over_many_comparisons_that_hang_together():
    draw = torch.Generator().manual_seed(5)
    rejected = 0
    for _ in range(400):
        x = torch.randn(1, 30, generator=draw) + 0.7 * torch.randn(21, 30, generator=draw)
        rejected += sign_flip_test(x, flips=199, generator=draw).p_value <= 0.05
    # 20 expected, with a standard deviation of 4.4; without the correction about 90.
    assert 8 <= rejected <= 33


def test_nothing_that_differs_is_no_gain():
    found = sign_flip_test(torch.zeros(2, 5), flips=50)
    assert found.p_values.tolist() == [1.0, 1.0]


def test_differences_have_to_be_numbers():
    with pytest.raises(ValueError, match="differences: expected finite"):
        sign_flip_test(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ValueError, match="flips"):
        sign_flip_test(torch.ones(1, 3), flips=0)


@settings(derandomize=True, max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=7), st.floats(0.01, 0.5))
def test_holm_rejects_what_stepping_down_rejects(p_values, level):
    rejected, left = set(), sorted(range(len(p_values)), key=p_values.__getitem__)
    while left and p_values[left[0]] * len(left) <= level:
        rejected.add(left.pop(0))
    assert {at for at, p in enumerate(holm(p_values)) if p <= level} == rejected


def test_no_question_needs_no_correction():
    assert holm([]) == []
