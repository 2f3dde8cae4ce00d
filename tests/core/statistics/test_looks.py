"""Looking again and again while seeds are added: the level that is kept, and the gain that can be seen."""

import math

import pytest
import torch

from lightning_normdyn.core.statistics.looks import look_levels
from lightning_normdyn.core.statistics.variance_components import VarianceComponents
from lightning_normdyn.core.statistics.variant_comparison import compare_variants

NAMES = ("cosine", "dot", "qnorm", "dnorm", "learnable")


def a_grid(seed, *, variants=5, seeds=3, queries=300, interaction=0.15, training=0.02, residual=0.1):
    """Variants that do not differ, ``[variants, seeds, queries]``, with the three parts of a gain's error."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    hard = 0.3 * normal(queries)
    own = interaction * normal(variants, 1, queries) + training * normal(variants, seeds, 1)
    return (0.5 + hard + own + residual * normal(variants, seeds, queries)).double()


def false_alarms(runs, looks, *, resamples, naive=False, **world):
    """Share of grids without a difference in which some look says that some variant differs from cosine."""
    alarms = 0
    for seed in range(runs):
        values = a_grid(seed, seeds=looks[-1], **world)
        levels = [0.95] * len(looks) if naive else look_levels(values, looks, draws=4_000)
        for seeds, level in zip(looks, levels, strict=True):
            of_look = {name: table[:seeds] for name, table in zip(NAMES, values, strict=False)}
            found = compare_variants(of_look, resamples=resamples, level=level)
            if any(score.gain_interval.excludes_zero for score in found.scores.values()):
                alarms += 1
                break
    return alarms / runs


def test_components_are_those_of_a_two_way_layout_by_hand() -> None:
    values = a_grid(0, variants=3, seeds=4, queries=7)
    v, s, n = values.shape
    rows = values.tolist()

    def mean(numbers):
        numbers = list(numbers)
        return math.fsum(numbers) / len(numbers)

    def variance(numbers):
        numbers = list(numbers)
        return math.fsum((number - mean(numbers)) ** 2 for number in numbers) / (len(numbers) - 1)

    of_seeds = [[mean(row) for row in variant] for variant in rows]
    of_queries = [[mean(variant[seed][query] for seed in range(s)) for query in range(n)] for variant in rows]
    residual = math.fsum(
        (rows[a][b][c] - of_seeds[a][b] - of_queries[a][c] + mean(of_seeds[a])) ** 2
        for a in range(v)
        for b in range(s)
        for c in range(n)
    ) / (v * (s - 1) * (n - 1))
    pairs = [(a, b) for a in range(v) for b in range(a)]
    of_pairs = mean(variance(of_queries[a][q] - of_queries[b][q] for q in range(n)) for a, b in pairs)
    found = VarianceComponents.of(values)
    assert found.residual == pytest.approx(residual)
    assert found.queries == pytest.approx(of_pairs - 2 * residual / s)
    assert found.trainings == pytest.approx(max(mean(map(variance, of_seeds)) - residual / n, 0))


def test_components_of_many_grids_are_those_that_made_them() -> None:
    found = [VarianceComponents.of(a_grid(seed, queries=100)) for seed in range(200)]
    queries, trainings, residual, freedom = (sum(column) / len(column) for column in zip(*found, strict=True))
    assert queries == pytest.approx(2 * 0.15**2, rel=0.03)
    assert trainings == pytest.approx(0.02**2, rel=0.15)
    assert (residual, freedom) == (pytest.approx(0.1**2, rel=0.02), 10)


def test_a_gain_of_the_visible_size_is_seen_four_times_in_five() -> None:
    world = {"variants": 3, "seeds": 3, "queries": 200}
    components = VarianceComponents(2 * 0.15**2, 0.02**2, 0.1**2, 0)
    gain = components.visible_gain(**world)
    seen, said = 0, []
    for seed in range(250):
        values = a_grid(seed, **world)
        values[1] += gain
        found = compare_variants(dict(zip(NAMES, values, strict=False)))
        seen += found.scores["dot"].gain_interval.low > 0
        said.append(found.visible_gain)
    assert 0.73 < seen / 250 < 0.87  # standard error 0.025
    assert sum(said) / len(said) == pytest.approx(gain, rel=0.05)


@pytest.mark.parametrize("shares", [{"residual": 0.5, "interaction": 0.0}, {"residual": 0.0, "interaction": 0.5}])
def test_what_is_left_of_a_query_under_one_seed_counts_once(shares) -> None:
    """Two variants, four seeds: t with six degrees of freedom where seeds carry the error, normal where queries do."""
    halves = []
    for seed in range(40):
        values = a_grid(seed, variants=2, seeds=4, training=0.0, **shares)
        score = compare_variants(dict(zip(NAMES, values, strict=False))).scores["dot"]
        halves.append(score.gain_interval.high - score.gain)
    of_residual = 2.447 * math.sqrt(2 * shares["residual"] ** 2 / 300 / 4)
    of_queries = 1.96 * math.sqrt(2 * shares["interaction"] ** 2 / 300)
    assert sum(halves) / 40 == pytest.approx(of_residual + of_queries, rel=0.1)


def test_worse_spread_of_seeds_hides_behind_two_of_them() -> None:
    found = VarianceComponents(0.01, 0.0003, 0.01, 2).with_trainings(0.8, queries=100)
    whole = 0.0004 * 2 / (-2 * math.log(0.8))  # chi-square with 2 degrees, of means over a hundred queries
    assert found.trainings == pytest.approx(whole - 0.0001, rel=0.02)
    assert found[::2] == (0.01, 0.01)


def test_levels_of_past_looks_stay_and_each_is_stricter_than_one_look() -> None:
    values = a_grid(1, seeds=6)
    levels = look_levels(values, (2, 3, 4, 5, 6))
    assert levels[:2] == look_levels(values[:, :3], (2, 3, 4, 5, 6))
    assert all(0.95 < level < 1 for level in levels)
    for seeds, level in zip((2, 3), levels, strict=False):
        of_look = dict(zip(NAMES, values[:, :seeds], strict=True))
        looked, once = compare_variants(of_look, looks=(2, 3, 4, 5, 6)), compare_variants(of_look, level=level)
        assert looked.scores["dot"].gain_interval == once.scores["dot"].gain_interval
        assert (looked.level, looked.is_sequential, once.is_sequential) == (0.95, True, False)
    assert look_levels(values[:, :3], (3,)) == pytest.approx([0.95], abs=1e-3)
    with pytest.raises(ValueError, match="looks: expected numbers of seeds, ascending from 2 or more, got"):
        look_levels(values, (1, 2))


def test_a_first_look_may_spend_most_where_seeds_add_little() -> None:
    by_queries, by_seeds = (
        look_levels(a_grid(2, interaction=spread, training=training), (3, 4, 6, 10))[0]
        for spread, training in ((0.15, 0.001), (0.001, 0.1))
    )
    assert 1 - by_queries > 0.035
    assert 1 - by_seeds < 0.02


BY_SEEDS = {"training": 0.1, "interaction": 0.02, "residual": 0.02}


def test_looking_costs_no_level() -> None:
    """Where seeds make the error, looking naively errs in one grid of six; the short sibling of the next test."""
    looks = (2, 3, 4, 5, 6)
    assert false_alarms(60, looks, resamples=400, variants=2, queries=60, **BY_SEEDS) <= 0.1
    assert false_alarms(60, looks, resamples=400, variants=2, queries=60, naive=True, **BY_SEEDS) > 0.1


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "world",
    [{}, BY_SEEDS, {"variants": 2, "training": 0.03}, {"residual": 0.5, "interaction": 0.01, "training": 0.001}],
)
def test_the_level_of_five_percent_holds_under_looking(world) -> None:
    """Two thousand grids; the standard error of 5% is 0.49%."""
    assert false_alarms(2_000, (3, 4, 5, 6, 7, 8), resamples=1_000, queries=60, **world) < 0.06
