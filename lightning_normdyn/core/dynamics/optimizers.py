"""Closed forms of the equilibrium norm, read off real torch optimizers.

To add an optimizer: write a function that turns one parameter group into an :class:`EquilibriumRule`, and enter it in
``_RULE_FACTORIES``, or by its class name in ``_THIRD_PARTY`` if torch does not have it. A new law, rather than a new
optimizer, is one class in :mod:`lightning_normdyn.core.dynamics.laws`. The test beside the table simulates every entry
with the real optimizer on tangential noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from lightning_normdyn.core.dynamics.laws import Family
from lightning_normdyn.core.dynamics.rule import EquilibriumRule

__all__ = ["EquilibriumRule", "StepRates", "equilibrium_rule", "group_rule", "nominal_lr"]


def equilibrium_rule(optimizer: torch.optim.Optimizer, group: int = 0) -> EquilibriumRule:
    """Reads the law of the norm off one parameter group of a torch optimizer.

    Args:
        optimizer: torch's SGD, AdamW, Adam, NAdam, RAdam or RMSprop give a prediction, and so do classes by the names
            of Lion and SGDW whose groups have the usual entries; any other gives a rule whose ``reason`` says why not.
        group: index into ``optimizer.param_groups``.

    Returns:
        The rule at the group's present learning rate.

    Raises:
        ValueError: if there is no such group.

    Example:
        >>> table = torch.nn.Parameter(torch.ones(10, 64))
        >>> equilibrium_rule(torch.optim.AdamW([table], lr=1e-3, weight_decay=0.0)).law
        'no equilibrium without weight decay: R² grows by lr²·d·p / (p + 1 - beta2) a step'
        >>> equilibrium_rule(torch.optim.Adagrad([table])).reason
        'Adagrad has no known law of the norm'
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)  # Lightning and Accelerate wrap the real one
    if not 0 <= group < len(optimizer.param_groups):
        raise ValueError(
            f"group: expected 0 to {len(optimizer.param_groups) - 1}, got {group}; "
            f"this {type(optimizer).__name__} has {len(optimizer.param_groups)} parameter group(s)"
        )
    return group_rule(optimizer, optimizer.param_groups[group])


