"""The balance equation where drift is real: paths against a loop of single steps, windows against their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core import equilibrium_rule
from lightning_normdyn.core.dynamics.balance import BalanceTerms, Flow, equilibria
from lightning_normdyn.core.dynamics.balance_window import BalanceSample, BalanceWindow
from lightning_normdyn.core.dynamics.equilibrium import equilibrium_norm, forecast_norm
from lightning_normdyn.core.dynamics.rates import RateTrace

RULE = equilibrium_rule(torch.optim.SGD([torch.ones(1)], lr=0.1))


def terms(*, v2=0.5, decay=0.02, drift=0.01, squared=1.5, lr=0.1, power=0.0, follows=True, n=3):
    spread = torch.linspace(0.5, 2, n, dtype=torch.float64)
    return BalanceTerms(
        v2 * spread, decay * spread, drift / spread, squared * spread, lr, torch.full_like(spread, power), follows
    )


def steps_of(known, norms, lrs):
    """One step at a time, in numpy, as the balance equation and the powers of its terms say."""
    v2, decay, drift, squared, lr, power = (np.asarray(field) for field in known[:6])
    now = np.asarray(norms) ** 2
    for rate in lrs:
        ratio = now / squared
        factor = rate / lr if known.drift_follows_lr else 1.0
        push = 2 * rate * drift * factor * ratio ** ((1 + power) / 2)
        growth = rate**2 * v2 / squared * ratio ** ((1 + power) / 2 if known.drift_follows_lr else power)
        now = (1 - rate * decay) ** 2 * now + push + growth
    return np.sqrt(now)


@pytest.mark.parametrize("follows", [True, False])
@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5])
@pytest.mark.parametrize("drift", [0.02, -0.005])
def test_a_path_is_that_of_single_steps(power, follows, drift):
    known = terms(power=power, follows=follows, drift=drift)
    start = torch.tensor([0.4, 1.0, 2.0])
    lrs = [0.1 * (1 + math.cos(math.pi * step / 3000)) / 2 for step in range(3000)]
    path = known.evolve(start, RateTrace.of(lrs).segments)
    np.testing.assert_allclose(path.numpy(), steps_of(known, start.double(), lrs), rtol=5e-3)


def test_a_table_without_drift_goes_the_way_of_sgd():
    """Degree one, drift zero: what :func:`forecast_norm` follows for tables."""
    known = terms(power=-1.0, drift=0.0, follows=False)
    start = torch.tensor([0.4, 1.0, 2.0], dtype=torch.float64)
    path = known.evolve(start, RateTrace.of([0.05] * 2000).segments)
    expected = forecast_norm(start, known.second_moment, known.radial_decay, [0.05] * 2000)[-1]
    torch.testing.assert_close(path, expected, rtol=5e-3, atol=0)


def test_a_long_path_ends_at_the_equilibrium():
    """With constant drift and a table's growth, the fixed point is the root of the balance equation."""
    known = terms(power=-1.0, drift=0.01, follows=False)
    path = known.evolve(torch.ones(3), RateTrace.of([0.1] * 40_000).segments)
    expected = equilibrium_norm(known.second_moment, known.radial_decay, 0.1, known.drift)
    torch.testing.assert_close(path, expected, rtol=2e-2, atol=0)


def test_a_path_stays_finite_where_drift_carries_a_norm_to_zero():
    path = terms(drift=-5.0, follows=False).evolve(torch.ones(3), RateTrace.of([0.1] * 100).segments)
    assert bool((path >= 0).all())


@settings(max_examples=50)
@given(
    v2=st.floats(1e-4, 10),
    decay=st.floats(1e-4, 1),
    drift=st.one_of(st.floats(-0.1, -1e-4), st.floats(1e-4, 1)),
    lr=st.floats(1e-3, 1),
)
def test_each_root_solves_its_equation(v2, decay, drift, lr):
    known = terms(v2=v2, decay=decay, drift=drift, lr=lr)
    flow = Flow(torch.full((3,), 1e-3, dtype=torch.float64), torch.ones(3), torch.ones(3), lr)
    roots = equilibria(flow, known, lr)

    def solves(root, push, noise):
        terms_of = known.radial_decay * root**4, push * root**2, lr * noise / 2
        return ((terms_of[0] - terms_of[1] - terms_of[2]).abs() / sum(t.abs() for t in terms_of)).max() < 1e-9

    assert solves(roots.full, known.drift, known.second_moment)
    assert solves(roots.variance, 0 * known.drift, known.second_moment)
    assert solves(roots.balance, known.drift - flow.change / (2 * lr), known.second_moment)
    if drift > 0:
        assert solves(roots.drift, known.drift, 0 * known.second_moment)
    else:
        assert bool(roots.drift.isnan().all())


