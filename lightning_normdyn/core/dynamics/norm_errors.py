"""How far a row's norm strays from its law by chance alone: variances of logs of norms over a window.

A row is moved by noise that is white from step to step: by when it gets a gradient and how large that is (of variance
``c = kappa/p - 1``), by the chance overlap of gradients in the momentum, and by the radial part of steps that are not
along a gradient. To first order the logarithm of its norm follows linearly, and all variances are closed forms. They
hold where one gradient moves a norm by a few percent, which is what a law's ``judges`` asks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

Entry: TypeAlias = Tensor | float
Rows: TypeAlias = Sequence[Sequence[Entry]]


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

    def among(self, judged: Tensor) -> NormErrors:
        """The same for the rows of a mask ``[n]``, NaN for others."""
        return self._replace(observed=self.observed.where(judged, torch.nan))

    def ahead(self) -> NormErrors:
        """The same of a forecast, whose moments are from steps before those that it foresees.

        In float32, which is exact enough for errors and halves what waits for the forecast to come due.
        """
        return NormErrors(*(values.float() for values in self._replace(covariance=torch.zeros_like(self.covariance))))


class LinearResponse(NamedTuple):
    """``z' = M·z + B·noise`` for ``z = (log R, memory of log |g|²)``: how a settled row answers to chance.

    Attributes:
        matrix: ``M``, ``[n, 2, 2]``, with real negative eigenvalues.
        inputs: ``B``, ``[n, 2, k]``.
        noise: variance a step of each of k white inputs, ``[n, k]``.
        gain: how the logarithm of the law's prediction answers to the window's mean of each, ``[n, k]``.
    """

    matrix: Tensor
    inputs: Tensor
    noise: Tensor
    gain: Tensor

    @classmethod
    def of(cls, matrix: Rows, inputs: Rows, noise: Sequence[Entry], gain: Sequence[Entry]) -> LinearResponse:
        """From tables of tensors ``[n]`` and numbers, at least one of them a tensor."""
        entries = [entry for row in (*matrix, *inputs, noise, gain) for entry in row if isinstance(entry, Tensor)]
        like = torch.broadcast_tensors(*entries)[0]

        def stacked(row: Sequence[Entry]) -> Tensor:
            return torch.stack([torch.as_tensor(entry, dtype=like.dtype).to(like).expand_as(like) for entry in row], -1)

        return cls(
            torch.stack([stacked(row) for row in matrix], -2),
            torch.stack([stacked(row) for row in inputs], -2),
            stacked(noise),
            stacked(gain),
        )

    def errors(self, steps: float, log_bias: Tensor) -> NormErrors:
        """Over a window of so many steps, all of them read.

        The window's mean of z is ``M^-1·[z(T) - z(0) - B·(sum of noise)]/T``. What is random in it are both ends, whose
        covariance solves ``M·S + S·M' + B·C·B' = 0``, and the sum, which the prediction shares.
        """
        eye = torch.eye(2, dtype=self.matrix.dtype, device=self.matrix.device)
        trace = self.matrix.diagonal(dim1=1, dim2=2).sum(-1)[:, None, None]
        determinant = torch.linalg.det(self.matrix)[:, None, None]
        rest = self.matrix - trace * eye
        push = self.inputs * self.noise[:, None, :]
        spread = push @ self.inputs.mT
        settled = -(determinant * spread + rest @ spread @ rest.mT) / (2 * trace * determinant)
        half = trace / 2
        root = (half.square() - determinant).clamp(min=1e-30).sqrt()
        slow, fast = ((half + root) * steps).exp(), ((half - root) * steps).exp()
        passage = (slow + fast) / 2 * eye + (slow - fast) / (2 * root) * (self.matrix - half * eye)
        inverse = rest / -determinant
        reading = inverse[:, 0]
        change = 2 * settled - passage @ settled - settled @ passage.mT
        along = torch.einsum("ni,nik->nk", reading, inverse @ (passage - eye) @ push)
        ends = torch.einsum("ni,nij,nj->n", reading, change, reading)

        def variance(weight: Tensor) -> Tensor:
            direct = (weight.square() * self.noise).sum(1) * steps
            return (ends + 2 * (along * weight).sum(1) + direct) / steps**2

        answer = -torch.einsum("ni,nik->nk", reading, self.inputs)
        observed, predicted = variance(answer), (self.gain.square() * self.noise).sum(1) / steps
        covariance = (observed + predicted - variance(answer - self.gain)) / 2
        return NormErrors(settled[:, 0, 0].sqrt(), observed, predicted, covariance, log_bias)


def one_relaxation(
    power: int, shared: Tensor, apart: Tensor | float, relaxation: float, sampling: Sampling, log_bias: Tensor
) -> NormErrors:
    """Errors of a norm that follows its gradients with one relaxation time ``tau``.

    ``log R = (noise smoothed over tau)/power``. With ``F = (tau/T)·(1 - exp(-T/tau))``, its mean over the window has
    variance ``(c + c_x)·(1 - F)/(T·power²)``; the prediction ``c/(n·power²)``, and since it is the noisier of the two,
    their covariance is that of the mean.

    Args:
        power: the power of R that relaxes.
        shared: ``c``, variance a step of the noise that the prediction sees too, ``[n]``.
        apart: ``c_x``, variance a step of what moves the norm alone, ``[n]``.
        relaxation: ``tau``, of the norm, in steps.
        sampling: the window.
        log_bias: see :class:`NormErrors`.
    """
    steps = sampling.steps
    smoothed = (1 - settling_share(steps, relaxation)) / steps / power**2
    return NormErrors(
        width=((shared + apart) / (2 * relaxation)).sqrt() / power,
        observed=(shared + apart) * smoothed,
        predicted=shared / sampling.readings / power**2,
        covariance=shared * smoothed,
        log_bias=log_bias,
    )


def settling_share(steps: float, relaxation: float) -> float:
    """``F = (tau/T)·(1 - exp(-T/tau))``: how much of where it started is in the mean over a window."""
    ratio = steps / relaxation
    return -math.expm1(-ratio) / ratio if ratio else 1.0


def overlap_noise(first_beta: float, dim: int) -> float:
    """``c_x = 4·beta²/((1 - beta²)·(d - 1))``: gradients that momentum holds at one time overlap by chance.

    ``d`` is to be the number of directions that gradients really use.
    """
    return 4 * first_beta**2 / ((1 - first_beta**2) * max(dim - 1, 1))


def direction_noise(dim: int) -> float:
    """``E[sum of z_i⁶ - (sum of z_i⁴)²]/4``: what a step has along a row whose directions z it knows, over its square.

    Where steps are longer by the share ``z_i²/2`` in the numbers in which the row is long, as those are that divide by
    what gradients without a part along the row are in each.
    """
    return (15 / ((dim + 2) * (dim + 4)) - 9 / (dim + 2) ** 2) / 4


def direction_rate(rate: Entry, dim: int) -> Entry:
    """``4·r·(d + 2)/(d - 1)``: how fast ``sum of z_i⁴`` is forgotten by directions z that turn by ``2·r`` in square."""
    return 4 * rate * (dim + 2) / max(dim - 1, 1)


def telescoped_noise(variance: Tensor, dim: int, rate: Tensor, steps: float) -> tuple[Tensor, Tensor]:
    """What a norm owes to a potential of its direction, where decay undoes what growth makes of it.

    Steps that are longer where a row is long add an eighth of the change of ``Q = sum of z_i⁴`` to ``log R``. Under
    coupled decay, which is divided by the same v, decay is stronger by ``Q/2`` too, which takes back at the rate
    ``4·r`` what is there of it, while Q forgets at ``q = 4·r·(d + 2)/(d - 1)``. What is left passes no slow change,
    ``w²/(w² + q²)`` of the noise at the frequency w, so that with the relaxation ``k = 3·r``::

        Cov(t) = c/(q² - k²)·[q/2·exp(-q·t) - k/2·exp(-k·t)]

    Args:
        variance: ``c``, of the noise in a step, ``[n]``.
        dim: ``d``.
        rate: ``r``, the share of a settled norm that decay takes in a step, ``[n]``.
        steps: of a window.

    Returns:
        The variance at one time and that of the mean over the window, ``[n]`` each.
    """
    forgets, relaxes = torch.as_tensor(direction_rate(rate, dim)), 3 * rate
    slow, fast = ((-torch.expm1(-k * steps) / (k * steps)).nan_to_num(1) for k in (relaxes, forgets))
    mean = variance * (slow - fast) / ((forgets.square() - relaxes.square()) * steps)
    return variance / (2 * (forgets + relaxes)), mean
