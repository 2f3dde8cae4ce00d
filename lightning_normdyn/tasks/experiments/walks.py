"""Simulated rows under tangential noise and a real optimizer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer


def tangential_noise(rows: Tensor, probability: Tensor, generator: torch.Generator) -> Tensor:
    """Gradients that a loss of directions alone might give: white on the unit sphere, and in some steps only.

    Args:
        rows: embeddings, ``[n, d]``.
        probability: chance that a row gets a gradient in this step, ``[n]``.
        generator: the source of chance.

    Returns:
        ``[n, d]``, orthogonal to the rows and inversely proportional to their norms, zero where absent.
    """
    noise = torch.randn(rows.shape, generator=generator)
    squares = rows.square().sum(1, keepdim=True)
    noise -= rows * (noise * rows).sum(1, keepdim=True) / squares
    present = torch.rand(len(rows), generator=generator) < probability
    return noise * (present / squares.squeeze(1).sqrt()).unsqueeze(1)


def settled_norms(
    rows: Tensor, optimizer: Optimizer, probability: Tensor, *, power: int, steps: int, seed: int
) -> Tensor:
    """Walks and averages norms over the last half.

    Args:
        rows: embeddings ``[n, d]`` that ``optimizer`` moves, in place.
        optimizer: a real one.
        probability: of a gradient in a step, ``[n]``.
        power: of the norm whose mean is taken: the one that relaxes linearly, as in
            :attr:`lightning_normdyn.core.dynamics.rule.EquilibriumRule.power`.
        steps: length of the walk.
        seed: chooses the noise.

    Returns:
        Power mean of each norm, ``[n]`` in float64.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(len(rows), dtype=torch.float64)
    for step in range(steps):
        rows.grad = tangential_noise(rows.detach(), probability, generator)
        optimizer.step()
        if step >= steps // 2:
            total += rows.detach().double().norm(dim=1).pow(power)
    return (total / (steps - steps // 2)).pow(1 / power)
