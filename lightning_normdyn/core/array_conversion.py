"""Makes tensors of arrays: numpy's, memory-mapped ones, data frames, and whatever speaks DLPack or ``__array__``."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack


class SupportsArray(Protocol):
    """What numpy makes an array of: its own arrays and memmaps, data frames and columns, arrays of JAX."""

    def __array__(self) -> Any:
        """The array."""
        ...


class SupportsDLPack(Protocol):
    """What hands its memory over by DLPack: arrays of CuPy, JAX and numpy."""

    def __dlpack__(self) -> Any:
        """The capsule."""
        ...


ArrayLike: TypeAlias = "Tensor | SupportsArray | SupportsDLPack"
"""A tensor, or an array of any library that gives it away by ``__array__`` or ``__dlpack__``."""


def as_tensors(**arrays: ArrayLike) -> tuple[Tensor, ...]:
    """Tensors of arrays of any library: the one place where the package takes them in.

    A tensor stays as it is, with its device and graph. Memory is shared where torch can write to it. What lies on a GPU
    stays there where it comes by DLPack.

    Args:
        arrays: name of an argument to what came.

    Returns:
        A tensor for each, in order.

    Raises:
        ValueError: naming the argument, what was expected and what came: a list, an array of objects or texts, or one
            with masked entries.

    Example:
        >>> import numpy as np
        >>> as_tensors(norms=np.ones(2, np.float32), length=torch.zeros(2))
        (tensor([1., 1.]), tensor([0., 0.]))
        >>> as_tensors(queries=[[1.0, 2.0]])
        Traceback (most recent call last):
            ...
        ValueError: queries: expected a tensor or an array, got list; numpy.asarray or torch.as_tensor makes one of ...
    """
    return tuple(as_tensor(name, array) for name, array in arrays.items())


def as_columns(argument: str, columns: Mapping[str, ArrayLike]) -> dict[str, Tensor]:
    """Tensors of a mapping of names to arrays.

    Args:
        argument: its name.
        columns: what came.

    Raises:
        ValueError: naming the argument, and the column, if it is no such mapping.

    Example:
        >>> as_columns("covariates", {"age": torch.ones(1)})
        {'age': tensor([1.])}
    """
    if not isinstance(columns, Mapping):
        raise ValueError(f"{argument}: expected columns by name, got {type(columns).__name__}; pass a dictionary")
    return {name: as_tensor(f"{argument}[{name!r}]", column) for name, column in columns.items()}


def is_array(value: object) -> bool:
    """Whether something is a tensor, or an array that :func:`as_tensors` takes.

    Example:
        >>> is_array(torch.ones(1)), is_array([1.0])
        (True, False)
    """
    return not isinstance(value, type) and (
        isinstance(value, Tensor) or hasattr(value, "__array__") or hasattr(value, "__dlpack__")
    )


def as_tensor(name: str, value: Any) -> Tensor:
    """The tensor of one array, see :func:`as_tensors`.

    Args:
        name: of the argument.
        value: what came.

    Raises:
        ValueError: naming the argument.
    """
    if isinstance(value, Tensor):
        return value
    if not is_array(value):
        # numpy.asarray would make an array of one object of it.
        dense = next((method for method in ("toarray", "todense") if hasattr(value, method)), None)
        way = (
            "numpy.asarray or torch.as_tensor makes one of numbers"
            if dense is None
            else f"its .{dense}() makes one, with all its zeros"
        )
        raise ValueError(f"{name}: expected a tensor or an array, got {type(value).__name__}; {way}")
    if not hasattr(value, "__array_interface__") and hasattr(value, "__dlpack__"):
        with contextlib.suppress(Exception):  # each library refuses in a way of its own, and then the other way is left
            return from_dlpack(value)
    if not hasattr(value, "__array__"):
        raise ValueError(
            f"{name}: expected an array that DLPack hands over, got {type(value).__name__}, which it does not; make a "
            "tensor of it first"
        )
    return _of_numpy(name, value)


def _of_numpy(name: str, value: Any) -> Tensor:
    if hasattr(value, "filled") and value.mask.any():  # a masked array of numpy, which would give away what it hides
        raise ValueError(
            f"{name}: expected numbers, got an array with {int(value.mask.sum())} masked entries; fill them or leave "
            "those rows out"
        )
    try:
        array = value.__array__()
    except Exception as error:
        raise ValueError(f"{name}: expected an array, got {type(value).__name__}, which makes none: {error}") from error
    kind = array.dtype.kind
    if kind not in "fiubc" and array.dtype.name not in ("bfloat16",):
        raise ValueError(
            f"{name}: expected numbers, got {type(value).__name__} of {array.dtype}; convert them, as by "
            "astype('float32'), with nothing missing"
        )
    if array.dtype.name == "bfloat16" or array.dtype.name in ("float96", "float128"):
        array = array.astype("float32" if array.dtype.name == "bfloat16" else "float64")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    # torch shares memory, which it would warn of where it cannot write, and knows no steps backwards.
    shareable = array.flags.writeable and all(step >= 0 for step in array.strides)
    return torch.as_tensor(array if shareable else array.copy())
