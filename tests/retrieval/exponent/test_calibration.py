"""Calibration against loops, its verdicts, strata, and what it refuses."""

import itertools
import math

import pytest
import torch

from lightning_normdyn.core.statistics.sign_flip import holm
from lightning_normdyn.retrieval.exponent.calibration import calibrate
from lightning_normdyn.retrieval.exponent.held_out_gain import best_exponent, held_out_gain
from lightning_normdyn.retrieval.exponent.sweep import AlphaSweep
from lightning_normdyn.retrieval.uses.specificity import quantile_bands

ALPHAS = torch.linspace(-1, 1, 11, dtype=torch.float64)


def sweep(peaks, noise=0.05, seed=0, steep=0.3):
    """Measures that fall off from each query's own best exponent."""
    peaks = torch.as_tensor(peaks, dtype=torch.float64)
    draw = torch.randn(len(ALPHAS), len(peaks), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return AlphaSweep(ALPHAS, 0.8 - steep * (ALPHAS.unsqueeze(1) - peaks).square() + noise * draw, "ndcg@10")


def test_held_out_gain_is_that_of_a_loop_over_folds():
    gains = torch.randn(11, 23, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gains[5] = 0
    generator = torch.Generator().manual_seed(9)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(9)).tolist()
    found = held_out_gain(ALPHAS, gains, folds=4, resamples=50, generator=generator)
    fold = [at % 4 for at in range(23)]
    fold = [fold[at] for at in order]
    expected = []
    for query in range(23):
        others = [at for at in range(23) if fold[at] != fold[query]]
        best = max(range(11), key=lambda a: sum(float(gains[a, at]) for at in others))
        expected.append(float(gains[best, query]))
        assert float(ALPHAS[best]) == float(found.choices[fold[query]])
    assert found.gains.tolist() == pytest.approx(expected)
    assert found.gain.value == pytest.approx(sum(expected) / 23)


def cross_validated(alphas, gains, fold):
    """Gains of all queries, each at the exponent that is best without its fold: their sum over the root of squares."""
    total = squares = 0.0
    for query in range(len(fold)):
        others = [at for at in range(len(fold)) if fold[at] != fold[query]]
        sums = [sum(row[at] for at in others) for row in gains]
        best = max(range(len(alphas)), key=lambda a: (sums[a], -abs(alphas[a])))
        total += gains[best][query]
        squares += gains[best][query] ** 2
    return total / math.sqrt(squares) if squares else 0.0


def test_the_p_value_is_that_of_all_sign_patterns_each_cross_validated():
    alphas = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    for seed in range(3):
        gains = torch.randn(3, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5
        gains[1] = 0
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed)).tolist()
        fold = [[at % 2 for at in range(8)][at] for at in order]
        generator = torch.Generator().manual_seed(seed)
        found = held_out_gain(alphas, gains, folds=2, resamples=4000, generator=generator)
        observed = cross_validated(alphas.tolist(), gains.tolist(), fold)
        patterns = list(itertools.product((-1.0, 1.0), repeat=8))
        flipped = [
            cross_validated(alphas.tolist(), (gains * torch.tensor(signs, dtype=torch.float64)).tolist(), fold)
            for signs in patterns
        ]
        expected = sum(one >= observed - 1e-9 for one in flipped) / len(patterns)
        assert found.p_value == pytest.approx(expected, abs=0.03)


def test_the_test_of_the_held_out_gain_keeps_its_level():
    draw = torch.Generator().manual_seed(4)
    rejected = 0
    for _ in range(200):
        gains = torch.randn(11, 25, generator=draw, dtype=torch.float64)
        gains[5] = 0
        rejected += held_out_gain(ALPHAS, gains, resamples=199, generator=draw).p_value <= 0.05
    assert 3 <= rejected <= 19


def test_the_best_exponent_lies_between_those_tried():
    found = best_exponent(ALPHAS, sweep([0.5] * 50, noise=0).values)
    assert found.alpha.value == pytest.approx(0.5, abs=0.011)
    assert not found.flat


def test_a_gain_is_found_and_said():
    found = calibrate(sweep([0.3, 0.5] * 30), resamples=500)
    assert found.significant
    assert found.advice == found.alpha.value == pytest.approx(0.4, abs=0.1)
    assert 0 < found.gain.low < found.gain.value < found.gain.high
    assert found.p_value == pytest.approx(float(found.p_values.min()))
    assert found.p_values[5] == 1  # exponent 0 gains nothing over itself
    assert "Norms help" in found.sentence
    assert not found.at_edge


def test_a_best_exponent_at_the_edge_is_said():
    found = calibrate(sweep([3.0] * 40), resamples=200)
    assert found.at_edge
    assert found.alpha.value == 1
    assert "it is the edge of the sweep: sweep further." in found.sentence


def test_a_sure_loss_beside_a_p_of_1_is_explained():
    """Each fold chooses what harms the next one: the change is below 0, and the test, which asks for gains, says 1."""
    values = torch.zeros(3, 40, dtype=torch.float64)
    values[1] = 0.5
    values[0, ::2], values[2, 1::2] = 0.55, 0.55
    found = calibrate(AlphaSweep(torch.tensor([-1.0, 0.0, 1.0]), values, "ndcg@10"), resamples=500)
    found = found._replace(gain=found.gain._replace(value=-0.2, low=-0.3, high=-0.1), p_value=1.0)
    explanation = "The change by norms is below 0, for an exponent that some queries choose costs others; p is near 1"
    assert explanation in found.sentence
    unsure = found._replace(gain=found.gain._replace(high=0.01))
    assert explanation not in unsure.sentence
    assert all("p is one-sided" in calibration.sentence for calibration in (found, unsure))


