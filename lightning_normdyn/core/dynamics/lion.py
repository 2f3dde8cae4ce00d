"""Lion's law: how long the signs of its steps persist, which turns their size into the growth of a norm."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import most_precise

_EXACT_TERMS = 8
_NODES = 24
_LEAST_SPREAD = 1e-4
_SIZES = 4
_LARGEST_ROOT, _ROOTS_A_UNIT = 3, 8
_SIGN_RESIDUE = 1 - 2 / math.pi
"""Share of a sign of a Gaussian number that is not along it."""


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
    memory of few gradients adds is ``2·(1 - p)²·h/p`` with ``y = ln 2·p/(1 - beta2)`` and ::

        h = 1/(1 + y) + (kappa - p)/4·[y/(1 + y)]²

    The first term makes ``F = 2/p`` for rare rows, exactly. The second is right for frequent ones, where m has an
    excess kurtosis of ``gamma = 3·(kappa - p)·(1 - beta2)/p``: to first order in it (Edgeworth) two signs agree by
    ``gamma·rho/(6·pi·sqrt(1 - rho²))`` more, and that over all lags is ``(kappa - p)/(2·p)``.

    Decay forgets while a sign persists: of a row that loses the share ``decay`` a step, the term of k steps later
    counts ``(1 - decay)^k``. Where gradients differ in size, g is Gaussian given its size only, so that the sum is the
    mean over the sizes of the two gradients, with ``s²`` gamma distributed; below a kurtosis of 1, as of gradients that
    are all of one length, it goes on as straight as it came. It leaves out that m underflows some
    90/(1 - beta2) steps after a gradient, when in float32, so that rows rarer than that rest in between.

    Args:
        first_beta: beta1, between 0 and 1.
        second_beta: beta2, between 0 and 1.
        update_probability: ``p``, share of steps in which a row gets a gradient; ``[n]``.
        kurtosis: ``E[s⁴]/E[s²]²`` over those, less the ``2/d`` of Gaussian numbers, ``[n]``; 1 if Gaussian.
        decay: share of a row that decay takes in a step.

    Returns:
        ``F`` in float64, ``[n]``; 0 for a row that never gets a gradient, since ``sign(0) = 0``.

    Example:
        >>> sign_persistence(0.9, 0.99, torch.tensor([1.0, 0.1, 0.001])).round()
        tensor([  46.,  127., 2007.], dtype=torch.float64)
    """
    return _over_lags(first_beta, second_beta, update_probability, kurtosis, decay, _sum_of_agreements, _ALL)


def sign_residue(
    first_beta: float,
    second_beta: float,
    update_probability: Tensor | float = 1.0,
    *,
    kurtosis: Tensor | float = 1.0,
) -> Tensor:
    """What is left of ``F`` when the part of each sign that is along ``c`` is taken off, ``[n]``.

    The arcsine less its argument: ``sum over k of (2/pi)·[asin(rho_k) - rho_k]``, ``1 - 2/pi`` at lag 0. Gradients of a
    loss that sees directions alone have nothing along the row, and nor has ``c``; the rest of a sign has, at random.
    Numbers of a row are Gaussian given when it got gradients, so a memory of few adds to ``h`` the share of a sign,
    ``(1 - 2/pi)·exp(-y·[1 - 2/(pi·ln 2)]/(1 - 2/pi))``, exactly to first order in y for rare rows, and ``1 - 1/pi`` of
    its second term, since spreads that vary raise the mean of ``rho``, by ``(kappa - p)·(1 - beta2)/(4·p)·(1 -
    beta2^k)`` of it.

    Args:
        first_beta: as for :func:`sign_persistence`.
        second_beta: likewise.
        update_probability: likewise.
        kurtosis: likewise.

    Example:
        >>> p = torch.tensor([1.0, 0.1, 0.001])
        >>> sign_residue(0.9, 0.99, p) / sign_persistence(0.9, 0.99, p)  # tends to 1 - 2/pi
        tensor([0.0148, 0.0991, 0.3620], dtype=torch.float64)
    """

    def sum_of_residues(first: Tensor, ratio: float, decay_rate: Tensor) -> Tensor:
        return _sum_of_agreements(first, ratio, decay_rate) - 2 / math.pi * first / (1 - ratio * (-decay_rate).exp())

    return _over_lags(first_beta, second_beta, update_probability, kurtosis, 0.0, sum_of_residues, _REST)


