"""How chance adds up along a path of the norm: variances of its end, and of the law's prediction of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.norm_errors import Entry, NormErrors, Sampling

Vector = tuple[Tensor, Tensor]
"""What holds of ``log R`` and of the memory."""


class SharedNoise(NamedTuple):
    """White noise that the moments of a window see too.

    Attributes:
        to_norm: what ``log R`` gains from it in a step.
        to_memory: likewise the optimizer's memory.
        variance: of it in a step, ``[n]``.
    """

    to_norm: Entry
    to_memory: Entry
    variance: Tensor


class Coupling(NamedTuple):
    """``M`` of a step: ``log R`` and the memory of ``log |g|²`` change by ``M`` times what they depart by.

    Attributes:
        norm_by_norm: of ``log R`` by itself, ``[n]``.
        norm_by_memory: of ``log R`` by the memory.
        memory_by_norm: of the memory by ``log R``.
        memory_by_memory: of the memory by itself.
    """

    norm_by_norm: Tensor
    norm_by_memory: Entry = 0.0
    memory_by_norm: Entry = 0.0
    memory_by_memory: Entry = 0.0


class PathResponse:
    """Follows small departures from a path, and what they owe to each kind of noise.

    A path starts from a norm that is known. Its prediction takes the mean of each shared noise over the window for
    every step, and the memory for settled at it, so it departs by what a constant noise would make.

    Args:
        like: a tensor ``[n]``.
        kinds: how many kinds of shared noise there are.
        memory_variance: of the memory at the start, ``[n]``.
        memory_is_settled: whether the prediction takes the memory at the start for settled.
    """

    def __init__(
        self, like: Tensor, kinds: int, memory_variance: Tensor | None = None, *, memory_is_settled: bool = True
    ) -> None:
        zero = torch.zeros_like(like)
        self._norm = self._both = zero
        self._memory = zero if memory_variance is None else memory_variance
        self._responses: list[Vector] = [(zero, zero)] * kinds
        self._from_memory: Vector = (zero, torch.ones_like(like) if memory_is_settled else zero)
        self._noise: Sequence[SharedNoise] = ()

    def advance(self, steps: float, coupling: Coupling, shared: Sequence[SharedNoise], apart: Entry) -> None:
        """Goes on by so many steps, over which the path changes little.

        Args:
            steps: how many.
            coupling: in a step.
            shared: noise that moments see, the same kinds each time.
            apart: variance that ``log R`` gains in a step from what they do not see.
        """
        half = _Passage(coupling, steps / 2)
        whole = _Passage(coupling, steps)
        self._norm, self._both, self._memory = whole.carried(self._norm, self._both, self._memory)
        self._from_memory = whole(self._from_memory)
        self._noise = shared
        for kind, noise in enumerate(shared):
            start = (noise.to_norm + torch.zeros_like(self._norm), noise.to_memory + torch.zeros_like(self._norm))
            middle, end = half(start), whole(start)
            before = whole(self._responses[kind])
            self._responses[kind] = (
                before[0] + steps * (start[0] + 4 * middle[0] + end[0]) / 6,
                before[1] + steps * (start[1] + 4 * middle[1] + end[1]) / 6,
            )
            self._add_variance(noise.variance, steps, (start, middle, end))
        unit = (torch.ones_like(self._norm), torch.zeros_like(self._norm))
        self._add_variance(apart + torch.zeros_like(self._norm), steps, (unit, half(unit), whole(unit)))

    def _add_variance(self, variance: Tensor, steps: float, responses: tuple[Vector, Vector, Vector]) -> None:
        """Adds what noise of a variance a step leaves, by Simpson's rule over its responses."""
        for (to_norm, to_memory), weight in zip(responses, (1, 4, 1), strict=True):
            share = variance * (steps * weight / 6)
            self._norm = self._norm + share * to_norm.square()
            self._both = self._both + share * to_norm * to_memory
            self._memory = self._memory + share * to_memory.square()

    @property
    def variance(self) -> Tensor:
        """Of ``log R`` at the end, ``[n]``."""
        return self._norm

    def gains(self) -> list[Tensor]:
        """``d log(predicted)/d log(moment)`` of each kind of shared noise, ``[n]``; none before a step was made."""
        if not self._noise:
            return [torch.zeros_like(self._norm)] * len(self._responses)
        return [
            norm + (self._from_memory[0] if not _is_zero(noise.to_memory) else 0.0)
            for (norm, _), noise in zip(self._responses, self._noise, strict=True)
        ]

    def errors(self, sampling: Sampling, accuracy: Tensor, log_bias: Tensor, gains: Sequence[Entry]) -> NormErrors:
        """Of the norm at the end.

        Args:
            sampling: the window that the moments are from.
            accuracy: what the law is right to at best, ``[n]``.
            log_bias: see :class:`NormErrors`.
            gains: those of the law's prediction.
        """
        zero = torch.zeros_like(self._norm)
        predicted = covariance = zero
        for gain, (response, _), noise in zip(gains, self._responses, self._noise, strict=bool(self._noise)):
            predicted = predicted + gain**2 * noise.variance / sampling.readings
            covariance = covariance + gain * response * noise.variance / sampling.steps
        observed = self._norm + accuracy.square()
        return NormErrors(observed.sqrt(), observed, predicted, covariance, log_bias)


class _Passage:
    """``exp(M·t)`` of a coupling, entry by entry."""

    def __init__(self, coupling: Coupling, steps: float) -> None:
        xx, xu, ux, uu = (torch.as_tensor(entry).to(coupling.norm_by_norm) for entry in coupling)
        half, apart = (xx + uu) / 2, (xx - uu) / 2
        root = (apart.square() + xu * ux).clamp(min=1e-30).sqrt()
        slow, fast = ((half + root) * steps).exp(), ((half - root) * steps).exp()
        mean, slope = (slow + fast) / 2, (slow - fast) / (2 * root)
        self.xx, self.xu, self.ux, self.uu = mean + slope * apart, slope * xu, slope * ux, mean - slope * apart

    def __call__(self, vector: Vector) -> Vector:
        x, u = vector
        return self.xx * x + self.xu * u, self.ux * x + self.uu * u

    def carried(self, norm: Tensor, both: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A covariance matrix after the passage."""
        first, second = self.xx * norm + self.xu * both, self.xx * both + self.xu * memory
        third, fourth = self.ux * norm + self.uu * both, self.ux * both + self.uu * memory
        return (
            first * self.xx + second * self.xu,
            first * self.ux + second * self.uu,
            third * self.ux + fourth * self.uu,
        )


def _is_zero(entry: Entry) -> bool:
    return isinstance(entry, float) and entry == 0.0
