"""Planted truths are found: an exponent, none at all, and a confound by length."""

import pytest
import torch
from planted_relevance import brute_sweep, planted, planted_length

from lightning_normdyn.retrieval.exponent.calibration import calibrate
from lightning_normdyn.retrieval.exponent.confounds import explain_gain
from lightning_normdyn.retrieval.exponent.likelihood_exponent import likelihood_exponent
from lightning_normdyn.retrieval.exponent.residual_norms import length_norms, residual_norms

EXPONENTS = [-1.3, -0.73, 0.5, 1.1]


def found_exponent(seed, exponent, **size):
    return calibrate(brute_sweep(*planted(seed, exponent, **size)), resamples=300)


def no_dependence(seed):
    """Few queries and much noise, where chance would have its way."""
    return found_exponent(seed, 0.0, queries=80, documents=100, relevant=1, temperature=0.3)


def confound(seed):
    cosines, norms, lengths, relevance = planted_length(seed, 0.8)
    columns = (norms, residual_norms(norms, lengths), length_norms(lengths))
    return explain_gain(*(brute_sweep(cosines, column, relevance) for column in columns), resamples=300)


def genuine(seed):
    """Norms matter, lengths are anything."""
    cosines, norms, relevance = planted(seed, 0.7, queries=200)
    lengths = torch.rand(len(norms), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 100
    columns = (norms, residual_norms(norms, lengths), length_norms(lengths))
    return explain_gain(*(brute_sweep(cosines, column, relevance) for column in columns), resamples=300)


def covered(found, exponent):
    return found.alpha.low <= exponent <= found.alpha.high


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_a_planted_exponent_is_found(exponent):
    found = [found_exponent(seed, exponent) for seed in range(8)]
    assert all(abs(one.alpha.value - exponent) < 0.1 for one in found)
    assert sum(covered(one, exponent) for one in found) >= 6
    assert all(one.significant and one.gain.low > 0 and one.gain_p_value < 0.05 for one in found)
    assert all("Norms help" in one.sentence for one in found)


def test_no_dependence_is_no_gain():
    found = [no_dependence(seed) for seed in range(20)]
    assert sum(covered(one, 0.0) for one in found) >= 18
    assert sum(not one.significant and one.sentence.startswith("No gain") for one in found) >= 18


def test_a_length_confound_is_flagged():
    assert [confound(seed).verdict for seed in range(6)].count("length") >= 5
    assert confound(0).sentence.startswith("Length explains the gain")
    assert [genuine(seed).verdict for seed in range(6)].count("norm") >= 5
    assert genuine(0).sentence.startswith("Norms help: take exponent 0.")
    assert "Length does not explain the gain" in genuine(0).sentence


def test_the_likelihood_finds_it_without_a_grid():
    found = [likelihood_exponent(*planted(seed, 0.5, queries=100, documents=60)).alpha for seed in range(6)]
    assert all(abs(alpha.value - 0.5) < 0.1 for alpha in found)
    assert sum(alpha.low <= 0.5 <= alpha.high for alpha in found) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_a_planted_exponent_is_found_in_a_hundred_worlds(exponent):
    found = [found_exponent(seed, exponent) for seed in range(100)]
    assert sum(abs(one.alpha.value - exponent) < 0.1 for one in found) >= 98
    assert sum(covered(one, exponent) for one in found) >= 88


@pytest.mark.slow
@pytest.mark.parametrize("world", [no_dependence, lambda seed: found_exponent(seed, 0.0)])
def test_the_interval_covers_no_dependence_in_a_hundred_worlds(world):
    found = [world(seed) for seed in range(100)]
    assert sum(covered(one, 0.0) for one in found) >= 93
    assert sum(one.p_value <= 0.05 for one in found) <= 7


@pytest.mark.slow
def test_length_confounds_are_flagged_in_a_hundred_worlds():
    assert [confound(seed).verdict for seed in range(100)].count("length") >= 95
    assert [genuine(seed).verdict for seed in range(100)].count("norm") >= 90
