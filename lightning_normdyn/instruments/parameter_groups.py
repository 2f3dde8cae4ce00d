"""Parameter groups of optimizers: which one trains a target, and how fast each shrinks an encoder's parameters."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.table import TableTarget
from lightning_normdyn.core.dynamics.optimizers import equilibrium_rule
from lightning_normdyn.core.dynamics.rates import nominal_lr
from lightning_normdyn.core.dynamics.rule import EquilibriumRule


class ParameterGroup(NamedTuple):
    """One parameter group of an optimizer."""

    optimizer: torch.optim.Optimizer
    number: int


def find_parameter_group(
    target: TableTarget | OutputTarget, optimizers: Sequence[torch.optim.Optimizer]
) -> ParameterGroup | None:
    """The group that trains a table, or the first parameter of a submodule; without any, the first optimizer's first.

    Example:
        >>> model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3))
        >>> groups = [{"params": layer.parameters()} for layer in model]
        >>> find_parameter_group(TableTarget("1.weight", model), [torch.optim.SGD(groups, lr=0.1)]).number
        1
    """
    parameters = (target.parameter,) if isinstance(target, TableTarget) else tuple(target.module.parameters())
    for parameter in parameters:
        for optimizer in optimizers:
            number = group_number(optimizer, parameter)
            if number is not None:
                return ParameterGroup(optimizer, number)
    if isinstance(target, OutputTarget) and optimizers:
        return ParameterGroup(optimizers[0], 0)
    return None


def group_number(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> int | None:
    """Which parameter group holds a parameter now."""
    places = _PLACES.setdefault(optimizer, {})
    if not _is_at(optimizer, places.get(id(parameter)), parameter):  # never looked up, or moved since
        places.clear()
        for number, group in enumerate(optimizer.param_groups):
            for place, member in enumerate(group["params"]):
                places.setdefault(id(member), (number, place))
    place_now = places.get(id(parameter))
    return None if place_now is None else place_now[0]


_PLACES: weakref.WeakKeyDictionary[torch.optim.Optimizer, dict[int, tuple[int, int]]] = weakref.WeakKeyDictionary()


def _is_at(optimizer: torch.optim.Optimizer, place: tuple[int, int] | None, parameter: nn.Parameter) -> bool:
    """Whether a parameter is still where it was found: a search for each of many tables would take its square."""
    if place is None or place[0] >= len(optimizer.param_groups):
        return False
    parameters = optimizer.param_groups[place[0]]["params"]
    return place[1] < len(parameters) and parameters[place[1]] is parameter


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
        group = self.group
        return next(number for number, member in enumerate(self._main.param_groups) if member is group)

    def _choose_group(self) -> int:
        encoder_ids = {id(parameter) for parameter in self._module.parameters() if parameter.requires_grad}

        def weight(number: int) -> tuple[bool, int]:
            group = self._main.param_groups[number]
            size = sum(parameter.numel() for parameter in group["params"] if id(parameter) in encoder_ids)
            return size > 0 and bool(group.get("weight_decay")), size

        return max(range(len(self._main.param_groups)), key=weight)

    def rates(self) -> list[tuple[nn.Parameter, float]]:
        """Each decayed parameter of the encoder, with its rate per unit of the effective lr of the group that counts.

        Decay that cannot be told from the task's part of a step, as Adam's coupled one, is left out: drift holds it.
        """
        self._last_group = None  # parameters may have been frozen or moved since
        encoder_ids = {id(parameter) for parameter in self._module.parameters() if parameter.requires_grad}
        main = equilibrium_rule(self._main, self.group_number)
        rates: dict[int, tuple[nn.Parameter, float]] = {}
        for optimizer in self._optimizers:
            for number, group in enumerate(optimizer.param_groups):
                rule = equilibrium_rule(optimizer, number)
                if rule.decay_is_separable and rule.radial_decay > 0:
                    rate = rule.radial_decay * _faster(rule, group, main, self.group)
                    rates |= {id(p): (p, rate) for p in group["params"] if id(p) in encoder_ids}
        return list(rates.values())


def _faster(rule: EquilibriumRule, group: dict[str, Any], main: EquilibriumRule, main_group: dict[str, Any]) -> float:
    """How many times as fast a group learns as the one that counts; during a warm-up from zero, as it will."""
    if main.lr:
        return rule.lr / main.lr
    lr, main_lr = group.get("initial_lr", nominal_lr(group)), main_group.get("initial_lr", nominal_lr(main_group))
    return float(lr) * rule.lr_gain / (float(main_lr) * main.lr_gain) if main_lr else 1.0
