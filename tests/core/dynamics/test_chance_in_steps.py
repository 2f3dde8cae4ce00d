"""What chance makes of steps that are divided by remembered gradients, against float64 loops over single numbers."""

import math

import pytest
import torch

from lightning_normdyn.core import equilibrium_rule
from lightning_normdyn.core.dynamics.lion import sign_overlap_noise, sign_persistence, sign_residue
from lightning_normdyn.core.dynamics.shot_noise import shot_noise

BETA2 = 0.95
CASES = [(1.0, 1), (0.3, 1), (0.3, 2), (0.1, 1)]


def squares(probability, kurtosis, numbers, steps, seed):
    """Squared gradients of many numbers, step by step: none, or Gaussian of one length or of one that varies."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        touched = torch.rand(numbers, generator=generator, dtype=torch.float64) < probability
        size = torch.ones(numbers, dtype=torch.float64)
        if kurtosis == 2:
            size.exponential_(generator=generator)
        yield touched * size * torch.randn(numbers, generator=generator, dtype=torch.float64).square()


def simulated_adam(probability, kurtosis, beta1, numbers=2_000, steps=1_000):
    """Growth a step, and the factor of a decay that is divided by sqrt(v).

    Signs of gradients are independent, so what R² gains in the long run is the mean of ``(g·D)²``, ``D`` the sum of the
    weights with which a gradient enters the steps after it.
    """
    length = round(12 / (1 - beta1)) if beta1 else 1
    weights = (1 - beta1) * beta1 ** torch.arange(length, dtype=torch.float64)
    second, roots, waiting = torch.zeros(numbers, dtype=torch.float64), [], []
    growth = decay = mean = 0.0
    count = 0
    for step, square in enumerate(squares(probability, kurtosis, numbers, steps, seed=4)):
        second = BETA2 * second + (1 - BETA2) * square
        if step < 10 / (1 - BETA2):
            continue
        roots, waiting = [*roots, second.rsqrt()][-length:], [*waiting, square][-length:]
        if len(roots) == length:
            entered = torch.einsum("k,kn->n", weights, torch.stack(roots))
            growth += float((waiting[0] * entered.square()).mean())
            decay, mean, count = decay + float(roots[0].mean()), mean + float(second.mean()), count + 1
    return growth / count, decay / count * math.sqrt(mean / count)


@pytest.mark.parametrize(("probability", "kurtosis"), CASES)
@pytest.mark.parametrize("beta1", [0.0, 0.8])
def test_growth_under_adam_is_that_of_a_loop(beta1, probability, kurtosis):
    growth, decay = simulated_adam(probability, kurtosis, beta1)
    rule = equilibrium_rule(torch.optim.AdamW([torch.ones(1)], lr=1e-9, weight_decay=1.0, betas=(beta1, BETA2)))
    dim = 10**6
    p, kappa = (torch.tensor([value], dtype=torch.float64) for value in (probability, kurtosis))
    law = float(rule.predict(p, dim, p, kurtosis=kappa).square() * 2 / rule.lr / dim)
    assert law == pytest.approx(growth, rel=0.006 if kurtosis == 1 else 0.015)
    if probability >= 0.3:  # below, E[v^(-1/2)] is of a heavy tail
        assert float(shot_noise(p, BETA2, kappa, dim).decay) == pytest.approx(decay, rel=0.006)


def sign_walks(probability, kurtosis, betas=(0.9, BETA2), rows=400, dim=16, blocks=6):
    """What Lion's steps share over all lags, and what their rest after the part along c does, in a simulation.

    That part is c over its spread, which in a row and step follows from when gradients came and how large they were. A
    sum over a block of L steps has the variance ``F·L`` less what ends cost, which is the same for one of 2·L.
    """
    generator, length = torch.Generator().manual_seed(8), round(12 / (1 - BETA2))
    memory, spread = torch.zeros(rows, dim, dtype=torch.float64), torch.zeros(rows, 1, dtype=torch.float64)
    sums, halves, total = torch.zeros(2, 2, dtype=torch.float64), [], torch.zeros(2, rows, dim, dtype=torch.float64)
    for step in range(length * (2 * blocks + 1)):
        size = torch.ones(rows, 1, dtype=torch.float64)
        if kurtosis == 2:
            size.exponential_(generator=generator)
        size *= torch.rand(rows, 1, generator=generator) < probability
        gradient = torch.randn(rows, dim, generator=generator, dtype=torch.float64) * size.sqrt()
        average = betas[0] * memory + (1 - betas[0]) * gradient
        scale = (betas[0] ** 2 * spread + (1 - betas[0]) ** 2 * size).rsqrt()
        memory = betas[1] * memory + (1 - betas[1]) * gradient
        spread = betas[1] ** 2 * spread + (1 - betas[1]) ** 2 * size
        if step < length:
            continue
        sign = average.sign()
        total += torch.stack((sign, sign - math.sqrt(2 / math.pi) * average * scale))
        if (step + 1) % length == 0:
            halves.append(total)
            total = torch.zeros_like(total)
            if len(halves) == 2:
                sums[0] += (halves[0].square() + halves[1].square()).mean((1, 2)) / 2
                sums[1] += (halves[0] + halves[1]).square().mean((1, 2))
                halves = []
    return ((sums[1] - sums[0]) / blocks / length).tolist()


@pytest.mark.parametrize(("probability", "kurtosis"), CASES)
def test_signs_share_over_all_lags_what_a_simulation_does(probability, kurtosis):
    persistence, residue = sign_walks(probability, kurtosis)
    p = torch.tensor(probability)
    assert float(sign_persistence(0.9, BETA2, p, kurtosis=kurtosis)) == pytest.approx(persistence, rel=0.035)
    assert float(sign_residue(0.9, BETA2, p, kurtosis=kurtosis)) == pytest.approx(residue, rel=0.12)


def growth_of_directions(first_beta, second_beta, lag, overlap, steps=700):
    """What a long row gains from steps of one length along c, whose gradients are orthogonal but for two.

    Of these the later one has an overlap with the earlier and, as any gradient, nothing along the row.
    """
    length = 1e6
    x, memory = torch.zeros(2, steps + 1, dtype=torch.float64)  # x from where it was, which is along the first axis
    for step in range(steps):
        gradient = torch.zeros_like(x)
        gradient[1 + step] = 1.0
        if step == steps // 2 + lag:
            gradient[1 + steps // 2] = overlap
            gradient[0] = -float(gradient[1:] @ x[1:]) / length
        average = first_beta * memory + (1 - first_beta) * gradient
        memory = second_beta * memory + (1 - second_beta) * gradient
        x += average / average.norm()
    return 2 * length * float(x[0]) + float(x[1:] @ x[1:])


@pytest.mark.parametrize("lag", [1, 6])
def test_two_gradients_that_overlap_move_a_row_as_directions_do(lag):
    beta1, beta2, small = 0.9, 0.95, 1e-3
    change = growth_of_directions(beta1, beta2, lag, small) - growth_of_directions(beta1, beta2, lag, -small)
    settled = beta1**2 * (1 - beta2) / (1 + beta2) + (1 - beta1) ** 2
    by_overlap = change / (2 * small) * settled  # a settled row gains 1/settled a step
    noise = float(sign_overlap_noise(beta1, beta2, torch.tensor(1.0), 2)) * (1 - beta2**2)
    assert by_overlap == pytest.approx(math.sqrt(noise) * beta2 ** (lag - 1), rel=0.01)
