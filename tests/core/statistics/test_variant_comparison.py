"""Who is better than the reference: against normal theory, and over many simulated grids."""

import math

import pytest
import torch

from lightning_normdyn.core.statistics.variant_comparison import NO_DIFFERENCE, compare_variants


def a_grid(*, seed: int, gains: dict[str, float], seeds: int = 3, queries: int = 200, training: float = 0.02):
    """Values of queries that all variants share, with noise of its own for each variant, training and query."""
    generator = torch.Generator().manual_seed(seed)
    hard = torch.randn(queries, generator=generator) * 0.3
    return {
        name: 0.5
        + gain
        + hard
        + torch.randn(seeds, 1, generator=generator) * training
        + torch.randn(seeds, queries, generator=generator) * 0.1
        for name, gain in gains.items()
    }


def test_means_and_gains_are_those_of_a_loop() -> None:
    values = a_grid(seed=1, gains={"cosine": 0.0, "qnorm": 0.05})
    found = compare_variants(values, resamples=100)
    for name, score in found.scores.items():
        by_hand = sum(float(value) for row in values[name] for value in row) / values[name].numel()
        assert score.mean == pytest.approx(by_hand, abs=1e-6)
    assert found.scores["qnorm"].gain == pytest.approx(found.scores["qnorm"].mean - found.scores["cosine"].mean)
    assert (found.seeds, found.queries) == (3, 200)


def test_with_one_training_intervals_are_those_of_paired_queries() -> None:
    values = a_grid(seed=2, gains={"cosine": 0.0, "qnorm": 0.01}, seeds=1)
    found = compare_variants(values, resamples=20_000)
    difference = (values["qnorm"] - values["cosine"]).double()
    error = float(difference.std()) / math.sqrt(difference.numel())
    score = found.scores["qnorm"]
    assert (score.gain_interval.high - score.gain_interval.low) / 2 == pytest.approx(1.96 * error, rel=0.04)
    alone = values["qnorm"].double()
    assert (score.mean_interval.high - score.mean_interval.low) / 2 == pytest.approx(
        1.96 * float(alone.std()) / math.sqrt(200), rel=0.04
    )


def test_the_spread_of_trainings_widens_the_interval() -> None:
    """Two trainings each of variants whose queries tell nothing: t with two degrees of freedom, pooled."""
    rows = {"cosine": [0.50, 0.54], "qnorm": [0.60, 0.64]}
    values = {name: torch.tensor(means).unsqueeze(1).expand(2, 50) for name, means in rows.items()}
    score = compare_variants(values, resamples=40_000).scores["qnorm"]
    sd = math.sqrt(0.0008)  # of two numbers 0.04 apart
    t_quantile = 4.303  # two-sided 95%, 2 degrees of freedom
    assert (score.mean_interval.high - score.mean_interval.low) / 2 == pytest.approx(
        t_quantile * sd / math.sqrt(2), rel=0.1
    )


def test_nothing_is_recommended_where_nothing_differs() -> None:
    """The familywise level: any variant of four beats cosine beyond doubt in at most about one grid in twenty."""
    names = dict.fromkeys(("cosine", "dot", "qnorm", "dnorm", "learnable"), 0.0)
    grids = 120
    found = [
        compare_variants(a_grid(seed=seed, gains=names, queries=60), resamples=400, margin=0.0) for seed in range(grids)
    ]
    recommended = sum(one.recommended != NO_DIFFERENCE for one in found)
    excluded = sum(
        any(
            score.gain_interval.low > 0 or score.gain_interval.high < 0
            for name, score in one.scores.items()
            if name != "cosine"
        )
        for one in found
    )
    assert recommended <= 8
    assert excluded <= 13


def test_a_planted_gain_is_found() -> None:
    gains = {"cosine": 0.0, "dot": 0.01, "qnorm": 0.15, "dnorm": -0.05, "learnable": 0.02}
    for seed in range(20):
        found = compare_variants(a_grid(seed=seed, gains=gains), resamples=400)
        assert found.recommended == found.best == "qnorm"
        assert found.confidence > 0.95
        assert found.scores["qnorm"].gain_interval.low < 0.15 < found.scores["qnorm"].gain_interval.high


def test_cosine_is_recommended_only_if_it_beats_all() -> None:
    found = compare_variants(a_grid(seed=3, gains={"cosine": 0.3, "dot": 0.0, "qnorm": 0.05}))
    assert found.recommended == "cosine"
    found = compare_variants(a_grid(seed=3, gains={"cosine": 0.3, "dot": 0.0, "qnorm": 0.3}))
    assert found.recommended == NO_DIFFERENCE


