"""What chance makes of steps that are divided by remembered gradients, against float64 loops over single numbers."""

import math

import numpy as np
import pytest
import torch

from lightning_normdyn.core import equilibrium_rule
from lightning_normdyn.core.dynamics.lion import pending_growth, sign_overlap_noise, sign_persistence, sign_residue
from lightning_normdyn.core.dynamics.norm_errors import direction_noise, telescoped_noise
from lightning_normdyn.core.dynamics.shot_noise import shot_noise, touch_noise

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


def simulated_touches(alpha, kurtosis, rows=250, numbers=160, touches=120):
    """What touches of rows differ by: numbers of a row have the gaps and sizes of its touches in common.

    Halves of the numbers have independent chance, so that what they share is what the row's touches do. For what a size
    does in all, each number has one of its own, at which it would be touched anew.
    """
    generator = torch.Generator().manual_seed(2)

    def normal_squares():
        return torch.randn(rows, numbers, generator=generator, dtype=torch.float64).square()

    def exponential(*shape):
        return torch.empty(shape, dtype=torch.float64).exponential_(generator=generator)

    memory = torch.zeros(rows, numbers, dtype=torch.float64)
    sizes = -torch.log1p(-(torch.arange(numbers, dtype=torch.float64) + 0.5) / numbers)
    halves, turned, later, by_size = [], torch.zeros(2), torch.zeros(2, dtype=torch.float64), []
    for touch in range(touches):
        size = exponential(rows, 1) if kurtosis == 2 else torch.ones(rows, 1, dtype=torch.float64)
        memory = memory * (-exponential(rows, 1) / alpha).exp()
        square = size * normal_squares()
        if touch >= 20 + 6 * alpha:
            growth = square / (square + memory)
            halves.append(growth.view(rows, 2, -1).mean(2))
            along = (square / (square + memory).sqrt()).mean(1).square() / square.mean(1)
            turned += torch.stack((growth.mean(1).sum() - along.sum(), growth.mean(1).sum()))
            fresh = size[torch.randperm(rows, generator=generator)] * normal_squares()
            later += torch.stack(((growth - square / (square + memory + fresh)).mean(), growth.mean()))
            added, age = sizes * normal_squares(), 12 * torch.rand(rows, 1, generator=generator, dtype=torch.float64)
            lost = square / (square + memory) - square / (square + memory + added * (-age).exp())
            by_size.append((added / (added + memory) - 12 * alpha * lost).view(2, -1, numbers).mean(1))
        memory = memory + square
    halves, by_size = torch.cat(halves), torch.stack(by_size).mean(0)
    mean = halves.mean().square()
    return (
        float(torch.cov(halves.mT)[0, 1] / mean),
        float(alpha * later[0] / later[1]),
        float(turned[0] / turned[1]),
        float(torch.cov(by_size)[0, 1] / mean),
    )


@pytest.mark.parametrize(("alpha", "kurtosis"), [(0.3, 1), (2.0, 1), (0.7, 2), (5.0, 2)])
def test_touches_differ_as_simulated_ones_do(alpha, kurtosis):
    varies, at_first, turned, in_all = simulated_touches(alpha, kurtosis)
    p, kappa, dim = torch.tensor([alpha * 1e-5]).double(), torch.tensor([float(kurtosis)]).double(), 10**7
    law, memory = touch_noise(p, 1 - 1e-5, kappa, dim), 1 - shot_noise(p, 1 - 1e-5, kappa, dim).elasticity
    assert float(law.memory + law.sizes * memory.square() * (kurtosis - 1)) == pytest.approx(varies, rel=0.05)
    assert float(law.forgetting * memory) == pytest.approx(at_first, rel=0.03)
    assert float(law.turned) == pytest.approx(turned, rel=0.03)
    if alpha == 5:  # where it is largest
        assert float(law.lasting) == pytest.approx(in_all, rel=0.25)


def rows_that_v_knows(rate, dim, rows=500, settling=1_000, window=500):
    """Variances of log R, at one time and of the mean of a window, of rows whose steps go by ``1 - z²``, decay too."""
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    x /= x.norm(dim=1, keepdim=True)
    logs = []
    for step in range(settling + window):
        norm = x.norm(dim=1, keepdim=True)
        z = x / norm
        g = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
        g -= z * (z * g).sum(1, keepdim=True)
        g *= math.sqrt(2 * rate) / g.norm(dim=1, keepdim=True)
        x = x + (g - rate * norm * x) * (1 + (z.square() - 1 / dim) / 2)
        if step >= settling:
            logs.append(norm.log().squeeze(1))
    logs = torch.stack(logs)
    return float(logs.var(1).mean()), float(logs.mean(0).var())


