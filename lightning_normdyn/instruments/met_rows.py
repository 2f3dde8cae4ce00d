"""Which rows of a table were ever trained, and how many were not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.capture.table import TableStep, TableTarget
from lightning_normdyn.core.dynamics.geometry import are_nonzero
from lightning_normdyn.core.dynamics.rule import EquilibriumRule
from lightning_normdyn.instruments.base import CadencedInstrument, Need
from lightning_normdyn.instruments.decay_alone import DecayAlone

_FINE = 1e-5
_EXACT_NORM = 1e-12


class MetRows(CadencedInstrument):
    """Remembers which tracked rows got a gradient since it began to look.

    A row without gradients follows decay alone, ``R(t)/R(0) = Π (1 - lr·lambda)``, and so does its product with any
    fixed vector. On the cadence the product is compared with that, which tells every row that was met since the last
    look and moved by more than rounding, and costs nothing between. Besides, rows are met whose gradient was not zero
    in a step of which somebody wanted it; that is all where rounding is too coarse (half precision) or decay cannot be
    told from the gradient (Adam's coupled one).

    Args:
        target: the table.
        every_n_steps: cadence, in optimizer steps.
        rule: gives the law of the table's parameter group at its present hyper-parameters.
    """

    def __init__(self, target: TableTarget, every_n_steps: int, rule: Callable[[], EquilibriumRule]) -> None:
        super().__init__(every_n_steps)
        self._target, self._rule = target, rule
        self._decay = DecayAlone(rule())
        self._is_steady = True
        self._was_zero = self._padding = self._products = torch.empty(0)
        self._met_slots = torch.empty(1)
        self._has_state = self._is_complete = self._has_padding = False

    @property
    def _met(self) -> Tensor:
        """A view: the slot after the last is that of rows that are not tracked, and counts as met."""
        return self._met_slots[:-1]

    @_met.setter
    def _met(self, met: Tensor) -> None:
        self._met_slots = torch.cat((met, met.new_ones(1)))

    @property
    def met(self) -> Tensor:
        """Whether each tracked row was met; never one of padding, ``[tracked_rows]``."""
        return self._met & ~self._padding

    @property
    def untouched(self) -> Tensor:
        """Whether each tracked row was not; never one of padding, ``[tracked_rows]``."""
        return ~(self._met | self._padding)

    @property
    def has_met_all(self) -> bool:
        """Whether the last look left no row untouched; then none will ever be."""
        return self._is_complete

    @property
    def fadeable(self) -> Tensor:
        """Rows that may die: neither padding, nor zero from the start and never met, ``[tracked_rows]``."""
        return ~self._padding & (self._met | ~self._was_zero)

    @property
    def covers_all(self) -> bool:
        """Whether every tracked row was met by the last look, and none is padding."""
        return self._is_complete and not self._has_padding

    def begin(self, step: int) -> None:
        """Takes the rows as they are for those that nobody has met, unless a checkpoint knows better."""
        padding = self._target.padding()
        self._padding, self._has_padding = padding.to(self._target.parameter.device), bool(padding.any())
        if not self._has_state:
            self._met = torch.zeros_like(self._padding)
            self._was_zero = self._target.zero_rows()
            self._products = self._target.products()

    def need(self, step: int) -> Need:
        """Norms on the cadence, and the gradients of touched rows where rows cannot tell themselves."""
        if not self.is_due(step):
            return Need.NOTHING
        return Need.NORMS if self._rows_tell else Need.NORMS | Need.TOUCHED

    def note_lr(self, lr: float) -> None:
        """Follows a row without gradients."""
        self._decay.step(lr)

    def overhear(self, gradient: Tensor, slots: Tensor | None) -> None:
        """Meets the rows of which somebody else wanted the gradients anyway."""
        if self._is_complete:
            return
        if slots is None:
            self._met |= are_nonzero(gradient)
            return
        if slots.device.type == "cpu":  # elsewhere, selecting would wait for the device
            is_met = self._met_slots.index_select(0, slots)
            if bool(is_met.all()):
                return
            new = is_met.logical_not_().nonzero().squeeze(1)
            gradient, slots = gradient[new], slots[new]
        self._met_slots[slots] |= are_nonzero(gradient)

    def observe(self, step: int, table_step: TableStep) -> None:
        """Meets the rows that did not follow decay alone, and counts the others."""
        products, factor = table_step.products, self._decay.factor
        steps = self._decay.steps + 2 * self._decay.memory
        self._is_steady = self._decay.restart(self._rule())
        if self._rows_tell and not self._is_complete:
            expected = factor * self._products
            self._met |= ~(
                (products - expected).abs() <= _rounding(table_step.norms, expected, self._eps, self._target.dim, steps)
            )
        self._products = products
        untouched_rows = 0 if self._is_complete else int(self.untouched.sum())
        self._is_complete = not untouched_rows
        self._readings = {"untouched_rows": float(untouched_rows)}

    @property
    def _rows_tell(self) -> bool:
        """Whether decay alone can be told from anything else, as far as the last look shows."""
        return self._is_steady and self._decay.is_known and self._eps < _FINE

    @property
    def _eps(self) -> float:
        return torch.finfo(self._target.dtype).eps

    def state_dict(self) -> dict[str, Any]:
        """Which rows were met, and where the others are expected."""
        return {
            "met": self._met.clone(),
            "was_zero": self._was_zero,
            "products": self._products,
            "is_steady": self._is_steady,
            "decay": self._decay.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        device = self._target.parameter.device
        self._met, self._was_zero = state["met"].to(device), state["was_zero"].to(device)
        self._products = state["products"].to(device)
        self._is_steady = state["is_steady"]
        self._decay.load_state_dict(state["decay"])
        self._has_state = True


def _rounding(norms: Tensor, products: Tensor, eps: float, dim: int, steps: float) -> Tensor:
    """How far rounding may move the product of a row that decays alone, ``[n]``.

    Each step rounds off ``eps/5`` of a number in the mean, often the same way as the step before, and each number of a
    row in a way of its own: seven times their sum over the row is allowed. The factor itself is rounded too, for all
    numbers alike. What is shorter than ``_EXACT_NORM`` loses bits in its squares.
    """
    allowance: Tensor = eps * (
        (2 + 1.5 * steps / dim**0.5) * norms.clamp(min=_EXACT_NORM) + 0.25 * steps * products.abs()
    )
    return allowance
