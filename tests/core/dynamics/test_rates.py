import json
import math
import random

import pytest
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core import RateTrace
from lightning_normdyn.core.dynamics.rates import RateSegment

PROPERTY = settings(derandomize=True, max_examples=40)


def random_rates(steps, seed=0):
    draw = random.Random(seed)
    return [10 ** draw.uniform(-6, 0) for _ in range(steps)]


def exact_mean(values):
    return math.fsum(values) / len(values) if values else 0.0


@PROPERTY
@given(st.integers(0, 5000), st.integers(0, 2**32))
def test_mean_and_mean_square_are_exact_for_any_length(steps, seed):
    rates = random_rates(steps, seed)
    trace = RateTrace.of(rates)
    assert trace.steps == steps
    assert len(trace.segments) <= 256
    assert trace.mean == pytest.approx(exact_mean(rates), rel=1e-13)
    assert trace.mean_square == pytest.approx(exact_mean([lr * lr for lr in rates]), rel=1e-13)


def test_segments_of_unequal_length_need_weights():
    rates = random_rates(1001)
    segments = RateTrace.of(rates).segments
    unweighted = exact_mean([segment.mean for segment in segments])
    assert unweighted != pytest.approx(exact_mean(rates), rel=1e-6)


@PROPERTY
@given(st.integers(1, 5000))
def test_segments_are_consecutive_slices_of_the_rates(steps):
    rates = random_rates(steps)
    start = 0
    for segment in RateTrace.of(rates).segments:
        part = rates[start : start + segment.steps]
        assert segment.mean == pytest.approx(exact_mean(part), rel=1e-13)
        assert segment.mean_square == pytest.approx(exact_mean([lr * lr for lr in part]), rel=1e-13)
        start += segment.steps
    assert start == steps


@PROPERTY
@given(st.integers(1, 5000))
def test_all_segments_but_the_last_are_equally_long(steps):
    *closed, last = [segment.steps for segment in RateTrace.of(random_rates(steps)).segments]
    assert len(set(closed)) <= 1
    assert not closed or last <= closed[0]


def test_nothing_is_merged_while_there_is_room():
    rates = random_rates(255)
    assert [segment.mean for segment in RateTrace.of(rates).segments] == rates
    assert len(RateTrace.of(random_rates(256)).segments) == 128


@pytest.mark.parametrize("steps", [10_000, 100_003])
def test_memory_stays_bounded(steps):
    trace = RateTrace()
    for step in range(steps):
        trace.append(1.0 / (step + 1))
        if step % 997 == 0:
            assert len(trace.segments) <= 256
    assert len(trace.segments) <= 256
    assert trace.steps == steps


@PROPERTY
@given(st.integers(0, 1500), st.integers(0, 1500))
def test_a_restored_trace_continues_bit_for_bit(before, after):
    rates = random_rates(before + after)
    interrupted = RateTrace.of(rates[:before])
    saved = json.loads(json.dumps(interrupted.state_dict()))
    restored = RateTrace()
    restored.load_state_dict(saved)
    for lr in rates[before:]:
        restored.append(lr)
    uninterrupted = RateTrace.of(rates)
    assert restored.state_dict() == uninterrupted.state_dict()
    assert restored.segments == uninterrupted.segments


def test_a_state_is_a_copy():
    trace = RateTrace.of(random_rates(300))
    saved = trace.state_dict()
    kept = json.dumps(saved)
    trace.append(1.0)
    assert json.dumps(saved) == kept
    assert trace.state_dict() != saved


def test_an_empty_trace_has_no_rate():
    trace = RateTrace()
    assert (trace.steps, trace.mean, trace.mean_square, trace.segments) == (0, 0.0, 0.0, [])


def test_scaling_squares_the_gain_of_the_square():
    assert RateSegment(3, 0.5, 0.25).scaled(10.0) == RateSegment(3, 5.0, 25.0)
