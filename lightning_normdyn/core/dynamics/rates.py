"""Learning rates, and the decay that goes with them, over many steps in bounded memory."""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lightning_normdyn.core.number_checks import check_count, check_not_negative, check_number

_CAPACITY = 256
_ROUNDING = 1e-9


class RateSegment(NamedTuple):
    """Consecutive steps whose learning rates are near enough to be treated as one.

    Attributes:
        steps: how many.
        mean: mean learning rate; where decay moves apart from it, each rate weighted by the decay at its step over that
            which the segment was asked for, see :meth:`EffectiveTrace.segments_at`: what shrinks norms.
        mean_square: mean squared learning rate: what noise enters with.
    """

    steps: int
    mean: float
    mean_square: float

    def scaled(self, gain: float) -> RateSegment:
        """The same steps at ``gain`` times the rate."""
        return RateSegment(self.steps, self.mean * gain, self.mean_square * gain**2)


def nominal_lr(group: Mapping[str, Any]) -> float:
    """The learning rate of a parameter group; NaN where an optimizer chooses its own and has no entry, or None."""
    lr = group.get("lr")
    return math.nan if lr is None else float(lr)


class _Sums:
    """Sums over consecutive steps, coarsened so that there are never more than 256 of them.

    When they run out, neighbours are merged and each later one spans twice as many steps. Each is a list of a count of
    steps and sums over those.
    """

    _width: int

    def __init__(self) -> None:
        self._span = 1
        self._closed: list[list[float]] = []
        self._open = self._nothing()

    def _nothing(self) -> list[float]:
        return [0, *[0.0] * (self._width - 1)]

    @property
    def _room(self) -> int:
        """Steps until the open sums are full."""
        return int(self._span - self._open[0])

    def _add(self, *sums: float) -> None:
        """Adds a count of steps, no more than there is room for, and the sums over them."""
        self._open = list(map(operator.add, self._open, sums))
        if self._open[0] == self._span:
            self._closed.append(self._open)
            self._open = self._nothing()
            if len(self._closed) == _CAPACITY:
                pairs = zip(self._closed[::2], self._closed[1::2], strict=True)
                self._closed = [list(map(operator.add, *pair)) for pair in pairs]
                self._span *= 2

    def _all(self) -> list[list[float]]:
        """The sums in order, the unfinished last ones included."""
        return [*self._closed, self._open] if self._open[0] else self._closed

    def _mean(self, place: int) -> float:
        """Mean over all steps of what is summed up at a place; 0 of no steps."""
        steps = self.steps
        return sum(sums[place] for sums in self._all()) / steps if steps else 0.0

    @property
    def segments(self) -> list[RateSegment]:
        """The segments in order, the unfinished last one included."""
        return [RateSegment(int(sums[0]), sums[1] / sums[0], sums[2] / sums[0]) for sums in self._all()]

    @property
    def steps(self) -> int:
        """How many steps were added."""
        return int(sum(sums[0] for sums in self._all()))

    @property
    def mean(self) -> float:
        """Mean rate; 0 for an empty trace."""
        return self._mean(1)

    @property
    def mean_square(self) -> float:
        """Mean squared rate; 0 for an empty trace."""
        return self._mean(2)

    @property
    def noise_rate(self) -> float:
        """``E(lr²)/E(lr)``, since noise enters with lr² and decay with lr; 0 for an empty trace or one of zeros."""
        mean = self.mean
        return self.mean_square / mean if mean else 0.0

    def state_dict(self) -> dict[str, object]:
        """Plain lists and numbers, for a checkpoint."""
        return {"span": self._span, "closed": [list(sums) for sums in self._closed], "open": list(self._open)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self._span = state["span"]
        self._closed = [list(sums) for sums in state["closed"]]
        self._open = list(state["open"])


class RateTrace(_Sums):
    """A sequence of learning rates, coarsened so that it never holds more than 256 segments.

    When the segments run out, neighbours are merged and each later segment spans twice as many steps. Means and mean
    squares stay exact over the whole trace, whatever was merged.

    Example:
        >>> trace = RateTrace.of([0.1] * 1000 + [0.05] * 500)
        >>> trace.steps, len(trace.segments) <= 256, round(trace.mean, 6)
        (1500, True, 0.083333)
    """

    _width = 3

    @classmethod
    def of(cls, lrs: Iterable[float]) -> RateTrace:
        """A trace of the given rates.

        Raises:
            ValueError: if they are no finite numbers from 0 up.
        """
        try:
            rates = array("d", lrs)
        except TypeError:
            raise ValueError(
                f"lrs: expected the learning rate of each step, numbers from 0 up, got {lrs!r:.60}; [lr] is one step"
            ) from None
        for lr in rates if rates and not 0 <= min(rates) <= sum(rates) < math.inf else ():  # NaN and all
            check_not_negative(lrs=lr)
        trace = cls()
        trace.extend(rates)
        return trace

    @classmethod
    def constant(cls, lr: float, steps: int) -> RateTrace:
        """A trace of so many steps at one rate, however many, in no time.

        Example:
            >>> RateTrace.constant(0.1, 10**9).steps
            1000000000
        """
        check_not_negative(lr=lr)
        check_count(0, steps=steps)
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

    def scaled(self, gain: float) -> list[RateSegment]:
        """The segments at ``gain`` times the rates."""
        return [segment.scaled(gain) for segment in self.segments]


class EffectiveTrace(_Sums):
    """Effective learning rates of many steps, each at its own momentum, with the decay of each.

    Noise enters a norm with the square of a step's rate e and decay with ``e·lambda_rad``, so that sums of these are
    all that a law asks of the steps, however rate, momentum and weight decay moved. The sums stay exact over the whole
    trace, whatever was merged. Momentum is followed as if each step had always been made at its own: right where it
    moves little within the ``1/(1 - momentum)`` steps that it remembers.

    Example:
        Momentum falls from 0.9 to 0.5 and decay rises from 0.001 to 0.01:

        >>> trace = EffectiveTrace()
        >>> for momentum, decay in [(0.9, 0.001)] * 100 + [(0.5, 0.01)] * 300:
        ...     trace.append(0.1 / (1 - momentum), decay)
        >>> round(trace.mean, 6), round(trace.radial_decay, 6), round(trace.noise_rate, 6)
        (0.4, 0.004375, 0.7)
    """

    _width = 4

    @classmethod
    def constant(cls, lr: float, radial_decay: float, steps: int) -> EffectiveTrace:
        """A trace of so many steps with one rate and decay, however many, in no time."""
        check_not_negative(unknown=True, lr=lr)
        check_number(radial_decay=radial_decay)
        check_count(0, steps=steps)
        trace = cls()
        while steps:
            count = min(steps, trace._room)
            trace._add(count, count * lr, count * lr * lr, count * lr * radial_decay)
            steps -= count
        return trace

    def append(self, lr: float, radial_decay: float = 0.0) -> None:
        """Adds one step.

        Args:
            lr: its effective learning rate.
            radial_decay: its ``lambda_rad``, shrinkage per unit of that.
        """
        self._add(1, lr, lr * lr, lr * radial_decay)

    def extend(self, lrs: array[float], radial_decays: array[float]) -> None:
        """Adds a step with each of these, as :meth:`append` does one by one, and faster."""
        start = 0
        while start < len(lrs):
            end = start + self._room
            part, decays = lrs[start:end], radial_decays[start:end]
            self._add(len(part), sum(part), sum(map(operator.mul, part, part)), sum(map(operator.mul, part, decays)))
            start += len(part)

    @property
    def radial_decay(self) -> float:
        """``E(e·lambda_rad)/E(e)``: the decay that shrinks a norm as much as those of all steps; 0 at rates of zero."""
        mean = self.mean
        return self._mean(3) / mean if mean else 0.0

    def segments_at(self, radial_decay: float) -> list[RateSegment]:
        """The segments for a law that takes decay for constant: ``mean`` is ``E(e·lambda_rad)/radial_decay`` in each.

        Args:
            radial_decay: what the law takes decay for.
        """
        if not radial_decay:
            return self.segments
        return [RateSegment(int(sums[0]), sums[3] / sums[0] / radial_decay, sums[2] / sums[0]) for sums in self._all()]

    @property
    def is_constant(self) -> bool:
        """Whether all steps had one rate and one decay, but for rounding."""
        lr, decay, mean_square = self.mean, self.radial_decay, self.mean_square
        return abs(mean_square - lr * lr) <= _ROUNDING * mean_square and all(
            abs(segment_decay - decay) <= _ROUNDING * decay for segment_decay in self.decays()
        )

    def decays(self) -> list[float]:
        """``E(e·lambda_rad)/E(e)`` of each segment; 0 at rates of zero."""
        return [sums[3] / sums[1] if sums[1] else 0.0 for sums in self._all()]

    def load_state_dict(self, state: dict[str, Any], *, lr_gain: float = 1.0, radial_decay: float = 0.0) -> None:
        """Takes back what :meth:`state_dict` gave, or what a trace of nominal rates did.

        Args:
            state: the state.
            lr_gain: effective rate per nominal one, for nominal rates.
            radial_decay: likewise.
        """
        super().load_state_dict(state)
        if len(self._open) == RateTrace._width:
            gains = (1.0, lr_gain, lr_gain**2)
            for sums in (*self._closed, self._open):
                sums[:] = [*map(operator.mul, sums, gains), sums[1] * lr_gain * radial_decay]
