"""Which of the vectors that a module returns stand for nothing: places that fill up a shorter text."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

_KEPT = ("attention_mask",)
"""Arguments that are 1 or True where there is a token (transformers)."""
_LEFT_OUT = ("src_key_padding_mask", "key_padding_mask", "padding_mask")
"""Arguments that are True, or minus infinity, where there is none (torch)."""


def present(vectors: Tensor, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The vectors one below the other, ``[n, d]``, without those of padding.

    Args:
        vectors: what the module returned, ``[..., d]``.
        module: the module.
        args: what it was called with; a mask of the vectors' shape ``[...]`` among it tells.
        kwargs: the same, by name.

    Example:
        >>> import torch
        >>> mask = torch.tensor([[1, 1, 0]])
        >>> present(torch.ones(1, 3, 5), nn.Identity(), (), {"attention_mask": mask}).shape
        torch.Size([2, 5])
    """
    rows = vectors.reshape(-1, vectors.shape[-1])
    if vectors.ndim < 3:
        return rows
    named = _named(module, args) | dict(kwargs)
    for name in (*_KEPT, *_LEFT_OUT):
        mask = named.get(name)
        if isinstance(mask, Tensor) and mask.shape == vectors.shape[:-1]:
            kept = mask > 0 if name in _KEPT else mask == 0
            return rows[kept.reshape(-1).to(rows.device)]
    return rows


def _named(module: nn.Module, args: tuple[Any, ...]) -> dict[str, Any]:
    """Positional arguments by name; a compiled module hides its own."""
    if not args:
        return {}
    forward = getattr(module, "_orig_mod", module).forward
    try:
        return dict(inspect.signature(forward).bind_partial(*args).arguments)
    except (TypeError, ValueError):
        return {}
