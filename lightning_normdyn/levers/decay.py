"""Weight decay that follows the learning rate, and weight decay that follows how often a row is met."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lightning_normdyn.core.dynamics.optimizer_wrappers import unwrapped_optimizer
from lightning_normdyn.core.dynamics.optimizers import equilibrium_rule
from lightning_normdyn.core.dynamics.rates import nominal_lr
from lightning_normdyn.core.dynamics.rule import EquilibriumRule
from lightning_normdyn.core.number_checks import check_positive
from lightning_normdyn.core.tensor_checks import check_probabilities, check_tensors

_FULL_DECAY, _PEAK_PACE = "full_weight_decay", "peak_pace"


class CorrectedDecay:
    """Lets weight decay fall with the learning rate, so that norms stay at their equilibrium through a schedule.

    Where a norm settles depends on the ratio of learning rate and decay alone, ``R^power = e·source/(2·lambda_rad)``
    under every law with an equilibrium, and the time to get there grows as both fall. Under a plain schedule norms
    therefore aim ever lower and freeze before they arrive. Before each step of the optimizer this sets ``weight_decay``
    of each group to its full value times ``lr/peak_lr`` (Defazio 2025, arXiv 2506.02285, for AdamW), whatever sets
    ``lr``; a schedule of SGD's momentum, which changes the effective rate, is followed too.

    The full decay and the peak are kept in the parameter groups, so they travel in the optimizer's ``state_dict`` and a
    resumed run goes on as it was. Construct it after the learning-rate scheduler; nothing needs to be stepped.

    Args:
        optimizer: the optimizer, with the weight decay that is to hold at the peak.
        peak_lr: nominal learning rate at which decay is full; ``None`` for a group's largest of ``max_lr`` (as
            OneCycleLR notes it), ``initial_lr`` and ``lr``.

    Raises:
        ValueError: if norms settle nowhere under the optimizer, it corrects its decay by itself, or there is no peak.

    Example:
        >>> optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(10, 64))], lr=1e-3, weight_decay=0.1)
        >>> scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1000)
        >>> correction = CorrectedDecay(optimizer)
        >>> optimizer.param_groups[0]["lr"] = 5e-4  # as the scheduler would
        >>> optimizer.step()
        >>> optimizer.param_groups[0]["weight_decay"]
        0.05
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, peak_lr: float | None = None) -> None:
        if peak_lr is not None:
            check_positive(peak_lr=peak_lr)
        self.optimizer: torch.optim.Optimizer = unwrapped_optimizer(optimizer)
        self.peak_lr = peak_lr
        for number in range(len(self.optimizer.param_groups)):
            self._note(number)
        self._handle = self.optimizer.register_step_pre_hook(lambda *_: self.apply())

    def apply(self) -> None:
        """Sets the decay of every group for its learning rate now, as is done before each step."""
        for number, group in enumerate(self.optimizer.param_groups):
            self._note(number)
            group["weight_decay"] = group[_FULL_DECAY] * self._pace(number) / group[_PEAK_PACE]

    def remove(self) -> None:
        """Ends it: every group has its full decay again."""
        self._handle.remove()
        for group in self.optimizer.param_groups:
            group["weight_decay"] = group.pop(_FULL_DECAY, group["weight_decay"])
            group.pop(_PEAK_PACE, None)

    def _note(self, number: int) -> None:
        """Keeps the full decay and the peak of a group that has none noted: a new one, or an older checkpoint's."""
        group = self.optimizer.param_groups[number]
        if _PEAK_PACE in group:
            return
        rule = equilibrium_rule(self.optimizer, number)
        if rule.family is not None and (not rule.settles or rule.correction is not None):
            reason = rule.law if not rule.settles else "it corrects its decay by itself"
            raise ValueError(
                f"optimizer: expected one under which a fixed decay lets norms settle, got {rule.optimizer}: {reason}"
            )
        peak = self.peak_lr or max(float(group.get(name, 0.0)) for name in ("max_lr", "initial_lr", "lr"))
        if not 0 < peak < math.inf:
            raise ValueError(
                f"peak_lr: expected a rate above 0, got {peak} from the group; pass the peak of the schedule"
            )
        group[_FULL_DECAY], group[_PEAK_PACE] = group["weight_decay"], peak * _gain(rule)

    def _pace(self, number: int) -> float:
        """What the ``weight_decay`` entry has to be proportional to."""
        return nominal_lr(self.optimizer.param_groups[number]) * _gain(equilibrium_rule(self.optimizer, number))


def _gain(rule: EquilibriumRule) -> float:
    """Effective rate over radial decay, per nominal rate and ``weight_decay`` entry."""
    return rule.lr_gain / rule.decay_gain


