import math
from decimal import Context, Decimal, localcontext

import pytest
import torch
from hypothesis import assume, given, settings, strategies as st

from lightning_normdyn.core import equilibrium_norm, forecast_norm, relaxation_steps

PROPERTY = settings(derandomize=True, max_examples=150)


def powers_of_ten(low, high):
    return st.floats(low, high).map(lambda exponent: 10**exponent)


second_moments = powers_of_ten(-6, 6)
lrs = powers_of_ten(-5, 0)
positive_decays = powers_of_ten(-6, 1)
decays = positive_decays | st.just(0.0) | positive_decays.map(lambda decay: -decay)
drifts = powers_of_ten(-8, 8).flatmap(lambda size: st.sampled_from([size, -size])) | st.just(0.0)


def quartic_residual(norm, second_moment, radial_decay, lr, drift):
    """The balance equation at ``norm``, relative to its largest term, in 60 digits."""
    with localcontext(Context(prec=60)):
        r, v2, lam, eta, d = (Decimal(value) for value in (norm, second_moment, radial_decay, lr, drift))
        terms = lam * r**4, -d * r**2, -eta * v2 / 2
        return float(abs(sum(terms)) / max(abs(term) for term in terms))


def exact_root(second_moment, radial_decay, lr, drift):
    """The positive root by the textbook formula, in 60 digits, where no cancellation can hurt."""
    with localcontext(Context(prec=60)):
        v2, lam, eta, d = (Decimal(value) for value in (second_moment, radial_decay, lr, drift))
        return float(((d + (d * d + 2 * eta * lam * v2).sqrt()) / (2 * lam)).sqrt())


def textbook_root(second_moment, radial_decay, lr, drift):
    root = math.sqrt(drift**2 + 2 * lr * radial_decay * second_moment)
    return math.sqrt((drift + root) / (2 * radial_decay))


@PROPERTY
@given(second_moments, decays, lrs, drifts)
def test_equilibrium_satisfies_the_balance_equation(second_moment, radial_decay, lr, drift):
    """And it is infinite exactly where the balance equation has no positive root that attracts."""
    discriminant = drift**2 + 2 * lr * radial_decay * second_moment
    assume(abs(discriminant) > 1e-9 * drift**2 or discriminant == 0)
    norm = equilibrium_norm(second_moment, radial_decay, lr, drift).item()
    balanced = radial_decay > 0 or (drift < 0 and discriminant >= 0)
    assert math.isfinite(norm) == balanced
    if balanced:
        assert norm > 0
        assert quartic_residual(norm, second_moment, radial_decay, lr, drift) < 1e-12


@PROPERTY
@given(second_moments, positive_decays, lrs, drifts)
def test_equilibrium_equals_the_exact_root(second_moment, radial_decay, lr, drift):
    oracle = exact_root(second_moment, radial_decay, lr, drift)
    assert equilibrium_norm(second_moment, radial_decay, lr, drift).item() == pytest.approx(oracle, rel=1e-13)


@pytest.mark.parametrize("drift", [-1e4, -1e6, -1e8])
def test_the_textbook_formula_would_cancel(drift):
    values = (1.0, 1e-2, 1e-2, drift)
    assert textbook_root(*values) != pytest.approx(exact_root(*values), rel=1e-6)
    assert equilibrium_norm(*values).item() == pytest.approx(exact_root(*values), rel=1e-13)


def test_of_two_roots_the_attracting_one_is_given():
    """With negative decay and inward drift the balance holds twice; only at the smaller norm does it pull back."""
    second_moment, radial_decay, lr, drift = 2.0, -0.1, 0.5, -1.0

    def net_push(norm):
        return -radial_decay * norm**4 + drift * norm**2 + lr * second_moment / 2

    norm = equilibrium_norm(second_moment, radial_decay, lr, drift).item()
    assert net_push(0.99 * norm) > 0 > net_push(1.01 * norm)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"second_moment": 8.0, "radial_decay": 0.25, "lr": 1.0}, 2.0),
        ({"second_moment": 0.0, "radial_decay": 0.5, "lr": 1.0, "drift": 2.0}, 2.0),
        ({"second_moment": 0.0, "radial_decay": 0.5, "lr": 1.0, "drift": -2.0}, 0.0),
        ({"second_moment": 0.0, "radial_decay": 0.5, "lr": 1.0}, 0.0),
        ({"second_moment": 8.0, "radial_decay": 0.0, "lr": 1.0}, math.inf),
        ({"second_moment": 8.0, "radial_decay": 0.0, "lr": 1.0, "drift": 1.0}, math.inf),
        ({"second_moment": 8.0, "radial_decay": 0.0, "lr": 1.0, "drift": -1.0}, 2.0),
        ({"second_moment": 8.0, "radial_decay": -0.25, "lr": 1.0}, math.inf),
        ({"second_moment": 8.0, "radial_decay": -0.25, "lr": 1.0, "drift": -1.0}, math.inf),
        ({"second_moment": 8.0, "radial_decay": -0.25, "lr": 1.0, "drift": -2.0}, 2.0),
    ],
)
def test_limits(arguments, expected):
    assert equilibrium_norm(**arguments).item() == pytest.approx(expected, rel=1e-12)


