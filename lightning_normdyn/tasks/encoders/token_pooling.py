"""Token pooling: the ways of sentence-transformers to make one vector of the vectors of a text's tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Pooling = Literal["mean", "cls", "max", "last", "mean_sqrt_len", "weightedmean"]

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
"""All ways, by the names that arguments take."""

# In the order in which sentence-transformers joins several of them.
_OLD_KEYS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "last",
}
_NAMES: dict[str, Pooling] = {mode: mode for mode in POOLINGS}
_NAMES |= {"lasttoken": "last", "mean_sqrt_len_tokens": "mean_sqrt_len"}


def stated_pooling(config: Mapping[str, Any]) -> tuple[Pooling, ...]:
    """Reads the configuration of a Pooling module, of sentence-transformers before 5.4 or since.

    Args:
        config: ``{"pooling_mode": "mean"}``, or flags such as ``pooling_mode_mean_tokens``.

    Returns:
        One way or several, whose vectors are joined; mean where the configuration names none.

    Raises:
        ValueError: naming what is not known.

    Example:
        >>> stated_pooling({"pooling_mode": ["cls", "lasttoken"]})
        ('cls', 'last')
        >>> stated_pooling({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True})
        ('max', 'mean')
    """
    if "pooling_mode" in config:
        mode = config["pooling_mode"]
        names = [mode] if isinstance(mode, str) else mode
        if not isinstance(names, Sequence) or not names:
            raise ValueError(f"pooling_mode {mode!r}")
        unknown = [name for name in names if name not in _NAMES]
        if unknown:
            raise ValueError(", ".join(map(repr, unknown)))
        return tuple(_NAMES[name] for name in names)
    flags = [name for name, value in config.items() if name.startswith("pooling_mode_") and value]
    unknown = [name for name in flags if name not in _OLD_KEYS]
    if unknown:
        raise ValueError(", ".join(unknown))
    return tuple(mode for key, mode in _OLD_KEYS.items() if key in flags) or ("mean",)


def pool_tokens(hidden: Tensor, mask: Tensor, modes: Sequence[Pooling], pooled_mask: Tensor | None = None) -> Tensor:
    """One vector of each text.

    Args:
        hidden: vectors of tokens ``[b, t, d]``, padding at the end.
        mask: 1 for tokens of the text, 0 for padding, ``[b, t]``.
        modes: their vectors are joined in this order.
        pooled_mask: 1 for tokens that are pooled, where those of a prompt are not.

    Returns:
        ``[b, d]`` times the number of modes.

    Example:
        >>> hidden = torch.tensor([[[1.0], [3.0], [9.0]]])
        >>> pool_tokens(hidden, torch.tensor([[1, 1, 0]]), ["mean", "last", "weightedmean"])
        tensor([[2.0000, 3.0000, 2.3333]])
    """
    pooled = (mask if pooled_mask is None else pooled_mask).bool()
    return torch.cat([_POOLED[mode](hidden, pooled) for mode in modes], -1)


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return _sum(hidden, mask) / mask.sum(1, keepdim=True).clamp(min=1)


def _mean_sqrt_len(hidden: Tensor, mask: Tensor) -> Tensor:
    return _sum(hidden, mask) / mask.sum(1, keepdim=True).clamp(min=1).to(hidden.dtype).sqrt()


def _weighted_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """A token's weight is its place, from 1; those of a prompt that is left out count as places."""
    weights = torch.arange(1, hidden.shape[1] + 1, device=hidden.device, dtype=hidden.dtype) * mask
    return _sum(hidden * weights.unsqueeze(-1), mask) / weights.sum(1, keepdim=True).clamp(min=1e-9)


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.int().argmax(1)]


def _max(hidden: Tensor, mask: Tensor) -> Tensor:
    """Zeros for a text without tokens."""
    largest = hidden.masked_fill(~mask.unsqueeze(-1), torch.finfo(hidden.dtype).min).amax(1)
    return largest.masked_fill(~mask.any(1, keepdim=True), 0)


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    places = torch.arange(mask.shape[1], device=mask.device)
    return hidden[torch.arange(len(hidden), device=hidden.device), (places * mask).argmax(1)]


def _sum(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(~mask.unsqueeze(-1), 0).sum(1)


_POOLED: dict[Pooling, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": _mean,
    "cls": _first,
    "max": _max,
    "last": _last,
    "mean_sqrt_len": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
}
