"""Popularity: ranking by frequency, the untrained baseline, and popularity quantiles."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_normdyn.datasets import Judgements
from lightning_normdyn.tasks.contrast.contrastive_task import ContrastiveTask
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.contrast.evaluation_split import EvaluationSplit


def popularity_floor(
    split: EvaluationSplit, documents: Tensor, groups: Tensor | None = None, query_groups: Tensor | None = None
) -> Encoded:
    """A ranking by frequency, in the form in which a model's is measured: the inner product counts.

    Args:
        split: whose queries and documents are meant.
        documents: the document of every training pair, int64 ``[p]``.
        groups: a group of every training pair, such as its relation, int64 ``[p]``; one group if left out.
        query_groups: the group whose frequencies each query of the split goes by, ``[n]``.

    Returns:
        Queries one-hot by group ``[n, g]``, documents as counts ``[m, g]``; score them by the inner product, exponents
        (0, 0).

    Example:
        >>> from lightning_normdyn.datasets import Judgements
        >>> split = EvaluationSplit(["a"], ["x", "y"], Judgements.of([(0, 1, 1.0)]))
        >>> floor = popularity_floor(split, torch.tensor([1, 1, 0]))
        >>> floor.queries @ floor.documents.T
        tensor([[1., 2.]])
    """
    n, m = len(split.queries), len(split.documents)
    groups = torch.zeros_like(documents) if groups is None else groups
    query_groups = groups.new_zeros(n) if query_groups is None else query_groups
    width = int(torch.cat((groups, query_groups)).max()) + 1
    counts = torch.bincount(documents * width + groups, minlength=m * width).view(m, width)
    queries = torch.nn.functional.one_hot(query_groups, width)
    return Encoded.of(queries.float(), counts.float(), split)


def popularity_headline(task: ContrastiveTask, floor: Encoded) -> float:
    """A task's headline for a ranking by frequency, as :func:`popularity_floor` gives it."""
    return float(task.measures(floor, (0.0, 0.0))[task.headline].nanmean())


def popularity_quantiles(counts: Tensor) -> Tensor:
    """Share of documents that are less popular than each, equal ones counted half: 0 to 1, 0.5 on average; ``[m]``.

    Args:
        counts: how often training has each document, ``[m]``.

    Example:
        >>> popularity_quantiles(torch.tensor([7, 0, 0, 1]))
        tensor([0.8750, 0.2500, 0.2500, 0.6250])
    """
    distinct, place, sizes = counts.unique(return_inverse=True, return_counts=True)
    del distinct
    quantiles: Tensor = (sizes.cumsum(0) - sizes / 2) / len(counts)
    return quantiles[place]


def popularity_bias(indices: Tensor, judgements: Judgements, popularity: Tensor) -> dict[str, Tensor]:
    """How popular recommended items are, and those that were taken.

    Args:
        indices: recommended items ``[n, k]``, -1 for none.
        judgements: relevant items of each query.
        popularity: how often training has each item, ``[m]``.

    Returns:
        ``popularity@k`` and ``target_popularity``, ``[n]`` each: mean popularity quantiles, see
        :func:`popularity_quantiles`; NaN where there is nothing to take the mean of.

    Example:
        >>> judgements = Judgements.of([(0, 2, 1.0)])
        >>> bias = popularity_bias(torch.tensor([[0, 1]]), judgements, torch.tensor([9, 5, 1, 0]))
        >>> {name: values.tolist() for name, values in bias.items()}
        {'popularity@2': [0.75], 'target_popularity': [0.375]}
    """
    quantiles = popularity_quantiles(popularity).double()
    is_item = indices >= 0
    mean_quantile = (quantiles[indices.clamp(min=0)] * is_item).sum(1) / is_item.sum(1)
    relevant = judgements.relevant()
    total, count = (
        torch.zeros(len(indices), dtype=torch.float64).index_add_(0, relevant.queries, values)
        for values in (quantiles[relevant.documents], torch.ones(len(relevant.queries), dtype=torch.float64))
    )
    return {f"popularity@{indices.shape[1]}": mean_quantile, "target_popularity": total / count}