def _over_lags(
    first_beta: float,
    second_beta: float,
    update_probability: Tensor | float,
    kurtosis: Tensor | float,
    decay: Tensor | float,
    sum_over: Callable[[Tensor, float, Tensor], Tensor],
    few: _FewGradients,
) -> Tensor:
    """What signs share over all lags: at lag 0, ``sum_over`` those of each of the four cases, and what few add."""
    p = most_precise(torch.as_tensor(update_probability))
    size = torch.as_tensor(kurtosis).to(p)
    forgets, decay_rate = 1 - second_beta, -torch.log1p(-torch.as_tensor(decay).to(p))
    memory, gradient = first_beta**2 * p * forgets / (1 + second_beta), (1 - first_beta) ** 2
    carry = first_beta * (1 - first_beta) * forgets

    def of_gaussian_memory(size: Tensor) -> Tensor:
        cases = [*((square, share * p) for square, share in _sizes(size)), (torch.zeros_like(p), 1 - p)]
        total = torch.full_like(p, few.of_one)
        for present, present_share in cases:
            for later, later_share in cases:
                spread = ((memory + present * gradient) * (memory + later * gradient)).sqrt()
                first = ((second_beta * memory + present * carry) / spread).nan_to_num(0)
                weight = 2 * present_share * later_share * (-decay_rate).exp()
                total = total + weight * sum_over(first, second_beta, decay_rate)
        return total

    total = of_gaussian_memory(size)
    if bool((size < 1).any()):
        reflected = 2 * of_gaussian_memory(torch.ones_like(size)) - of_gaussian_memory(2 - size)
        total = torch.where(size < 1, reflected, total)
    remembered = math.log(2) * p / forgets
    many = (size - p) / 4 * (remembered / (1 + remembered)).square()
    rarity = few.of_one * few.rare(remembered) + few.of_many * many
    return torch.where(p > 0, total + 2 * (1 - p).square() * rarity / (p + decay_rate), 0)


class _FewGradients(NamedTuple):
    """What signs share that a memory of many gradients would not make alike.

    Attributes:
        of_one: share of a sign that counts.
        rare: first term of ``h`` over that, by y.
        of_many: share of its second term that counts.
    """

    of_one: float
    rare: Callable[[Tensor], Tensor]
    of_many: float


_ALL = _FewGradients(1.0, lambda remembered: 1 / (1 + remembered), 1.0)
_REST = _FewGradients(
    _SIGN_RESIDUE,
    lambda remembered: (-remembered * (1 - 2 / (math.pi * math.log(2))) / _SIGN_RESIDUE).exp(),
    1 - 1 / math.pi,
)


