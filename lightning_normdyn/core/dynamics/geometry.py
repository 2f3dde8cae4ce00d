"""Lengths and directions: the norm, and the radial and tangential parts of a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.tensor_checks import check_real_tensors, check_tensors


class RadialTangential(NamedTuple):
    """A gradient split along and across the embedding it belongs to.

    Attributes:
        radial: signed length along the embedding, ``<g, x/|x|>``; shape ``[...]``.
        tangential: what is left, orthogonal to the embedding; shape ``[..., d]``.
    """

    radial: Tensor
    tangential: Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Widens half precision to float32 and leaves the rest alone: a half-precision square cannot be trusted."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def most_precise_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def most_precise(x: Tensor) -> Tensor:
    """Widens to float64, or to float32 on a device that has no float64."""
    return x.to(most_precise_dtype(x.device))


_BLOCK = 2**16


def squared_sum(x: Tensor) -> Tensor:
    """Sum of the squares of all numbers, as precise as the device allows, without a wider copy of all at once.

    Example:
        >>> squared_sum(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        tensor(26., dtype=torch.float64)
    """
    if x.device.type != "cpu":
        norm: Tensor = torch.linalg.vector_norm(x, dtype=most_precise_dtype(x.device))
        return norm.square()
    return torch.stack([most_precise(block).square().sum() for block in x.reshape(-1).split(_BLOCK)]).sum()


def safe_norm(x: Tensor, dim: int = -1, keepdim: bool = False) -> Tensor:
    """Euclidean norm that neither overflows in half precision nor has a NaN gradient at zero.

    ``R = |x|``. Half precision is widened to float32 before it is squared (a float16 square overflows from 256 up),
    and the result stays float32. The gradient at a zero vector is zero. Outside of about 1e-22 to 1e19 a float32 square
    leaves its range; :func:`precise_norm` does not.

    Args:
        x: vectors, any shape with ``d`` along ``dim``.
        dim: the dimension that holds the vector.
        keepdim: whether ``dim`` stays with size one.

    Returns:
        Norms in the precision of ``x``, float32 at least.

    Raises:
        ValueError: if ``x`` is no tensor of floating-point numbers.

    Example:
        >>> safe_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([5., 0.])
        >>> safe_norm(torch.full((4,), 3e4, dtype=torch.float16))
        tensor(60000.)
    """
    if not isinstance(x, Tensor) or not (x.is_floating_point() or x.is_complex()):
        check_real_tensors(x=x)
    if not (isinstance(dim, int) and -max(1, x.ndim) <= dim < max(1, x.ndim)):
        raise ValueError(f"dim: expected one of the {x.ndim} dimensions of x, from 0 or -1 on, got {dim!r}")
    if not isinstance(keepdim, bool):
        raise ValueError(f"keepdim: expected True or False, got {keepdim!r}")
    norm: Tensor = torch.linalg.vector_norm(at_least_float32(x), dim=dim, keepdim=keepdim)
    return norm


def by_blocks(read_rows: Callable[..., tuple[Tensor, ...]], *tables: Tensor) -> list[Tensor]:
    """Reads all rows, on a CPU a few at a time: it takes longer to get memory for the whole table than to compute.

    Args:
        read_rows: takes the same rows of each table, ``[k, d]``, and gives values of theirs, each ``[k, ...]``.
        tables: each ``[n, d]``.

    Returns:
        The values of all rows, each ``[n, ...]``.

    Example:
        >>> by_blocks(lambda rows: (rows.sum(1), rows.amax(1)), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        [tensor([3., 7.]), tensor([2., 4.])]
    """
    first = tables[0]
    rows = max(1, _BLOCK // max(1, first.shape[1])) if first.device.type == "cpu" else max(1, len(first))
    blocks = [read_rows(*block) for block in zip(*(table.split(rows) for table in tables), strict=True)]
    return [torch.cat(values) for values in zip(*blocks, strict=True)]


def are_nonzero(rows: Tensor) -> Tensor:
    """Which rows ``[n, d]`` hold a number that is not zero, a mask ``[n]``; NaN is none, and squares would underflow.

    Example:
        >>> are_nonzero(torch.tensor([[0.0, 1e-30], [0.0, 0.0], [torch.nan, 0.0]]))
        tensor([ True, False,  True])
    """
    mask: Tensor = rows.abs().amax(1) != 0
    return mask


def precise_norm(x: Tensor) -> Tensor:
    """Euclidean norm in float64, which neither under- nor overflows for vectors of any narrower type.

    A float32 square leaves its range below 1e-22 and above 1e19, which :func:`safe_norm` accepts for speed.

    Args:
        x: vectors ``[..., d]``.

    Returns:
        Norms ``[...]`` in float64, or in float32 on a device that has no float64.

    Example:
        >>> precise_norm(torch.tensor([[3e-30, 4e-30], [3e30, 4e30]]))
        tensor([5.0000e-30, 5.0000e+30], dtype=torch.float64)
    """
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, dtype=most_precise_dtype(x.device))
    return norm


def turning_angle(before: Tensor, after: Tensor) -> Tensor:
    """The angle by which vectors turned, exact for small ones too.

    Args:
        before: ``[..., d]``.
        after: ``[..., d]``.

    Returns:
        Radians, ``[...]``, in float64 where the device has it; NaN where either vector is zero.

    Example:
        >>> turning_angle(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1e-6]))
        tensor(1.0000e-06, dtype=torch.float64)
    """
    start, end = most_precise(before), most_precise(after)
    start_norm, end_norm = torch.linalg.vector_norm(start, dim=-1), torch.linalg.vector_norm(end, dim=-1)
    a, b = start / start_norm.unsqueeze(-1), end / end_norm.unsqueeze(-1)
    angle: Tensor = 2 * torch.atan2(torch.linalg.vector_norm(a - b, dim=-1), torch.linalg.vector_norm(a + b, dim=-1))
    return angle


def split_radial_tangential(gradient: Tensor, embedding: Tensor) -> RadialTangential:
    """Splits a gradient into its part along the embedding and its part across it.

    ``g_rad = <g, z>``, ``g_tan = g - g_rad z`` with ``z = x/|x|``, so that ``|g|² = g_rad² + |g_tan|²``
    (Su, Ren, Veitch 2026, arXiv 2606.30625). A loss that sees only directions has ``g_rad = 0`` up to rounding.

    Args:
        gradient: ``dL/dx``, shape ``[..., d]``.
        embedding: ``x``, same shape. A zero vector has no direction: radial 0, tangential ``g``.

    Returns:
        The two parts, in float32 at least.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> split_radial_tangential(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 3.0]))
        RadialTangential(radial=tensor(2.), tangential=tensor([1., 0.]))
    """
    check_tensors(gradient=gradient, embedding=embedding)
    if gradient.shape != embedding.shape:
        raise ValueError(
            f"gradient: expected the shape of embedding, {tuple(embedding.shape)}, got {tuple(gradient.shape)}; "
            "pass the gradient with respect to that embedding"
        )
    if not (gradient.is_floating_point() and embedding.is_floating_point()):
        check_real_tensors(gradient=gradient, embedding=embedding)
    gradient, embedding = at_least_float32(gradient), at_least_float32(embedding)
    norm = safe_norm(embedding, keepdim=True)
    direction = embedding / torch.where(norm > 0, norm, 1)
    radial = (gradient * direction).sum(-1, keepdim=True)
    return RadialTangential(radial.squeeze(-1), gradient - radial * direction)
