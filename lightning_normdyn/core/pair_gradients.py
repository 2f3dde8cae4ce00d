"""Derivatives of a contrastive log-likelihood and of a score at pairs of embeddings, in closed form."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.geometry import most_precise

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
    query_exponent: float,
    document_exponent: float,
    *,
    temperature: float,
    symmetric: bool,
    pairs: int,
) -> PairGradients:
    """Derivatives in closed form at evenly spaced pairs; arguments as for :func:`fisher_condition_number`."""
    _check(queries, documents, temperature)
    places = torch.linspace(0, len(queries) - 1, min(pairs, len(queries)), dtype=torch.float64).round().long()
    places = places.to(queries.device)
    queries, documents = most_precise(queries.detach()), most_precise(documents.detach())
    rows = _embedding_gradients(queries, documents, places, query_exponent, document_exponent, temperature)
    if symmetric:
        back = _embedding_gradients(documents, queries, places, document_exponent, query_exponent, temperature)
        rows = torch.cat((rows, back.roll(back.shape[1] // 2, dims=1)))  # the document's half comes first in it
    return PairGradients(rows, _polar_gradients(queries[places], documents[places], query_exponent, document_exponent))


def _check(queries: Tensor, documents: Tensor, temperature: float) -> None:
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
        raise ValueError(
            f"documents: expected [m, d] with the d of queries, {tuple(queries.shape)}, got {tuple(documents.shape)}"
        )
    if not 2 <= len(queries) <= len(documents):
        raise ValueError(
            f"documents: expected one for each of at least two queries, got {len(documents)} for {len(queries)}; "
            "document i belongs to query i"
        )
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above zero, got {temperature}; 0.05 is usual")


def _embedding_gradients(
    queries: Tensor, candidates: Tensor, places: Tensor, query_exponent: float, document_exponent: float, tau: float
) -> Tensor:
    """Of ``log p(d_i | q_i)`` by ``[q_i; d_i]`` at some places, ``[places, 2d]``, a part of them at a time."""
    parts = places.split(_CHUNK)
    return torch.cat(
        [_some_gradients(queries[own], candidates, own, query_exponent, document_exponent, tau) for own in parts]
    )


def _some_gradients(
    queries: Tensor, candidates: Tensor, own: Tensor, query_exponent: float, document_exponent: float, tau: float
) -> Tensor:
    """Linear in what the softmax leaves of the candidates."""
    documents = candidates[own]
    scaled_queries, scaled = _rescaled(queries, query_exponent), _rescaled(candidates, document_exponent)
    log_p = (scaled_queries @ scaled.T / tau).log_softmax(1)
    surprise = -log_p.gather(1, own.unsqueeze(1)).expm1()  # 1 - p, exact where p is close to 1
    pull = scaled[own] - log_p.exp() @ scaled
    by_query = _through_rescaling(pull, queries, query_exponent)
    by_document = _through_rescaling(surprise * scaled_queries, documents, document_exponent)
    return torch.cat((by_query, by_document), dim=1) / tau


def _polar_gradients(queries: Tensor, documents: Tensor, query_exponent: float, document_exponent: float) -> Tensor:
    """Of ``s = |q|^(1 - gamma_q)·|d|^(1 - gamma_d)·cos(angle)`` by both norms and the angle, ``[n, 3]``."""
    (z_q, norm_q), (z_d, norm_d) = _polar(queries), _polar(documents)
    cos = (z_q * z_d).sum(1, keepdim=True)
    sin = (z_q - cos * z_d).norm(dim=1, keepdim=True)
    length = norm_q ** (1 - query_exponent) * norm_d ** (1 - document_exponent)
    by_query, by_document = (
        (1 - query_exponent) * length * cos / norm_q,
        (1 - document_exponent) * length * cos / norm_d,
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
