"""Runs a module in evaluation mode during training, and restores its modes and all random states afterwards."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lightning_normdyn.core.sharded_tensor import is_sharded


@contextlib.contextmanager
def evaluating(module: nn.Module, device: torch.device, seed: int = 0) -> Iterator[None]:
    """Within it a module evaluates as in float32 inference, and afterwards nothing tells that it did.

    Evaluation mode, no gradients, no autocast, no compilation; every mode flag and random state is put back, whatever
    happens. Flags are set one by one, because a module's own ``train()`` may do more than that.

    Args:
        module: what will be called.
        device: where it lives.
        seed: random state within.
    """
    modes = [(child, child.training) for child in module.modules()]
    with contextlib.ExitStack() as stack:
        stack.enter_context(same_random_state(device, seed))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(_eagerly())
        for child, mode in modes:
            stack.callback(setattr, child, "training", mode)
            child.training = False
        yield


@contextlib.contextmanager
def same_random_state(device: torch.device, seed: int = 0) -> Iterator[None]:
    """Within it random numbers start from a seed; afterwards those of Python, numpy and torch go on as if never asked.

    Args:
        device: whose generator is put back, besides the CPU's.
        seed: random state within.

    Example:
        >>> state = torch.get_rng_state()
        >>> with same_random_state(torch.device("cpu")):
        ...     _ = torch.rand(3)
        >>> torch.equal(state, torch.get_rng_state())
        True
    """
    devices = [] if device.type in ("cpu", "meta") else [device]
    python_state, numpy_random = random.getstate(), getattr(sys.modules.get("numpy"), "random", None)
    with contextlib.ExitStack() as stack:
        stack.callback(random.setstate, python_state)
        if numpy_random is not None:
            stack.callback(numpy_random.set_state, numpy_random.get_state())
            numpy_random.seed(seed)
        stack.enter_context(torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"))
        _seed(seed, device)
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


@contextlib.contextmanager
def stretched(parameters: Sequence[tuple[nn.Parameter, float]]) -> Iterator[None]:
    """Within it every parameter is so many times as large; afterwards it is what it was, bit for bit.

    Its memory is swapped for a stretched copy, in float32 at least, and swapped back: nothing is computed backwards.
    Of a parameter that is sharded over ranks, whose memory others hold on to, the local part is overwritten and then
    copied back.

    Args:
        parameters: each with its factor.

    Example:
        >>> weight = nn.Parameter(torch.ones(2))
        >>> with stretched([(weight, 1.5)]):
        ...     print(weight.data)
        tensor([1.5000, 1.5000])
        >>> weight.data
        tensor([1., 1.])
    """
    with contextlib.ExitStack() as stack, torch.no_grad():
        for parameter, factor in parameters:
            if is_sharded(parameter):
                local = parameter.data.to_local()  # type: ignore[attr-defined]
                stack.callback(local.copy_, local.clone())
                local.mul_(factor)
            else:
                stack.callback(_put, parameter, parameter.data)
                _put(parameter, _widened(parameter.data) * factor)
        yield


@contextlib.contextmanager
def widened(module: nn.Module) -> Iterator[None]:
    """Within it a module in half precision has float32 parameters and buffers; costs nothing where it has them."""
    halves = [tensor for tensor in (*module.parameters(), *module.buffers()) if _is_half(tensor)]
    with contextlib.ExitStack() as stack:
        for tensor in halves:
            if not is_sharded(tensor):
                stack.callback(_put, tensor, tensor.data)
                _put(tensor, _widened(tensor.data))
        yield


def _put(tensor: Tensor, data: Tensor) -> None:
    tensor.data = data


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)


def _widened(data: Tensor) -> Tensor:
    return data.float() if _is_half(data) else data
