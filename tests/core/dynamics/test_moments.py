import io
import math
import tracemalloc

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core import RowMoments, split_radial_tangential
from lightning_normdyn.core.dynamics.moments import scale_free_square

PROPERTY = settings(derandomize=True, max_examples=40)
ROWS, DIM = 6, 4
OUTSIDE = ROWS


def random_step(seed, touched=0.7):
    """One step: rows, their gradients (some zero) and the slots of a random subset, the outside slot among them."""
    generator = torch.Generator().manual_seed(seed)
    slots = torch.randperm(ROWS + 1, generator=generator)[: 1 + seed % (ROWS + 1)]
    embedding = torch.randn(len(slots), DIM, generator=generator)
    present = torch.rand(len(slots), 1, generator=generator) < touched
    return embedding, torch.randn(len(slots), DIM, generator=generator) * present, slots


def moments_of(steps):
    moments = RowMoments(ROWS)
    for step in steps:
        moments.add(*step)
    return moments


def loop_moments(steps):
    """Second moment and update probability of each row, in plain Python floats."""
    second, touches = [0.0] * ROWS, [0] * ROWS
    for embedding, gradient, slots in steps:
        for x, g, slot in zip(embedding.tolist(), gradient.tolist(), slots.tolist(), strict=True):
            if slot == OUTSIDE:
                continue
            length = math.hypot(*x)
            radial = math.fsum(a * b for a, b in zip(x, g, strict=True)) / length
            second[slot] += length**2 * math.fsum((b - radial * a / length) ** 2 for a, b in zip(x, g, strict=True))
            touches[slot] += any(g)
    return [value / len(steps) for value in second], [count / len(steps) for count in touches]


def assert_same(moments, other):
    assert moments.steps == other.steps
    assert moments.update_probability.tolist() == other.update_probability.tolist()
    assert moments.nonfinite == other.nonfinite
    torch.testing.assert_close(moments.second_moment, other.second_moment, rtol=1e-12, atol=0)


@PROPERTY
@given(st.lists(st.integers(0, 2**32), min_size=1, max_size=12))
def test_moments_equal_a_float64_loop(seeds):
    steps = [random_step(seed) for seed in seeds]
    moments = moments_of(steps)
    second, probability = loop_moments(steps)
    assert moments.second_moment.tolist() == pytest.approx(second, rel=1e-5, abs=1e-5)
    assert moments.update_probability.tolist() == pytest.approx(probability)


def test_the_radial_part_and_absent_steps_matter_to_the_loop():
    steps = [random_step(seed) for seed in range(10)]
    second, _ = loop_moments(steps)
    whole = [0.0] * (ROWS + 1)
    present = [0] * (ROWS + 1)
    for embedding, gradient, slots in steps:
        for x, g, slot in zip(embedding, gradient, slots.tolist(), strict=True):
            whole[slot] += float(x.norm() * g.norm()) ** 2 / len(steps)
            present[slot] += 1
    assert whole[:ROWS] != pytest.approx(second, rel=0.05)
    over_present = [value * len(steps) / max(count, 1) for value, count in zip(second, present, strict=False)]
    assert over_present != pytest.approx(second, rel=0.05)


@PROPERTY
@given(st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 2)), min_size=1, max_size=15), st.randoms())
def test_moments_merge_in_any_order_and_grouping(assigned, shuffle):
    whole = moments_of([random_step(seed) for seed, _ in assigned])
    ranks = [moments_of([random_step(seed) for seed, owner in assigned if owner == rank]) for rank in range(3)]
    shuffle.shuffle(ranks)
    first, second, third = ranks
    second.merge(third)
    first.merge(second)
    assert_same(first, whole)


def test_merging_one_rank_twice_shows():
    steps = [random_step(seed) for seed in range(6)]
    whole, first, second = moments_of(steps), moments_of(steps[:3]), moments_of(steps[3:])
    first.merge(second)
    first.merge(second)
    with pytest.raises(AssertionError):
        assert_same(first, whole)


def test_merging_another_table_is_refused():
    with pytest.raises(ValueError, match="other: expected moments of 3 rows, got 4"):
        RowMoments(3).merge(RowMoments(4))


def test_a_slot_named_twice_in_a_step_counts_once():
    x, g = torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 3.0]])
    once, twice = RowMoments(3), RowMoments(3)
    once.add(x, g, slots=torch.tensor([1]))
    twice.add(x.expand(2, 2), g.expand(2, 2), slots=torch.tensor([1, 1]))
    assert_same(twice, once)
    adding = torch.zeros(3).index_add_(0, torch.tensor([1, 1]), torch.tensor([36.0, 36.0]))
    assert adding.tolist() != twice.second_moment.tolist(), "the check can fail: adding counts the row twice"


def test_the_outside_slot_swallows_everything():
    moments = RowMoments(2)
    moments.add(torch.ones(3, 4), torch.tensor([[1.0], [3.0], [2.0]]).expand(3, 4), slots=torch.full((3,), 2))
    moments.add(torch.ones(1, 4), torch.full((1, 4), math.nan), slots=torch.tensor([2]))
    assert moments.steps == 2
    assert moments.second_moment.tolist() == [0.0, 0.0]
    assert moments.update_probability.tolist() == [0.0, 0.0]
    assert moments.nonfinite == 0


