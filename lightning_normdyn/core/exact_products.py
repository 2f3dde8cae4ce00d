"""Matrix products in the full precision of float32, whatever a user allows for training."""

from __future__ import annotations

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
    backends: Any = torch.backends
    setting = backends.cuda.matmul if device.type == "cuda" else getattr(backends.mkldnn, "matmul", None)
    name, exact = ("fp32_precision", "ieee") if hasattr(setting, "fp32_precision") else ("allow_tf32", False)
    before = getattr(setting, name, None)
    if before is None or before == exact:
        yield
        return
    setattr(setting, name, exact)
    try:
        yield
    finally:
        setattr(setting, name, before)
