"""How well conditioned the training signal of a normalisation is: the condition number of its Fisher information."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from einops import repeat
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.core.number_checks import check_count, check_finite_number, check_flag, check_positive
from lightning_normdyn.core.tensor_checks import check_real_tensors

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
    gamma_query: float,
    gamma_document: float,
    *,
    temperature: float = 0.05,
    symmetric: bool = True,
    pairs: int = 1_000,
) -> FisherCondition:
    """Condition number of the Fisher information of InfoNCE at pairs of embeddings.

    ``log p(d_i | q_i) = s_ii/tau - log sum_j exp(s_ij/tau)``, ``s_ij = <q_i, d_j> / (|q_i|^gq·|d_j|^gd)``, with
    ``gq`` for ``gamma_query`` and ``gd`` for ``gamma_document``.
    The source does not say which derivatives it takes, so every reading is returned under its own name (Feng, Watanabe
    2026, arXiv 2602.09229; docs/theory.md, "Scores with an exponent of the norm").

    Args:
        queries: ``[n, d]``, as the encoder gives them, before any normalisation.
        documents: ``[m >= n, d]``; document i belongs to query i, all of them are candidates of every query.
        gamma_query: exponent of the query's norm.
        gamma_document: that of the document's; :data:`~lightning_normdyn.core.NORMALIZATIONS` has the usual pairs.
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
            gamma_query,
            gamma_document,
            temperature=temperature,
            symmetric=symmetric,
            pairs=pairs,
        )
    )


def condition_of(gradients: PairGradients) -> FisherCondition:
    """All forms of the condition number, every pair counted once."""
    n = len(gradients.polar)
    counts = gradients.polar.new_ones(1, n)
    if not bool(gradients.embeddings.isfinite().all()):
        return FisherCondition(**dict.fromkeys(get_args(FisherForm), math.nan), n=n)
    forms = {form: float(log_kappa(gradients, counts, form)) for form in get_args(FisherForm)}
    return FisherCondition(**forms, n=n)


def log_kappa(gradients: PairGradients, counts: Tensor, form: FisherForm) -> Tensor:
    """``log10 kappa`` of every resample ``[b, n]``, ``[b]``."""
    share = counts / counts.sum(1, keepdim=True)
    if form != "polar":  # both directions of a pair are drawn together
        directions = len(gradients.embeddings) // len(gradients.polar)
        share = repeat(share, "b n -> b (directions n)", directions=directions)
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


_CHUNK = 256


class PairGradients(NamedTuple):
    """Derivatives at every pair, ``n`` rows in float64.

    Attributes:
        embeddings: of the log-likelihood by ``[q_i; d_i]``, ``[n, 2d]``; ``[2n, 2d]`` of both directions.
        polar: of the score by ``|q|``, ``|d|`` and the angle, ``[n, 3]``.
    """

    embeddings: Tensor
    polar: Tensor


def pair_gradients(
    queries: Tensor,
    documents: Tensor,
    gamma_query: float,
    gamma_document: float,
    *,
    temperature: float,
    symmetric: bool,
    pairs: int,
) -> PairGradients:
    """Derivatives in closed form at evenly spaced pairs; arguments as for :func:`fisher_condition_number`."""
    _check(queries, documents, temperature)
    check_finite_number(gamma_query=gamma_query, gamma_document=gamma_document)
    check_flag(symmetric=symmetric)
    check_count(pairs=pairs, hint="1000 is usual")
    places = torch.linspace(0, len(queries) - 1, min(pairs, len(queries)), dtype=torch.float64).round().long()
    places = places.to(queries.device)
    queries, documents = most_precise(queries.detach()), most_precise(documents.detach())
    rows = _embedding_gradients(queries, documents, places, gamma_query, gamma_document, temperature)
    if symmetric:
        back = _embedding_gradients(documents, queries, places, gamma_document, gamma_query, temperature)
        rows = torch.cat((rows, back.roll(back.shape[1] // 2, dims=1)))  # the document's half comes first in it
    return PairGradients(rows, _polar_gradients(queries[places], documents[places], gamma_query, gamma_document))


def _check(queries: Tensor, documents: Tensor, temperature: float) -> None:
    check_real_tensors(queries=queries, documents=documents)
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
        raise ValueError(
            f"documents: expected [m, d] with the d of queries, {tuple(queries.shape)}, got {tuple(documents.shape)}"
        )
    if not 2 <= len(queries) <= len(documents):
        raise ValueError(
            f"documents: expected one for each of at least two queries, got {len(documents)} for {len(queries)}; "
            "document i belongs to query i"
        )
    for name, side in {"queries": queries, "documents": documents}.items():
        if not side.isfinite().all():
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinite ones; leave such pairs out")
    check_positive(temperature=temperature, hint="0.05 is usual")


def _embedding_gradients(
    queries: Tensor, candidates: Tensor, places: Tensor, gamma_query: float, gamma_document: float, tau: float
) -> Tensor:
    """Of ``log p(d_i | q_i)`` by ``[q_i; d_i]`` at some places, ``[places, 2d]``, a part of them at a time."""
    chunks = places.split(_CHUNK)
    return torch.cat(
        [_some_gradients(queries[rows], candidates, rows, gamma_query, gamma_document, tau) for rows in chunks]
    )


def _some_gradients(
    queries: Tensor, candidates: Tensor, rows: Tensor, gamma_query: float, gamma_document: float, tau: float
) -> Tensor:
    """Linear in what the softmax leaves of the candidates."""
    documents = candidates[rows]
    scaled_queries, scaled_candidates = _rescaled(queries, gamma_query), _rescaled(candidates, gamma_document)
    log_p = (scaled_queries @ scaled_candidates.T / tau).log_softmax(1)
    surprise = -log_p.gather(1, rows.unsqueeze(1)).expm1()  # 1 - p, exact where p is close to 1
    pull = scaled_candidates[rows] - log_p.exp() @ scaled_candidates
    by_query = _through_rescaling(pull, queries, gamma_query)
    by_document = _through_rescaling(surprise * scaled_queries, documents, gamma_document)
    return torch.cat((by_query, by_document), dim=1) / tau


def _polar_gradients(queries: Tensor, documents: Tensor, gamma_query: float, gamma_document: float) -> Tensor:
    """Of ``s = |q|^(1 - gamma_query)·|d|^(1 - gamma_document)·cos(angle)`` by both norms and the angle, ``[n, 3]``."""
    (z_q, norm_q), (z_d, norm_d) = _polar(queries), _polar(documents)
    cos = (z_q * z_d).sum(1, keepdim=True)
    sin = (z_q - cos * z_d).norm(dim=1, keepdim=True)
    length = norm_q ** (1 - gamma_query) * norm_d ** (1 - gamma_document)
    by_query, by_document = (
        (1 - gamma_query) * length * cos / norm_q,
        (1 - gamma_document) * length * cos / norm_d,
    )
    return torch.cat((by_query, by_document, -length * sin), dim=1)


def _polar(x: Tensor) -> tuple[Tensor, Tensor]:
    """Direction and norm; a zero vector has none and one."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    norm = norm.where(norm > 0, 1)
    return x / norm, norm


def _rescaled(x: Tensor, exponent: float) -> Tensor:
    return x / _polar(x)[1] ** exponent


def _through_rescaling(gradient: Tensor, x: Tensor, exponent: float) -> Tensor:
    """The gradient at ``x`` of one at ``x/|x|^exponent``."""
    direction, norm = _polar(x)
    return (gradient - exponent * (gradient * direction).sum(1, keepdim=True) * direction) / norm**exponent