def test_no_slots_means_all_rows_in_order():
    embedding, gradient, _ = random_step(ROWS)
    embedding, gradient = embedding[:ROWS], gradient[:ROWS]
    in_order, named = RowMoments(ROWS), RowMoments(ROWS)
    in_order.add(embedding, gradient)
    named.add(embedding, gradient, slots=torch.arange(ROWS))
    assert_same(in_order, named)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["one component", "every component", "the embedding"])
def test_a_nonfinite_row_adds_nothing_but_a_count(bad, place):
    embedding, gradient = torch.ones(3, DIM), torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(3, 1)
    clean = RowMoments(3)
    clean.add(embedding, gradient)
    spoilt = embedding if place == "the embedding" else gradient
    spoilt[1, slice(1) if place == "one component" else slice(None)] = bad
    moments = RowMoments(3)
    moments.add(embedding, gradient)
    keep = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    assert moments.nonfinite == 1
    assert torch.equal(moments.second_moment, clean.second_moment * keep)
    assert torch.equal(moments.update_probability, clean.update_probability * keep)


def test_a_saved_state_continues_bit_for_bit():
    steps = [random_step(seed) for seed in range(20)]
    interrupted = moments_of(steps[:11])
    file = io.BytesIO()
    torch.save(interrupted.state_dict(), file)
    file.seek(0)
    restored = RowMoments(ROWS)
    restored.load_state_dict(torch.load(file, weights_only=True))
    for step in steps[11:]:
        restored.add(*step)
    uninterrupted = moments_of(steps).state_dict()
    assert restored.state_dict()["steps"] == uninterrupted["steps"]
    assert torch.equal(restored.state_dict()["sums"], uninterrupted["sums"])


def test_a_state_is_a_copy():
    moments = moments_of([random_step(6)])
    saved = moments.state_dict()
    kept = saved["sums"].clone()
    moments.add(*random_step(13))
    assert torch.equal(saved["sums"], kept)


def test_reset_forgets():
    moments = moments_of([random_step(seed) for seed in range(5)])
    moments.reset()
    assert_same(moments, RowMoments(ROWS))


def bytes_kept_after(steps):
    """Python memory that remains allocated by a run of these steps."""
    moments = RowMoments(ROWS)
    tracemalloc.start()
    for step in steps:
        moments.add(*step)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return kept


@pytest.mark.parametrize("rows", [0, 100])
def test_memory_does_not_grow_with_the_steps(rows):
    step = (torch.ones(rows, DIM), torch.ones(rows, DIM), torch.full((rows,), 1))
    assert bytes_kept_after([step] * 3000) < 100_000
    assert moments_of([step] * 10).state_dict()["sums"].shape == (ROWS + 1, 3)
    assert moments_of([step] * 10).steps == 10


