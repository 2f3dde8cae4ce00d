"""Closed forms of the equilibrium norm, read off real torch optimizers.

To add an optimizer: write a reader that turns one parameter group into an :class:`EquilibriumRule`, and enter it in
``_READERS``. A new law, rather than a new optimizer, also needs an entry in ``_LAWS`` and one in
:meth:`EquilibriumRule.predict` and :meth:`EquilibriumRule.evolve`. The test beside the table simulates every entry with
the real optimizer on tangential noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.core.equilibrium import Family, relaxation_steps
from lightning_normdyn.core.geometry import most_precise
from lightning_normdyn.core.rates import RateSegment, RateTrace

_LAWS: dict[Family, str] = {
    "sgd": "R⁴ = lr·V² / (2·lambda_rad)",
    "adamw": "R² = lr·d / (2·lambda_rad) · p / (p + 1 - beta2)",
    "adam": "R³ = lr·sqrt(d)·V / (2·lambda_rad)",
}
_GROWTH_LAWS: dict[Family, str] = {
    "sgd": "no equilibrium without weight decay: R⁴ grows by 2·lr²·V² a step",
    "adamw": "no equilibrium without weight decay: R² grows by lr²·d·p / (p + 1 - beta2) a step",
    "adam": "no equilibrium without weight decay: R² grows by lr²·d a step",
}
_POWERS: dict[Family, int] = {"sgd": 4, "adamw": 2, "adam": 3}
_ADAM_SUBSTEPS = 8


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
        return _LAWS[self.family] if self.radial_decay > 0 else _GROWTH_LAWS[self.family]

    @property
    def power(self) -> int:
        """The power of R that relaxes linearly, hence the one whose time average the closed form predicts."""
        return 2 if self.family is None else _POWERS[self.family]

    @property
    def decay_is_separable(self) -> bool:
        """Whether the update that weight decay makes can be told from the task's."""
        return self.family in ("sgd", "adamw")

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
        family = self._known_family()
        v2 = most_precise(torch.as_tensor(second_moment))
        if self.radial_decay <= 0:
            return torch.full_like(v2, math.inf)
        scale = self.lr / (2 * self.radial_decay)
        if family == "sgd":
            return (scale * v2).pow(1 / 4)
        if family == "adamw":
            return (scale * dim * self._presence(update_probability, v2)).sqrt()
        return (scale * math.sqrt(dim) * v2.sqrt()).pow(1 / 3)

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

        For SGD and AdamW the recursion (theory: relaxation, transients, forecast) is linear in R⁴ and R² and is applied
        in closed form over each segment of the trace; for Adam with coupled decay the balance equation is integrated.
        Works without weight decay too: that is the growth law.

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
        family = self._known_family()
        trace = lrs if isinstance(lrs, RateTrace) else RateTrace.of(lrs)
        segments = [segment.scaled(self.lr_gain) for segment in trace.segments]
        start, v2 = most_precise(norm), most_precise(second_moment)
        if family == "adam":
            return self._evolve_coupled_adam(start, v2, dim, segments)
        source = v2 if family == "sgd" else dim * self._presence(update_probability, v2)
        kept, gained = self._linear_coefficients(segments)
        return (kept * start.pow(self.power) + gained * source).pow(1 / self.power)

    def _linear_coefficients(self, segments: list[RateSegment]) -> tuple[float, float]:
        """``R^k(end) = kept·R^k(start) + gained·source``, accumulated over the segments."""
        kept, gained = 1.0, 0.0
        for steps, lr, lr_squared in segments:
            shrink = max(0.0, 1 - lr * self.radial_decay)
            kept_once = shrink**self.power
            gained_once = 2 * shrink**2 * lr_squared if self.family == "sgd" else lr_squared
            kept_now = kept_once**steps
            repeats = (1 - kept_now) / (1 - kept_once) if kept_once < 1 else float(steps)
            kept, gained = kept_now * kept, kept_now * gained + gained_once * repeats
        return kept, gained

    def _evolve_coupled_adam(self, norm: Tensor, v2: Tensor, dim: int, segments: list[RateSegment]) -> Tensor:
        """Integrates ``dR³/dt = -3·e·lambda·sqrt(d)·R⁴/V + 1.5·e²·d·R``, exactly for R frozen within a substep.

        Adam normalises noise and decay together, so ``V`` is ``sqrt(V² + lambda²·R⁴)`` here: a row without gradients
        then shrinks by ``e·sqrt(d)`` a step instead of vanishing at once.
        """
        cubed = norm.pow(3)
        tiny = torch.finfo(v2.dtype).tiny
        for steps, lr, lr_squared in segments:
            substeps = min(steps, _ADAM_SUBSTEPS)
            span = steps / substeps
            for _ in range(substeps):
                radius = cubed.pow(1 / 3)
                gradient_scale = (v2 + (self.radial_decay * radius.square()).square()).sqrt().clamp(min=tiny)
                exponent = -3 * lr * self.radial_decay * math.sqrt(dim) * radius / gradient_scale * span
                # expm1(x)/x tends to 1 without decay
                mean_kept = torch.where(exponent < 0, torch.expm1(exponent) / exponent, 1.0)
                cubed = cubed * exponent.exp() + 1.5 * lr_squared * dim * radius * span * mean_kept
        return cubed.pow(1 / 3)

    def _presence(self, update_probability: Tensor | float, like: Tensor) -> Tensor:
        """``p/(p + 1 - beta2)``: the mean squared normalised step of a row that is updated with probability p."""
        p = torch.as_tensor(update_probability, dtype=like.dtype, device=like.device).expand_as(like)
        return p / (p + 1 - self.second_beta)

    def _known_family(self) -> Family:
        if self.family is None:
            raise ValueError(f"optimizer: no norm can be predicted: {self.reason}; the measured budget still holds")
        return self.family


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
        lr = settings.get("lr")  # some optimizers choose their own: the entry is then missing or None
        return EquilibriumRule(
            name, None, math.nan if lr is None else float(lr), 1.0, 0.0, reason=f"{name} has no known law of the norm"
        )
    return reader(name, settings)


def _read_sgd(name: str, group: dict[str, Any]) -> EquilibriumRule:
    momentum = group["momentum"]
    # torch applies dampening to the momentum buffer alone, so without momentum it does nothing.
    gain = (1 - group["dampening"]) / (1 - momentum) if momentum else 1.0
    return EquilibriumRule(name, "sgd", float(group["lr"]) * gain, gain, group["weight_decay"])


def _read_adam(name: str, group: dict[str, Any]) -> EquilibriumRule:
    lr, decay = float(group["lr"]), group["weight_decay"]
    if group["amsgrad"]:
        return EquilibriumRule(
            name, None, lr, 1.0, decay, reason=f"{name} with amsgrad=True has no known law of the norm"
        )
    decoupled = group.get("decoupled_weight_decay", name == "AdamW")
    family: Family = "adamw" if decoupled or not decay else "adam"
    return EquilibriumRule(name, family, lr, 1.0, decay, second_beta=float(group["betas"][1]))


def _read_rmsprop(name: str, group: dict[str, Any]) -> EquilibriumRule:
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
