"""Experiment: norm against update frequency, a fourth root under SGD, a crossover under AdamW."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch
from einops import reduce
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from lightning_normdyn.core import equilibrium_rule, fit_log_log
from lightning_normdyn.history.experiment import ExperimentRecord, Finding
from lightning_normdyn.history.number import measured

NAME = "frequency_law"
_DIM, _COPIES, _PLACES = 16, 24, 17
_LEAST_GRADIENTS = 5
"""Gradients that a row needs in a relaxation time, below which SGD's norm is no fluctuation about a mean."""


class Crossover(NamedTuple):
    """The curve ``R² = ceiling²·p/(p + place)`` that lies nearest to given norms.

    Attributes:
        place: frequency at which R² is half of its ceiling.
        ceiling: norm of a row that gets a gradient in every step.
    """

    place: float
    ceiling: float

    def norm(self, probability: Tensor) -> Tensor:
        """The curve at given frequencies, ``[n]``."""
        return self.ceiling * (probability / (probability + self.place)).sqrt()


def frequency_law(*, steps: int = 24_000, seed: int = 0) -> ExperimentRecord:
    """Lets rows of many frequencies walk on tangential noise under torch's own SGD and AdamW.

    There is no task, hence nothing but frequency that could tell rows apart: ``V² = p·(d - 1)``, so SGD's
    ``R⁴ = lr·V²/(2·lambda)`` gives ``R ∝ p^(1/4)``, and AdamW's law ``R² ∝ p/(p + 1 - beta2)``.

    Args:
        steps: of each walk; the first half, four relaxation times by default, is left out.
        seed: chooses noise and initial directions.
    """
    start_time = time.perf_counter()
    frequency = torch.logspace(-3, 0, _PLACES, dtype=torch.float64)
    decay = 8 / steps  # keeps the relaxation time a fixed share of the walk
    sgd, sgd_law = _walk(SGD, frequency, steps, seed, lr=1.0, weight_decay=decay / 4)
    beta2 = 0.98
    adamw, adamw_law = _walk(AdamW, frequency, steps, seed, lr=1e-2, weight_decay=decay * 50, betas=(0.9, beta2))
    is_settled = frequency * steps / 8 >= _LEAST_GRADIENTS
    root = fit_log_log(frequency[is_settled], sgd[is_settled])
    crossover = fit_crossover(frequency, adamw)
    return ExperimentRecord(
        name=NAME,
        findings=(
            Finding("SGD: slope of log R on log p", 0.25, "own derivation", measured(root.slope)),
            Finding(
                "SGD: median error of the law",
                0.0,
                "own derivation",
                measured(fit_log_log(sgd_law[is_settled], sgd[is_settled]).median_relative_error),
            ),
            Finding("AdamW: crossover", 1 - beta2, "own derivation: 1 − β₂", measured(crossover.place)),
            Finding(
                "AdamW: median error of the law",
                0.0,
                "own derivation",
                measured(fit_log_log(adamw_law, adamw).median_relative_error),
            ),
        ),
        arrays={
            "frequency": frequency.tolist(),
            "settled": is_settled.double().tolist(),
            "sgd": sgd.tolist(),
            "sgd_law": sgd_law.tolist(),
            "adamw": adamw.tolist(),
            "adamw_law": adamw_law.tolist(),
            "adamw_fit": crossover.norm(frequency).tolist(),
        },
        settings={"steps": steps, "dim": _DIM, "rows per frequency": _COPIES, "beta2": beta2},
        seconds=time.perf_counter() - start_time,
    )


def fit_crossover(probability: Tensor, norm: Tensor) -> Crossover:
    """Fits ``R² = ceiling²·p/(p + place)`` by least squares in log R.

    Args:
        probability: p, ``[n]``, in (0, 1].
        norm: R, ``[n]``, positive.

    Returns:
        The curve; its place is looked for between 1e-6 and 1 in steps of 0.1%.

    Example:
        >>> p = torch.tensor([0.001, 0.01, 0.1, 1.0], dtype=torch.float64)
        >>> fit_crossover(p, 3 * (p / (p + 0.02)).sqrt())
        Crossover(place=0.0199..., ceiling=2.999...)
    """
    places = torch.logspace(-6, 0, 13_816, dtype=torch.float64).unsqueeze(1)
    shape = 0.5 * (probability / (probability + places)).log()
    offset = norm.double().log() - shape
    ceiling = offset.mean(1, keepdim=True)
    best = int((offset - ceiling).square().sum(1).argmin())
    return Crossover(float(places[best]), float(ceiling[best].exp()))


def _walk(kind: type[Optimizer], frequency: Tensor, steps: int, seed: int, **options: Any) -> tuple[Tensor, Tensor]:
    """Observed norm and that of the law, ``[frequencies]`` each."""
    probability = frequency.repeat_interleave(_COPIES)
    rows = torch.randn(len(probability), _DIM, generator=torch.Generator().manual_seed(seed))
    table = nn.Parameter(rows / rows.norm(dim=1, keepdim=True))
    optimizer = kind([table], **options)
    rule = equilibrium_rule(optimizer)
    norms = settled_norms(table, optimizer, probability, power=rule.power, steps=steps, seed=seed)
    means = reduce(norms.pow(rule.power), "(place copy) -> place", "mean", copy=_COPIES).pow(1 / rule.power)
    return means, rule.predict(frequency * (_DIM - 1), _DIM, frequency)


def tangential_noise(rows: Tensor, probability: Tensor, generator: torch.Generator) -> Tensor:
    """Gradients that a loss of directions alone might give: white on the unit sphere, and in some steps only.

    Args:
        rows: embeddings, ``[n, d]``.
        probability: chance that a row gets a gradient in this step, ``[n]``.
        generator: the source of chance.

    Returns:
        ``[n, d]``, orthogonal to the rows and inversely proportional to their norms, zero where absent.
    """
    noise = torch.randn(rows.shape, generator=generator)
    squares = rows.square().sum(1, keepdim=True)
    noise -= rows * (noise * rows).sum(1, keepdim=True) / squares
    present = torch.rand(len(rows), generator=generator) < probability
    return noise * (present / squares.squeeze(1).sqrt()).unsqueeze(1)


def settled_norms(
    rows: Tensor, optimizer: Optimizer, probability: Tensor, *, power: int, steps: int, seed: int
) -> Tensor:
    """Walks and averages norms over the last half.

    Args:
        rows: embeddings ``[n, d]`` that ``optimizer`` moves, in place.
        optimizer: a real one.
        probability: of a gradient in a step, ``[n]``.
        power: of the norm whose mean is taken: the one that relaxes linearly, as in
            :attr:`lightning_normdyn.core.dynamics.rule.EquilibriumRule.power`.
        steps: length of the walk.
        seed: chooses the noise.

    Returns:
        Power mean of each norm, ``[n]`` in float64.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(len(rows), dtype=torch.float64)
    for step in range(steps):
        rows.grad = tangential_noise(rows.detach(), probability, generator)
        optimizer.step()
        if step >= steps // 2:
            total += rows.detach().double().norm(dim=1).pow(power)
    return (total / (steps - steps // 2)).pow(1 / power)
