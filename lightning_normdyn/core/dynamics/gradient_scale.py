"""Gradients scaled by a power of the norm, so that long embeddings learn their direction as fast as short ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_normdyn.core.dynamics.geometry import at_least_float32, safe_norm
from lightning_normdyn.core.number_checks import check_finite_number
from lightning_normdyn.core.tensor_checks import check_real_tensors


def scale_gradient(embedding: Tensor, power: float = 1.0) -> Tensor:
    """The embedding itself, whose gradient comes back multiplied by ``|x|^power``.

    A cosine loss gives an embedding the gradient ``s/|x|``, s its part on the unit sphere (Draganov et al. 2025, arXiv
    2502.09252). So a plain step of SGD has the length ``lr·|s|·|x|^(power - 1)`` and turns the direction by ``lr·|s|·
    |x|^(power - 2)``:

    - power 1: a step is as long for every norm, and turns a long embedding less. It undoes the factor of the loss.
    - power 2: it turns every embedding by the same angle, whatever the norm. Steps then are a share of the norm, so
      nothing but ``weight_decay`` against noise holds the norm, and no norm is an equilibrium.

    Below 2, a table under SGD settles at ``R^(4 - 2·power) = lr·V²/(2·lambda)``, instead of ``R⁴``. Adam divides a
    common factor of a row's gradients out again, so a table under Adam does not feel this; an encoder does, whose
    embeddings of one batch are weighed differently.

    Args:
        embedding: vectors along the last dimension, ``[..., d]``.
        power: of the norm; 0 changes nothing.

    Returns:
        The same values, ``[..., d]``. The norm is taken in float32 at least. A zero vector's gradient is left alone.
        The scaled gradient is the gradient of no loss, so it cannot be derived again.

    Raises:
        ValueError: if the power is not a finite number, or the embedding no tensor of floating-point numbers.

    Example:
        >>> x = torch.tensor([[3.0, 4.0], [0.0, 0.5]], requires_grad=True)
        >>> scale_gradient(x, power=2.0).sum().backward()
        >>> x.grad
        tensor([[25.0000, 25.0000],
                [ 0.2500,  0.2500]])
    """
    check_real_tensors(embedding=embedding)
    if not embedding.ndim:
        raise ValueError("embedding: expected vectors along the last dimension, [..., d], got a single number")
    check_finite_number(power=power, hint="1 undoes the 1/norm of a cosine loss")
    copy: Tensor = _ScaledGradient.apply(embedding, float(power))
    return copy


class _ScaledGradient(torch.autograd.Function):
    """Identity forward; backward a factor for each vector."""

    @staticmethod
    def forward(ctx: Any, embedding: Tensor, power: float) -> Tensor:
        ctx.save_for_backward(embedding)
        ctx.power = power
        return embedding.view_as(embedding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), (embedding,) = gradients, ctx.saved_tensors
        norm = safe_norm(embedding, keepdim=True)
        factor = torch.where(norm > 0, norm, 1).pow(ctx.power)
        return (at_least_float32(gradient) * factor).to(gradient.dtype), None
