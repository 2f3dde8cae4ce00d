"""Planted truths are found: an exponent, none at all, and a confound by length."""

import pytest
import torch
from planted_relevance import brute_sweep, explained, length_world, planted, planted_length

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


# Norms that are a power of length to the letter, weaker and stronger than it, of few and of many documents.
LENGTHS = {
    "inverse": {"confound": -0.4, "by_length": 0.3},
    "weak": {"confound": 0.2, "by_length": 0.2},
    "steep": {"confound": 3.0, "by_length": 0.5},
    "beyond the norm's grid": {"confound": 0.2, "by_length": 1.5, "rows": 1_000},
    "noisy": {"confound": 0.5, "by_length": 0.8, "noise": 0.1},
    "hidden from the norm": {"confound": 0.1, "by_length": 0.5, "noise": 0.3},
    "negative": {"confound": -0.4, "by_length": -0.4, "rows": 1_000},
}
FEW_AND_NOISY = {"queries": 80, "relevant": 1, "temperature": 0.3}
NULLS = {
    "a confound": {"confound": 0.5, "noise": 0.1, **FEW_AND_NOISY},
    "no confound": {"confound": 0.0, "noise": 0.4, **FEW_AND_NOISY},
    "a perfect confound": {"confound": -0.4, **FEW_AND_NOISY},
    "many queries": {"confound": 0.5, "noise": 0.1},
}


@pytest.mark.parametrize("world", LENGTHS)
def test_a_gain_of_length_is_called_that_with_its_own_exponent(world):
    report = explained(length_world(0, **LENGTHS[world]))
    assert report.verdict == "length"
    assert report.length_helps
    assert report.length.alpha.value == pytest.approx(LENGTHS[world]["by_length"], rel=0.2)
    assert "cos · (1 + length)^" in report.sentence.split(". ")[0]


def test_norms_that_no_length_can_read_are_not_called_length():
    report = explained(length_world(0, confound=0.0, noise=0.4, by_norm=0.5))
    assert report.verdict == "norm"
    assert not report.length_helps
    part = explained(length_world(0, confound=0.5, noise=0.4, by_norm=0.7))
    assert part.verdict == "partly length"
    assert part.sentence.startswith("Norms help, in part through length: take exponent 0.")


def test_length_that_helps_beside_the_norm_is_offered_as_what_it_is():
    report = explained(length_world(0, confound=0.0, noise=0.4, by_norm=0.5, by_length=0.5))
    assert report.verdict == "norm"
    assert report.length_helps
    assert "Length helps by itself" in report.sentence


@pytest.mark.exhaustive
@pytest.mark.parametrize("world", LENGTHS)
def test_gains_of_length_are_called_that_in_a_hundred_worlds(world):
    verdicts = [explained(length_world(seed, **LENGTHS[world])).verdict for seed in range(100)]
    assert verdicts.count("length") >= 93


@pytest.mark.exhaustive
@pytest.mark.parametrize("rows", [10_000, 100_000])
def test_gains_of_length_are_called_that_among_many_documents(rows):
    verdicts = [
        explained(length_world(seed, confound=0.3, by_length=0.3, rows=rows, queries=100)).verdict for seed in range(10)
    ]
    assert verdicts.count("length") >= 9


@pytest.mark.exhaustive
@pytest.mark.parametrize("world", NULLS)
def test_neither_norm_nor_length_gains_in_a_hundred_worlds_without(world):
    verdicts = [explained(length_world(seed, **NULLS[world])).verdict for seed in range(100)]
    assert verdicts.count("no gain") >= 95


@pytest.mark.exhaustive
def test_norms_that_matter_are_never_called_length_in_a_hundred_worlds():
    free = [explained(length_world(seed, confound=0.0, noise=0.4, by_norm=0.5)).verdict for seed in range(100)]
    tied = [explained(length_world(seed, confound=0.5, noise=0.4, by_norm=0.7)).verdict for seed in range(100)]
    assert free.count("norm") >= 93
    assert tied.count("partly length") >= 93


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
