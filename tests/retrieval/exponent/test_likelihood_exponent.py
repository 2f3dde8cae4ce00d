"""The likelihood of the exponent against orders written out, numerical derivatives and a grid."""

import itertools
import math

import pytest
import torch
from planted_relevance import planted

from lightning_normdyn.retrieval.exponent.likelihood_exponent import _Likelihoods, likelihood_exponent


def by_orders(weights, relevant):
    """Chance that the relevant ones are the first to be drawn without replacement, in any order."""
    total = 0.0
    for order in itertools.permutations(relevant):
        left, chance = sum(weights), 1.0
        for one in order:
            chance *= weights[one] / left
            left -= weights[one]
        total += chance
    return total


@pytest.mark.parametrize("scale", [0.1, 3.0, 60.0])
def test_the_integral_is_the_sum_over_orders(scale):
    draw = torch.Generator().manual_seed(1)
    x = torch.rand(4, 7, generator=draw, dtype=torch.float64)
    log_norms = torch.randn(7, generator=draw, dtype=torch.float64)
    relevant = torch.zeros(4, 7, dtype=torch.bool)
    for row, places in enumerate([[0], [1, 4], [0, 2, 5], [1, 2, 3, 6]]):
        relevant[row, places] = True
    found = _Likelihoods(x, log_norms.expand(4, 7), relevant)(torch.tensor([scale, 0.4], dtype=torch.float64))
    for row in range(4):
        weights = [
            math.exp(scale * float(a) * math.exp(0.4 * float(b))) for a, b in zip(x[row], log_norms, strict=True)
        ]
        expected = by_orders(weights, relevant[row].nonzero().flatten().tolist())
        assert float(found[row]) == pytest.approx(math.log(expected), abs=1e-6)


def test_the_fit_is_the_highest_point_of_a_grid():
    cosines, norms, relevance = planted(3, -0.6, queries=60, documents=30, relevant=2)
    found = likelihood_exponent(cosines, norms, relevance)
    likelihoods = _Likelihoods(cosines, (norms.log() - norms.log().mean()).expand_as(cosines), relevance > 0)

    def at(scale, alpha):
        return float(likelihoods(torch.tensor([scale, alpha], dtype=torch.float64)).sum())

    best = at(found.scale.value, found.alpha.value)
    for scale, alpha in itertools.product((-0.5, 0, 0.5), (-0.02, 0, 0.02)):
        assert at(found.scale.value + scale, found.alpha.value + alpha) <= best + 1e-9
    assert found.queries == 60


def test_errors_are_those_of_numerical_derivatives():
    cosines, norms, relevance = planted(4, 0.5, queries=50, documents=20, relevant=2)
    found = likelihood_exponent(cosines, norms, relevance)
    likelihoods = _Likelihoods(cosines, (norms.log() - norms.log().mean()).expand_as(cosines), relevance > 0)
    top = torch.tensor([found.scale.value, found.alpha.value], dtype=torch.float64)
    h = torch.diag(torch.tensor([1e-3, 1e-4], dtype=torch.float64))
    size = h.diagonal()
    slopes = torch.stack([(likelihoods(top + step) - likelihoods(top - step)) / 2 for step in h], 1) / size
    hessian = torch.zeros(2, 2, dtype=torch.float64)
    for i, j in itertools.product(range(2), repeat=2):
        corners = [
            (a * b) * likelihoods(top + a * h[i] + b * h[j]).sum() for a, b in itertools.product((1, -1), repeat=2)
        ]
        hessian[i, j] = sum(corners) / 4 / size[i] / size[j]
    inverse = torch.linalg.inv(hessian)
    errors = (inverse @ slopes.T @ slopes @ inverse).diagonal().sqrt()
    assert found.scale.high - found.scale.value == pytest.approx(1.959964 * float(errors[0]), rel=1e-3)
    assert found.alpha.high - found.alpha.value == pytest.approx(1.959964 * float(errors[1]), rel=1e-3)


def test_norms_that_do_not_vary_leave_the_exponent_open():
    cosines, _, relevance = planted(5, 0.0, queries=40, documents=20)
    found = likelihood_exponent(cosines, torch.full((20,), 3.0), relevance)
    assert (found.alpha.low, found.alpha.high) == (-math.inf, math.inf)


def test_queries_that_say_nothing_are_left_out():
    cosines, norms, relevance = planted(6, 0.3, queries=30, documents=20)
    more = torch.cat((relevance, torch.zeros(1, 20), torch.ones(1, 20)))
    found = likelihood_exponent(torch.cat((cosines, cosines[:2])), norms, more)
    assert found.queries == 30
    assert found.alpha == pytest.approx(likelihood_exponent(cosines, norms, relevance).alpha)
    nothing = likelihood_exponent(cosines, norms, torch.zeros_like(relevance))
    assert nothing.queries == 0
    assert math.isnan(nothing.alpha.value)


def test_what_is_no_relevance_is_refused():
    cosines, norms, relevance = planted(6, 0.3, queries=3, documents=8)
    with pytest.raises(ValueError, match="expected \\[n, m\\]"):
        likelihood_exponent(cosines, norms[:3], relevance)
    with pytest.raises(ValueError, match="cosines: expected finite"):
        likelihood_exponent(cosines * math.nan, norms, relevance)
    with pytest.raises(ValueError, match="nothing negative"):
        likelihood_exponent(cosines, norms, -relevance)


def test_the_exponent_is_fitted_inside_a_validation_step():
    with torch.inference_mode():
        draw = torch.Generator().manual_seed(0)
        cosines, norms = torch.rand(50, 8, generator=draw).double(), torch.rand(8, generator=draw).double() + 0.5
        relevance = torch.zeros(50, 8).scatter_(1, (cosines * norms).argmax(1, keepdim=True), 1.0)
        inside = likelihood_exponent(cosines, norms, relevance)
    assert inside == likelihood_exponent(cosines.clone(), norms.clone(), relevance.clone())
