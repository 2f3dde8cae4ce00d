"""Whether things said with a confidence of 80% are right 80% of the time."""

from __future__ import annotations

import torch
from torch import Tensor


def expected_calibration_error(
    confidence: Tensor, correct: Tensor, counts: Tensor | None = None, *, bins: int = 15
) -> Tensor:
    """Gap between confidence and accuracy in bins of equal width, weighted by how many items fall into each.

    ``ECE = sum over bins of n_b / n · |accuracy_b - confidence_b|`` (Guo, Pleiss, Sun, Weinberger, ICML 2017, eq. 3).

    Args:
        confidence: probability of the predicted class, from 0 to 1, ``[n]``.
        correct: whether the prediction was right, ``[n]``.
        counts: how often each item was drawn in each resample, ``[b, n]``; once each if left out.
        bins: of equal width over 0 to 1; a confidence on an edge belongs below it.

    Returns:
        ``[b]`` in float64, from 0 to 1.

    Raises:
        ValueError: if shapes do not fit or a confidence is no probability.

    Example:
        >>> expected_calibration_error(torch.tensor([0.9, 0.9, 0.6]), torch.tensor([True, False, True]))
        tensor([0.4000], dtype=torch.float64)
    """
    if confidence.ndim != 1 or confidence.shape != correct.shape or bins < 1:
        raise ValueError(
            f"confidence, correct: expected one number for each item and a bin or more, got {tuple(confidence.shape)},"
            f" {tuple(correct.shape)} and {bins}"
        )
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("confidence: expected probabilities from 0 to 1, got others; take logits.softmax(1).amax(1)")
    # In the type it came in, so that an edge is where the caller sees it.
    place = (confidence.detach().cpu() * bins).ceil().long().sub(1).clamp(min=0)
    gap = correct.detach().cpu().double() - confidence.detach().cpu().double()
    counts = torch.ones(1, len(gap), dtype=torch.float64) if counts is None else counts.double()
    gaps = counts.new_zeros(len(counts), bins).index_add_(1, place, counts * gap)
    return gaps.abs().sum(1) / counts.sum(1)
