"""Recognises norms that something sets back between optimizer steps, where no law of the norm holds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_LEAST_CHANGE = 3e-6
"""Relative change of a norm that single precision shows for certain."""
_ROUNDING = 3e-7
_NEAR = 0.05
_MOST = 0.9
_FEWEST = 20


class NormResets:
    """Counts how often a norm that a step had changed is later back where that step found it.

    Norms that are left alone keep what a step did to them, and come back to within a twentieth of it by chance in some
    5% of looks. Those of rows that are put back on a sphere, all or as they are looked up, come back every time. Rows
    that two looks in a row both saw change are counted: others may not have been looked up since. Norms are kept in the
    precision in which they come: the difference of two that are near each other is exact in it.

    Example:
        >>> resets = NormResets()
        >>> ones = torch.ones(30)
        >>> for _ in range(3):
        ...     resets.sample(before=ones, after=1.001 * ones)
        >>> resets.are_certain()
        True
    """

    def __init__(self) -> None:
        self._before: Tensor | None = None
        self._change = self._changed = self._returned = torch.zeros(())

    def sample(self, before: Tensor, after: Tensor) -> None:
        """Takes a look at one step.

        Args:
            before: norms before it, ``[n]``.
            after: norms after it, ``[n]``.
        """
        change = (after - before).abs()
        if self._before is not None:
            least = _LEAST_CHANGE * before
            changed = (change > least) & (self._change > least)
            near = (before - self._before).abs() <= torch.maximum(_NEAR * self._change, _ROUNDING * before)
            self._changed = self._changed.to(change) + changed.sum()
            self._returned = self._returned.to(change) + (changed & near).sum()
        self._before, self._change = before, change

    def are_certain(self) -> bool:
        """Whether nearly all norms came back, and enough of them; waits for the device."""
        changed, returned = float(self._changed), float(self._returned)
        return changed >= _FEWEST and returned >= _MOST * changed

    def state_dict(self) -> dict[str, Any]:
        """Tensors, for a checkpoint."""
        return {
            "before": self._before,
            "change": self._change,
            "changed": self._changed,
            "returned": self._returned,
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self._before = None if state["before"] is None else state["before"].to(device)
        self._change = state["change"].to(device)
        self._changed, self._returned = state["changed"].to(device), state["returned"].to(device)