def test_no_gain_looks_like_one():
    found = calibrate(sweep([0.0] * 60), resamples=500)
    assert not found.significant
    assert found.advice == 0
    assert found.alpha.low <= 0 <= found.alpha.high
    assert found.sentence.startswith("No gain")


def test_the_interval_holds_no_exponent_unless_the_gain_is_significant():
    ruled_out = 0
    for seed in range(40):
        one = sweep([0.35] * 12, noise=0.12, seed=seed)
        found = calibrate(one, resamples=200)
        bare = best_exponent(one.alphas, one.values, resamples=200).alpha
        ruled_out += not found.significant and not bare.low <= 0 <= bare.high
        assert found.significant or found.alpha.low <= 0 <= found.alpha.high
    assert ruled_out  # by the bootstrap alone


def test_a_significant_gain_passes_every_condition():
    verdicts, stopped = set(), 0
    for seed in range(24):
        found = calibrate(sweep([3.0] * 12, noise=0.12, seed=seed, steep=0.03), resamples=200)
        verdicts.add(found.significant)
        stopped += found.p_value <= 0.05 and not found.significant
        assert not found.significant or (found.p_value <= 0.05 and found.gain.low > 0)
        assert not found.significant or not found.alpha.low <= 0 <= found.alpha.high
    assert verdicts == {True, False}
    assert stopped  # by another condition than the corrected test


def test_rankings_that_no_exponent_changes_leave_the_exponent_open():
    found = calibrate(AlphaSweep(ALPHAS, torch.full((11, 20), 0.5), "ndcg@10"), resamples=100)
    assert found.alpha == (0, -1, 1)
    assert (*found.gain, found.p_value) == (0, 0, 0, 1)
    assert found.flat
    assert "changes ndcg@10 of any query" in found.sentence


def test_queries_without_judgements_are_left_out_and_counted():
    whole = sweep([0.4] * 40)
    holes = whole.values.clone()
    holes = torch.cat((holes, torch.full((11, 3), math.nan, dtype=torch.float64)), dim=1)
    found = calibrate(whole._replace(values=holes), resamples=100)
    plain = calibrate(whole, resamples=100)
    assert (found.queries, found.left_out) == (40, 3)
    assert (found.alpha, found.gain, found.p_value) == (plain.alpha, plain.gain, plain.p_value)
    assert "3 without judgements left out" in found.sentence


def test_strata_are_calibrated_alone_and_corrected_together():
    depth = [1] * 30 + [2] * 30 + [3] * 3
    peaks = [0.0] * 30 + [0.5] * 33
    one = sweep(peaks)
    bands = quantile_bands(torch.arange(63.0), bands=2)
    found = calibrate(one, strata={"depth": depth, "band": bands}, resamples=300)
    assert list(found.strata["depth"]) == ["1", "2"]
    assert found.small_strata == {"depth": {"3": 3}, "band": {}}
    assert not found.strata["depth"]["1"].significant
    assert found.strata["depth"]["2"].significant
    assert found.strata["depth"]["2"].alpha.value == pytest.approx(0.5, abs=0.1)
    alone = [float(part.p_values.min()) for column in found.strata.values() for part in column.values()]
    corrected = [part.p_value for column in found.strata.values() for part in column.values()]
    assert corrected == pytest.approx(holm(alone))


def test_results_repeat_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    assert calibrate(sweep([0.2] * 20), resamples=50).sentence == calibrate(sweep([0.2] * 20), resamples=50).sentence
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sweep": AlphaSweep(ALPHAS[:5], sweep([0.0] * 9).values[:5], "x")}, "0 among them"),
        ({"sweep": AlphaSweep(ALPHAS.flip(0), sweep([0.0] * 9).values, "x")}, "ascending"),
        ({"sweep": AlphaSweep(ALPHAS, torch.ones(9, 11), "x")}, "values"),
        ({"sweep": AlphaSweep(ALPHAS, torch.full((11, 9), math.nan), "x")}, "got 0 of 9"),
        ({"folds": 1}, "folds"),
        ({"level": 5}, "level"),
        ({"resamples": 0}, "resamples: expected a whole number, 1 or more, got 0"),
        ({"strata": {"depth": [1, 2]}}, "'depth' for each of 9 queries, got 2"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_in_a_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        calibrate(**{"sweep": sweep([0.0] * 9), "resamples": 10} | change)


def test_bands_keep_equal_numbers_together():
    assert quantile_bands(torch.tensor([5.0, 5, 5, 5])) == ["5 to 5"] * 4
    assert quantile_bands(torch.tensor([math.nan])) == ["unknown"]
    assert len(set(quantile_bands(torch.arange(100.0)))) == 4
    with pytest.raises(ValueError, match="values"):
        quantile_bands(torch.ones(2, 2))


def test_gains_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="gains: expected finite numbers"):
        held_out_gain(torch.tensor([-1.0, 0.0, 1.0]), torch.full((3, 20), math.nan))
    with pytest.raises(ValueError, match=r"gains: expected \[a, n\] for a exponents"):
        held_out_gain(torch.tensor([-1.0, 0.0]), torch.zeros(3, 20))