def test_a_gain_below_the_margin_is_no_difference() -> None:
    exact = {"cosine": torch.full((3, 50), 0.5), "qnorm": torch.full((3, 50), 0.502)}
    assert compare_variants(exact, margin=0.005).recommended == NO_DIFFERENCE
    assert compare_variants(exact, margin=0.001).recommended == "qnorm"


def test_queries_that_any_training_lacks_are_left_out_everywhere() -> None:
    values = a_grid(seed=4, gains={"cosine": 0.0, "qnorm": 0.1})
    values["qnorm"][1, :20] = math.nan
    found = compare_variants(values, resamples=50)
    assert found.queries == 180
    assert found.scores["cosine"].mean == pytest.approx(float(values["cosine"][:, 20:].mean()), abs=1e-6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"qnorm": torch.ones(1, 3)}, "reference: expected one of qnorm"),
        ({"cosine": torch.ones(1, 3), "dot": torch.ones(2, 3)}, "the same for every variant"),
        ({"cosine": torch.ones(3)}, r"expected \[seeds, n\]"),
        ({"cosine": torch.full((1, 3), math.nan)}, "at least one query"),
    ],
)
def test_bad_values_are_named(values, said) -> None:
    with pytest.raises(ValueError, match=said):
        compare_variants(values)


@pytest.mark.parametrize(("seeds", "queries"), [(1, 20), (3, 20), (1, 60)])
def test_few_queries_keep_the_level(seeds, queries) -> None:
    """Two variants without a difference: at most about one comparison in twenty excludes zero."""
    grids, excluded = 200, 0
    for seed in range(grids):
        values = a_grid(seed=seed, gains={"cosine": 0.0, "qnorm": 0.0}, seeds=seeds, queries=queries, training=0.0)
        score = compare_variants(values, resamples=400).scores["qnorm"]
        excluded += score.gain_interval.low > 0 or score.gain_interval.high < 0
    assert excluded <= 20


def test_a_handful_of_queries_decides_nothing() -> None:
    certain = {"cosine": torch.zeros(3, 19), "qnorm": torch.ones(3, 19)}
    found = compare_variants(certain)
    assert (found.recommended, found.confidence, found.decidable) == (NO_DIFFERENCE, 0.0, False)
    more = {name: values[:, :1].expand(3, 20) for name, values in certain.items()}
    assert compare_variants(more).recommended == "qnorm"


def test_confidence_in_no_difference_counts_every_variant() -> None:
    """Cosine leads, and its own gain over itself is nothing; what the others may gain is far from that."""
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(3, 60, generator=generator) for name in ("cosine", "dot", "dnorm")}
    values["cosine"] += 0.05 - values["cosine"].mean()
    for name in ("dot", "dnorm"):
        values[name] -= values[name].mean()
    found = compare_variants(values)
    assert (found.best, found.recommended) == ("cosine", NO_DIFFERENCE)
    assert found.scores["dot"].gain_interval.high > 0.1
    assert found.confidence < 0.7
    alone = compare_variants({"cosine": values["cosine"]})
    assert (alone.recommended, alone.confidence) == (NO_DIFFERENCE, 0.0)


def test_what_would_have_been_seen_goes_by_the_noise_of_each_variant() -> None:
    """Alike in all trainings but for queries: a paired z test, at the level of two tests at once."""
    generator = torch.Generator().manual_seed(0)
    noise = {"cosine": 0.0, "qnorm": 0.1, "dot": 0.4}
    values = {name: (torch.randn(4_000, generator=generator) * sd).expand(2, 4_000) for name, sd in noise.items()}
    found = compare_variants(values, resamples=20_000)
    both = 2.236  # two-sided 95% of the larger of two independent normal numbers
    for name in ("qnorm", "dot"):
        sd = math.sqrt(sum(float(value) ** 2 for value in values[name][0]) / 4_000)
        assert found.visible_gains[name] == pytest.approx(max(0.005, (both + 0.8416) * sd / math.sqrt(4_000)), rel=0.03)
    assert found.visible_gain == found.visible_gains["dot"]
    assert list(found.visible_gains) == ["qnorm", "dot"]
    once = compare_variants({name: rows[:1] for name, rows in values.items()}, resamples=100)
    assert once.visible_gains == {}
    assert math.isnan(once.visible_gain)


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_score_has_plain_numbers_for_files(seeds):
    queries = torch.rand(seeds, 50, generator=torch.Generator().manual_seed(0))
    score = compare_variants({"cosine": queries, "dot": queries + 0.1}, resamples=20).scores["dot"]
    names = ["mean", "low", "high", "share_best", "gain", "gain_low", "gain_high", "p_value"]
    assert list(score.numbers()) == [*names, *["visible_gain"] * (seeds > 1)]
    assert list(score.numbers().values()) == [
        *score.mean_interval,
        score.share_best,
        *score.gain_interval,
        score.p_value,
        *[score.visible_gain] * (seeds > 1),
    ]
