"""Matrix products in the full precision of float32, whatever a user allows for training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Switches TF32 and bfloat16 products of float32 matrices off for a while.

    ``torch.set_float32_matmul_precision("high")``, which Lightning asks for on tensor cores, rounds factors to 11 bits
    on CUDA and, on processors that can, ``"medium"`` to 8: right for training, but rankings of near scores change.

    Args:
        device: of the matrices.

    Example:
        >>> with exact_products(torch.device("cpu")):
        ...     torch.ones(1, 2) @ torch.ones(2, 1)
        tensor([[2.]])
    """
    try:
        previous_precision = _float32_matmul_precision()
    except RuntimeError:  # torch's newer settings are in use, and the two do not mix
        with _exact_by_backend(device):
            yield
        return
    if previous_precision == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(previous_precision)


def _float32_matmul_precision() -> str:
    with warnings.catch_warnings():  # torch 2.9 calls this setting deprecated, although a user never touched it
        warnings.simplefilter("ignore", UserWarning)
        return torch.get_float32_matmul_precision()


@contextmanager
def _exact_by_backend(device: torch.device) -> Iterator[None]:
    backends: Any = torch.backends
    setting, parent = (
        (backends.cuda.matmul, backends) if device.type == "cuda" else (backends.mkldnn.matmul, backends.mkldnn)
    )
    previous_precision = setting.fp32_precision
    # What is inherited reads like what is set; put back as set, it would no longer follow its parent.
    previous_precision = "none" if previous_precision == parent.fp32_precision else previous_precision
    setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        setting.fp32_precision = previous_precision