def test_many_rows_are_added_up_like_few():
    """Readings wait until there are thousands of them; what waits and what was added must come to the same."""
    generator = torch.Generator().manual_seed(7)
    rows, steps = 3000, 8
    x, g = (torch.randn(steps, rows, DIM, generator=generator) for _ in range(2))
    order = torch.randperm(rows, generator=generator)
    moments = RowMoments(rows)
    for step in range(steps):
        if step % 2:
            moments.add(x[step], g[step])
        else:
            moments.add(x[step, order], g[step, order], slots=order)
    tangential = split_radial_tangential(g.double(), x.double()).tangential
    sources = x.double().square().sum(-1) * tangential.square().sum(-1)
    torch.testing.assert_close(moments.second_moment, sources.mean(0), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(moments.second_moment, sources[:-1].mean(0), rtol=1e-2)
    assert moments.update_probability.eq(1).all()


def test_reading_the_moments_between_steps_changes_nothing():
    steps = [random_step(seed) for seed in range(12)]
    watched = RowMoments(ROWS)
    for step in steps:
        watched.add(*step)
        assert watched.second_moment.shape == (ROWS,)
    assert torch.equal(watched.state_dict()["sums"], moments_of(steps).state_dict()["sums"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    generator = torch.Generator().manual_seed(5)
    embedding = (torch.randn(ROWS, 64, generator=generator) * 1e4 / 8).to(dtype)
    gradient = (torch.randn(ROWS, 64, generator=generator) * 1e3).to(dtype)
    assert not (embedding * gradient).sum(-1).isfinite().all() or dtype == torch.bfloat16
    moments = RowMoments(ROWS)
    moments.add(embedding, gradient)
    split = split_radial_tangential(gradient.double(), embedding.double())
    oracle = embedding.double().norm(dim=-1).square() * split.tangential.square().sum(-1)
    assert moments.nonfinite == 0
    torch.testing.assert_close(moments.second_moment, oracle, rtol=1e-5, atol=0)


@PROPERTY
@given(st.integers(0, 2**32), st.floats(-3, 3), st.floats(-3, 3))
def test_the_source_does_not_depend_on_the_scale(seed, log_scale, radial):
    """Stretching x and shrinking g alike leaves s alone, and so does anything along the radius."""
    generator = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(5, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    scale = 10**log_scale
    source, _ = scale_free_square(x, g)
    stretched, _ = scale_free_square(scale * x, g / scale + radial / scale * x)
    torch.testing.assert_close(stretched, source, rtol=1e-9, atol=1e-9)


def test_a_purely_radial_gradient_is_a_touch_without_a_source():
    x = torch.tensor([[3.0, 4.0]])
    moments = RowMoments(1)
    moments.add(x, 2 * x)
    assert moments.update_probability.tolist() == [1.0]
    assert 0 <= float(moments.second_moment) < 1e-6 * 25 * 100


@PROPERTY
@given(st.lists(st.integers(0, 2**32), min_size=2, max_size=12))
def test_kurtosis_and_standard_error_equal_a_float64_loop(seeds):
    """The standard error is that of a mean of as many independent steps."""
    steps = [random_step(seed) for seed in seeds]
    squares = torch.zeros(len(steps), ROWS, dtype=torch.float64)
    for place, (embedding, gradient, slots) in enumerate(steps):
        for x, g, slot in zip(embedding.double(), gradient.double(), slots.tolist(), strict=True):
            if slot != OUTSIDE:
                squares[place, slot] = (x @ x) * (g @ g) - (x @ g) ** 2
    moments = moments_of(steps)
    stderr = squares.std(0, unbiased=False) / len(steps) ** 0.5
    torch.testing.assert_close(moments.second_moment_stderr, stderr, rtol=1e-4, atol=1e-4)
    for slot in range(ROWS):
        touched = squares[:, slot][torch.tensor([bool(g[s == slot].any()) for _, g, s in steps])]
        expected = float(touched.square().mean() / touched.mean() ** 2)
        assert float(moments.kurtosis[slot]) == pytest.approx(expected, rel=1e-4, nan_ok=True)


CADENCES = torch.tensor([1, 2, 4, 1, 2, 4], dtype=torch.int8)


def scarcely(steps, looks=False):
    """All rows every fourth step, on the steps between those of a lower cadence."""
    moments = RowMoments(ROWS, cadences=CADENCES)
    for number, step in enumerate(steps):
        every = next(every for every in (4, 2, 1) if number % every == 0)
        if every == 4:
            moments.add(*step)
        else:
            chosen = moments.scarce(every)[step[2]]
            moments.add_scarce(*(part[chosen] for part in step), every)
        if looks:
            assert moments.nonfinite == 0
    return moments


def test_each_row_is_read_at_its_cadence():
    steps = [random_step(seed) for seed in range(32)]
    moments = scarcely(steps)
    assert moments.readings.tolist() == [32, 16, 8, 32, 16, 8]
    for name in ("second_moment", "update_probability", "kurtosis", "second_moment_stderr"):
        by_cadence = {every: getattr(moments_of(steps[::every]), name) for every in (1, 2, 4)}
        expected = torch.stack([by_cadence[every][slot] for slot, every in enumerate(CADENCES.tolist())])
        torch.testing.assert_close(getattr(moments, name), expected, rtol=1e-12, atol=0, equal_nan=True)


def test_rows_that_wait_are_added_up_in_the_order_of_the_steps():
    """To look at the moments adds up all that waits: looked at after each step or at the end, they are bit for bit."""
    steps = [random_step(seed) for seed in range(200)]
    assert torch.equal(scarcely(steps, looks=True).state_dict()["sums"], scarcely(steps).state_dict()["sums"])


def test_a_scarce_row_named_twice_in_a_step_counts_once():
    x, g = torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 3.0]])
    once, twice = (RowMoments(3, cadences=torch.ones(3)) for _ in range(2))
    for _ in range(3):
        once.add_scarce(x, g, torch.tensor([1]))
        twice.add_scarce(x.expand(3, 2), g.expand(3, 2), torch.tensor([1, 1, 1]))
    assert_same(twice, once)
    assert twice.second_moment.tolist() == pytest.approx([0.0, 36.0, 0.0])


def test_scarce_rows_merge_and_are_restored():
    steps = [random_step(seed) for seed in range(24)]
    first, second, whole = scarcely(steps[:12]), scarcely(steps[12:]), scarcely(steps)
    first.merge(second)
    assert first.readings.tolist() == whole.readings.tolist()
    torch.testing.assert_close(first.second_moment, whole.second_moment, rtol=1e-12, atol=0)
    restored = RowMoments(ROWS)
    restored.load_state_dict(whole.state_dict())
    for moments in (restored, whole):
        moments.add_scarce(*(part[:0] for part in steps[3]), 2)
    assert_same(restored, whole)
    assert restored.readings.tolist() == whole.readings.tolist()


def test_rows_of_other_cadences_are_not_merged():
    with pytest.raises(ValueError, match="other: expected rows that are read at the same cadences"):
        RowMoments(3).merge(RowMoments(3, cadences=torch.ones(3)))
