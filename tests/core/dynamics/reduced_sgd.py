"""SGD with momentum on rows with random tangential gradients, by the three numbers that its steps depend on.

``|x|²``, ``<x, m>`` and ``|m|²``: a gradient orthogonal to x at random meets the part of m that is orthogonal to x at
the angle of a random direction in d - 1 dimensions. Equal in law to whole rows.
"""

from typing import NamedTuple

import numpy as np


class Seen(NamedTuple):
    """What a window saw of each row: touches, sums of s² and s⁴, mean of log R and of R⁴, norms at both ends."""

    touches: np.ndarray
    square_sum: np.ndarray
    fourth_sum: np.ndarray
    mean_log: np.ndarray
    mean_fourth: np.ndarray
    start: np.ndarray
    end: np.ndarray


def simulate_sgd(probability, dim, lrs, decay, momentum, kurtosis, start, windows, seed):
    """A :class:`Seen` for each window ``(first, last)`` of steps; kurtosis is 1 (s constant) or 2 (s² exponential)."""
    rng, rows = np.random.default_rng(seed), len(probability)
    xx = np.full(rows, 1.0) * np.asarray(start) ** 2
    xm, mm = np.zeros(rows), np.zeros(rows)
    seen = [Seen(*(np.zeros(rows) for _ in range(7))) for _ in windows]
    for step, lr in enumerate(lrs):
        touched = np.flatnonzero(rng.random(rows) < probability)
        square = rng.exponential(size=len(touched)) if kurtosis == 2 else np.ones(len(touched))
        for (first, _), sums in zip(windows, seen, strict=True):
            if step == first:
                sums.start[:] = np.sqrt(xx)
        length = np.sqrt(square / xx[touched])
        grown = momentum**2 * mm + 2 * momentum * decay * xm + decay**2 * xx
        if momentum:
            across = np.sqrt(np.maximum(mm[touched] - xm[touched] ** 2 / xx[touched], 0))
            z = rng.standard_normal(len(touched))
            cosine = z / np.sqrt(z * z + rng.chisquare(dim - 2, len(touched)))
            grown[touched] += 2 * momentum * length * across * cosine
        grown[touched] += length**2
        along, mm = momentum * xm + decay * xx, grown
        xx, xm = xx - 2 * lr * along + lr**2 * mm, along - lr * mm
        for (first, last), sums in zip(windows, seen, strict=True):
            if first <= step < last:
                sums.touches[touched] += 1
                sums.square_sum[touched] += square
                sums.fourth_sum[touched] += square**2
                sums.mean_log[:] += np.log(xx) / 2 / (last - first)
                sums.mean_fourth[:] += xx**2 / (last - first)
                sums.end[:] = np.sqrt(xx)
    return seen