def decay_by_frequency(
    optimizer: torch.optim.Optimizer,
    table: Tensor,
    update_probability: Tensor,
    *,
    second_moment: Tensor | None = None,
) -> RemovableHandle:
    """Gives every row of a table the weight decay under which it settles where the most frequent row does.

    Decay acts in every step and growth only in those that bring a row a gradient, so rare rows end shorter, and rows
    that are never met vanish. Where the law of the optimizer says ``R^power = e·source/(2·lambda)``, a row's decay is
    made ``lambda·source/source of the most frequent row``: under AdamW ``p/(p + 1 - beta2)`` of it, 0 for a row without
    gradients. It is done by rescaling rows before each step of the optimizer, by ``(1 - a_row)/(1 - a)`` with ``a`` the
    share that the optimizer is about to take from all of them; learning rate and decay may change on the way.

    Args:
        optimizer: one whose decay is apart from the gradient, as AdamW's, Lion's or SGD's.
        table: ``[rows, d]``, a parameter of the optimizer.
        update_probability: ``p``, share of steps in which each row gets a gradient, ``[rows]``: counts of a corpus over
            its length tell it, or the column of that name in a run's history.
        second_moment: ``V²`` of each row, ``[rows]``, for SGD, whose law goes by it.

    Returns:
        The handle of the hook; ``handle.remove()`` gives all rows one decay again.

    Raises:
        ValueError: if the optimizer does not train the table, its decay comes with the gradient, it has no law with an
            equilibrium, or there is not one number for each row.

    Example:
        >>> table = torch.nn.Embedding(3, 64)
        >>> optimizer = torch.optim.AdamW(table.parameters(), lr=1e-2, weight_decay=0.1)
        >>> handle = decay_by_frequency(optimizer, table.weight, torch.tensor([1.0, 0.001, 0.0]))
        >>> before = table.weight.detach().norm(dim=1)
        >>> table.weight.grad = torch.zeros(3, 64)
        >>> optimizer.step()
        >>> ((1 - table.weight.detach().norm(dim=1) / before) / (1e-2 * 0.1)).round(decimals=2).abs()
        tensor([1.0000, 0.5000, 0.0000])
        >>> handle.remove()
    """
    optimizer = unwrapped_optimizer(optimizer)
    number = _group_of(optimizer, table)
    relative = _relative_decay(equilibrium_rule(optimizer, number), table, update_probability, second_moment)

    @torch.no_grad()
    def rescale(*_: Any) -> None:
        rule = equilibrium_rule(optimizer, number)
        share = rule.lr * rule.radial_decay
        if share:
            factor = (1 - share * relative).clamp(min=0) / (1 - share)
            table.mul_(factor.to(table.device, table.dtype).unsqueeze(1))

    return optimizer.register_step_pre_hook(rescale)


def _group_of(optimizer: torch.optim.Optimizer, table: Tensor) -> int:
    for number, group in enumerate(optimizer.param_groups):
        if any(parameter is table for parameter in group["params"]):
            return number
    raise ValueError("table: expected a parameter that the optimizer trains, got another; pass the .weight itself")


def _relative_decay(
    rule: EquilibriumRule, table: Tensor, update_probability: Tensor, second_moment: Tensor | None
) -> Tensor:
    """Each row's decay over that of the most frequent one, ``[rows]``."""
    if rule.family is not None and not (rule.settles and rule.decay_is_separable):
        reason = "its decay comes with the gradient" if rule.settles else rule.law
        raise ValueError(f"optimizer: expected decay apart from the gradient, got {rule.optimizer}: {reason}")
    rows, dim = table.shape
    for name, values in (("update_probability", update_probability), ("second_moment", second_moment)):
        if values is not None or name == "update_probability":
            check_tensors(**{name: values})
        if values is not None and tuple(values.shape) != (rows,):
            raise ValueError(f"{name}: expected one number for each of {rows} rows, got shape {tuple(values.shape)}")
    check_probabilities("update_probability", update_probability)
    if second_moment is not None and not bool((second_moment >= 0).all()):
        raise ValueError("second_moment: expected numbers from 0 up, got others; RowMoments measures them")
    sources = rule.at(1.0).decay_for_norm(1.0, second_moment, dim, update_probability)
    present = update_probability.to(sources.device) > 0
    most_frequent = int(torch.where(present, update_probability.to(sources), -1.0).argmax())
    if not bool(present[most_frequent]):
        raise ValueError("update_probability: expected a row that gets gradients, got none")
    return torch.where(present, sources / sources[most_frequent], 0.0)
