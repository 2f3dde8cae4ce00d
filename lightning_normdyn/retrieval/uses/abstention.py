"""Norm as uncertainty with a guarantee: R-AUROC, and thresholds below which a query gets no answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, as_columns, as_tensor, as_tensors
from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.core.number_checks import check_share
from lightning_normdyn.core.statistics.directions import finite_rows
from lightning_normdyn.core.statistics.interval import check_level
from lightning_normdyn.core.tensor_checks import check_columns
from lightning_normdyn.retrieval.search.top_k import exact_top_k
from lightning_normdyn.retrieval.uses.confidence import Detection, check_finite_scores, detection_table

_RANKS = 20
"""Thresholds that are tried, at equal steps of the share of queries answered."""


def recall_auroc(
    confidences: Mapping[str, ArrayLike], embeddings: ArrayLike, labels: ArrayLike, *, level: float = 0.95
) -> dict[str, Detection]:
    """R-AUROC: how well a confidence tells whether an item's nearest other item, by cosine, has its label.

    The measure of the URL benchmark (Kirchhof et al. 2023, arXiv 2307.03810): area under the ROC curve of the
    confidence as a score for Recall@1 being right.

    Args:
        confidences: name to a number for each item, larger is surer, ``[n]``; the first is what others are compared
            with. See :func:`~lightning_normdyn.retrieval.classification_confidences`.
        embeddings: of the items, ``[n, d]``.
        labels: class of each item, integers ``[n]``.
        level: of DeLong's intervals.

    Returns:
        Name to area and its difference to the first's, both with intervals; NaN where every nearest item is right, or
        none is.

    Raises:
        ValueError: if there are fewer than two items, or not one number and one label for each.

    Example:
        >>> x = torch.tensor([[2.0, 0.1], [2.0, 0.0], [0.0, 1.0], [0.1, 0.9], [0.2, 0.8]])
        >>> labels = torch.tensor([0, 0, 1, 1, 2])
        >>> recall_auroc({"norm": x.norm(dim=1)}, x, labels)["norm"].auroc.value
        1.0
    """
    vectors, (classes,) = finite_rows("embeddings", embeddings), as_tensors(labels=labels)
    columns = as_columns("confidences", confidences)
    if len(vectors) < 2:
        raise ValueError(f"embeddings: expected [n, d] of two items at least, got {tuple(vectors.shape)}")
    _check_labels(classes, len(vectors))
    check_columns("confidences", columns, len(vectors))
    if not columns:
        raise ValueError("confidences: expected one column by name at least, got none; norms are one")
    for name, column in columns.items():
        check_finite_scores(f"confidences[{name!r}]", column)
    directions, items = rescale(vectors.detach(), 1.0), torch.arange(len(vectors))
    nearest = exact_top_k(directions, directions, 1, excluded_pairs=(items, items)).indices.squeeze(1).cpu()
    is_right = classes.cpu()[nearest] == classes.cpu()
    right, wrong = (
        {name: column.detach().cpu()[mask] for name, column in columns.items()} for mask in (is_right, ~is_right)
    )
    return detection_table(right, wrong, baseline=next(iter(columns)), level=level)


def _check_labels(labels: Tensor, items: int) -> None:
    """Refuses what is not one whole number an item, with the way to make it so."""
    expectation = f"labels: expected an integer for each of {items} items, got {labels.dtype} {tuple(labels.shape)}"
    if labels.shape != (items,):
        raise ValueError(f"{expectation}; pass one column, with a label for each row of embeddings")
    if labels.is_complex():
        raise ValueError(f"{expectation}; number the classes from 0 on")
    if labels.is_floating_point():
        broken_count = int((labels != labels.round()).sum())  # NaN differs from itself
        way = f"{broken_count:,} of {items} NaN or no whole number: leave those items out, or number the classes"
        raise ValueError(f"{expectation}; {way if broken_count else 'pass labels.long()'}")


def conformal_threshold(confidence: ArrayLike, *, coverage: float = 0.9) -> float:
    """The confidence from which to answer so that queries like these are answered with a stated probability.

    Split conformal: of ``n`` calibration queries the ``k``-th lowest confidence, ``k = floor((n + 1)·(1 - coverage))``.
    A further query that is exchangeable with them has its confidence at or above it with a probability of
    ``coverage`` at least, over the draw of all ``n + 1``, whatever the distribution and for any ``n`` (Vovk, Gammerman,
    Shafer 2005). Pass the confidences of queries that do have a right answer: these are then not sent away. For the
    other side pass minus the confidences of queries that have no right answer: a share ``coverage`` of such, at least,
    is sent away if answers are given where ``confidence > -threshold`` alone.

    Args:
        confidence: of queries that had no part in training or choosing the confidence, larger is surer, ``[n]``.
        coverage: probability that a further such query is answered.

    Returns:
        The threshold; answer where ``confidence >= threshold``. Minus infinity, which answers all, where ``n`` is
        below ``1 / (1 - coverage) - 1``: so few can promise nothing less.

    Raises:
        ValueError: if confidences are not finite ``[n]``, or the coverage is no share.

    Example:
        >>> conformal_threshold(torch.arange(1.0, 20.0), coverage=0.9)
        2.0
        >>> conformal_threshold(torch.arange(1.0, 9.0), coverage=0.9)
        -inf
    """
    check_share(coverage=coverage, hint="0.9 is usual")
    ordered = _finite("confidence", as_tensor("confidence", confidence)).sort().values
    k = math.floor((len(ordered) + 1) * (1 - coverage) + 1e-9)
    return float(ordered[k - 1]) if k else -math.inf


class Abstention(NamedTuple):
    """From which confidence on to answer.

    Attributes:
        threshold: answer where the confidence is above it, and not at it; minus infinity to answer all, infinity where
            no answers can be promised to be as good as asked for.
        answered: share of the calibration queries that are answered.
        risk: their mean loss; NaN where none is answered.
    """

    threshold: float
    answered: float
    risk: float


def abstention_table(
    confidences: Mapping[str, ArrayLike], loss: ArrayLike, *, risk: float, level: float = 0.95
) -> dict[str, Abstention]:
    """Thresholds from which answers are as good as asked for, with a stated probability, for each confidence.

    With probability ``level`` over the calibration queries, the mean loss of answered queries is ``risk`` at most in
    further ones of the same distribution, for whichever confidence is taken: the table may be used to choose one, such
    as that with the largest share answered. Selective prediction with guaranteed risk (Geifman, El-Yaniv 2017): 20
    thresholds at fixed ranks of the confidence, and queries above each tested against ``risk``, by the exact
    binomial tail where all losses are 0 or 1, by Hoeffding's and Bentkus' bounds where some lie between (Bates et al.
    2021); levels are divided by the number of thresholds and of confidences.

    Args:
        confidences: name to a number for each query, larger is surer, ``[n]``; see
            :func:`~lightning_normdyn.retrieval.retrieval_confidences`.
        loss: of each query, from 0 to 1: ``1 - ndcg@10``, or whether the first document was wrong (may be bool).
        risk: mean loss of answered queries that is not to be passed.
        level: probability that it is not.

    Returns:
        Name to record, in the order given.

    Raises:
        ValueError: if there is not one finite number for each query, a loss is no share, or there are no columns.

    Example:
        >>> confidence = torch.linspace(0, 1, 200)
        >>> table = abstention_table({"norm": confidence}, confidence < 0.5, risk=0.1)
        >>> round(table["norm"].threshold, 2), table["norm"].answered, table["norm"].risk
        (0.5, 0.5, 0.0)
    """
    check_share(risk=risk, hint="0.1 lets one in ten answers be wrong")
    check_level(level)
    losses, columns = _finite("loss", as_tensor("loss", loss)), as_columns("confidences", confidences)
    check_columns("confidences", columns, len(losses), what="queries")
    if not columns:
        raise ValueError("confidences: expected one column by name at least, got none; retrieval_confidences has some")
    if ((losses < 0) | (losses > 1)).any():
        raise ValueError("loss: expected shares from 0 to 1, got others; divide by the largest loss there can be")
    error = (1 - level) / _RANKS / len(columns)
    return {
        name: _abstention(_finite(f"confidences[{name!r}]", column), losses, risk, error)
        for name, column in columns.items()
    }


def _abstention(confidence: Tensor, loss: Tensor, risk: float, error: float) -> Abstention:
    """The lowest of the thresholds above which the risk is tested to be low enough.

    Given that a query of fixed rank has the confidence ``c``, those above ``c`` are independent draws from all that
    lie above it, so that the test of each threshold is exact however the confidence is distributed.
    """
    ordered = confidence.sort().values
    is_binary = bool(((loss == 0) | (loss == 1)).all())
    for step in range(_RANKS):
        rank = step * len(ordered) // _RANKS  # queries below the threshold, the one at the rank included
        bound = float(ordered[rank - 1]) if rank else -math.inf
        answered = loss[confidence > bound]
        if len(answered) and risk_p_value(answered, risk, is_binary=is_binary) <= error:
            return Abstention(bound, len(answered) / len(loss), float(answered.mean()))
    return Abstention(math.inf, 0.0, math.nan)


def risk_p_value(loss: Tensor, risk: float, *, is_binary: bool) -> float:
    """Probability of a mean loss as low as this or lower, at most, if the expected one were above ``risk``.

    Args:
        loss: independent draws from 0 to 1, float64 ``[n]``.
        risk: the expected loss under test.
        is_binary: whether losses can only be 0 or 1, so that the exact test holds.

    Example:
        >>> round(risk_p_value(torch.zeros(10, dtype=torch.float64), 0.5, is_binary=True), 6)
        0.000977
    """
    n, mean = len(loss), float(loss.mean())
    if is_binary:
        return _binomial_tail(round(float(loss.sum())), n, risk)
    bentkus = math.e * _binomial_tail(math.ceil(n * mean - 1e-9), n, risk)
    if mean >= risk:
        return min(1.0, bentkus)
    divergence = (mean * math.log(mean / risk) if mean else 0.0) + (1 - mean) * math.log((1 - mean) / (1 - risk))
    return min(math.exp(-n * divergence), bentkus, 1.0)


def _binomial_tail(successes: int, n: int, probability: float) -> float:
    """Probability of so many successes or fewer in ``n`` trials."""
    k = torch.arange(successes + 1, dtype=torch.float64)
    size = torch.tensor(float(n), dtype=torch.float64)
    choices = torch.lgamma(size + 1) - torch.lgamma(k + 1) - torch.lgamma(size - k + 1)
    return min(1.0, float((choices + k * math.log(probability) + (n - k) * math.log1p(-probability)).exp().sum()))


def _finite(name: str, column: Tensor) -> Tensor:
    """A column in float64.

    Raises:
        ValueError: if it is none, or not finite.
    """
    if column.ndim != 1 or not len(column) or not column.isfinite().all():
        raise ValueError(
            f"{name}: expected a finite number for each query, [n], got {tuple(column.shape)}"
            f"{', some NaN or infinite; leave those out' if column.ndim == 1 and len(column) else ''}"
        )
    return column.detach().cpu().double()
