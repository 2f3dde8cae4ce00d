"""Whether norms tell items of a known kind from those of an unknown one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.area_under_roc import roc_areas
from lightning_normdyn.core.interval import Interval
from lightning_normdyn.retrieval.confidence import BASELINE


class Detection(NamedTuple):
    """How well a score tells known from unknown.

    Attributes:
        auroc: chance that a known item scores above an unknown one, 0.5 where the score says nothing.
        over_baseline: that minus the baseline's, paired.
    """

    auroc: Interval
    over_baseline: Interval


def detection_table(
    known: Mapping[str, Tensor], unknown: Mapping[str, Tensor], *, baseline: str = BASELINE, level: float = 0.95
) -> dict[str, Detection]:
    """Compares scores by their area under the ROC curve, with DeLong's intervals.

    Args:
        known: name to scores of the items in distribution, ``[n]``, as
            :func:`~lightning_normdyn.retrieval.confidence.classification_confidences` and ``retrieval_confidences``
            give them.
        unknown: the same names to scores of those out of distribution, ``[m]``.
        baseline: name of the score that the others are compared with.
        level: of the intervals.

    Returns:
        Name to record, in the order given.

    Raises:
        ValueError: if the names differ, the baseline is missing, or a score has not one number for each item.

    Example:
        >>> known = {"max_similarity": torch.tensor([0.9, 0.7]), "norm": torch.tensor([2.0, 3.0])}
        >>> unknown = {"max_similarity": torch.tensor([0.8, 0.6]), "norm": torch.tensor([1.0, 1.5])}
        >>> {name: one.auroc.value for name, one in detection_table(known, unknown).items()}
        {'max_similarity': 0.75, 'norm': 1.0}
    """
    if set(known) != set(unknown) or baseline not in known:
        raise ValueError(
            f"known, unknown: expected the same scores, {baseline!r} among them, got {sorted(known)} and"
            f" {sorted(unknown)}"
        )
    names = [baseline, *(name for name in known if name != baseline)]
    for group in (known, unknown):
        for name, scores in group.items():
            if scores.ndim != 1 or scores.shape != group[baseline].shape:
                raise ValueError(
                    f"{name}: expected one number for each of {len(group[baseline])} items, got {tuple(scores.shape)}"
                )
    positives, negatives = (
        torch.stack([group[name].detach().cpu().double() for name in names]) for group in (known, unknown)
    )
    areas, differences = roc_areas(positives, negatives, level=level)
    found = {name: Detection(*pair) for name, *pair in zip(names, areas, differences, strict=True)}
    return {name: found[name] for name in known}
