"""The weight decay that gives a norm, or a rate of turning, of your choice."""

from __future__ import annotations

import math

from torch import Tensor

from lightning_normdyn.core.dynamics.rule import EquilibriumRule, check_rule
from lightning_normdyn.core.number_checks import check_positive
from lightning_normdyn.core.tensor_checks import check_probabilities


def weight_decay_for(
    rule: EquilibriumRule,
    *,
    target_norm: float | None = None,
    target_angular_rate: float | None = None,
    second_moment: Tensor | float | None = None,
    dim: int | None = None,
    update_probability: Tensor | float = 1.0,
) -> float:
    """The weight decay at which rows settle at a norm, or turn by an angle a step once they have settled.

    The inverse of ``rule.predict`` and ``rule.angular_rate``, in the unit of the optimizer's ``weight_decay`` entry, at
    the learning rate of the rule (``rule.at(nominal_lr=peak)`` for another). ``rule.law`` is the closed form that is
    solved for the decay. Where decay is apart from the gradient (SGD, AdamW, Lion) the rate of turning asks nothing of
    the gradients: one decay serves all rows.

    Args:
        rule: from :func:`lightning_normdyn.equilibrium_rule`; its own weight decay does not matter.
        target_norm: ``R``, the wanted norm.
        target_angular_rate: radians a step, instead of a norm.
        second_moment: ``V²``, mean squared scale-free gradient, for a norm under SGD, and for either target under Adam
            and RMSprop with coupled decay; ``[n]``, for example ``RowMoments.second_moment`` of a short run.
        dim: ``d``, length of a row, for a norm under all but SGD, and for either target under coupled decay.
        update_probability: ``p``, share of steps in which a row gets a gradient, under AdamW and Lion; ``[n]``.

    Returns:
        The weight decay. Of several rows, which ask for as many, that of the middle one: it settles at the target, half
        of the others above it and half below. Rows that get no gradient have no say.

    Raises:
        ValueError: if not exactly one target is given, it is not positive, the learning rate is 0, no law is known for
            the optimizer, or what its law needs is missing.

    Example:
        >>> import torch
        >>> from lightning_normdyn import equilibrium_rule
        >>> optimizer = torch.optim.AdamW([torch.ones(10, 64)], lr=1e-3)
        >>> decay = weight_decay_for(equilibrium_rule(optimizer), target_norm=0.8, dim=64)
        >>> round(decay, 4)  # 1e-3 · 64 / (2 · 0.8²) / (1 + 1 - 0.999)
        0.05
        >>> optimizer.param_groups[0]["weight_decay"] = decay
        >>> equilibrium_rule(optimizer).predict(1.0, dim=64)
        tensor(0.8000, dtype=torch.float64)
    """
    check_rule(rule)
    check_probabilities("update_probability", update_probability)
    if target_norm is not None and target_angular_rate is None:
        check_positive(target_norm=target_norm)
        decays = rule.decay_for_norm(float(target_norm), second_moment, dim, update_probability)
    elif target_angular_rate is not None and target_norm is None:
        check_positive(target_angular_rate=target_angular_rate)
        decays = rule.decay_for_turn(float(target_angular_rate), second_moment, dim, update_probability)
    else:
        raise ValueError(
            f"target_norm, target_angular_rate: expected one of the two, got {target_norm} and {target_angular_rate}"
        )
    if not 0 < rule.lr < math.inf:
        raise ValueError(
            f"rule: expected a learning rate above 0, got {rule.lr}; "
            "ask at the rate that the run will have, with rule.at(nominal_lr=...)"
        )
    finite_decays = decays[(decays > 0) & decays.isfinite()]
    if not finite_decays.numel():
        raise ValueError(
            "second_moment, update_probability: expected a row that gets gradients, got none; "
            "a row without them has no equilibrium but zero"
        )
    return float(finite_decays.median()) / rule.decay_gain
