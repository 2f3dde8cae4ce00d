"""The score of two embeddings: their inner product over a power of each of their norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.first_derivative import first_derivative_only
from lightning_normdyn.core.dynamics.geometry import at_least_float32, most_precise_dtype
from lightning_normdyn.core.number_checks import check_finite_number
from lightning_normdyn.core.tensor_checks import check_real_tensors, check_tensors

NORMALIZATIONS: dict[str, tuple[float, float]] = {
    "cosine": (1.0, 1.0),
    "dot": (0.0, 0.0),
    "qnorm": (1.0, 0.0),
    "dnorm": (0.0, 1.0),
}
"""Name to the exponents (query, document) of the norms that a score is divided by (arXiv 2602.09229, Table 1)."""

Exponent = float | Tensor


def similarity_scores(queries: Tensor, documents: Tensor, gamma_query: Exponent, gamma_document: Exponent) -> Tensor:
    """Scores every query against every document: ``<q, d> / (|q|^gamma_query · |d|^gamma_document)``.

    Exponent 1 on a side throws that side's norm away, 0 keeps it (arXiv 2602.09229;
    docs/theory.md, "Scores with an exponent of the norm"). Computed in float32 at
    least, whatever the precision of the embeddings and of a surrounding autocast.

    Args:
        queries: ``[n, d]``.
        documents: ``[m, d]``.
        gamma_query: a number, or a tensor without dimensions that may carry gradient.
        gamma_document: the same for the other side; :data:`NORMALIZATIONS` has the usual pairs.

    Returns:
        Scores ``[n, m]``, before any temperature. A zero vector scores 0 with everything.

    Raises:
        ValueError: if the embeddings do not fit together, or an exponent is no finite number.

    Example:
        >>> queries, documents = torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0], [4.0, -3.0]])
        >>> similarity_scores(queries, documents, *NORMALIZATIONS["cosine"])
        tensor([[1., 0.]])
        >>> similarity_scores(queries, documents, *NORMALIZATIONS["qnorm"])
        tensor([[10.,  0.]])
    """
    check_tensors(queries=queries, documents=documents)
    if not isinstance(gamma_query, Tensor):
        check_finite_number(gamma_query=gamma_query)
    if not isinstance(gamma_document, Tensor):
        check_finite_number(gamma_document=gamma_document)
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
        raise ValueError(
            f"documents: expected [m, d] with the d of queries, {tuple(queries.shape)}, got {tuple(documents.shape)}"
        )
    if not (queries.is_floating_point() and documents.is_floating_point()):
        check_real_tensors(queries=queries, documents=documents)
    wide = torch.promote_types(torch.promote_types(queries.dtype, documents.dtype), torch.float32)
    with torch.autocast(queries.device.type, enabled=False):
        scores: Tensor = rescale(queries, gamma_query).to(wide) @ rescale(documents, gamma_document).to(wide).T
        return scores


def rescale(x: Tensor, exponent: Exponent, scale: Exponent = 1.0) -> Tensor:
    """Divides embeddings by a power of their norm: ``scale · x / |x|^exponent``.

    A zero vector stays zero, and lets the gradient through as if its norm were one.

    Args:
        x: embeddings ``[..., d]``.
        exponent: 1 leaves the direction alone, 0 the embedding as it is; a number or a tensor without dimensions.
        scale: what to multiply with; a number or a tensor without dimensions.

    Returns:
        ``[..., d]`` in float32 at least, with exact gradients for every argument that wants one.

    Example:
        >>> rescale(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 0.5, scale=2.0)
        tensor([[2.6833, 3.5777],
                [0.0000, 0.0000]])
    """
    rescaled: Tensor = _Rescale.apply(x, exponent, scale)
    return rescaled


class _Rescale(torch.autograd.Function):
    """Written by hand to keep nothing but ``x`` and a number a row: a batch of embeddings may be as large as memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, exponent: Exponent, scale: Exponent) -> Tensor:
        wide = at_least_float32(x)
        # In float64, because a float32 square over- or underflows from 1e19 up and 1e-19 down.
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True, dtype=most_precise_dtype(x.device))
        norm = norm.where(norm > 0, 1)
        power = norm.pow(-exponent)
        ctx.save_for_backward(x, norm, power, *(value for value in (exponent, scale) if isinstance(value, Tensor)))
        ctx.numbers = [None if isinstance(value, Tensor) else value for value in (exponent, scale)]
        rescaled: Tensor = wide * (power * scale).to(wide.dtype)
        return rescaled

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, norm, power, *tensors = ctx.saved_tensors
        exponent, scale = (tensors.pop(0) if number is None else number for number in ctx.numbers)
        wants_x, wants_exponent, wants_scale = ctx.needs_input_grad
        direction = at_least_float32(x) / norm.to(gradient.dtype)
        radial = (gradient * direction).sum(-1, keepdim=True)
        share = radial * power * norm  # of d(loss)/d(scale), by row
        of_exponent = -(share * norm.log() * scale).sum().to(gradient.dtype) if wants_exponent else None
        of_scale = share.sum().to(gradient.dtype) if wants_scale else None
        if not wants_x:
            return None, of_exponent, of_scale
        factor = (power * scale).to(gradient.dtype)
        of_x = direction.mul_((-exponent * radial).to(gradient.dtype)).add_(gradient).mul_(factor)
        return of_x.to(x.dtype), of_exponent, of_scale
