"""``Factored``: rescaled embeddings as unscaled rows and one factor a row, which saves a scaled copy of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.first_derivative import first_derivative_only
from lightning_normdyn.core.contrast.similarity import Exponent

_STRIP = 2**22  # numbers that are widened together


class Factored(NamedTuple):
    """What stands for ``factors · rows``, which would be a wide copy of the embeddings.

    Attributes:
        rows: embeddings as they came, ``[n, d]``; detached.
        factors: ``[n]``, float32; detached.
        place: where the gradient of ``rows`` goes, given the factors: ``[n, d]`` in float32 without memory of its own.
            Through ``rows`` it would be rounded before the gradient of the factors takes its radial part away.
    """

    rows: Tensor
    factors: Tensor
    place: Tensor


def factored(x: Tensor, exponent: Exponent, scale: Exponent = 1.0) -> Factored:
    """``scale · x / |x|^exponent``, with nothing computed but ``scale / |x|^exponent``.

    The gradient comes as ``g = dL/dx`` with the factors held constant. As the loss sees the factors only times their
    rows, ``f dL/df = <g, x>``, so that one row of ``g`` is all that the rest takes: ``dL/dx = g - exponent·<g, z> z``
    with ``z = x/|x|``, worked out in float32 and rounded once. A zero vector has a norm of one.

    Args:
        x: embeddings ``[n, d]`` in half precision, or in float32.
        exponent: 1 leaves the direction alone, 0 the embedding as it is; a number or a tensor without dimensions.
        scale: what to multiply with; a number or a tensor without dimensions.

    Returns:
        Rows, factors, and the place for their gradient, from where every argument that wants one gets it.

    Example:
        >>> made = factored(torch.tensor([[3.0, 4.0], [0.0, 0.0]]).bfloat16(), 0.5, scale=2.0)
        >>> made.factors[:, None] * made.rows
        tensor([[2.6833, 3.5777],
                [0.0000, 0.0000]])
    """
    factors, place = _Factored.apply(x, exponent, scale)
    return Factored(x.detach(), factors, place)


def empty_place(rows: int, like: Tensor) -> Tensor:
    """A place ``[rows, d]`` beside embeddings ``[..., d]``, for a function that hands gradients on."""
    return like.new_zeros((), dtype=torch.float32).expand(rows, like.shape[-1])


class _Factored(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, exponent: Exponent, scale: Exponent) -> tuple[Tensor, Tensor]:
        norm = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32)
        norm = norm.where(norm > 0, 1)
        ctx.save_for_backward(x, norm, *(value for value in (exponent, scale) if isinstance(value, Tensor)))
        ctx.numbers = [None if isinstance(value, Tensor) else value for value in (exponent, scale)]
        factors = (norm.double().pow(-exponent) * scale).float()
        ctx.mark_non_differentiable(factors)
        return factors, empty_place(len(x), x)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, _: Tensor, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, norm, *tensors = ctx.saved_tensors
        exponent, scale = (tensors.pop(0) if number is None else number for number in ctx.numbers)
        wants_x, wants_exponent, wants_scale = ctx.needs_input_grad
        along = norm.new_empty(len(x))  # <g, x>
        of_x = torch.empty_like(x) if wants_x else None
        for rows in _strips(x):
            wide, part = x[rows].float(), gradient[rows]
            torch.sum(wide * part, -1, out=along[rows])
            if of_x is not None:
                share = (along[rows] / norm[rows] / norm[rows] * exponent)[:, None]
                of_x[rows] = torch.addcmul(part, wide, share, value=-1)
        share = along.double()
        of_exponent = -(share * norm.double().log()).sum().float() if wants_exponent else None
        of_scale = (share.sum() / scale).float() if wants_scale else None
        return of_x, of_exponent, of_scale


def _strips(x: Tensor) -> Iterator[slice]:
    height = max(1, _STRIP // x.shape[1])
    for top in range(0, len(x), height):
        yield slice(top, min(top + height, len(x)))