def group_rule(optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> EquilibriumRule:
    """The rule under the settings of a parameter group, whether the optimizer has such a group or will have."""
    name = type(optimizer).__name__
    if type(optimizer) in _RULE_FACTORIES:
        return _RULE_FACTORIES[type(optimizer)](name, settings)
    entries, factory = _THIRD_PARTY.get(name, ((), None))
    if factory is None or not all(entry in settings for entry in entries):
        return _unknown(name, settings, f"{name} has no known law of the norm")
    departure = _departure(optimizer, settings)
    if departure:
        return _unknown(name, settings, f"{name} with {departure} has no known law of the norm")
    return factory(name, settings)


def nominal_lr(group: Mapping[str, Any]) -> float:
    """The learning rate of a parameter group; NaN where an optimizer chooses its own and has no entry, or None."""
    lr = group.get("lr")
    return math.nan if lr is None else float(lr)


class StepRates:
    """Reads the effective rate and the decay of step after step off a parameter group, as it stands at each.

    Args:
        optimizer: whose law holds.

    Example:
        >>> optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1, momentum=0.9, weight_decay=1e-3)
        >>> rates = StepRates(optimizer)
        >>> rates.read(optimizer.param_groups[0])
        (1.0..., 0.001)
        >>> optimizer.param_groups[0]["momentum"] = 0.5
        >>> rates.read(optimizer.param_groups[0])
        (0.2, 0.001)
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._settings: list[Any] | None = None
        self._lr_gain = self._radial_decay = 0.0

    def read(self, group: dict[str, Any]) -> tuple[float, float]:
        """The effective learning rate and ``lambda_rad`` of a step under these settings."""
        settings = [group.get(name) for name in _RATE_SETTINGS]
        if settings != self._settings:  # reading a rule takes longer than all else
            rule = group_rule(self._optimizer, group)
            self._settings, self._lr_gain, self._radial_decay = settings, rule.lr_gain, rule.radial_decay
        return nominal_lr(group) * self._lr_gain, self._radial_decay


_RATE_SETTINGS = ("momentum", "dampening", "weight_decay", "betas")
"""Entries of a parameter group, besides lr, that effective rate and decay depend on."""


def memory_steps(group: Mapping[str, Any]) -> int:
    """Steps over which the updates of a parameter group stay alike: 2/(1 - momentum) or 2/(1 - beta1), at least 1.

    Example:
        >>> memory_steps({"momentum": 0.9}), memory_steps({"betas": (0.9, 0.999)}), memory_steps({"momentum": 0})
        (20, 20, 1)
    """
    betas = group.get("betas")
    beta = float(betas[0] if betas else group.get("momentum") or 0.0)
    return max(1, round(2 / (1 - beta))) if 0 < beta < 1 else 1


def _unknown(name: str, group: Mapping[str, Any], reason: str) -> EquilibriumRule:
    return EquilibriumRule(name, None, nominal_lr(group), 1.0, 0.0, reason=reason)


def _read_sgd(name: str, group: dict[str, Any]) -> EquilibriumRule:
    momentum = group["momentum"]
    if momentum >= 1:
        return _unknown(name, group, f"{name} with momentum {momentum} never forgets a gradient")
    # torch applies dampening to the momentum buffer alone, so without momentum it does nothing.
    gain = (1 - group["dampening"]) / (1 - momentum) if momentum else 1.0
    return EquilibriumRule(
        name,
        "sgd",
        float(group["lr"]) * gain,
        gain,
        group["weight_decay"],
        first_beta=momentum,
        nesterov=group["nesterov"],
    )


def _read_sgdw(name: str, group: dict[str, Any]) -> EquilibriumRule:
    """Decay takes lr·weight_decay of a row in a step, which momentum does not multiply."""
    rule = _read_sgd(name, group)
    return replace(rule, radial_decay=rule.radial_decay / rule.lr_gain, decay_gain=1 / rule.lr_gain)


def _read_adam(name: str, group: dict[str, Any]) -> EquilibriumRule:
    lr, decay = float(group["lr"]), group["weight_decay"]
    if group.get("amsgrad"):
        return _unknown(name, group, f"{name} with amsgrad=True has no known law of the norm")
    with_decay: Family = "adamw" if group.get("decoupled_weight_decay", name == "AdamW") else "adam"
    first_beta, second_beta = (float(beta) for beta in group["betas"])
    return EquilibriumRule(
        name,
        with_decay if decay else "adamw",
        lr,
        1.0,
        decay,
        second_beta=second_beta,
        first_beta=first_beta,
        family_with_decay=with_decay,
    )


def _read_nadam(name: str, group: dict[str, Any]) -> EquilibriumRule:
    """Looks ahead by a momentum that grows to beta1 over some 10,000 steps; the law of the norm does not feel it."""
    return replace(_read_adam(name, group), nesterov=True)


def _read_lion(name: str, group: dict[str, Any]) -> EquilibriumRule:
    first_beta, second_beta = (float(beta) for beta in group["betas"])
    if not (0 < first_beta < 1 and 0 < second_beta < 1):
        return _unknown(name, group, f"{name} with a beta of 0 or 1 has no known law of the norm")
    return EquilibriumRule(
        name,
        "lion",
        float(group["lr"]),
        1.0,
        group["weight_decay"],
        second_beta=second_beta,
        first_beta=first_beta,
    )


def _read_rmsprop(name: str, group: dict[str, Any]) -> EquilibriumRule:
    if group["momentum"] >= 1:
        return _unknown(name, group, f"{name} with momentum {group['momentum']} never forgets a gradient")
    gain = 1 / (1 - group["momentum"])
    decay = group["weight_decay"]
    return EquilibriumRule(
        name,
        "adam" if decay else "adamw",
        float(group["lr"]) * gain,
        gain,
        decay,
        second_beta=group["alpha"],
        first_beta=group["momentum"],
        family_with_decay="adam",
    )


def _departure(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> str:
    """The option under which a third party's optimizer steps otherwise than its law has it; empty for none."""
    if group.get("caution") or group.get("cautious_factor", 1) < 1:
        return "a cautious mask"
    if group.get("corrected_weight_decay"):
        return "corrected_weight_decay=True"
    return "decoupled_weight_decay=True" if getattr(optimizer, "decoupled_wd", False) else ""


_RuleFactory = Callable[[str, dict[str, Any]], EquilibriumRule]

_RULE_FACTORIES: dict[type[torch.optim.Optimizer], _RuleFactory] = {
    torch.optim.SGD: _read_sgd,
    torch.optim.AdamW: _read_adam,
    torch.optim.Adam: _read_adam,
    torch.optim.NAdam: _read_nadam,
    torch.optim.RAdam: _read_adam,
    torch.optim.RMSprop: _read_rmsprop,
}

_THIRD_PARTY: dict[str, tuple[tuple[str, ...], _RuleFactory]] = {
    "Lion": (("lr", "betas", "weight_decay"), _read_lion),
    "SGDW": (("lr", "momentum", "dampening", "nesterov", "weight_decay"), _read_sgdw),
}
