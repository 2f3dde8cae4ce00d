"""Mean scores of positives when there are several: an inner product with their mean, so never a matrix of pairs."""

from __future__ import annotations

import torch
from torch import Tensor


def sums_by_label(labels: Tensor, vectors: Tensor, vector_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum ``[n, d]`` and number ``[n]`` of the vectors of each class in ``labels [n]``, each of which some has."""
    classes, place = torch.cat((vector_labels, labels)).unique(return_inverse=True)
    of_vectors, of_labels = place[: len(vectors)], place[len(vectors) :]
    sums = vectors.new_zeros(len(classes), vectors.shape[1]).index_add(0, of_vectors, vectors)
    counts = torch.bincount(of_vectors, minlength=len(classes)).to(vectors.dtype)
    return sums[of_labels], counts[of_labels]


def sums_of_listed(documents: Tensor, positives: Tensor) -> tuple[Tensor, Tensor]:
    """Sum ``[n, d]`` and number ``[n]`` of each query's positives: its own document and the listed ``[n, p]``."""
    sums, counts = documents[: len(positives)], documents.new_ones(len(positives))
    for place, is_counted in zip(positives.unbind(1), distinct_positives(positives).unbind(1), strict=True):
        sums = sums + documents[place.clamp(min=0)] * is_counted[:, None]
        counts = counts + is_counted
    return sums, counts


def counts_of_class(labels: Tensor, vector_labels: Tensor) -> Tensor:
    """How many of ``vector_labels [m]`` each of ``labels [n]`` equals, ``[n]``.

    Example:
        >>> counts_of_class(torch.tensor([5, 7]), torch.tensor([7, 7, 5, -1]))
        tensor([1, 2])
    """
    classes, place = torch.cat((vector_labels, labels)).unique(return_inverse=True)
    return torch.bincount(place[: len(vector_labels)], minlength=len(classes))[place[len(vector_labels) :]]


def mean_scores_of_class(
    anchors: Tensor, partners: Tensor, labels: Tensor, vectors: Tensor, vector_labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean score of each anchor with all vectors of its class but its partner, and how many those are.

    Args:
        anchors: ``[n, d]``.
        partners: ``[n, d]``, which are among the vectors.
        labels: classes of both, ``[n]``.
        vectors: ``[m, d]``.
        vector_labels: their classes, ``[m]``.

    Returns:
        Both ``[n]``; a mean of nothing is 0.

    Example:
        >>> labels, vectors = torch.tensor([1]), torch.tensor([[1.0], [3.0], [5.0]])
        >>> mean_scores_of_class(torch.tensor([[2.0]]), vectors[:1], labels, vectors, labels.expand(3))
        (tensor([8.]), tensor([2.]))
    """
    sums, counts = sums_by_label(labels, vectors, vector_labels)
    numbers = counts - 1
    return (anchors * (sums - partners)).sum(-1) / numbers.clamp(min=1), numbers


def scores_above_class(
    scores: Tensor, anchors: Tensor, partners: Tensor, labels: Tensor, vectors: Tensor, vector_labels: Tensor
) -> Tensor:
    """By how much the score of each anchor with its partner is above its mean score with all vectors of its class.

    Args:
        scores: of anchors and partners, ``[n]``.
        anchors: ``[n, d]``.
        partners: ``[n, d]``, which are among the vectors.
        labels: classes of both, ``[n]``.
        vectors: ``[m, d]``.
        vector_labels: their classes, ``[m]``.

    Returns:
        ``[n]``, linear in anchors and vectors; zero to the last bit where the partner is all there is of a class.

    Example:
        >>> one = torch.tensor([1])
        >>> anchor, vectors = torch.tensor([[2.0]]), torch.tensor([[1.0], [3.0]])
        >>> scores_above_class(torch.tensor([2.0]), anchor, vectors[:1], one, vectors, one.expand(2))
        tensor([-2.])
    """
    sums, counts = sums_by_label(labels, vectors, vector_labels)
    return ((counts - 1) * scores - (anchors * (sums - partners)).sum(-1)) / counts


def distinct_positives(positives: Tensor) -> Tensor:
    """Which entries of ``[n, p]`` further positives count: not the query's own document ``i``, and each once."""
    counts = (positives >= 0) & (positives != torch.arange(len(positives), device=positives.device)[:, None])
    for column in range(1, positives.shape[1]):
        counts[:, column] &= (positives[:, :column] != positives[:, column, None]).all(1)
    return counts


def counts_of_listed(positives: Tensor) -> tuple[Tensor, Tensor]:
    """How many positives each query has, and each query's document, itself among them; both ``[n]``.

    Example:
        >>> counts_of_listed(torch.tensor([[1, 1], [-1, 1], [5, 0]]))
        (tensor([2, 1, 3]), tensor([2, 2, 1]))
    """
    counts, n = distinct_positives(positives), len(positives)
    of_queries = 1 + counts.sum(1)
    places = torch.where(counts & (positives < n), positives, n).flatten()
    return of_queries, 1 + torch.bincount(places, minlength=n + 1)[:n]


def scores_above_listed(scores: Tensor, anchors: Tensor, documents: Tensor, positives: Tensor) -> tuple[Tensor, Tensor]:
    """By how much the score of each pair is above the mean of its query, and of its document, with its positives.

    Args:
        scores: of query i and document i, ``[n]``.
        anchors: queries ``[n, d]``.
        documents: ``[m, d]``, document i being a positive of query i in any case.
        positives: numbers of further ones, ``[n, p]``, -1 for none.

    Returns:
        Both ``[n]``, linear in queries and documents; zero to the last bit where a pair is alone.

    Example:
        >>> queries, documents = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [3.0]])
        >>> scores_above_listed(torch.tensor([1.0, 6.0]), queries, documents, torch.tensor([[1], [-1]]))
        (tensor([-1.,  0.]), tensor([0.0000, 1.5000]))
    """
    n = len(anchors)
    sums_of_documents, query_counts = sums_of_listed(documents, positives)
    sums_of_queries, document_counts = torch.zeros_like(anchors), documents.new_ones(n)
    for place, counts in zip(positives.unbind(1), distinct_positives(positives).unbind(1), strict=True):
        of_query = counts & (place < n)
        inside = place.clamp(0, n - 1)
        sums_of_queries = sums_of_queries.index_add(0, inside, anchors * of_query[:, None])
        document_counts = document_counts.index_add(0, inside, of_query.to(document_counts.dtype))
    of_queries = (anchors * (sums_of_documents - documents[:n])).sum(-1)
    of_documents = (documents[:n] * sums_of_queries).sum(-1)
    return (
        ((query_counts - 1) * scores - of_queries) / query_counts,
        ((document_counts - 1) * scores - of_documents) / document_counts,
    )
