"""One look at every embedding: its norm, and a few embeddings kept whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.geometry import most_precise

_MOST_SAMPLED = 8_192
_MOST_NUMBERS = 2**23


class NormScan(NamedTuple):
    """What one pass over embeddings keeps.

    Attributes:
        norms: of every row, float64 ``[n]``.
        sample: rows at random without those that are zero, float64 ``[s, d]``; all of them where there are few.
        dim: d.
    """

    norms: Tensor
    sample: Tensor
    dim: int


def scan_norms(chunks: Iterable[Tensor], rows: int, *, name: str = "embeddings") -> NormScan:
    """Reads embeddings once, in bounded memory: 8 bytes a row, and 64 MiB of embeddings at most.

    Args:
        chunks: ``[some, d]`` in order.
        rows: of all chunks together.
        name: what an error calls them.

    Returns:
        The record.

    Raises:
        ValueError: if there is no row, chunks differ in d, or a row is not finite.

    Example:
        >>> scan_norms(iter([torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)]), 2).norms
        tensor([5., 0.], dtype=torch.float64)
    """
    parts: list[Tensor] = []
    kept: list[Tensor] = []
    broken, first, seen, dim = 0, -1, 0, 0
    chosen = torch.empty(0, dtype=torch.int64)
    for chunk in chunks:
        if not seen:
            dim = chunk.shape[1]
            chosen = _choose(rows, dim)
        if chunk.shape[1] != dim:
            raise ValueError(f"{name}: expected vectors of {dim} numbers as in the first row, got {chunk.shape[1]}")
        bad = (~chunk.isfinite().all(1)).nonzero().squeeze(1)
        if len(bad):
            first = seen + int(bad[0]) if not broken else first
            broken += len(bad)
        parts.append(torch.linalg.vector_norm(most_precise(chunk), dim=1).cpu())
        inside = chosen[(chosen >= seen) & (chosen < seen + len(chunk))] - seen
        kept.append(chunk[inside].double().cpu())
        seen += len(chunk)
    if not seen:
        raise ValueError(f"{name}: expected vectors, got none; is the file empty?")
    if broken:
        raise ValueError(
            f"{name}: expected finite numbers, got NaN or infinity in {broken} of {seen} rows, the first being row "
            f"{first}; leave such rows out or encode them again"
        )
    sample = torch.cat(kept)
    return NormScan(torch.cat(parts), sample[sample.abs().amax(1) > 0], dim)


def _choose(rows: int, dim: int) -> Tensor:
    """Places of the sample, ascending; drawn before anything is read."""
    most = min(_MOST_SAMPLED, max(1, _MOST_NUMBERS // max(1, dim)))
    return torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:most].sort().values
