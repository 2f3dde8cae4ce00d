"""Documents of a chunk by norm, so that those scored together have nearly the same one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.geometry import most_precise, precise_norm


class NormBand(NamedTuple):
    """Some documents of a chunk.

    Attributes:
        documents: ``[b, d]``, copied together.
        indices: their positions in the chunk, ``[b]``.
        log_norms: float64 ``[b]``; of a zero vector that of the shortest other one, for it scores 0 whatever it is.
    """

    documents: Tensor
    indices: Tensor
    log_norms: Tensor


def norm_bands(chunk: Tensor, width: int, *, sample: bool) -> Iterator[NormBand]:
    """Splits a chunk ``[rows, d]`` into bands of ``width`` documents from short to long.

    Args:
        chunk: documents.
        width: of a band.
        sample: whether the first band is a cross-section of all norms instead.
    """
    norms = log_norms(chunk)
    order = norms.argsort(stable=True)
    if sample:
        step = max(1, len(order) // width)
        across = torch.zeros(len(order), dtype=torch.bool, device=order.device)
        across[::step][:width] = True
        order = torch.cat((order[across], order[~across]))
    for indices in order.split(width):
        yield NormBand(chunk.index_select(0, indices), indices, norms[indices])


def log_norms(chunk: Tensor) -> Tensor:
    """Logarithms of norms in float64, as :class:`NormBand` has them."""
    norms = torch.linalg.vector_norm(chunk, dim=1)
    # A float32 square over- or underflows from 1e19 up and 1e-19 down; to convert all rows would cost a copy.
    extreme = ((norms < 1e-15) | ~(norms < 1e15)).nonzero().squeeze(1)
    norms = most_precise(norms)
    if len(extreme):
        norms[extreme] = precise_norm(chunk[extreme])
    positive = norms > 0
    shortest = norms.where(positive, torch.inf).amin() if len(norms) else norms.sum()
    return norms.where(positive, shortest if bool(shortest < torch.inf) else 1.0).log()
