"""Whether a target showed anything in the first window of a run and, if it did not, the likely reason."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.table import TableTarget
from lightning_normdyn.capture.targets import Method
from lightning_normdyn.core.sharded_tensor import is_sharded
from lightning_normdyn.instruments.encoder_watch import EncoderWatch
from lightning_normdyn.instruments.watch import Watch

_SAMPLE = 4_096  # weights that are compared
_FEWEST_STEPS = 5  # some of the first may have no loss


class FirstLook:
    """Looks once whether a target was seen, so that one that never is does not stay away in silence.

    Args:
        watch: follows the target.
        steps: of its optimizer after which to look, if they are more than a handful.
    """

    def __init__(self, watch: Watch, steps: int) -> None:
        self.watch = watch
        self._due = watch.announced_steps + max(steps, _FEWEST_STEPS)
        target = watch.target
        self._weights = _sample(target.parameter) if isinstance(target, TableTarget) else None

    def is_due(self) -> bool:
        """Whether the steps were made."""
        return self.watch.announced_steps >= self._due

    def absence(self) -> str:
        """What was not seen of the target and the likely reason, in words; empty if all was."""
        target = self.watch.target
        if isinstance(target, OutputTarget):
            return self._absence_of_output(target)
        return self._absence_of_table(target) if self.watch.steps == self.watch.first_step else ""

    def _absence_of_table(self, target: TableTarget) -> str:
        if not target.parameter.requires_grad:
            return ""  # frozen, which is the user's own doing
        weights = _sample(target.parameter)
        if self._weights is not None and weights is not None and not torch.equal(self._weights, weights):
            return (
                "never seen: it has no gradient when its optimizer steps and moves all the same, as under one that "
                "steps inside of backward() or a loop that writes to it"
            )
        return (
            "never seen: no gradient reached it, since nothing on the way to the loss looks up its rows, or only under "
            "no_grad or past a detach()"
        )

    def _absence_of_output(self, target: OutputTarget) -> str:
        if target.was_heard:
            return "" if target.had_gradient else _NO_GRADIENT
        if isinstance(self.watch, EncoderWatch) and self.watch.balance.probe is not None:
            return ""
        if isinstance(target.module, Method):
            return "never seen: calls of a method are not heard; give its inputs as probe=, on which it is followed"
        if target.calls_with_gradients:
            return "never seen: it was called, but not in a step that was measured; set every_n_steps to fewer"
        if target.calls_without_gradients:
            return "never seen: it was called under no_grad alone, as a teacher or a momentum encoder is"
        if any(parameter.grad is not None for parameter in target.module.parameters()):
            return (
                "never seen: its weights have gradients, but it was not called itself: by its forward(), by another "
                "method, or member by member; name what is called, such as the module around it"
            )
        return "never seen: it was not called, and its weights have no gradient"


_NO_GRADIENT = (
    "no gradient came back to its vectors, so their norms alone are measured: they are detached, not on the way to the "
    "loss, or overwritten in place"
)


def _sample(parameter: Tensor) -> Tensor | None:
    if is_sharded(parameter):
        return None
    weights = parameter.detach().reshape(-1)
    return weights[:: 1 + len(weights) // _SAMPLE].clone()
