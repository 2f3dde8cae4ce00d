"""Parameters for a moment at another scale."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lightning_normdyn.capture.sharded import is_sharded


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
