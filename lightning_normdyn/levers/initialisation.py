"""Norms to start from: a table at its equilibrium, without a transient, or weights cut short, to learn at once."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.core.dynamics.rule import EquilibriumRule, check_rule
from lightning_normdyn.core.number_checks import check_positive
from lightning_normdyn.core.tensor_checks import check_probabilities

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@torch.no_grad()
def equilibrium_init(
    table: Tensor,
    rule: EquilibriumRule,
    *,
    second_moment: Tensor | float | None = None,
    update_probability: Tensor | float = 1.0,
) -> Tensor:
    """Rescales the rows of a table or head in place to the norms at which they would settle; directions stay.

    The norms are those of ``rule.predict``. AdamW and Lion need nothing but hyper-parameters and, for rare rows, how
    often a row gets a gradient; SGD and coupled decay need the size of the gradients, which does not depend on the norm
    and so can come from a short run: ``RowMoments.second_moment``, or the ``second_moment`` column of a run's
    trajectory. Rescale before training, or make the optimizer anew: averages of gradients at the old norm are off.

    Args:
        table: ``[rows, d]``: the weight of an embedding, of a linear head, or any matrix whose rows are embeddings.
        rule: from :func:`lightning_normdyn.equilibrium_rule`, at the rate that the run will have: under a warm-up,
            ``rule.at(nominal_lr=peak)``.
        second_moment: ``V²``, ``[rows]`` or one for all, absent steps counted as zero.
        update_probability: ``p``, share of steps in which a row gets a gradient, ``[rows]`` or one for all.

    Returns:
        The norm of each row now, ``[rows]`` in float64. A row of zeros stays what it is, and so does one whose ``p`` or
        ``V²`` is 0, since it settles nowhere but at zero.

    Raises:
        ValueError: if the table is no matrix, the rule has no equilibrium, or what its law needs is missing or is no
            number for each row.

    Example:
        >>> from lightning_normdyn import equilibrium_rule
        >>> table = torch.nn.Embedding(1000, 64)
        >>> optimizer = torch.optim.AdamW(table.parameters(), lr=1e-3, weight_decay=0.05)
        >>> equilibrium_init(table.weight, equilibrium_rule(optimizer))[:2]
        tensor([0.7996, 0.7996], dtype=torch.float64)
    """
    if not isinstance(table, Tensor) or table.dim() != 2 or not table.is_floating_point():
        description = (
            f"shape {tuple(table.shape)} of {table.dtype}" if isinstance(table, Tensor) else type(table).__name__
        )
        raise ValueError(
            f"table: expected a matrix of rows, got {description}; pass the .weight of an embedding or a head"
        )
    check_rule(rule)
    check_probabilities("update_probability", update_probability)
    target = _settled_norms(table, rule, second_moment, update_probability)
    rows = most_precise(table)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    is_rescaled = (target > 0) & (norms > 0)
    factor = torch.where(is_rescaled, target / norms, 1)
    table.copy_(rows * factor.unsqueeze(1))
    return torch.where(is_rescaled, target, norms)


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
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"module: expected a module of torch, got {type(module).__name__}; pass what holds the weights"
        )
    weights = [weight for weight in module.parameters() if weight.requires_grad and weight.dim() > 1]
    if not weights:
        raise ValueError(
            f"module: expected trainable weights of two dimensions or more, got none in {type(module).__name__}"
        )
    for weight in weights:
        weight.div_(factor)
    return module


def _settled_norms(
    table: Tensor, rule: EquilibriumRule, second_moment: Tensor | float | None, update_probability: Tensor | float
) -> Tensor:
    """The equilibrium norm of each row, ``[rows]``."""
    if rule.family is not None and not rule.settles:
        raise ValueError(f"rule: expected an optimizer under which norms settle, got {rule.optimizer}: {rule.law}")
    if rule.family is not None and not (rule.radial_decay > 0 and rule.lr > 0):
        raise ValueError(
            f"rule: expected weight decay and a learning rate above 0, got {rule.radial_decay} and {rule.lr}; "
            "without decay there is no equilibrium, and under a warm-up ask at rule.at(nominal_lr=peak)"
        )
    rows, dim = table.shape
    norms = rule.predict(second_moment, dim, update_probability).to(table.device)
    if norms.shape not in ((), (rows,)) or bool(norms.isnan().any()) or bool(norms.isinf().any()):
        raise ValueError(
            f"second_moment, update_probability: expected one finite number, or one for each of {rows} rows, "
            f"got predictions of shape {tuple(norms.shape)}"
        )
    present = torch.as_tensor(update_probability, device=table.device) > 0
    return torch.where(present, norms, 0).expand(rows)
