"""Spline weights against a spline in truncated powers, solved by numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core.statistics.cubic_spline import spline_weights


def truncated_powers(knots, heights, points):
    """The natural spline as a line plus cubes of what exceeds each knot, whose second and third powers cancel."""
    a = len(knots)
    design = np.zeros((a + 2, a + 2))
    design[:a, 0], design[:a, 1] = 1, knots
    design[:a, 2:] = np.maximum(knots[:, None] - knots, 0) ** 3
    design[a, 2:], design[a + 1, 2:] = 1, knots
    solved = np.linalg.solve(design, np.concatenate((heights, [0, 0])))
    return solved[0] + solved[1] * points + np.maximum(points[:, None] - knots, 0) ** 3 @ solved[2:]


@settings(derandomize=True, max_examples=40)
@given(st.integers(0, 2**32), st.integers(2, 21))
def test_weights_are_those_of_the_natural_spline(seed, a):
    draw = np.random.default_rng(seed)
    knots = np.cumsum(draw.uniform(0.2, 1.0, a)) - 2
    heights, points = draw.normal(size=a), draw.uniform(knots[0], knots[-1], 30)
    found = spline_weights(torch.tensor(knots), torch.tensor(points)) @ torch.tensor(heights)
    assert found.numpy() == pytest.approx(truncated_powers(knots, heights, points), abs=1e-8)


def test_knots_ascend_and_points_lie_between():
    with pytest.raises(ValueError, match="knots"):
        spline_weights(torch.tensor([1.0, 0.0]), torch.zeros(1))
    with pytest.raises(ValueError, match="points"):
        spline_weights(torch.tensor([0.0, 1.0]), torch.tensor([1.5]))