def _sizes(kurtosis: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Values of ``s²`` and their shares: Gauss's nodes for s where ``s²`` is gamma distributed with mean 1."""
    excess = (kurtosis - 1).clamp(0, _LARGEST_ROOT**2)
    shape = 1 / excess.clamp(min=_LEAST_SPREAD)
    mean = ((shape + 0.5).lgamma() - shape.lgamma()).exp() / shape.sqrt()
    spread = (1 - mean.square()).clamp(min=0).sqrt()
    nodes, shares = (table.to(kurtosis) for table in _standard_nodes())
    place = excess.sqrt() * _ROOTS_A_UNIT
    below = place.floor().long().clamp(0, len(nodes) - 2)  # NaN, of a row without gradients, stays NaN
    along = (place - below).unsqueeze(-1)
    at, weights = nodes[below].lerp(nodes[below + 1], along), shares[below].lerp(shares[below + 1], along)
    values = (mean.unsqueeze(-1) + spread.unsqueeze(-1) * at).square()
    values = values / (values * weights).sum(-1, keepdim=True)
    return list(zip(values.unbind(-1), weights.unbind(-1), strict=True))


@lru_cache(maxsize=1)
def _standard_nodes() -> tuple[Tensor, Tensor]:
    """Nodes of s less its mean, over its spread, and their shares, by the root of ``kappa - 1``; Hermite's at 0.

    From the moments of s, whose Hankel matrix has the Cholesky factor that holds the recurrence (Golub, Welsch 1969).
    """
    powers = torch.arange(2 * _SIZES, dtype=torch.float64)
    binomials = torch.tensor([[math.comb(n, k) for k in range(2 * _SIZES)] for n in range(2 * _SIZES)]).double()
    at, shares = [], []
    for root in torch.arange(_LARGEST_ROOT * _ROOTS_A_UNIT + 1, dtype=torch.float64) / _ROOTS_A_UNIT:
        if root == 0:  # of a standard normal number
            moments = torch.tensor([math.prod(range(1, n, 2)) * (1 - n % 2) for n in range(2 * _SIZES)]).double()
        else:
            shape = 1 / root.square()
            raw = ((shape + powers / 2).lgamma() - shape.lgamma() - powers / 2 * shape.log()).exp()
            differences = (powers[:, None] - powers).clamp(min=0)
            central = (binomials * (-raw[1]) ** differences) @ raw
            moments = central / central[2].pow(powers / 2)
        hankel = torch.stack([moments[n : n + _SIZES] for n in range(_SIZES)])
        factor = torch.linalg.cholesky(hankel).mT
        beside = factor.diagonal()[1:] / factor.diagonal()[:-1]
        ratio = factor.diagonal(1) / factor.diagonal()[:-1]
        last = torch.linalg.solve_triangular(factor.mT, moments[_SIZES:][:, None], upper=False)[-1, 0]
        ratio = torch.cat((ratio, (last / factor[-1, -1])[None]))
        centre = ratio - torch.cat((ratio.new_zeros(1), ratio[:-1]))
        nodes, vectors = torch.linalg.eigh(torch.diag(centre) + torch.diag(beside, 1) + torch.diag(beside, -1))
        at.append(nodes)
        shares.append(vectors[0].square())
    return torch.stack(at), torch.stack(shares)


def _sum_of_agreements(first: Tensor, ratio: float, decay_rate: Tensor) -> Tensor:
    """``(2/pi)·sum over k >= 0 of exp(-k·decay_rate)·asin(first·ratio^k)``: some terms, and Euler and Maclaurin's rest.

    With ``t = asin(a·exp(-s))`` the integral over all s is that of ``t·cot(t)``, from 0 to ``asin(a)``.
    """
    total = torch.zeros_like(first)
    for power in range(_EXACT_TERMS):
        total = total + (-power * decay_rate).exp() * (first * ratio**power).clamp(max=1).asin()
    next_term = (first * ratio**_EXACT_TERMS).clamp(max=1)
    rate = -math.log(ratio)
    angle = next_term.asin()
    middles = (torch.arange(_NODES, dtype=first.dtype, device=first.device) + 0.5) / _NODES
    t = angle.unsqueeze(-1) * middles
    weight = (t.sin() / next_term.unsqueeze(-1)).nan_to_num(1).pow((decay_rate / rate).unsqueeze(-1))
    integral = angle * (weight * (t / t.tan()).nan_to_num(1)).mean(-1)
    slope = rate * next_term / (1 - next_term.square()).clamp(min=rate).sqrt() + decay_rate * angle
    return 2 / math.pi * (total + (-_EXACT_TERMS * decay_rate).exp() * (integral / rate + angle / 2 + slope / 12))


def fresh_share(first_beta: float, second_beta: float, update_probability: Tensor) -> Tensor:
    """The share of the variance of ``c`` that the gradient of the same step has, averaged over a row's growth, ``[n]``.

    Args:
        first_beta: as for :func:`sign_persistence`.
        second_beta: likewise.
        update_probability: likewise.
    """
    at = _StepScale.of(first_beta, second_beta, update_probability)
    touched = update_probability * at.touched_growth
    share = (1 - first_beta) ** 2 * at.touched.square()
    return (touched * share / (touched + (1 - update_probability) * at.untouched_growth)).nan_to_num(0)


def sign_overlap_noise(
    first_beta: float, second_beta: float, update_probability: Tensor, dim: int, *, kurtosis: Tensor | float = 1.0
) -> Tensor:
    """``c_x``: variance a step of what the chance overlap of two gradients adds to growth, over its square, ``[n]``.

    A gradient has no part along the row, so of two that overlap the later one counts what the earlier has still to
    move, ``W = beta1·Q·beta2^(k-1)`` k steps on, and their sum is longer, so that a sign, which is of one length, gives
    each a smaller share; in all ``N·beta2^(k-1)``. With ``q`` the reciprocal of the spread of c in a step, which is
    that of what is remembered and of the step's own gradient of size s, Q the mean of q, ``f = 1 - beta2``, and ``D =
    (1 - beta1)·q + beta1·Q`` what a gradient moves a row by::

        c_x = 4·p·E[s²·(D·beta1·Q - N)²]/((1 - beta2²)·(d - 1)·E[s²·D²]²)
        N = (1 - beta1)·beta1·f·G + beta1²·f·beta2/(1 + beta2)·E[G]
        G = q³·[(1 - beta1)·s²·D + beta1·E(s²·D)]

    the means over all steps, ``s = 0`` in those without a gradient. For a gradient of one size in every step it is
    ``4·(beta1 - rho_1)²/((1 - beta2²)·(d - 1))``; for rare rows nothing, since a walk goes as far whatever it is made
    of.

    Args:
        first_beta: as for :func:`sign_persistence`.
        second_beta: likewise.
        update_probability: likewise.
        dim: ``d``.
        kurtosis: as for :func:`sign_persistence`.

    Example:
        >>> sign_overlap_noise(0.9, 0.99, torch.tensor([1.0, 0.1]), 32)
        tensor([1.9588, 0.0041], dtype=torch.float64)
        >>> sign_overlap_noise(0.9, 0.99, torch.tensor([1.0, 0.1]), 32, kurtosis=2.0)
        tensor([1.0531, 0.0057], dtype=torch.float64)
    """
    forgets, at = 1 - second_beta, _Moves.of(first_beta, second_beta, update_probability, kurtosis)
    shared = (1 - first_beta) * at.squares * at.moved + first_beta * at.mean(at.squares * at.moved)
    lost = at.scale**3 * shared
    shortened = (1 - first_beta) * first_beta * forgets * lost
    shortened = shortened + first_beta**2 * forgets * second_beta / (1 + second_beta) * at.mean(lost)
    excess = at.mean(at.squares * (at.moved * at.later - shortened).square()) / at.growth.square()
    return 4 * update_probability * excess.nan_to_num(0) / ((1 - second_beta**2) * max(dim - 1, 1))


def pending_growth(
    first_beta: float, second_beta: float, update_probability: Tensor, *, kurtosis: Tensor | float = 1.0
) -> Tensor:
    """How many steps' growth the gradients in memory will still make, where they are frequent, ``[n]``.

    With W and D of :func:`sign_overlap_noise` the row is to move by the sum of ``W·g`` over them, and ``R²`` to grow by
    that of ``s²·(2·D·W - W²)``::

        [2·beta1·Q·E(s²·D)/(1 - beta2) - p·(beta1·Q)²/(1 - beta2²)]/E(s²·D²)

    Args:
        first_beta: as for :func:`sign_persistence`.
        second_beta: likewise.
        update_probability: likewise.
        kurtosis: likewise.

    Example:
        >>> pending_growth(0.9, 0.99, torch.tensor([1.0])).round()
        tensor([139.], dtype=torch.float64)
    """
    at = _Moves.of(first_beta, second_beta, update_probability, kurtosis)
    done = update_probability * at.later.square() / (1 - second_beta**2)
    grown = 2 * at.later * at.mean(at.squares * at.moved) / (1 - second_beta) - done
    return (grown / at.growth).nan_to_num(0)


class _Moves(NamedTuple):
    """What a gradient moves a row by, for each size of it and for none (the last); ``[sizes, n]``.

    Attributes:
        squares: ``s²``.
        weights: share of steps with a gradient of that size.
        scale: ``q``, over the spread of c in such a step.
        later: ``beta1·Q``, what it moves the row by after its own step, ``[n]``.
        moved: ``D``, in all.
    """

    squares: Tensor
    weights: Tensor
    scale: Tensor
    later: Tensor
    moved: Tensor

    @classmethod
    def of(cls, first_beta: float, second_beta: float, p: Tensor, kurtosis: Tensor | float) -> _Moves:
        p = most_precise(p)
        size = torch.as_tensor(kurtosis).to(p).expand_as(p).clamp(min=1)
        sizes, shares = (torch.stack(column) for column in zip(*_sizes(size), strict=True))
        squares, weights = torch.cat((sizes, torch.zeros_like(p)[None])), torch.cat((p * shares, (1 - p)[None]))
        memory = first_beta**2 * p * (1 - second_beta) / (1 + second_beta)
        scale = (memory + (1 - first_beta) ** 2 * squares).rsqrt()
        later = first_beta * (weights * scale).sum(0)
        return cls(squares, weights, scale, later, (1 - first_beta) * scale + later)

    def mean(self, values: Tensor) -> Tensor:
        """Over steps, ``[n]``."""
        return (self.weights * values).sum(0)

    @property
    def growth(self) -> Tensor:
        """``E(s²·D²)``, ``[n]``."""
        return self.mean(self.squares * self.moved.square())


class _StepScale(NamedTuple):
    """What a sign makes of ``c`` in steps with a gradient and without, and how far each then goes with what there was.

    Attributes:
        touched: ``q_1``, over the spread of c in a step with a gradient, ``[n]``.
        untouched: ``q_0``, without one.
        touched_growth: ``G_1``, what such a step shares with all others.
        untouched_growth: ``G_0``.
    """

    touched: Tensor
    untouched: Tensor
    touched_growth: Tensor
    untouched_growth: Tensor

    @classmethod
    def of(cls, first_beta: float, second_beta: float, p: Tensor) -> _StepScale:
        memory = first_beta**2 * p * (1 - second_beta) / (1 + second_beta)
        touched, untouched = (memory + (1 - first_beta) ** 2).rsqrt(), memory.rsqrt()
        return cls(touched, untouched, touched * (1 - first_beta + first_beta * p), untouched * first_beta * p)
