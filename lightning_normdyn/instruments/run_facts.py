"""Reads the facts by which rules judge off a model, its optimizers and its watches."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import nn

from lightning_normdyn.capture.table import TableTarget
from lightning_normdyn.capture.targets import table_parameter
from lightning_normdyn.core.dynamics.optimizers import equilibrium_rule
from lightning_normdyn.core.dynamics.rates import nominal_lr
from lightning_normdyn.core.sharded_tensor import is_sharded
from lightning_normdyn.instruments.fit import EquilibriumFit
from lightning_normdyn.instruments.parameter_groups import ParameterGroup, find_parameter_group, group_number
from lightning_normdyn.instruments.training_run import Run
from lightning_normdyn.instruments.verdicts.evidence import Facts
from lightning_normdyn.instruments.watch import Watch
from lightning_normdyn.losses.contrastive import ContrastiveLoss
from lightning_normdyn.losses.similarity import NormalizedSimilarity

_SAMPLE = 64
"""Rows whose average squares are looked at."""


class RunFacts:
    """Gives the facts of each target of a run as they are now; made anew where modules or parameter groups change.

    Args:
        module: the model.
        run: what the training loop tells.
    """

    def __init__(self, module: nn.Module, run: Run) -> None:
        self._run = run
        parameters = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        similarities = (part for part in module.modules() if isinstance(part, NormalizedSimilarity))
        self._normalizations = tuple(sorted({similarity.normalization for similarity in similarities}))
        self._losses = {name: part for name, part in module.named_modules() if isinstance(part, ContrastiveLoss)}
        loss_ids = {id(parameter) for loss in self._losses.values() for parameter in loss.parameters()}
        self._numbers = {name: p for name, p in parameters if p.numel() == 1 or id(p) in loss_ids}
        layers = (part for part in module.modules() if isinstance(part, nn.Embedding))
        self._table_ids = {id(table_parameter(layer)) for layer in layers}
        self._matrix_ids = {id(p) for _, p in parameters if p.dim() > 1}
        self._optimizer_ids: tuple[int, ...] = ()
        self._owner_counts: Counter[int] = Counter()

    def of_watch(self, watch: Watch, *, has_ended: bool = False) -> Facts | None:
        """The facts of a target; ``None`` where no optimizer trains it any more.

        Args:
            watch: follows the target.
            has_ended: whether no step will follow.
        """
        target, group = watch.target, find_parameter_group(watch.target, self._run.followed())
        if group is None:
            return None
        facts = partial(
            self._facts,
            target.name,
            group,
            watch.steps,
            has_ended,
            skipped_steps=watch.skipped_steps,
            dim=target.dim,
            dtype=target.dtype,
        )
        if not isinstance(target, TableTarget):
            inside = {id(parameter) for parameter in target.module.parameters()}
            return facts(kind="output", meets_loss=self._matrix_ids <= inside)
        fits = [fit for fit in watch.measurements.values() if isinstance(fit, EquilibriumFit)]
        return facts(
            kind="table",
            tracked_rows=target.tracked_rows,
            meets_loss=self._matrix_ids <= self._table_ids,
            owners=self._count_owners(target.parameter),
            typical_row=next((fit.typical_row for fit in fits), None),
            resets_norms=any(fit.resets_norms for fit in fits),
            gradient_scale=_gradient_scale(group.optimizer, target.parameter),
        )

    def _count_owners(self, parameter: nn.Parameter) -> int:
        """How many groups hold a parameter, of the optimizers that there are now."""
        optimizers = self._run.optimizers()
        ids = tuple(map(id, optimizers))
        if ids != self._optimizer_ids:
            groups = (group for optimizer in optimizers for group in optimizer.param_groups)
            self._owner_counts = Counter(id(member) for group in groups for member in group["params"])
            self._optimizer_ids = ids
        return self._owner_counts[id(parameter)]

    def of_numbers(self, step: int, *, has_ended: bool = False) -> list[Facts]:
        """The facts of each parameter that is a single number, such as a temperature, or that a loss learns.

        Args:
            step: steps made.
            has_ended: whether no step will follow.
        """
        groups = {name: self._group(parameter) for name, parameter in self._numbers.items()}
        return [
            self._facts(name, group, step, has_ended, kind="scalar")
            for name, group in groups.items()
            if group is not None
        ]

    def of_losses(self, step: int, *, has_ended: bool = False) -> list[tuple[Facts, dict[str, float]]]:
        """The facts of each loss that learns something itself, and what it has learnt.

        Args:
            step: steps made.
            has_ended: whether no step will follow.
        """
        readings = []
        for name, loss in self._losses.items():
            values = {key: float(value) for key, value in loss.learnt().items() if value.numel() == 1}
            group = next(filter(None, map(self._group, loss.parameters())), None)
            if values and group is not None:
                least = 1 / loss.scaling.max_scale
                facts = self._facts(name or "loss", group, step, has_ended, kind="loss", least_temperature=least)
                readings.append((facts, values))
        return readings

    def _group(self, parameter: nn.Parameter) -> ParameterGroup | None:
        """The group that trains a parameter; the last optimizer's, if several do."""
        groups = (
            ParameterGroup(optimizer, number)
            for optimizer in reversed(self._run.followed())
            if (number := group_number(optimizer, parameter)) is not None
        )
        return next(groups, None)

    def _facts(self, name: str, group: ParameterGroup, step: int, has_ended: bool, **details: Any) -> Facts:
        settings = group.optimizer.param_groups[group.number]
        return Facts(
            target=name,
            rule=equilibrium_rule(*group),
            lr=nominal_lr(settings),
            weight_decay=float(settings.get("weight_decay") or 0.0),
            step=step,
            total_steps=self._run.total_steps(group.optimizer),
            has_ended=has_ended,
            loss_scale=self._run.loss_scale(),
            clip_value=self._run.clip_value(),
            loss_normalizations=self._normalizations,
            eps=settings["eps"] if isinstance(settings.get("eps"), float) else None,
            **details,
        )


def _gradient_scale(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> float | None:
    """The median root of an optimizer's average of squared gradients, over a sample of rows that it has seen.

    Each average is divided by the share of its weights that the steps so far have, as Adam does.
    """
    state = getattr(optimizer, "state", {}).get(parameter, {})  # one that takes no hooks may have none
    name = next((name for name in ("exp_avg_sq", "square_avg") if name in state), None)
    squares = state[name] if name is not None else None
    if not isinstance(squares, torch.Tensor) or squares.is_sparse or is_sharded(squares):
        return None
    sample = squares[:: 1 + len(squares) // _SAMPLE].float()
    seen = sample[sample > 0]
    if not len(seen) or not parameter.dtype.is_floating_point:
        return None
    group = next((group for group in optimizer.param_groups if any(p is parameter for p in group["params"])), {})
    steps, betas = float(state.get("step", 0)), group.get("betas")
    weight = 1 - betas[1] ** steps if name == "exp_avg_sq" and betas and steps > 0 else 1.0
    return float(seen.median().div(weight).sqrt())
