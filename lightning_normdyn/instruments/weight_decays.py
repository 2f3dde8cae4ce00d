"""How fast weight decay shrinks each parameter of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lightning_normdyn.core.dynamics.optimizers import EquilibriumRule, equilibrium_rule, nominal_lr


class WeightDecays:
    """Reads rates off the parameter groups as they are now.

    The group that counts, whose learning rate and law stand for the encoder, is the decayed one with most of its
    weights, or the one with most weights where none is decayed.

    Args:
        module: the encoder.
        optimizers: all that train it.
        main: the one whose steps count.
    """

    def __init__(
        self, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], main: torch.optim.Optimizer
    ) -> None:
        self._module, self._optimizers, self._main = module, optimizers, main
        self._last_group: dict[str, Any] | None = None

    @property
    def group(self) -> dict[str, Any]:
        """The group that counts; the same as last time, as long as the optimizer has it."""
        if not any(group is self._last_group for group in self._main.param_groups):
            self._last_group = self._main.param_groups[self._choose_group()]
        assert self._last_group is not None
        return self._last_group

    @property
    def group_number(self) -> int:
        """Its number in the main optimizer."""
        counting = self.group
        return next(number for number, group in enumerate(self._main.param_groups) if group is counting)

    def _choose_group(self) -> int:
        own = {id(parameter) for parameter in self._module.parameters() if parameter.requires_grad}

        def weight(number: int) -> tuple[bool, int]:
            group = self._main.param_groups[number]
            size = sum(parameter.numel() for parameter in group["params"] if id(parameter) in own)
            return size > 0 and bool(group.get("weight_decay")), size

        return max(range(len(self._main.param_groups)), key=weight)

    def rates(self) -> list[tuple[nn.Parameter, float]]:
        """Each decayed parameter of the encoder, with its rate per unit of the effective lr of the group that counts.

        Decay that cannot be told from the task's part of a step, as Adam's coupled one, is left out: drift holds it.
        """
        self._last_group = None  # parameters may have been frozen or moved since
        own = {id(parameter) for parameter in self._module.parameters() if parameter.requires_grad}
        main = equilibrium_rule(self._main, self.group_number)
        found: dict[int, tuple[nn.Parameter, float]] = {}
        for optimizer in self._optimizers:
            for number, group in enumerate(optimizer.param_groups):
                rule = equilibrium_rule(optimizer, number)
                if rule.decay_is_separable and rule.radial_decay > 0:
                    rate = rule.radial_decay * _faster(rule, group, main, self.group)
                    found |= {id(p): (p, rate) for p in group["params"] if id(p) in own}
        return list(found.values())


def _faster(rule: EquilibriumRule, group: dict[str, Any], main: EquilibriumRule, main_group: dict[str, Any]) -> float:
    """How many times as fast a group learns as the one that counts; during a warm-up from zero, as it will."""
    if main.lr:
        return rule.lr / main.lr
    first, other = group.get("initial_lr", nominal_lr(group)), main_group.get("initial_lr", nominal_lr(main_group))
    return float(first) * rule.lr_gain / (float(other) * main.lr_gain) if other else 1.0
