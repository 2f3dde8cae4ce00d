"""Norms as confidence: selective prediction (risk and coverage) and out-of-distribution detection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, as_columns, as_tensors
from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.core.dynamics.geometry import most_precise, precise_norm
from lightning_normdyn.core.embedding_codes import as_embeddings
from lightning_normdyn.core.number_checks import shown
from lightning_normdyn.core.statistics.interval import Interval, bootstrap_intervals
from lightning_normdyn.core.statistics.risk_coverage import (
    RiskCoverage,
    area_under_risk_coverage,
    risk_coverage,
    roc_areas,
)
from lightning_normdyn.core.tensor_checks import check_real_tensors
from lightning_normdyn.retrieval.search.top_k import exact_top_k

BASELINE = "max_similarity"


class Confidence(NamedTuple):
    """How good a confidence is at finding the items that go wrong.

    Attributes:
        aurc: area under the risk-coverage curve, smaller is better.
        excess: that minus the area of an oracle, which orders items by their loss; 0 is perfect.
        over_baseline: area of the baseline minus this one, paired; above 0 where this one is better.
        curve: risk at every coverage.
    """

    aurc: Interval
    excess: Interval
    over_baseline: Interval
    curve: RiskCoverage


def confidence_table(
    confidences: Mapping[str, ArrayLike],
    loss: ArrayLike,
    *,
    baseline: str = BASELINE,
    resamples: int = 1_000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> dict[str, Confidence]:
    """Compares confidences over the same items and the same resamples.

    Args:
        confidences: name to a number for each item, larger is surer, ``[n]``; see :func:`retrieval_confidences` and
            :func:`classification_confidences`.
        loss: of each item: ``1 - ndcg@10``, or whether the prediction was wrong (may be bool), ``[n]``. Items whose
            loss is NaN (queries without judgements) are left out.
        baseline: name of the confidence that the others are compared with.
        resamples: of the bootstrap over items.
        level: share of resamples inside an interval.
        generator: of random numbers, on the CPU; a fresh one with seed 0 if left out.

    Returns:
        Name to record, in the order given.

    Raises:
        ValueError: if the baseline is missing, something has not one number for each item or a loss is infinite.

    Example:
        >>> loss = torch.tensor([0.0, 0.0, 1.0, 1.0])
        >>> table = confidence_table({"max_similarity": torch.ones(4), "norm": -loss}, loss)
        >>> table["norm"].excess.value, round(table["norm"].over_baseline.value, 4)
        (0.0, 0.2917)
    """
    if not isinstance(confidences, Mapping) or not confidences:
        raise ValueError(
            f"confidences: expected one column by name at least, got {shown(confidences)}; pass a dictionary"
        )
    (loss,) = as_tensors(loss=loss)
    confidences = as_columns("confidences", confidences)
    if baseline not in confidences:
        raise ValueError(
            f"baseline: expected one of the confidences, {', '.join(confidences)}, got {shown(baseline)}; name one"
        )
    for name, confidence in confidences.items():
        if confidence.shape != loss.shape:
            raise ValueError(
                f"confidences, {name}: expected one number for each of the {len(loss)} items of loss, got "
                f"{tuple(confidence.shape)}"
            )
    loss = most_precise(loss)
    if loss.isinf().any():
        raise ValueError("loss: expected finite numbers, NaN for items to leave out, got infinite ones; cap them")
    is_known = ~loss.isnan()
    loss = loss[is_known]
    columns = {name: confidence.to(loss.device)[is_known] for name, confidence in confidences.items()}
    baseline_column = list(columns).index(baseline)

    def statistics(counts: Tensor) -> Tensor:
        areas = torch.stack(
            [area_under_risk_coverage(confidence, loss, counts) for confidence in columns.values()], dim=1
        )
        oracle = area_under_risk_coverage(-loss, loss, counts).unsqueeze(1)
        return torch.cat((areas, areas - oracle, areas[:, baseline_column : baseline_column + 1] - areas), dim=1)

    intervals = bootstrap_intervals(
        statistics, len(loss), resamples=resamples, level=level, generator=generator, width=8
    )
    k = len(columns)
    return {
        name: Confidence(intervals[i], intervals[k + i], intervals[2 * k + i], risk_coverage(confidence, loss))
        for i, (name, confidence) in enumerate(columns.items())
    }


@torch.no_grad()
def retrieval_confidences(queries: ArrayLike, documents: ArrayLike) -> dict[str, Tensor]:
    """What may tell a good ranking from a bad one before anybody judged it.

    Args:
        queries: as encoded, ``[n, d]``.
        documents: as encoded, ``[m, d]``, two at least.

    Returns:
        ``query_norm`` and ``top_document_norm`` (of the document of largest cosine), each also with ``short_`` in
        front where shorter is surer, ``max_similarity`` (largest cosine) and ``margin`` (how far the second lies
        below it), each ``[n]``.

    Raises:
        ValueError: if there are fewer than two documents or dimensions differ.

    Example:
        >>> confidences = retrieval_confidences(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 5.0]]))
        >>> {name: round(float(x), 2) for name, x in confidences.items()}
        {'query_norm': 2.0, 'short_query_norm': -2.0, 'top_document_norm': 5.0, 'short_top_document_norm': -5.0,
         'max_similarity': 0.6, 'margin': 0.6}
    """
    queries, documents = as_embeddings(queries=queries, documents=documents)
    check_real_tensors(queries=queries, documents=documents)
    if len(documents) < 2:
        raise ValueError(f"documents: expected two at least, for a margin, got {len(documents)}")
    best = exact_top_k(rescale(queries, 1.0), rescale(documents, 1.0), 2)
    first, second = best.scores.unbind(1)
    top_norms = precise_norm(documents)[best.indices[:, 0].to(documents.device)]
    return {
        **_both_ways("query_norm", precise_norm(queries)),
        **_both_ways("top_document_norm", top_norms.to(queries.device)),
        BASELINE: first,
        "margin": first - second,
    }


def classification_confidences(embeddings: ArrayLike, similarities: ArrayLike) -> dict[str, Tensor]:
    """What may tell a right class from a wrong one.

    Args:
        embeddings: as encoded, ``[n, d]``.
        similarities: with every class or prototype, ``[n, classes]``: cosines, logits or probabilities.

    Returns:
        ``norm`` and ``short_norm`` (shorter is surer), ``max_similarity`` and ``margin``, each ``[n]``.

    Raises:
        ValueError: if there are fewer than two classes or not a row for each embedding.

    Example:
        >>> confidences = classification_confidences(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.7, 0.1, 0.2]]))
        >>> {name: round(float(x), 2) for name, x in confidences.items()}
        {'norm': 5.0, 'short_norm': -5.0, 'max_similarity': 0.7, 'margin': 0.5}
    """
    embeddings, similarities = as_embeddings(embeddings=embeddings, similarities=similarities)
    check_real_tensors(embeddings=embeddings, similarities=similarities)
    if embeddings.ndim != 2:
        raise ValueError(
            f"embeddings: expected [n, d], got {tuple(embeddings.shape)}; a single one is embeddings[None]"
        )
    if similarities.ndim != 2 or similarities.shape[1] < 2 or len(similarities) != len(embeddings):
        raise ValueError(
            f"similarities: expected [{len(embeddings)}, classes] with two classes at least, one row for each of the "
            f"embeddings, got {tuple(similarities.shape)}"
        )
    first, second = similarities.detach().topk(2, dim=1).values.unbind(1)
    return {**_both_ways("norm", precise_norm(embeddings.detach())), BASELINE: first, "margin": first - second}


def _both_ways(name: str, norms: Tensor) -> dict[str, Tensor]:
    return {name: norms, f"short_{name}": -norms}


class Detection(NamedTuple):
    """How well a score tells known from unknown.

    Attributes:
        auroc: chance that a known item scores above an unknown one, 0.5 where the score says nothing.
        over_baseline: that minus the baseline's, paired.
    """

    auroc: Interval
    over_baseline: Interval


def check_finite_scores(name: str, scores: Tensor) -> None:
    """Refuses scores that put nothing in order.

    Raises:
        ValueError: naming them.
    """
    bad = int((~scores.isfinite()).sum())
    if bad:
        raise ValueError(
            f"{name}: expected finite numbers, got NaN or infinite ones for {bad} of {len(scores)} items; leave those "
            "items out"
        )


def detection_table(
    in_distribution: Mapping[str, ArrayLike],
    out_of_distribution: Mapping[str, ArrayLike],
    *,
    baseline: str = BASELINE,
    level: float = 0.95,
) -> dict[str, Detection]:
    """Compares scores by their area under the ROC curve, with DeLong's intervals.

    Args:
        in_distribution: name to scores of the items in distribution, ``[n]``, as
            :func:`classification_confidences` and ``retrieval_confidences``
            give them.
        out_of_distribution: the same names to scores of those out of distribution, ``[m]``.
        baseline: name of the score that the others are compared with.
        level: of the intervals.

    Returns:
        Name to record, in the order given.

    Raises:
        ValueError: if the names differ, the baseline is missing, or a score has not one number for each item.

    Example:
        >>> inside = {"max_similarity": torch.tensor([0.9, 0.7]), "norm": torch.tensor([2.0, 3.0])}
        >>> outside = {"max_similarity": torch.tensor([0.8, 0.6]), "norm": torch.tensor([1.0, 1.5])}
        >>> {name: detection.auroc.value for name, detection in detection_table(inside, outside).items()}
        {'max_similarity': 0.75, 'norm': 1.0}
    """
    in_distribution = as_columns("in_distribution", in_distribution)
    out_of_distribution = as_columns("out_of_distribution", out_of_distribution)
    if set(in_distribution) != set(out_of_distribution) or baseline not in in_distribution:
        raise ValueError(
            f"in_distribution, out_of_distribution: expected the same scores, the baseline {baseline!r} among them, got"
            f" {sorted(in_distribution)} and {sorted(out_of_distribution)}"
        )
    names = [baseline, *(name for name in in_distribution if name != baseline)]
    for group in (in_distribution, out_of_distribution):
        for name, scores in group.items():
            if scores.ndim != 1 or scores.shape != group[baseline].shape:
                raise ValueError(
                    f"{name}: expected one number for each of {len(group[baseline])} items, got {tuple(scores.shape)}"
                )
            check_finite_scores(name, scores)
    positives, negatives = (
        torch.stack([group[name].detach().cpu().double() for name in names])
        for group in (in_distribution, out_of_distribution)
    )
    areas, differences = roc_areas(positives, negatives, level=level)
    detections = {name: Detection(*pair) for name, *pair in zip(names, areas, differences, strict=True)}
    return {name: detections[name] for name in in_distribution}
