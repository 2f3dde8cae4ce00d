"""The effective learning rate and the decay of step after step, read off a parameter group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lightning_normdyn.core.dynamics.law_inputs import DecayCorrection
from lightning_normdyn.core.dynamics.optimizers import group_rule
from lightning_normdyn.core.dynamics.rates import nominal_lr


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
        self._correction: DecayCorrection | None = None

    def read(self, group: dict[str, Any]) -> tuple[float, float]:
        """The effective learning rate and ``lambda_rad`` of a step under these settings."""
        settings = [group.get(name) for name in _RATE_SETTINGS]
        if settings != self._settings:  # reading a rule takes longer than all else
            rule = group_rule(self._optimizer, group)
            self._settings, self._correction = settings, rule.correction
            self._lr_gain, self._radial_decay = rule.lr_gain, rule.radial_decay
        rate = nominal_lr(group) * self._lr_gain
        return rate, self._radial_decay if self._correction is None else self._correction.radial_decay(rate)


_RATE_SETTINGS = ("momentum", "dampening", "weight_decay", "betas", "max_lr_snapshot")
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
