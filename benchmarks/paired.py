"""Comparing runs that took turns: ratios and differences of the same stretch of training, round by round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from turns import Finished, Turn


def spread(values: Sequence[float], digits: int) -> dict[str, float]:
    """Median and quartiles."""
    first, median, third = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return {"median": round(median, digits), "q1": round(first, digits), "q3": round(third, digits)}


def rounds(run: Finished, *, steps: int, skip: int) -> list[Turn]:
    """Turns joined so that each makes ``steps`` steps, which is one measured step or more; the first few left out.

    The last round is left out too, since it holds the end of the run.
    """
    per_round = max(1, steps // len(run.turns[0].steps))
    groups = [run.turns[at : at + per_round] for at in range(0, len(run.turns), per_round)]
    joined = [
        Turn([s for turn in group for s in turn.steps], sum(t.wall for t in group), sum(t.cpu for t in group))
        for group in groups
    ]
    return joined[skip:-1] or joined[skip:] or joined


def compare(
    observed: Finished, plain: Finished, *, cadence: int, skip: int, steps: int | None = None
) -> dict[str, Any]:
    """Training with the callback beside training without.

    Args:
        observed: the run with it.
        plain: the run without it.
        cadence: steps from one measured step to the next; a round has as many, or a multiple.
        skip: rounds at the start that are not in the medians; they are in the figures of the whole run.
        steps: of a round; by default ``cadence``.
    """
    steps = max(steps or cadence, len(plain.turns[0].steps))
    pairs = list(zip(rounds(observed, steps=steps, skip=skip), rounds(plain, steps=steps, skip=skip), strict=True))
    return {
        "rounds": len(pairs),
        "steps_per_round": steps,
        "step_ms_without": spread([1e3 * statistics.fmean(b.steps) for _, b in pairs], 4),
        "step_ms_with": spread([1e3 * statistics.fmean(a.steps) for a, _ in pairs], 4),
        "ratio": spread([sum(a.steps) / sum(b.steps) for a, b in pairs], 4),
        "ratio_cpu": spread([a.cpu / b.cpu for a, b in pairs], 4),
        "ratio_whole_run": round(_whole(observed, "wall") / _whole(plain, "wall"), 4),
        "ratio_cpu_whole_run": round(_whole(observed, "cpu") / _whole(plain, "cpu"), 4),
        "added_us": spread([1e6 * (statistics.fmean(a.steps) - statistics.fmean(b.steps)) for a, b in pairs], 1),
        "added_us_by_step": _added_by_step(pairs, cadence),
        "weights_bit_identical": observed.digest == plain.digest,
    }


def amortised(seconds: Sequence[float], cadence: int) -> dict[str, float]:
    """Median microseconds of an ordinary step and of a measured one, and what that makes on average a step."""
    measured = [s for number, s in enumerate(seconds, 1) if number % cadence == 0]
    ordinary = [s for number, s in enumerate(seconds, 1) if number % cadence]
    low, high = 1e6 * statistics.median(ordinary), 1e6 * statistics.median(measured or ordinary)
    return {
        "ordinary": round(low, 1),
        "measured": round(high, 1),
        "average": round(low + (high - low) / cadence, 1),
    }


def _added_by_step(pairs: Sequence[tuple[Turn, Turn]], cadence: int) -> dict[str, float]:
    with_it = amortised([s for a, _ in pairs for s in a.steps], cadence)
    without = amortised([s for _, b in pairs for s in b.steps], cadence)
    return {name: round(with_it[name] - without[name], 1) for name in with_it}


def _whole(run: Finished, clock: str) -> float:
    return sum(getattr(turn, clock) for turn in run.turns)
