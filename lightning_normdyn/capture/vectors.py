"""The embeddings in what a module returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def find_vectors(output: Any) -> Tensor | None:
    """The tensor that was returned, or the first floating-point one ``[..., d]`` among several; ``None`` if none is.

    Example:
        >>> import torch
        >>> find_vectors((torch.tensor(0.5), torch.ones(3, 2))).shape
        torch.Size([3, 2])
    """
    several = list(output.values()) if isinstance(output, Mapping) else output
    for member in several if isinstance(several, (list, tuple)) else [several]:
        if isinstance(member, Tensor) and member.is_floating_point() and member.ndim >= 2:
            return member
    return None


def describe_output(output: Any) -> str:
    """What came instead of vectors, for an error.

    Example:
        >>> import torch
        >>> describe_output(torch.ones(3)), describe_output("text")
        ('shape (3,)', 'a str')
    """
    return f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
