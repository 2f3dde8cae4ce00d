"""Calling a module without leaving a trace."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def quiet(module: nn.Module, device: torch.device, seed: int = 0) -> Iterator[None]:
    """Within it a module evaluates as in float32 inference, and afterwards nothing tells that it did.

    Evaluation mode, no gradients, no autocast, no compilation; every mode flag and random state is put back, whatever
    happens. Flags are set one by one, because a module's own ``train()`` may do more than that.

    Args:
        module: what will be called.
        device: where it lives.
        seed: random state within.
    """
    modes = [(child, child.training) for child in module.modules()]
    devices = [] if device.type in ("cpu", "meta") else [device]
    python_state, numpy_random = random.getstate(), getattr(sys.modules.get("numpy"), "random", None)
    with contextlib.ExitStack() as stack:
        stack.callback(random.setstate, python_state)
        if numpy_random is not None:
            stack.callback(numpy_random.set_state, numpy_random.get_state())
            numpy_random.seed(seed)
        stack.enter_context(torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"))
        _seed(seed, device)
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(_eagerly())
        for child, mode in modes:
            stack.callback(setattr, child, "training", mode)
            child.training = False
        yield


def _seed(seed: int, device: torch.device) -> None:
    """Not ``torch.manual_seed``, which would reach devices whose state is not kept."""
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if device.type not in ("cpu", "meta"):
        torch.get_device_module(device).manual_seed(seed)


def _eagerly() -> contextlib.AbstractContextManager[object]:
    """A compiled module runs as it was written: it must not be compiled again for the sake of a probe."""
    set_stance = getattr(torch.compiler, "set_stance", None)
    return contextlib.nullcontext() if set_stance is None else set_stance("force_eager")
