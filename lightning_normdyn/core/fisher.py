"""How well conditioned the training signal of a normalisation is: the condition number of its Fisher information."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lightning_normdyn.core.pair_gradients import PairGradients, pair_gradients

FisherForm = Literal["eigenvalues", "diagonal", "polar"]


class FisherCondition(NamedTuple):
    """``log10 kappa``, kappa being the largest over the smallest non-zero entry, in three forms. Plain numbers.

    Attributes:
        eigenvalues: of the mean of ``g·g^T``, ``g = d log p(d_i | q_i) / d [q_i; d_i]``, ``[2d, 2d]``: the same in
            every basis. With fewer than 2d pairs the smallest one says how many pairs there were.
        diagonal: of the mean of ``g²``, coordinate by coordinate, as the paper words it; depends on the basis.
        polar: of the mean squared derivatives of the score of a pair by ``|q|``, ``|d|`` and the angle between them:
            free of dimension and temperature; rises with the norms, which an angle is compared with.
        n: pairs that entered.
    """

    eigenvalues: float
    diagonal: float
    polar: float
    n: int


def fisher_condition_number(
    queries: Tensor,
    documents: Tensor,
    query_exponent: float,
    document_exponent: float,
    *,
    temperature: float = 0.05,
    symmetric: bool = True,
    pairs: int = 1_000,
) -> FisherCondition:
    """Condition number of the Fisher information of InfoNCE at pairs of embeddings.

    ``log p(d_i | q_i) = s_ii/tau - log sum_j exp(s_ij/tau)``, ``s_ij = <q_i, d_j> / (|q_i|^gamma_q·|d_j|^gamma_d)``.
    The source does not say which derivatives it takes, so every reading is returned under its own name (Feng, Watanabe
    2026, arXiv 2602.09229; theory: the 2x2 normalisation grid).

    Args:
        queries: ``[n, d]``, as the encoder gives them, before any normalisation.
        documents: ``[m >= n, d]``; document i belongs to query i, all of them are candidates of every query.
        query_exponent: ``gamma_q``.
        document_exponent: ``gamma_d``; :data:`~lightning_normdyn.core.NORMALIZATIONS` has the usual pairs.
        temperature: ``tau``, as in training.
        symmetric: average over ``log p(d_i | q_i)`` and ``log p(q_i | d_i)``, as CLIP's loss does. With the first
            alone, DNorm tends to have the smaller number even where queries and documents are alike.
        pairs: at most so many queries are looked at, evenly spaced.

    Returns:
        The three forms; NaN where every derivative is zero. Time grows with ``pairs·m·d + pairs·d² + d³``.

    Raises:
        ValueError: if the embeddings do not fit together, or the temperature is not above zero.

    Example:
        >>> from lightning_normdyn.core import NORMALIZATIONS
        >>> queries, documents = torch.randn(2, 64, 4, generator=torch.Generator().manual_seed(0))
        >>> found = fisher_condition_number(queries, documents, *NORMALIZATIONS["qnorm"], temperature=1.0)
        >>> [round(value, 3) for value in found]
        [0.67, 0.468, 1.314, 64]
    """
    return condition_of(
        pair_gradients(
            queries,
            documents,
            query_exponent,
            document_exponent,
            temperature=temperature,
            symmetric=symmetric,
            pairs=pairs,
        )
    )


def condition_of(gradients: PairGradients) -> FisherCondition:
    """All forms of the condition number, every pair counted once."""
    n = len(gradients.polar)
    once = gradients.polar.new_ones(1, n)
    if not bool(gradients.embeddings.isfinite().all()):
        return FisherCondition(**dict.fromkeys(get_args(FisherForm), math.nan), n=n)
    forms = {form: float(log_kappa(gradients, once, form)) for form in get_args(FisherForm)}
    return FisherCondition(**forms, n=n)


def log_kappa(gradients: PairGradients, counts: Tensor, form: FisherForm) -> Tensor:
    """``log10 kappa`` of every resample ``[b, n]``, ``[b]``."""
    share = counts / counts.sum(1, keepdim=True)
    if form != "polar":  # both directions of a pair are drawn together
        share = share.repeat(1, len(gradients.embeddings) // len(gradients.polar))
    epsilon = torch.finfo(share.dtype).eps
    if form == "eigenvalues":
        g = gradients.embeddings
        # Singular values of g, since the product g^T g would round eigenvalues below 1e-16 of the largest away.
        singular = torch.stack([torch.linalg.svdvals(g * row.sqrt().unsqueeze(1)) for row in share])
        return 2 * _log_ratio(singular, epsilon * max(g.shape))
    squares = (gradients.embeddings if form == "diagonal" else gradients.polar).square()
    # A mean of squares has a relative error only: what rounding leaves of a zero is the square of an epsilon.
    return _log_ratio(share @ squares, (epsilon * squares.shape[1]) ** 2)


def _log_ratio(values: Tensor, tolerance: float) -> Tensor:
    """``log10`` of the largest over the smallest value above tolerance, of every row."""
    largest = values.amax(1, keepdim=True)
    smallest = values.where(values > tolerance * largest, torch.inf).amin(1)
    ratio = largest.squeeze(1).log10() - smallest.log10()
    return ratio.where(ratio.isfinite(), torch.nan)
