"""How far a row's norm strays from its law by chance alone: variances of logs of norms over a window."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Sampling(NamedTuple):
    """How much of a window was read.

    Attributes:
        steps: ``T``, optimizer steps that it lasted.
        readings: ``n``, those in which a row's gradient was looked at, whether or not it had one, ``[n]``.
    """

    steps: float
    readings: Tensor


class NormErrors(NamedTuple):
    """What chance does to a settled row in a window, to first order. Tensors are ``[n]``, of ``log R``.

    Attributes:
        width: standard deviation of ``log R`` around its equilibrium, at any one time.
        observed: variance of the window's mean of ``log R``.
        predicted: variance of the law's prediction from the window's own moments.
        covariance: of the two: the same gradients move both.
        log_bias: what the logarithm of the prediction is too low by, since moments without bias have logarithms with.
    """

    width: Tensor
    observed: Tensor
    predicted: Tensor
    covariance: Tensor
    log_bias: Tensor

    @property
    def difference(self) -> Tensor:
        """Variance of observed minus predicted ``log R``."""
        return (self.observed + self.predicted - 2 * self.covariance).clamp(min=0)
