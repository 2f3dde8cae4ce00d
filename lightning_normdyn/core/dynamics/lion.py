"""Lion's law: how long the signs of its steps persist, which turns their size into the growth of a norm."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import most_precise

_EXACT_TERMS = 8
_NODES = 24
_LEAST_SPREAD = 1e-4
_RARE = 0.2  # fitted to shot noise simulated with 200,000 components; with it the norm is right within 0.4%


def sign_persistence(
    first_beta: float,
    second_beta: float,
    update_probability: Tensor | float = 1.0,
    *,
    kurtosis: Tensor | float = 1.0,
    decay: Tensor | float = 0.0,
) -> Tensor:
    """The factor by which Lion's walk outgrows one of independent steps, ``F = sum over k of E[u(t)·u(t+k)]``.

    A step is ``u = sign(c)`` with ``c = beta1·m + (1 - beta1)·g``, m an average of past gradients that keeps ``beta2``
    a step. For white Gaussian g, ``E[u(t)·u(t+k)] = (2/pi)·asin(rho_k)`` (arcsine law), and for a gradient in every
    step::

        rho_k = beta2^(k-1) · beta1·[beta1·beta2·v + (1 - beta1)·(1 - beta2)] / [beta1²·v + (1 - beta1)²]
        v = (1 - beta2)/(1 + beta2),    F = 1 + 2·sum over k >= 1 of (2/pi)·asin(rho_k)

    A row without a gradient still moves, by ``sign(m)``, which does not change until its next gradient. So a rarer row
    walks straight for longer: the sum is taken over the four cases of a gradient now or not and then or not, and what a
    memory of few gradients adds is ``2·(1 - p)²·h(r)/p`` with ``r = p/(1 - beta2)`` and ``h = (1 + 0.2·r)/(1 + (0.2 +
    ln 2)·r)``. This tends to ``F = 2/p`` for rare rows, exactly.

    Decay forgets while a sign persists: of a row that loses the share ``decay`` a step, the term of k steps later
    counts ``(1 - decay)^k``. Where gradients differ in size, g is Gaussian given its size only, so that the sum is the
    mean over the sizes of the two gradients, with ``s²`` gamma distributed. It leaves out that m underflows some
    90/(1 - beta2) steps after a gradient, when in float32, so that rows rarer than that rest in between.

    Args:
        first_beta: beta1, between 0 and 1.
        second_beta: beta2, between 0 and 1.
        update_probability: ``p``, share of steps in which a row gets a gradient; ``[n]``.
        kurtosis: ``E[s⁴]/E[s²]²`` over those, less the ``2/d`` of Gaussian numbers, ``[n]``; 1 where all are alike.
        decay: share of a row that decay takes in a step.

    Returns:
        ``F`` in float64, ``[n]``; 0 for a row that never gets a gradient, since ``sign(0) = 0``.

    Example:
        >>> sign_persistence(0.9, 0.99, torch.tensor([1.0, 0.1, 0.001])).round()
        tensor([  46.,  127., 2007.], dtype=torch.float64)
    """
    p = most_precise(torch.as_tensor(update_probability))
    forgets, forgotten = 1 - second_beta, -torch.log1p(-torch.as_tensor(decay).to(p))
    memory, gradient = first_beta**2 * p * forgets / (1 + second_beta), (1 - first_beta) ** 2
    carry = first_beta * (1 - first_beta) * forgets
    sizes = _two_sizes(torch.as_tensor(kurtosis).to(p))
    cases = [*((size, share * p) for size, share in sizes), (torch.zeros_like(p), 1 - p)]
    total = torch.ones_like(p)
    for present, present_share in cases:
        for later, later_share in cases:
            spread = ((memory + present * gradient) * (memory + later * gradient)).sqrt()
            first = ((second_beta * memory + present * carry) / spread).nan_to_num(0)
            weight = 2 * present_share * later_share * (-forgotten).exp()
            total = total + weight * _sum_of_agreements(first, second_beta, forgotten)
    rate = p / forgets
    rarity = (1 + _RARE * rate) / (1 + (_RARE + math.log(2)) * rate)
    return torch.where(p > 0, total + 2 * (1 - p).square() * rarity / (p + forgotten), 0)


def _two_sizes(kurtosis: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Values of ``s²`` and their shares: Gauss's two nodes for s where ``s²`` is gamma distributed with mean 1."""
    shape = 1 / (kurtosis - 1).clamp(min=_LEAST_SPREAD)
    mean = ((shape + 0.5).lgamma() - shape.lgamma()).exp() / shape.sqrt()
    cube = mean * (shape + 0.5) / shape
    half = (cube - mean) / (1 - mean.square()) / 2
    root = (half.square() + 1 - 2 * mean * half).sqrt()
    small, large = half - root, half + root
    share = (mean - small) / (large - small)
    return (small.square(), 1 - share), (large.square(), share)


def _sum_of_agreements(first: Tensor, ratio: float, forgotten: Tensor) -> Tensor:
    """``(2/pi)·sum over k >= 0 of exp(-k·forgotten)·asin(first·ratio^k)``: some terms, and Euler and Maclaurin's rest.

    With ``t = asin(a·exp(-s))`` the integral over all s is that of ``t·cot(t)``, from 0 to ``asin(a)``.
    """
    total = torch.zeros_like(first)
    for power in range(_EXACT_TERMS):
        total = total + (-power * forgotten).exp() * (first * ratio**power).clamp(max=1).asin()
    next_term = (first * ratio**_EXACT_TERMS).clamp(max=1)
    rate = -math.log(ratio)
    angle = next_term.asin()
    middles = (torch.arange(_NODES, dtype=first.dtype, device=first.device) + 0.5) / _NODES
    t = angle.unsqueeze(-1) * middles
    weight = (t.sin() / next_term.unsqueeze(-1)).nan_to_num(1).pow((forgotten / rate).unsqueeze(-1))
    integral = angle * (weight * (t / t.tan()).nan_to_num(1)).mean(-1)
    slope = rate * next_term / (1 - next_term.square()).clamp(min=rate).sqrt() + forgotten * angle
    return 2 / math.pi * (total + (-_EXACT_TERMS * forgotten).exp() * (integral / rate + angle / 2 + slope / 12))
