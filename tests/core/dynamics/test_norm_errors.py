"""Errors of norms and predictions, and the means that laws predict, against simulations of the updates themselves."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from reduced_sgd import simulate_sgd
from third_party import Lion

from lightning_normdyn.core import equilibrium_norm, equilibrium_norm_stderr, equilibrium_rule
from lightning_normdyn.core.dynamics.fit import Z90

DIM, MOMENTUM, LR, DECAY = 32, 0.5, 0.4, 2e-3
RELAXATION = 1 / (4 * LR / (1 - MOMENTUM) * DECAY)
SEEDS, RELATIVE = 200, np.logspace(0, np.log10(0.03), 60)


def rule():
    return equilibrium_rule(torch.optim.SGD([torch.ones(1)], lr=LR, momentum=MOMENTUM, weight_decay=DECAY))


def moments(seen, steps):
    """V², p and kurtosis of a window, as tensors."""
    p, v2 = seen.touches / steps, seen.square_sum / steps
    kurtosis = np.divide(
        seen.touches * seen.fourth_sum, seen.square_sum**2, where=seen.touches > 0, out=np.ones(len(p))
    )
    return tuple(torch.from_numpy(values) for values in (v2, p, kurtosis))


def coverage(gap, variance, judged):
    inside = gap.abs() <= Z90 * variance.sqrt()
    return float(inside[judged].double().mean()), int(judged.sum())


@pytest.mark.slow
@pytest.mark.parametrize("kurtosis", [1, 2])
def test_intervals_of_settled_rows_cover_what_they_say(kurtosis):
    """200 seeds of 60 rows, met in 3% to all of the steps; moments from the window, choice by the steps before it."""
    p = np.tile(RELATIVE, SEEDS)
    start = (LR / (1 - MOMENTUM) * p / (2 * DECAY)) ** 0.25
    before, steps = int(4 * RELAXATION), 1_600
    windows = [(0, before), (before, before + steps)]
    early, seen = simulate_sgd(p, DIM, [LR] * (before + steps), DECAY, MOMENTUM, kurtosis, start, windows, seed=5)
    v2, share, kappa = moments(seen, steps)
    errors = rule().errors(v2, DIM, share, kappa, steps=steps)
    expected = torch.from_numpy(early.touches / before)
    judged = rule().judges(v2, DIM, expected, torch.full_like(v2, kurtosis), steps=steps)
    gap = torch.from_numpy(seen.mean_log) - rule().predict(v2, DIM).log() - errors.log_bias
    inside, rows = coverage(gap, errors.difference, judged)
    assert rows > 0.6 * len(p)
    assert inside == pytest.approx(0.9, abs=0.03)
    unrelated = coverage(gap, errors.observed + errors.predicted, judged)[0]
    assert unrelated > 0.97, "without the covariance they would be far too wide"


@pytest.mark.slow
def test_intervals_of_paths_through_a_schedule_cover_what_they_say():
    """The end of a window from its start, and the end of the run from the window before, under a cosine schedule."""
    p = np.tile(RELATIVE, SEEDS)
    start = 2 * (LR / (1 - MOMENTUM) * p / (2 * DECAY)) ** 0.25
    steps, total = 800, 1_600
    lrs = [LR * (1 + np.cos(np.pi * step / total)) / 2 for step in range(total)]
    windows = [(0, steps), (steps, total)]
    first, last = simulate_sgd(p, DIM, lrs, DECAY, MOMENTUM, 1, start, windows, seed=6)
    v2, share, kappa = moments(first, steps)
    judged = rule().judges(v2, DIM, torch.from_numpy(p), torch.ones_like(v2), steps=steps)
    for seen, rates, is_ahead in ((first, lrs[:steps], False), (last, lrs[steps:], True)):
        norm = torch.from_numpy(seen.start)
        path = rule().evolve(norm, v2, DIM, share, lrs=rates)
        errors = rule().path_errors(norm, path, v2, DIM, share, kappa, lrs=rates, steps=steps)
        errors = errors.ahead() if is_ahead else errors
        gap = torch.from_numpy(seen.end).log() - path.log() - errors.log_bias
        assert coverage(gap, errors.difference, judged)[0] == pytest.approx(0.9, abs=0.03)
        assert coverage(gap, errors.difference / 4, judged)[0] < 0.7, "half as wide they would not"


def random_gradients(table, probability, generator, size=None):
    """Gradients without radial part, for a share of the rows, and which these are.

    Their length is ``size/|x|``, and 1/|x| without a size.
    """
    rows = (torch.rand(len(table), generator=generator) < probability).nonzero().squeeze(1)
    x = table.detach()[rows]
    squared = x.square().sum(1, keepdim=True)
    g = torch.randn(x.shape, generator=generator)
    g -= x * (x * g).sum(1, keepdim=True) / squared
    g /= g.norm(dim=1, keepdim=True) * squared.sqrt()
    if size is not None:
        g *= size[rows].unsqueeze(1)
    return torch.zeros(table.shape).index_copy_(0, rows, g), rows


LAWS = {
    # optimizer, chances of a gradient, tolerance, other mean that is farther off where rows are rarest
    "sgd": (lambda p: torch.optim.SGD(p, lr=0.4, weight_decay=2e-3), (1.0, 0.1, 0.01, 0.003), 0.03, "fourth"),
    "adamw": (
        lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.015, betas=(0.9, 0.95), fused=True),
        (1.0, 0.1, 0.01, 0.003),
        0.03,
        "plain law",
    ),
    "lion": (lambda p: Lion(p, lr=0.003, weight_decay=0.08, betas=(0.9, 0.99)), (1.0, 0.1, 0.01, 0.003), 0.04, None),
    "adam": (
        lambda p: torch.optim.Adam(p, lr=0.004, weight_decay=0.01, betas=(0.9, 0.99), fused=True),
        (1.0, 0.5, 0.1, 0.03),
        0.02,
        "plain law",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
def test_a_law_predicts_the_mean_that_it_names(law):
    """The real optimizer on rows of several chances; the mean over rows and time within the tolerance."""
    build, chances, tolerance, wrong = LAWS[law]
    rows, dim = 400, 16
    p = torch.tensor(chances, dtype=torch.float64).repeat_interleave(rows)
    generator = torch.Generator().manual_seed(3)
    rule_ = equilibrium_rule(build([torch.nn.Parameter(torch.ones(1))]))
    predicted = rule_.predict(p, dim, p, kurtosis=torch.ones_like(p))
    start = torch.randn(len(p), dim, generator=generator)
    table = torch.nn.Parameter(start / start.norm(dim=1, keepdim=True) * predicted.float().unsqueeze(1))
    optimizer = build([table])
    optimizer.param_groups[0]["lr"] = 0.0
    for _ in range(800):  # so that what the optimizer averages has settled
        table.grad, _ = random_gradients(table, p, generator)
        optimizer.step()
    optimizer.param_groups[0]["lr"] = rule_.lr
    steps = 2_500
    logs, squares, fourths = (torch.zeros(len(p), dtype=torch.float64) for _ in range(3))
    for step in range(2 * steps):
        table.grad, _ = random_gradients(table, p, generator)
        optimizer.step()
        if step >= steps and step % 10 == 0:
            square = table.detach().double().square().sum(1)
            logs += square.log() / 2
            squares += square
            fourths += square.square()
    count = steps // 10
    geometric, rms = (logs / count).view(-1, rows).mean(1).exp(), (squares / count).view(-1, rows).mean(1).sqrt()
    observed = {"geometric": geometric, "rms": rms}[rule_.observed_mean]
    law_norm = predicted.view(-1, rows)[:, 0]
    assert torch.allclose(observed / law_norm, torch.ones(len(chances), dtype=torch.float64), atol=tolerance)
    if wrong == "fourth":
        fourth = (fourths / count).view(-1, rows).mean(1).pow(0.25)
        assert fourth[-1] / law_norm[-1] > 1 + 2 * tolerance
    if wrong == "plain law":
        plain = rule_.predict(p, dim, p).view(-1, rows)[:, 0]
        assert abs(observed[-1] / plain[-1] - 1) > 2 * tolerance


COVERED = {
    # optimizer, chances of a gradient
    "adamw": (
        lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.05, betas=(0.9, 0.99), eps=1e-12, fused=True),
        (1.0, 0.1, 0.03),
    ),
    "adam": (
        lambda p: torch.optim.Adam(p, lr=0.006, weight_decay=0.004, betas=(0.9, 0.99), eps=1e-14, fused=True),
        (1.0, 0.1),
    ),
    "lion": (lambda p: Lion(p, lr=0.002, weight_decay=0.5, betas=(0.9, 0.99)), (1.0, 0.1, 0.03)),
}
COVERED_ROWS, COVERED_STEPS, COVERED_WINDOWS = 800, 1_500, 3


class WindowSums(NamedTuple):
    """What three windows see of rows that a real optimizer trains, each ``[3, rows]``.

    ``mean`` is that of what the rule observes, ``end`` the norm after the last step.
    """

    touches: torch.Tensor
    square_sum: torch.Tensor
    fourth_sum: torch.Tensor
    mean: torch.Tensor
    end: torch.Tensor


def train_on_noise(build, norms, probability, kurtosis):
    """A :class:`WindowSums` of rows that start at these norms, after 600 steps at a rate of zero."""
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(len(norms), DIM, generator=generator)
    table = torch.nn.Parameter(x / x.norm(dim=1, keepdim=True) * norms.float().unsqueeze(1))
    optimizer = build([table])
    rule_ = equilibrium_rule(optimizer)
    sums = WindowSums(*(torch.zeros(COVERED_WINDOWS, len(norms), dtype=torch.float64) for _ in WindowSums._fields))
    optimizer.param_groups[0]["lr"] = 0.0
    for step in range(-600, COVERED_WINDOWS * COVERED_STEPS):
        if step == 0:  # what the optimizer averages has settled
            optimizer.param_groups[0]["lr"] = rule_.lr
        square = torch.empty(len(norms)).exponential_(generator=generator).where(kurtosis == 2, 1.0)
        table.grad, touched = random_gradients(table, probability, generator, square.sqrt())
        optimizer.step()
        if step >= 0:
            norm = torch.linalg.vector_norm(table.detach(), dim=1, dtype=torch.float64)
            window = step // COVERED_STEPS
            sums.touches[window, touched] += 1
            sums.square_sum[window, touched] += square[touched].double()
            sums.fourth_sum[window, touched] += square[touched].double() ** 2
            observed = norm.log() if rule_.observed_mean == "geometric" else norm.square()
            sums.mean[window] += observed / COVERED_STEPS
            if (step + 1) % COVERED_STEPS == 0:
                sums.end[window] = norm
    return sums


@pytest.mark.slow
@pytest.mark.parametrize(("build", "chances"), COVERED.values(), ids=COVERED)
def test_intervals_cover_under_the_real_optimizer(build, chances):
    """800 rows are 800 seeds of a chance and a kurtosis; all of them are rows of one table, and judged by themselves.

    Means and ends of two settled windows, and the forecast of the second from the first.
    """
    cases = [(chance, kurtosis) for chance in chances for kurtosis in (1, 2)]
    probability, kurtosis = torch.tensor(cases, dtype=torch.float64).repeat_interleave(COVERED_ROWS, dim=0).unbind(1)
    rule_ = equilibrium_rule(build([torch.nn.Parameter(torch.ones(1))]))
    norms = rule_.predict(probability, DIM, probability, kurtosis=kurtosis)
    gaps = gaps_in_stderrs(rule_, train_on_noise(build, norms, probability, kurtosis))
    for name, of_rows in gaps.items():
        for case, distance in zip(cases, of_rows.abs().split(COVERED_ROWS, dim=1), strict=True):
            covered = float((distance <= Z90).double().mean())
            assert covered == pytest.approx(0.9, abs=0.03), (name, case)
            assert float((distance <= Z90 / 2).double().mean()) < 0.7, "half as wide they would not"


def gaps_in_stderrs(rule_, sums):
    """Observed less predicted, in standard errors, ``[windows, rows]``: of means, ends and the forecast."""
    observed = sums.mean if rule_.observed_mean == "geometric" else sums.mean.log() / 2
    v2, share = sums.square_sum / COVERED_STEPS, sums.touches / COVERED_STEPS
    kappa = sums.touches * sums.fourth_sum / sums.square_sum.square()
    rates = [rule_.lr] * COVERED_STEPS
    gaps = {"mean": [], "path": [], "forecast": []}
    for window in (1, 2):
        moments_, kurt = (v2[window], DIM, share[window]), kappa[window]
        errors = rule_.errors(*moments_, kurt, steps=COVERED_STEPS)
        gap = observed[window] - rule_.predict(*moments_, kurtosis=kurt).log() - errors.log_bias
        gaps["mean"].append(gap / (errors.difference + rule_.accuracy**2).sqrt())
        paths = [("path", sums.end[window - 1], sums.end[window])]
        if window == 1:
            paths.append(("forecast", sums.end[1], sums.end[2]))
        for name, start, end in paths:
            path = rule_.evolve(start, *moments_, lrs=rates, kurtosis=kurt)
            errors = rule_.path_errors(start, path, *moments_, kurt, lrs=rates, steps=COVERED_STEPS)
            errors = errors.ahead() if name == "forecast" else errors
            gaps[name].append((end.log() - path.log() - errors.log_bias) / errors.difference.double().sqrt())
    return {name: torch.stack(rows) for name, rows in gaps.items()}


@pytest.mark.parametrize("build", [torch.optim.AdamW, torch.optim.Adam, Lion])
def test_a_path_of_no_steps_ends_where_it_starts(build):
    """As at the end of a run, where nothing is left to forecast."""
    rule_ = equilibrium_rule(build([torch.ones(1)], lr=0.1, weight_decay=0.1))
    norm, half = torch.full((2,), 3.0), torch.tensor([0.5, 0.01])
    errors = rule_.path_errors(norm, norm, half, 8, half, torch.ones(2), lrs=[], steps=100)
    assert max(float(value.abs().max()) for value in errors) < 1e-5


def test_no_errors_without_an_equilibrium():
    growing = equilibrium_rule(torch.optim.SGD([torch.ones(1)], lr=0.1))
    assert growing.errors(1.0, 8, 0.5, 1.0, steps=100) is None


def test_rows_that_are_rare_are_not_judged():
    judged = rule().judges(1.0, DIM, torch.tensor([1.0, 0.1, 0.01, 0.003, 0.0]), 1.0, steps=1_000)
    assert judged.tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("drift", [0.0, 0.4, -0.4])
def test_the_error_of_an_equilibrium_norm_is_its_derivative(drift):
    v2, d = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (8.0, drift))
    norm = equilibrium_norm(v2, 0.25, 1.0, d)
    by_v2, by_drift = torch.autograd.grad(norm.log(), (v2, d))
    expected = ((by_v2 * 0.3) ** 2 + (by_drift * 0.05) ** 2) ** 0.5
    stderr = equilibrium_norm_stderr(8.0, 0.25, 1.0, drift, second_moment_stderr=0.3, drift_stderr=0.05)
    assert float(stderr) == pytest.approx(float(expected))
    assert equilibrium_norm_stderr(8.0, 0.0, 1.0, second_moment_stderr=0.3).isnan()
