"""Temperature scaling by norm: calibration error and likelihood against one temperature for all items."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, as_tensors
from lightning_normdyn.core.number_checks import check_count, check_flag
from lightning_normdyn.core.object_checks import check_generator
from lightning_normdyn.core.statistics.interval import Interval, bootstrap_intervals, check_level
from lightning_normdyn.core.statistics.risk_coverage import expected_calibration_error
from lightning_normdyn.core.tensor_checks import check_tensors

_WAYS = 3


class TemperatureComparison(NamedTuple):
    """Probabilities as they are, with one temperature, and with one that follows the norm, on the test half.

    Attributes:
        ece: expected calibration error of the three, in this order.
        nll: mean negative log likelihood of the three, in nats.
        ece_gain: error with one temperature minus that with the norm's, paired; above 0 where the norm helps.
        nll_gain: the same of the negative log likelihood.
        single: one temperature for all, fitted on the validation half.
        by_norm: the temperature that follows the norm, fitted there too.
        test_items: items of the test half.
    """

    ece: tuple[Interval, Interval, Interval]
    nll: tuple[Interval, Interval, Interval]
    ece_gain: Interval
    nll_gain: Interval
    single: NormTemperature
    by_norm: NormTemperature
    test_items: int


def compare_temperatures(
    logits: ArrayLike,
    labels: ArrayLike,
    norms: ArrayLike,
    *,
    bins: int = 15,
    resamples: int = 1_000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> TemperatureComparison:
    """Fits both temperatures on a random half of the items and compares them on the other.

    The error of calibration is biased upwards in few items, the likelihood is not: read ``nll_gain`` first.

    Args:
        logits: ``[n, classes]``; cosines have to be multiplied with the model's logit scale first.
        labels: class of each item, integers ``[n]``.
        norms: of the embeddings, ``[n]``.
        bins: of the expected calibration error.
        resamples: of the bootstrap over items of the test half.
        level: share of resamples inside an interval.
        generator: of random numbers, on the CPU; a fresh one with seed 0 if left out.

    Returns:
        The record.

    Raises:
        ValueError: if shapes do not fit, something is not finite, or there are fewer than four items.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> norms = torch.rand(2000, generator=draw) * 2 + 0.1
        >>> logits = torch.randn(2000, 5, generator=draw) * 3
        >>> labels = (logits * norms.unsqueeze(1)).softmax(1).multinomial(1, generator=draw).squeeze(1)
        >>> compare_temperatures(logits, labels, norms, resamples=50).nll_gain.low > 0
        True
    """
    check_count(bins=bins, hint="15 is usual")
    check_count(0, resamples=resamples)
    check_level(level)
    check_generator(generator=generator)
    logits, labels, norms = as_tensors(logits=logits, labels=labels, norms=norms)
    check_items(logits, labels, norms)
    if len(labels) < 4:
        raise ValueError(f"labels: expected four items at least, two for each half, got {len(labels)}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    order = torch.randperm(len(labels), generator=generator)
    logits, labels, norms = logits.detach().cpu().double(), labels.cpu().long(), norms.detach().cpu()
    fit_rows, test_rows = order[: len(order) // 2], order[len(order) // 2 :]
    single, by_norm = (
        fit_temperature(logits[fit_rows], labels[fit_rows], norms[fit_rows], norm_dependent=follows)
        for follows in (False, True)
    )
    x, right, lengths = logits[test_rows], labels[test_rows], norms[test_rows]
    test_logits = [x, single(x, lengths), by_norm(x, lengths)]
    losses = torch.stack(
        [F.cross_entropy(scaled_logits, right, reduction="none") for scaled_logits in test_logits], dim=1
    )
    chances = [scaled_logits.softmax(1).max(1) for scaled_logits in test_logits]

    def statistics(counts: Tensor) -> Tensor:
        errors = [
            expected_calibration_error(values.clamp(max=1), indices == right, counts, bins=bins)
            for values, indices in chances
        ]
        columns = torch.cat((torch.stack(errors, dim=1), counts @ losses / len(right)), dim=1)
        return torch.cat((columns, columns[:, 1:2] - columns[:, 2:3], columns[:, 4:5] - columns[:, 5:6]), dim=1)

    intervals = bootstrap_intervals(
        statistics, len(right), resamples=resamples, level=level, generator=generator, width=_WAYS
    )
    ece, nll = (intervals[0], intervals[1], intervals[2]), (intervals[3], intervals[4], intervals[5])
    return TemperatureComparison(ece, nll, intervals[6], intervals[7], single, by_norm, len(right))


_STEPS = 200
# Of the log temperature: beyond it softmax is uniform, or one class, to rounding, and float64 would end in NaN.
_FARTHEST = 30.0


class NormTemperature(NamedTuple):
    """``temperature = exp(constant + slope · log |x|)``; without slope the usual single temperature.

    Attributes:
        constant: logarithm of the temperature of an item of norm 1.
        slope: exponent of the norm in the temperature; below 0 the logits of long vectors are made sharper.
    """

    constant: float
    slope: float

    def __call__(self, logits: ArrayLike, norms: ArrayLike) -> Tensor:
        """Logits ``[n, classes]`` over the temperature of each item's norm ``[n]``, in float64."""
        logits, norms = as_tensors(logits=logits, norms=norms)
        return _scaled(logits.double(), _log_norms(norms), torch.tensor(self, dtype=torch.float64))


