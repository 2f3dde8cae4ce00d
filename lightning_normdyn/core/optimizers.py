"""Closed forms of the equilibrium norm, read off real torch optimizers.

To add an optimizer: write a reader that turns one parameter group into an :class:`EquilibriumRule`, and enter it in
``_READERS``. A new law, rather than a new optimizer, is one class in :mod:`lightning_normdyn.core.laws`. The test
beside the table simulates every entry with the real optimizer on tangential noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.core.equilibrium import Family, relaxation_steps
from lightning_normdyn.core.geometry import most_precise
from lightning_normdyn.core.laws import LAWS, Law, Noise, Settings
from lightning_normdyn.core.rates import RateTrace


@dataclass(frozen=True)
class EquilibriumRule:
    """What is known about the norm under one parameter group of one optimizer.

    Attributes:
        optimizer: class name.
        family: which closed form holds; ``None`` where none is known.
        lr: effective learning rate: lr·(1 - dampening)/(1 - momentum).
        lr_gain: effective learning rate per nominal one.
        radial_decay: ``lambda_rad``, shrinkage per unit of effective lr; 0 means that there is no equilibrium.
        second_beta: decay of the second-moment average (beta2, or RMSprop's alpha); 0 where there is none.
        reason: why no norm can be predicted, in words; empty where one can.

    Example:
        >>> table = torch.nn.Parameter(torch.ones(10, 64))
        >>> rule = equilibrium_rule(torch.optim.SGD([table], lr=0.1, momentum=0.9, weight_decay=1e-3))
        >>> rule.law, round(rule.lr, 6)
        ('R⁴ = lr·V² / (2·lambda_rad)', 1.0)
        >>> rule.predict(torch.tensor([2.0]), dim=64)
        tensor([5.6234], dtype=torch.float64)
    """

    optimizer: str
    family: Family | None
    lr: float
    lr_gain: float
    radial_decay: float
    second_beta: float = 0.0
    reason: str = ""

    @property
    def law(self) -> str:
        """The closed form in words, or why there is none. In it, lr is the effective learning rate."""
        if self.family is None:
            return self.reason
        law = LAWS[self.family]
        return law.formula if self.radial_decay > 0 else f"no equilibrium without weight decay: {law.growth}"

    @property
    def power(self) -> int:
        """The power of R that relaxes linearly, hence the one whose time average the closed form predicts."""
        return 2 if self.family is None else LAWS[self.family].power

    @property
    def decay_is_separable(self) -> bool:
        """Whether the update that weight decay makes can be told from the task's."""
        return self.family is not None and LAWS[self.family].decay_is_separable

    def at(self, lr: float) -> EquilibriumRule:
        """The same rule at another effective learning rate."""
        return replace(self, lr=lr)

    def relaxation_steps(self) -> float:
        """Steps in which the distance of a norm from its equilibrium falls by a factor of e.

        NaN where no law is known, and under Adam's coupled decay, whose rate depends on the gradient.
        """
        if self.family in ("sgd", "adamw"):
            return relaxation_steps(self.lr, self.radial_decay, self.family)
        return math.nan

    def predict(self, second_moment: Tensor | float, dim: int, update_probability: Tensor | float = 1.0) -> Tensor:
        """The equilibrium norm from gradients and hyper-parameters alone.

        SGD: ``R⁴ = e·V²/(2·lambda_rad)`` with ``e = lr·(1 - dampening)/(1 - momentum)``. AdamW:
        ``R² = lr·d/(2·lambda)·p/(p + 1 - beta2)``. Adam and RMSprop with coupled decay:
        ``R³ = e·sqrt(d)·V/(2·lambda)``, for rows that are updated more often than once in 1/(1 - beta2) steps. They
        hold for white tangential noise (theory: closed forms per optimizer).

        Args:
            second_moment: ``V²``, mean of ``|R·g_tan|²`` with absent steps counted as zero; ``[n]``.
            dim: ``d``, length of an embedding.
            update_probability: ``p``, share of steps in which the row gets a gradient; ``[n]``; AdamW's law.

        Returns:
            Norms in float64, ``[n]``; infinity where there is no weight decay.

        Raises:
            ValueError: if no closed form is known for this optimizer.
        """
        law, noise = self._known_law(), self._noise(second_moment, dim, update_probability)
        if self.radial_decay <= 0:
            return torch.full_like(noise.second_moment, math.inf)
        return law.settle(self._settings(), noise)

    def evolve(
        self,
        norm: Tensor,
        second_moment: Tensor,
        dim: int,
        update_probability: Tensor | float = 1.0,
        *,
        lrs: RateTrace | Iterable[float],
    ) -> Tensor:
        """The norm after a sequence of learning rates, from where it stands now.

        For SGD the recursion (theory: relaxation, transients, forecast) is linear in R⁴ and applied in closed form over
        each segment of the trace. For AdamW it is the one in R² with the lag of the second-moment average, for Adam
        with coupled decay the balance equation, both integrated. Works without weight decay too: the growth law.

        Args:
            norm: norms at the start, ``[n]``.
            second_moment: ``V²``, ``[n]``.
            dim: ``d``.
            update_probability: ``p``, ``[n]``.
            lrs: nominal learning rates, as in the optimizer's parameter group.

        Returns:
            Norms at the end in float64, ``[n]``.

        Raises:
            ValueError: if no closed form is known for this optimizer.
        """
        law, noise = self._known_law(), self._noise(second_moment, dim, update_probability)
        trace = lrs if isinstance(lrs, RateTrace) else RateTrace.of(lrs)
        segments = [segment.scaled(self.lr_gain) for segment in trace.segments]
        return law.evolve(most_precise(norm), self._settings(), noise, segments)

    def _settings(self) -> Settings:
        return Settings(self.lr, self.radial_decay, self.second_beta)

    def _noise(self, second_moment: Tensor | float, dim: int, update_probability: Tensor | float) -> Noise:
        v2 = most_precise(torch.as_tensor(second_moment))
        p = torch.as_tensor(update_probability, dtype=v2.dtype, device=v2.device).expand_as(v2)
        return Noise(v2, dim, p)

    def _known_law(self) -> Law:
        if self.family is None:
            raise ValueError(f"optimizer: no norm can be predicted: {self.reason}; the measured budget still holds")
        return LAWS[self.family]


def equilibrium_rule(optimizer: torch.optim.Optimizer, group: int = 0) -> EquilibriumRule:
    """Reads the law of the norm off one parameter group of a torch optimizer.

    Args:
        optimizer: SGD, AdamW, Adam or RMSprop give a prediction; any other gives a rule whose ``reason`` says why not.
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
    name = type(optimizer).__name__
    reader = _READERS.get(type(optimizer))
    settings = optimizer.param_groups[group]
    if reader is None:
        return _unknown(name, settings, f"{name} has no known law of the norm")
    return reader(name, settings)


def nominal_lr(group: Mapping[str, Any]) -> float:
    """The learning rate of a parameter group; NaN where an optimizer chooses its own and has no entry, or None."""
    lr = group.get("lr")
    return math.nan if lr is None else float(lr)


def memory_steps(group: Mapping[str, Any]) -> int:
    """Steps over which the updates of a parameter group stay alike: 2/(1 - momentum) or 2/(1 - beta1), at least 1.

    Example:
        >>> memory_steps({"momentum": 0.9}), memory_steps({"betas": (0.9, 0.999)}), memory_steps({"momentum": 0})
        (20, 20, 1)
    """
    betas = group.get("betas")
    kept = float(betas[0] if betas else group.get("momentum") or 0.0)
    return max(1, round(2 / (1 - kept))) if 0 < kept < 1 else 1


def _unknown(name: str, group: Mapping[str, Any], reason: str) -> EquilibriumRule:
    return EquilibriumRule(name, None, nominal_lr(group), 1.0, 0.0, reason=reason)


def _read_sgd(name: str, group: dict[str, Any]) -> EquilibriumRule:
    momentum = group["momentum"]
    if momentum >= 1:
        return _unknown(name, group, f"{name} with momentum {momentum} never forgets a gradient")
    # torch applies dampening to the momentum buffer alone, so without momentum it does nothing.
    gain = (1 - group["dampening"]) / (1 - momentum) if momentum else 1.0
    return EquilibriumRule(name, "sgd", float(group["lr"]) * gain, gain, group["weight_decay"])


def _read_adam(name: str, group: dict[str, Any]) -> EquilibriumRule:
    lr, decay = float(group["lr"]), group["weight_decay"]
    if group["amsgrad"]:
        return _unknown(name, group, f"{name} with amsgrad=True has no known law of the norm")
    decoupled = group.get("decoupled_weight_decay", name == "AdamW")
    family: Family = "adamw" if decoupled or not decay else "adam"
    return EquilibriumRule(name, family, lr, 1.0, decay, second_beta=float(group["betas"][1]))


def _read_rmsprop(name: str, group: dict[str, Any]) -> EquilibriumRule:
    if group["momentum"] >= 1:
        return _unknown(name, group, f"{name} with momentum {group['momentum']} never forgets a gradient")
    gain = 1 / (1 - group["momentum"])
    decay = group["weight_decay"]
    family: Family = "adam" if decay else "adamw"
    return EquilibriumRule(name, family, float(group["lr"]) * gain, gain, decay, second_beta=group["alpha"])


_READERS: dict[type[torch.optim.Optimizer], Callable[[str, dict[str, Any]], EquilibriumRule]] = {
    torch.optim.SGD: _read_sgd,
    torch.optim.AdamW: _read_adam,
    torch.optim.Adam: _read_adam,
    torch.optim.RMSprop: _read_rmsprop,
}