def walk(steps=400, n=5, d=8, lr=0.1, decay=0.05, seed=0):
    """Vectors under decay and noise, ``[steps + 1, n, d]``."""
    generator = torch.Generator().manual_seed(seed)
    path = [torch.randn(n, d, generator=generator, dtype=torch.float64)]
    for _ in range(steps):
        noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
        path.append((1 - lr * decay) * path[-1] + lr * (0.02 * path[-1] + 0.3 * noise))
    return torch.stack(path)


def window_of(path, every, lr=0.1, decay=0.05):
    window = BalanceWindow(path[0].norm(dim=1))
    for step in range(len(path) - 1):
        window.rates.append(lr)
        if step % every == 0:
            before, after = path[step], path[step + 1]
            growth = (after - before).square().sum(1)
            window.add(BalanceSample(lr, before.square().sum(1), growth, growth / before.square().sum(1)))
            window.add_radial_decay(torch.full((path.shape[1],), decay, dtype=torch.float64))
    return window


def close(window, path, **options):
    return window.close(path[-1].norm(dim=1), **{"growth_power": 0.0, "drift_follows_lr": True} | options)


def test_a_window_that_saw_every_step_books_all_of_it():
    """Its drift is then the mean of <x, Δ_task>/lr over all steps."""
    path = walk()
    fit = close(window_of(path, 1), path)
    before, after = path[:-1], path[1:]
    task = after - (1 - 0.1 * 0.05) * before
    # Decay acts on x and is of first order in the equation: its square, 2.5e-5 of R², is in the drift.
    expected = (task * before).sum(2).mean(0) / 0.1
    torch.testing.assert_close(fit.terms.drift, expected, rtol=0.03, atol=0)
    torch.testing.assert_close(fit.flow.change * 400, path[-1].square().sum(1) - path[0].square().sum(1))
    torch.testing.assert_close(fit.mean_norm, before.square().sum(2).mean(0).sqrt())
    torch.testing.assert_close(fit.equilibria.balance, fit.mean_norm, rtol=1e-6, atol=0)


def test_telescoped_drift_is_several_times_better_than_sampled():
    """At the same cadence, against the drift over all steps (theory: estimating the moments online)."""
    path = walk(steps=2000, n=40)
    truth = close(window_of(path, 1), path).terms.drift
    telescoped = close(window_of(path, 50), path).terms.drift
    before, after = path[:-1:50], path[1::50]
    sampled = ((after - (1 - 0.1 * 0.05) * before) * before).sum(2).mean(0) / 0.1
    assert (telescoped - truth).abs().median() * 4 < (sampled - truth).abs().median()


def test_standard_errors_are_those_of_repeated_windows():
    """The spread of growth over windows of independent walks, against the error that each states."""
    fits = [close(window_of(walk(seed=seed), 10), walk(seed=seed)) for seed in range(60)]
    spread = torch.stack([fit.flow.growth for fit in fits]).std(0)
    stated = torch.stack([fit.growth_stderr for fit in fits]).mean(0)
    torch.testing.assert_close(stated, spread, rtol=0.35, atol=0)


def test_too_few_samples_say_so():
    path = walk(steps=10)
    assert close(BalanceWindow(path[0].norm(dim=1)), path) is None
    fit = close(window_of(path, 100), path)
    assert bool(fit.growth_stderr.isnan().all())
    assert bool(fit.terms.drift.isfinite().all())


def test_no_learning_rate_no_drift():
    path = walk(steps=10)
    window = BalanceWindow(path[0].norm(dim=1))
    window.rates.append(0.0)
    window.add(BalanceSample(0.0, *(path[0].square().sum(1) for _ in range(3))))
    fit = close(window, path)
    assert bool(fit.terms.drift.isnan().all())
    assert not bool(fit.equilibria.full.isfinite().any())


def test_state_survives():
    path = walk()
    window, half = window_of(path, 10), window_of(path[:200], 10)
    del window
    restored = BalanceWindow.from_state_dict(half.state_dict(), torch.device("cpu"), RULE)
    for one, other in zip(close(restored, path), close(half, path), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_a_run_that_diverged_has_not_settled():
    gone = torch.full((3,), torch.nan, dtype=torch.float64)
    assert bool(Flow(gone, torch.ones(3), torch.ones(3), 0.1).stationarity.isnan())
    one_gone = torch.tensor([0.0, torch.nan])
    assert float(Flow(one_gone, torch.ones(2), torch.ones(2), 0.1).stationarity) == 1.0