def test_arguments_broadcast_and_keep_their_precision():
    second_moment = torch.ones(3, 1)
    radial_decay = torch.full((2,), 0.5)
    norm = equilibrium_norm(second_moment, radial_decay, 0.1, drift=-0.2)
    assert (norm.shape, norm.dtype) == ((3, 2), torch.float32)
    assert equilibrium_norm(second_moment.double(), 0.5, 0.1).dtype == torch.float64
    assert equilibrium_norm(second_moment.half(), 0.5, 0.1).dtype == torch.float32
    torch.testing.assert_close(norm[0, 0].item(), exact_root(1.0, 0.5, 0.1, -0.2), rtol=1e-6, atol=0)


def loop_forecast(norm, second_moment, radial_decay, lrs, drift):
    fourth, path = norm**4, []
    for lr in lrs:
        shrink = (1 - lr * radial_decay) ** 2
        pushed = max(shrink * math.sqrt(fourth) + 2 * lr * drift, 0.0)
        fourth = pushed**2 + 2 * shrink * lr**2 * second_moment
        path.append(fourth**0.25)
    return path


NORMS = [0.5, 1.0, 2.0, 3.0]
SECOND_MOMENTS = [8.0, 0.0, 1.0, 100.0]
RADIAL_DECAYS = [0.25, 0.5, 0.0, 1.0]
DRIFTS = [0.1, -0.3, 0.0, -20.0]
COSINE = [0.05 * (1 + math.cos(math.pi * step / 300)) for step in range(300)]


def forecast(drifts):
    norms, moments, decays, drifts = (
        torch.tensor(values, dtype=torch.float64) for values in (NORMS, SECOND_MOMENTS, RADIAL_DECAYS, drifts)
    )
    return forecast_norm(norms, moments, decays, COSINE, drifts)


def test_forecast_equals_a_float_loop():
    columns = zip(NORMS, SECOND_MOMENTS, RADIAL_DECAYS, DRIFTS, strict=True)
    oracle = torch.tensor([loop_forecast(n, m, d, COSINE, drift) for n, m, d, drift in columns], dtype=torch.float64).T
    torch.testing.assert_close(forecast(DRIFTS), oracle, rtol=1e-12, atol=0)
    assert not torch.allclose(forecast([0.0] * 4), oracle, rtol=1e-3)


@pytest.mark.parametrize("start", [0.3, 3.0])
@pytest.mark.parametrize("drift_per_noise", [-0.05, -0.01, 0.0, 0.01, 0.05])
def test_forecast_converges_to_the_equilibrium(start, drift_per_noise):
    """Drift is given in units of V: at lr·decay = 0.001, noise and drift of 0.05 V matter alike."""
    radial_decay = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    second_moment = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    drift = drift_per_noise * second_moment.sqrt()
    equilibrium = equilibrium_norm(second_moment, radial_decay, 2e-3, drift)
    end = forecast_norm(start * equilibrium, second_moment, radial_decay, [2e-3] * 20_000, drift)[-1]
    torch.testing.assert_close(end, equilibrium, rtol=5e-3, atol=0)
    if drift_per_noise:
        opposite = equilibrium_norm(second_moment, radial_decay, 2e-3, -drift)
        assert not torch.allclose(end, opposite, rtol=5e-2)


def test_forecast_is_the_norm_after_each_rate():
    path = forecast_norm(torch.ones(2), torch.ones(2), 0.1, torch.tensor([0.1, 0.2, 0.3]))
    assert (path.shape, path.dtype) == ((3, 2), torch.float64)
    assert path[0, 0].item() == pytest.approx((0.99**4 + 2 * 0.99**2 * 0.1**2) ** 0.25, rel=1e-7)
    assert forecast_norm(torch.ones(2), torch.ones(2), 0.1, []).shape == (0, 2)


def test_forecast_of_different_shapes_is_refused():
    with pytest.raises(ValueError, match=r"second_moment: expected the shape of norm, \(2,\), got \(3,\)"):
        forecast_norm(torch.ones(2), torch.ones(3), 0.1, [0.1])


def sgd_step(norm, lr, decay):
    return ((1 - lr * decay) ** 4 * norm**4 + 2 * (1 - lr * decay) ** 2 * lr**2) ** (1 / 4)


def adamw_step(norm, lr, decay):
    return math.sqrt((1 - lr * decay) ** 2 * norm**2 + lr**2)


def adam_step(norm, lr, decay):
    """Coupled decay is divided by the gradient's scale, 1/norm."""
    return math.sqrt((1 - lr * decay * norm) ** 2 * norm**2 + lr**2)


@pytest.mark.parametrize(("family", "step"), [("sgd", sgd_step), ("adamw", adamw_step), ("adam", adam_step)])
def test_relaxation_is_where_the_distance_has_fallen_by_e(family, step):
    lr, decay = 1e-3, 0.5
    equilibrium = 1.0
    for _ in range(100_000):
        equilibrium = step(equilibrium, lr, decay)
    norm, steps = 1.001 * equilibrium, 0
    while norm - equilibrium > 0.001 * equilibrium / math.e:
        norm, steps = step(norm, lr, decay), steps + 1
    radial_decay = decay * equilibrium if family == "adam" else decay
    assert relaxation_steps(lr, radial_decay, family) == pytest.approx(steps, rel=0.01)


@pytest.mark.parametrize(("lr", "radial_decay"), [(0.0, 1.0), (1.0, 0.0)])
def test_nothing_relaxes_without_decay_or_rate(lr, radial_decay):
    assert relaxation_steps(lr, radial_decay, "sgd") == math.inf


def test_an_unknown_family_is_named():
    with pytest.raises(ValueError, match=r"family: expected one of \['adafactor', .*'sparse_adam'\], got 'lamb'"):
        relaxation_steps(0.1, 0.1, "lamb")
