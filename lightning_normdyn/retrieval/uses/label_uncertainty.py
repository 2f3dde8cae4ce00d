"""Correlation of norms and other confidences with the entropy of human labels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, as_columns, as_tensors
from lightning_normdyn.core.statistics.correlation import Correlation, correlate
from lightning_normdyn.core.tensor_checks import check_columns


def label_entropy(soft_labels: ArrayLike) -> Tensor:
    """Entropy of what people said of each item, in nats.

    Args:
        soft_labels: votes or shares, not negative, ``[n, classes]``.

    Returns:
        ``[n]`` in float64; 0 where all agreed, NaN where nobody voted.

    Raises:
        ValueError: if they are no votes.

    Example:
        >>> label_entropy(torch.tensor([[2.0, 2.0], [4.0, 0.0]]))
        tensor([0.6931, 0.0000], dtype=torch.float64)
    """
    (soft_labels,) = as_tensors(soft_labels=soft_labels)
    if soft_labels.ndim != 2 or not soft_labels.isfinite().all() or (soft_labels < 0).any():
        raise ValueError(
            f"soft_labels: expected votes or shares [n, classes] from 0 up, got {tuple(soft_labels.shape)}"
        )
    votes = soft_labels.detach().cpu().double()
    shares = votes / votes.sum(1, keepdim=True)
    entropy: Tensor = torch.special.entr(shares).sum(1)
    return entropy


def uncertainty_agreement(
    confidences: Mapping[str, ArrayLike],
    soft_labels: ArrayLike,
    *,
    resamples: int = 1_000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> dict[str, Correlation]:
    """Spearman correlation of each confidence with the entropy of human labels.

    Args:
        confidences: name to a number for each item, larger is surer, ``[n]``, as
            :func:`~lightning_normdyn.retrieval.uses.confidence.classification_confidences` gives them.
        soft_labels: votes or shares, ``[n, classes]``.
        resamples: of the bootstrap over items.
        level: share of resamples inside an interval.
        generator: of random numbers, on the CPU. If left out, every confidence is drawn with the same fresh seed 0, so
            that intervals compare.

    Returns:
        Name to correlation; the better a confidence, the closer to -1. The partial correlations of the others hold
        ``max_similarity`` fixed where it is among them, and so say what a norm adds to it.

    Raises:
        ValueError: if there is not one number, and one row of votes, for each item.

    Example:
        >>> votes = torch.tensor([[4.0, 0.0], [3.0, 1.0], [2.0, 2.0]])
        >>> uncertainty_agreement({"norm": torch.tensor([3.0, 2.0, 1.0])}, votes, resamples=0)["norm"].r
        -1.0
    """
    entropy = label_entropy(soft_labels)
    confidences = as_columns("confidences", confidences)
    check_columns("confidences", confidences, len(entropy), what="rows of soft_labels")
    if not confidences:
        raise ValueError(
            "confidences: expected one column by name at least, got none; classification_confidences has some"
        )
    similarity = confidences.get("max_similarity")
    controls = None if similarity is None else similarity.detach().cpu().double().unsqueeze(1)
    correlations = {}
    for name, confidence in confidences.items():
        correlations[name] = correlate(
            confidence,
            entropy,
            None if confidence is similarity else controls,
            resamples=resamples,
            level=level,
            generator=generator,
        )
    return correlations
