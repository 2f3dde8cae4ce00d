"""Learning rates over many steps in bounded memory."""

from __future__ import annotations

import operator
from array import array
from collections.abc import Iterable
from typing import NamedTuple

_CAPACITY = 256


class RateSegment(NamedTuple):
    """Consecutive steps whose learning rates are near enough to be treated as one.

    Attributes:
        steps: how many.
        mean: mean learning rate.
        mean_square: mean squared learning rate.
    """

    steps: int
    mean: float
    mean_square: float

    def scaled(self, gain: float) -> RateSegment:
        """The same steps at ``gain`` times the rate."""
        return RateSegment(self.steps, self.mean * gain, self.mean_square * gain**2)


class RateTrace:
    """A sequence of learning rates, coarsened so that it never holds more than 256 segments.

    When the segments run out, neighbours are merged and each later segment spans twice as many steps. Means and mean
    squares stay exact over the whole trace, whatever was merged.

    Example:
        >>> trace = RateTrace.of([0.1] * 1000 + [0.05] * 500)
        >>> trace.steps, len(trace.segments) <= 256, round(trace.mean, 6)
        (1500, True, 0.083333)
    """

    def __init__(self) -> None:
        self._span = 1
        self._sums: list[tuple[int, float, float]] = []
        self._open_sum = (0, 0.0, 0.0)

    @classmethod
    def of(cls, lrs: Iterable[float]) -> RateTrace:
        """A trace of the given rates."""
        trace = cls()
        trace.extend(array("d", lrs))
        return trace

    @classmethod
    def constant(cls, lr: float, steps: int) -> RateTrace:
        """A trace of so many steps at one rate, however many, in no time.

        Example:
            >>> RateTrace.constant(0.1, 10**9).steps
            1000000000
        """
        trace = cls()
        while steps:
            count = min(steps, trace._room)
            trace._add(count, count * lr, count * lr * lr)
            steps -= count
        return trace

    def append(self, lr: float) -> None:
        """Adds one step at this rate."""
        self._add(1, lr, lr * lr)

    def extend(self, lrs: array[float]) -> None:
        """Adds a step at each of these rates, as :meth:`append` does one by one, and faster."""
        start = 0
        while start < len(lrs):
            part = lrs[start : start + self._room]
            self._add(len(part), sum(part), sum(map(operator.mul, part, part)))
            start += len(part)

    @property
    def _room(self) -> int:
        """Steps until the open segment is full."""
        return self._span - self._open_sum[0]

    def _add(self, count: int, lr_sum: float, square_sum: float) -> None:
        steps, total, squares = self._open_sum
        self._open_sum = (steps + count, total + lr_sum, squares + square_sum)
        if steps + count == self._span:
            self._sums.append(self._open_sum)
            self._open_sum = (0, 0.0, 0.0)
            if len(self._sums) == _CAPACITY:
                pairs = zip(self._sums[::2], self._sums[1::2], strict=True)
                self._sums = [(a[0] + b[0], a[1] + b[1], a[2] + b[2]) for a, b in pairs]
                self._span *= 2

    @property
    def segments(self) -> list[RateSegment]:
        """The segments in order, the unfinished last one included."""
        sums = [*self._sums, self._open_sum] if self._open_sum[0] else self._sums
        return [RateSegment(steps, total / steps, squares / steps) for steps, total, squares in sums]

    @property
    def steps(self) -> int:
        """How many rates were added."""
        return sum(segment.steps for segment in self.segments)

    @property
    def mean(self) -> float:
        """Mean rate; 0 for an empty trace."""
        steps = self.steps
        return sum(segment.steps * segment.mean for segment in self.segments) / steps if steps else 0.0

    @property
    def mean_square(self) -> float:
        """Mean squared rate; 0 for an empty trace."""
        steps = self.steps
        return sum(segment.steps * segment.mean_square for segment in self.segments) / steps if steps else 0.0

    @property
    def noise_rate(self) -> float:
        """``E(lr²)/E(lr)``, since noise enters with lr² and decay with lr; 0 for an empty trace or one of zeros."""
        mean = self.mean
        return self.mean_square / mean if mean else 0.0

    def scaled(self, gain: float) -> list[RateSegment]:
        """The segments at ``gain`` times the rates."""
        return [segment.scaled(gain) for segment in self.segments]

    def state_dict(self) -> dict[str, object]:
        """Plain lists and numbers, for a checkpoint."""
        return {"span": self._span, "closed": [list(sums) for sums in self._sums], "open": list(self._open_sum)}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self._span = int(state["span"])  # type: ignore[call-overload]
        self._sums = [tuple(sums) for sums in state["closed"]]  # type: ignore[attr-defined]
        self._open_sum = tuple(state["open"])  # type: ignore[arg-type,assignment]
