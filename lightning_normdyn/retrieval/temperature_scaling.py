"""A temperature that makes probabilities honest, one for all items or one that follows their norms."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_STEPS = 200


class NormTemperature(NamedTuple):
    """``temperature = exp(constant + slope · log |x|)``; without slope the usual single temperature.

    Attributes:
        constant: logarithm of the temperature of an item of norm 1.
        slope: exponent of the norm in the temperature; below 0 the logits of long vectors are made sharper.
    """

    constant: float
    slope: float

    def __call__(self, logits: Tensor, norms: Tensor) -> Tensor:
        """Logits ``[n, classes]`` over the temperature of each item's norm ``[n]``, in float64."""
        return _scaled(logits.double(), _log_norms(norms), torch.tensor(self, dtype=torch.float64))


def fit_temperature(logits: Tensor, labels: Tensor, norms: Tensor, *, norm_dependent: bool = True) -> NormTemperature:
    """Fits the temperature by maximum likelihood of the labels (LBFGS in float64).

    Temperature scaling (Guo et al. 2017) has one parameter; this one has two, and contains it at slope 0.

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
    n = len(logits)
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
    log_temperature = parameters[0] + parameters[1] * log_norms.to(logits.device)
    return logits / log_temperature.exp().unsqueeze(1)


def _log_norms(norms: Tensor) -> Tensor:
    norms = norms.detach().cpu().double()
    return norms.where(norms > 0, 1).log()
