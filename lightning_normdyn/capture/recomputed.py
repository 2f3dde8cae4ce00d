"""Calls that activation checkpointing makes a second time."""

from __future__ import annotations

import torch


class Recomputed:
    """Tells, of a call heard under grad mode, whether it only repeats one that was heard before.

    A checkpointed module is called again during the backward pass. Where the first call was made under grad mode
    (``use_reentrant=False``) it is the one that gets the gradients; where it was not (``use_reentrant=True``), the
    second one is.
    """

    def __init__(self) -> None:
        self._heard_forward = False

    def __call__(self) -> bool:
        """Whether the call under way is such a repetition."""
        if in_backward():
            return self._heard_forward
        self._heard_forward = True
        return False


def in_backward() -> bool:
    """Whether autograd is at work on this thread."""
    if torch.compiler.is_compiling():
        return False
    return bool(torch._C._current_graph_task_id() != -1)
