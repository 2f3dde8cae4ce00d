"""Imports Triton where it is installed, and tells whether its kernels can run on a tensor's device and type."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch
from torch import Tensor

try:
    import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
    import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
except ImportError:
    triton = tl = None

__all__ = ["is_available", "is_installed", "jit", "on_device_of", "supports", "tl"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def is_installed() -> bool:
    """Whether there is a Triton at all."""
    return triton is not None


@cache
def is_available() -> bool:
    """Whether there is one that can run: with an NVIDIA device and a C compiler, or in Triton's interpreter."""
    if not is_installed():
        return False
    has_compiler = bool(os.environ.get("CC")) or any(map(shutil.which, ("cc", "gcc", "clang")))
    return _is_interpreted() or (torch.cuda.is_available() and torch.version.hip is None and has_compiler)


def supports(a: Tensor, b: Tensor) -> bool:
    """Whether the kernels can take these vectors; every exclusion and all factors will do."""
    if not (is_available() and a.dtype == b.dtype and a.dtype in _DTYPES and min(*a.shape, len(b)) > 0):
        return False
    return _is_interpreted() or (a.is_cuda and torch.cuda.get_device_capability(a.device) >= (8, 0))


def jit(function: Callable[..., Any]) -> Any:
    """Makes a function one that Triton compiles, which reads annotations too; without Triton it stays as it is."""
    return function if triton is None else triton.jit(function)


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Makes the device of a tensor the one that kernels start on."""
    return torch.cuda.device_of(x)


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
