"""Natural cubic spline interpolation as a matrix: weights that turn values at knots into values at other points."""

from __future__ import annotations

import torch
from torch import Tensor


def spline_weights(knots: Tensor, points: Tensor) -> Tensor:
    """Weights with which heights at the knots give the natural cubic spline at other points.

    The spline is linear in the heights, so one matrix serves any number of curves over the same knots
    (de Boor 2001, ch. IV; second derivative zero at both ends).

    Args:
        knots: ascending, distinct, ``[a]``, two at least.
        points: inside their range, ``[p]``.

    Returns:
        Weights ``[p, a]`` in float64; each row sums to one.

    Raises:
        ValueError: if the knots do not ascend or a point lies outside.

    Example:
        >>> weights = spline_weights(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.5, 1.0]))
        >>> weights @ torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
        tensor([0.6875, 1.0000], dtype=torch.float64)
    """
    knots, points = knots.detach().cpu().double(), points.detach().cpu().double()
    if knots.ndim != 1 or len(knots) < 2 or not (knots.diff() > 0).all():
        raise ValueError(f"knots: expected two or more ascending numbers [a], got {knots.tolist()}; sort them")
    if len(points) and (points.min() < knots[0] or points.max() > knots[-1]):
        raise ValueError(f"points: expected numbers from {knots[0]:g} to {knots[-1]:g}, got some outside")
    left = torch.searchsorted(knots, points, right=True).sub(1).clamp(0, len(knots) - 2)
    step = knots.diff()[left].unsqueeze(1)
    along = (points - knots[left]).unsqueeze(1) / step
    heights, bends = torch.eye(len(knots), dtype=torch.float64), _second_derivatives(knots)
    linear = (1 - along) * heights[left] + along * heights[left + 1]
    bending = ((1 - along) ** 3 - (1 - along)) * bends[left] + (along**3 - along) * bends[left + 1]
    return linear + step**2 / 6 * bending


def _second_derivatives(knots: Tensor) -> Tensor:
    """Matrix ``[a, a]`` from heights to the spline's second derivatives at the knots."""
    steps, inner = knots.diff(), len(knots) - 2
    bends = torch.zeros(len(knots), len(knots), dtype=torch.float64)
    if not inner:
        return bends
    slopes = (torch.eye(len(knots), dtype=torch.float64).diff(dim=0)) / steps.unsqueeze(1)
    system = torch.diag((steps[:-1] + steps[1:]) / 3)
    between = steps[1:-1] / 6
    system += torch.diag(between, 1) + torch.diag(between, -1)
    bends[1:-1] = torch.linalg.solve(system, slopes.diff(dim=0))
    return bends