def test_what_a_direction_adds_is_taken_back_where_decay_is_divided_too():
    rate, dim = 2e-3, 24
    at_one_time, mean = rows_that_v_knows(rate, dim)
    step = torch.tensor(2 * rate / dim * direction_noise(dim)).double()
    laws = telescoped_noise(step, dim, torch.tensor(rate).double(), 500)
    assert float(laws[0]) == pytest.approx(at_one_time, rel=0.1)
    assert float(laws[1]) == pytest.approx(mean, rel=0.15)
    assert at_one_time < 0.5 * float(step) / (6 * rate), "as white noise it would be far more"


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


def test_what_is_in_memory_still_moves_a_row_as_in_a_loop():
    """Gradients that are orthogonal, then none: how much longer the row becomes, in steps of its growth."""
    beta1, beta2, steps = 0.9, 0.95, 500
    spread = (beta1**2 * (1 - beta2) / (1 + beta2) + (1 - beta1) ** 2) ** 0.5
    x, memory = torch.zeros(2, steps, dtype=torch.float64)
    squares = []
    for step in range(steps + 400):
        gradient = torch.zeros_like(x)
        if step < steps:
            gradient[step] = 1.0
        x += (beta1 * memory + (1 - beta1) * gradient) / spread
        memory = beta2 * memory + (1 - beta2) * gradient
        squares.append(float(x.square().sum()))
    growth = (squares[steps - 1] - squares[steps - 101]) / 100
    law = pending_growth(beta1, beta2, torch.tensor(1.0))
    assert float(law) == pytest.approx((squares[-1] - squares[steps - 1]) / growth, rel=0.01)


def test_overlap_of_gradients_of_several_sizes_moves_a_row_as_directions_do():
    """The mean over sizes of the later of two gradients, among others whose sizes vary too."""
    beta1, beta2, small, lag = 0.9, 0.98, 1e-3, 2
    generator, square = torch.Generator().manual_seed(0), 0.0
    others = [torch.empty(400, dtype=torch.float64).exponential_(generator=generator) for _ in range(4)]
    for size, share in zip(*(torch.from_numpy(values) for values in np.polynomial.laguerre.laggauss(4)), strict=True):
        ends = [[growth_of_sizes(beta1, beta2, lag, sign * small, sizes, size) for sizes in others] for sign in (1, -1)]
        square += float(share) * ((sum(ends[0]) - sum(ends[1])) / len(others) / (2 * small)) ** 2
    growth = growth_a_step(beta1, beta2, torch.empty(4_000, dtype=torch.float64).exponential_(generator=generator))
    law = float(sign_overlap_noise(beta1, beta2, torch.tensor(1.0), 2, kurtosis=2.0)) * (1 - beta2**2)
    assert square / growth**2 * beta2 ** (2 - 2 * lag) == pytest.approx(law, rel=0.15)
    assert law < 0.7 * float(sign_overlap_noise(beta1, beta2, torch.tensor(1.0), 2)) * (1 - beta2**2)


def growth_of_sizes(beta1, beta2, lag, overlap, sizes, later_size):
    """As :func:`growth_of_directions`, of gradients of these squared sizes, the later of the two having its own."""
    steps, length = len(sizes), 1e6
    sizes = sizes.clone()
    sizes[steps // 2], sizes[steps // 2 + lag] = 1.0, later_size
    x, memory = torch.zeros(2, steps + 1, dtype=torch.float64)
    for step in range(steps):
        gradient = torch.zeros_like(x)
        gradient[1 + step] = sizes[step].sqrt()
        if step == steps // 2 + lag:
            gradient[1 + steps // 2] = overlap * sizes[step].sqrt()
            gradient[0] = -float(gradient[1:] @ x[1:]) / length
        average = beta1 * memory + (1 - beta1) * gradient
        memory = beta2 * memory + (1 - beta2) * gradient
        x += average / average.norm().clamp(min=1e-2)
    return 2 * length * float(x[0]) + float(x[1:] @ x[1:])


def growth_a_step(beta1, beta2, sizes):
    """What orthogonal gradients of these squared sizes make a long walk of unit steps grow by."""
    spread, scales = torch.tensor(0.0, dtype=torch.float64), []
    for size in sizes:
        scales.append((beta1**2 * spread + (1 - beta1) ** 2 * size).rsqrt())
        spread = beta2**2 * spread + (1 - beta2) ** 2 * size
    ahead, total, count = torch.tensor(0.0, dtype=torch.float64), 0.0, 0
    for step in range(len(sizes) - 1, 100, -1):  # ahead: what a gradient of this step moves the row by later
        total, count = total + float(sizes[step] * ((1 - beta1) * scales[step] + ahead) ** 2), count + 1
        ahead = beta2 * ahead + beta1 * (1 - beta2) * scales[step]
    return total / count