def fit_temperature(
    logits: ArrayLike, labels: ArrayLike, norms: ArrayLike, *, norm_dependent: bool = True
) -> NormTemperature:
    """Fits the temperature by maximum likelihood of the labels (LBFGS in float64).

    Temperature scaling (Guo et al. 2017) has one parameter; this one has two, and contains it at slope 0. Where
    likelihood grows without end, as for logits that say nothing of the labels, temperatures count for ``e^30`` at most.

    Args:
        logits: ``[n, classes]``.
        labels: class of each item, integers ``[n]``.
        norms: of the embeddings, ``[n]``; a zero counts as norm 1.
        norm_dependent: False holds the slope at 0.

    Returns:
        The temperature.

    Raises:
        ValueError: if shapes do not fit or something is not finite.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> norms = torch.rand(4000, generator=draw) + 0.5
        >>> logits = torch.randn(4000, 5, generator=draw) * 3
        >>> labels = (logits * norms.unsqueeze(1)).softmax(1).multinomial(1, generator=draw).squeeze(1)
        >>> round(fit_temperature(logits, labels, norms).slope, 1)
        -1.0
    """
    check_flag(norm_dependent=norm_dependent)
    logits, labels, norms = as_tensors(logits=logits, labels=labels, norms=norms)
    check_items(logits, labels, norms)
    with torch.inference_mode(False), torch.enable_grad():  # a validation step allows neither
        # Clones, because what was made in inference mode can never be differentiated.
        x, labels = logits.detach().cpu().double().clone(), labels.cpu().long().clone()
        along = _log_norms(norms)
        parameters = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        free = torch.tensor([1.0, float(norm_dependent)], dtype=torch.float64)
        search = torch.optim.LBFGS([parameters], max_iter=_STEPS, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            search.zero_grad()
            value = F.cross_entropy(_scaled(x, along, parameters * free), labels)
            value.backward()
            return value

        search.step(loss)
    return NormTemperature(*(parameters.detach() * free).tolist())


def check_items(logits: Tensor, labels: Tensor, norms: Tensor) -> None:
    """Raises ValueError unless there is a row of logits, a label and a norm for each item."""
    check_tensors(logits=logits, labels=labels, norms=norms)
    n = len(logits) if logits.ndim else 0
    if logits.ndim != 2 or not n or labels.shape != (n,) or norms.shape != (n,):
        raise ValueError(
            f"logits, labels, norms: expected [n, classes], [n] and [n], got {tuple(logits.shape)},"
            f" {tuple(labels.shape)} and {tuple(norms.shape)}"
        )
    if labels.is_floating_point() or labels.long().min() < 0 or labels.long().max() >= logits.shape[1]:
        raise ValueError(f"labels: expected classes from 0 to {logits.shape[1] - 1}, got others")
    if not logits.isfinite().all() or not norms.isfinite().all() or (norms < 0).any():
        raise ValueError("logits, norms: expected finite numbers and no negative norm; leave other items out")


def _scaled(logits: Tensor, log_norms: Tensor, parameters: Tensor) -> Tensor:
    log_temperature = (parameters[0] + parameters[1] * log_norms.to(logits.device)).clamp(-_FARTHEST, _FARTHEST)
    return logits / log_temperature.exp().unsqueeze(1)


def _log_norms(norms: Tensor) -> Tensor:
    norms = norms.detach().cpu().double()
    return norms.where(norms > 0, 1).log()
