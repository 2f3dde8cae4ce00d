"""Weights that start short, so that directions start to learn at once."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from lightning_normdyn.core.number_checks import check_positive

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@torch.no_grad()
def cut_init(module: ModuleT, factor: float = 3.0) -> ModuleT:
    """Divides the weights of a module by a constant, in place: cut-initialisation.

    Under a cosine loss a step of SGD turns a direction by ``lr·|s|/|x|²``, so embeddings that start ``c`` times as
    short learn ``c²`` times as fast at first, until growth and decay have brought them where they settle (Draganov et
    al. 2025, arXiv 2502.09252). An encoder of L layers without biases starts ``c^L`` times as short.

    Weights are the trainable parameters of two dimensions or more. Biases and the gains of normalisation layers stay; a
    module whose output is normalised by a LayerNorm of its own therefore keeps its norms, whatever is cut before. Adam
    takes steps of a set size, so there the gain is ``c`` and not ``c²``; where weights start at their equilibrium,
    cutting them only adds a transient.

    Args:
        module: what makes the embeddings; a table, an encoder, or its last layer.
        factor: ``c``, the cut constant.

    Returns:
        The module.

    Raises:
        ValueError: if the factor is not positive, or the module has no weights.

    Example:
        >>> layer = nn.Linear(4, 2)
        >>> before = layer.weight.detach().clone()
        >>> torch.allclose(cut_init(layer, 3.0).weight, before / 3)
        True
    """
    check_positive(factor=factor, hint="3 is common for contrastive losses")
    weights = [weight for weight in module.parameters() if weight.requires_grad and weight.dim() > 1]
    if not weights:
        raise ValueError(
            f"module: expected trainable weights of two dimensions or more, got none in {type(module).__name__}"
        )
    for weight in weights:
        weight.div_(factor)
    return module
