"""Two models on the same queries: numpy's means, a paired bootstrap, false alarms and power by simulation."""

import numpy as np
import pytest
import torch

from lightning_normdyn.core.statistics.sign_flip import random_signs
from lightning_normdyn.retrieval import AlphaSweep, calibrate, compare_models
from lightning_normdyn.retrieval.exponent.held_out_gain import exchange_p_value

ALPHAS = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0], dtype=torch.float64)


def sweep(seed, *, level=0.5, gain=0.0, queries=120, shared=None):
    """Queries of different difficulty, which two models share, and a gain at exponent 0.5."""
    draw = torch.Generator().manual_seed(seed)
    difficulty = shared if shared is not None else torch.rand(queries, generator=draw, dtype=torch.float64)
    own = 0.1 * torch.randn(queries, generator=draw, dtype=torch.float64)
    noise = 0.02 * torch.randn(len(ALPHAS), queries, generator=draw, dtype=torch.float64)
    curve = gain * torch.tensor([-1.0, -0.5, 0.0, 1.0, 0.5], dtype=torch.float64)
    return AlphaSweep(ALPHAS, level + difficulty + own + curve.unsqueeze(1) + noise, "ndcg@10")


DIFFICULTY = torch.rand(120, generator=torch.Generator().manual_seed(99), dtype=torch.float64)


def test_changes_are_means_of_paired_differences():
    before, after = sweep(1, shared=DIFFICULTY), sweep(2, level=0.6, gain=0.1, shared=DIFFICULTY)
    before.values[1, 7] = after.values[0, 9] = torch.nan
    found = compare_models(before, after)
    usable = [query for query in range(120) if query not in (7, 9)]
    difference = (after.values[2] - before.values[2])[usable].numpy()
    assert found.queries == 118
    assert found.cosine.interval.value == pytest.approx(difference.mean())
    draws = np.random.default_rng(0).choice(difference, (4_000, 118)).mean(1)
    assert (found.cosine.interval.low, found.cosine.interval.high) == pytest.approx(
        np.quantile(draws, [0.025, 0.975]), abs=0.004
    )
    parts = [calibrate(one._replace(values=one.values[:, usable])) for one in (before, after)]
    assert found.norm_gain.interval.value == pytest.approx(parts[1].gain.value - parts[0].gain.value)
    assert found.best.interval.value == pytest.approx(found.cosine.interval.value + found.norm_gain.interval.value)
    assert (found.before.baseline, found.after.alpha) == (parts[0].baseline, parts[1].alpha)


@pytest.mark.parametrize("share", [0.0, 0.02])
def test_exchanged_models_choose_their_exponents_anew(share):
    """Against a loop that swaps whole columns, chooses on the other folds by numpy and adds up what is held out."""
    before, after = sweep(7, queries=30), sweep(8, queries=30, gain=0.01)
    gains = [(one.values - one.values[2]).numpy() for one in (before, after)]
    offset = share * (after.values[2] - before.values[2]).numpy()

    def held_out(values, fold):
        total = 0.0
        for number in range(5):
            means = values[:, fold != number].sum(1)
            best = max(range(5), key=lambda place: (round(means[place], 12), -abs(float(ALPHAS[place]))))
            total += values[best, fold == number].sum()
        return total

    draw = torch.Generator().manual_seed(3)
    fold = torch.arange(30).remainder(5)[torch.randperm(30, generator=draw)].numpy()
    signs = next(random_signs(30, 99, generator=draw)).numpy()

    def difference(sign):
        first, second = (np.where(sign > 0, gains[side], gains[1 - side]) for side in (0, 1))
        return abs(held_out(second, fold) - held_out(first, fold) + (sign * offset).sum())

    observed = difference(np.ones(30))
    expected = (1 + sum(difference(sign) >= observed - 1e-9 for sign in signs)) / 100
    found = exchange_p_value(
        ALPHAS,
        (torch.from_numpy(gains[0]), torch.from_numpy(gains[1])),
        torch.from_numpy(offset),
        folds=5,
        flips=99,
        generator=torch.Generator().manual_seed(3),
    )
    assert found == pytest.approx(expected)
    assert 0.02 < found < 1


def test_the_sentence_says_which_is_better_and_what_became_of_norms():
    plain, better, worse = (sweep(3, shared=DIFFICULTY, level=level) for level in (0.5, 0.7, 0.3))
    normed = sweep(4, shared=DIFFICULTY, gain=0.2)
    assert compare_models(plain, better).sentence.startswith("The second model is better: by cosine ndcg@10 goes from")
    assert compare_models(plain, worse).sentence.startswith("The second model is worse: ")
    assert compare_models(plain, plain).sentence.startswith("No difference beyond chance between the models: ")
    assert "its norms say more than before" in compare_models(plain, normed).sentence
    assert "its norms say less than before" in compare_models(normed, plain).sentence
    assert compare_models(plain, plain).cosine.p_value == 1


def test_pairing_finds_what_two_means_would_not():
    """The spread over queries is a hundred times the change, and the same for both models."""
    before = sweep(5, shared=10 * DIFFICULTY)
    after = before._replace(values=before.values + 0.02 + 0.02 * torch.randn(120, dtype=torch.float64))
    found = compare_models(before, after)
    assert found.cosine.beyond_chance
    assert float(before.values[2].std()) > 100 * found.cosine.interval.value


def alarms(gain, seeds):
    """How often the models are told apart where each is the other with noise of its own, by cosine and by norms."""
    found = [
        compare_models(
            sweep(seed, shared=DIFFICULTY, gain=gain), sweep(1_000 + seed, shared=DIFFICULTY, gain=gain), resamples=200
        )
        for seed in seeds
    ]
    return sum(one.cosine.beyond_chance or one.best.beyond_chance or one.norm_gain.beyond_chance for one in found)


def test_equal_models_are_seldom_told_apart():
    assert alarms(0.05, range(20)) <= 3


@pytest.mark.exhaustive
@pytest.mark.parametrize("gain", [0.0, 0.05])
def test_equal_models_are_told_apart_once_in_twenty_times(gain):
    assert alarms(gain, range(300)) <= 24  # of 15 expected at most; 25 or more come once in 100 times


def test_sweeps_of_other_queries_are_refused():
    before = sweep(1)
    with pytest.raises(ValueError, match="after: expected a sweep of the queries and measure of before"):
        compare_models(before, sweep(2, queries=50))
    with pytest.raises(ValueError, match="after: expected a sweep of the queries and measure of before"):
        compare_models(before, before._replace(measure="mrr@10"))
    with pytest.raises(ValueError, match="after: expected"):
        compare_models(before, None)
