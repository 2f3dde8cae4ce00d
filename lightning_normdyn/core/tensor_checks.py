"""Checks of arguments that are tensors, so that a list or a table of words is named before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def check_tensors(**tensors: object) -> None:
    """Refuses what is no tensor: a list, an array of numpy, nothing at all.

    Args:
        tensors: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_tensors(norms=[1.0, 2.0])
        Traceback (most recent call last):
            ...
        ValueError: norms: expected a tensor, got list; torch.as_tensor makes one of numbers
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"{name}: expected a tensor, got {type(tensor).__name__}; torch.as_tensor makes one of numbers"
            )


def check_real_tensors(**tensors: object) -> None:
    """Refuses what is no tensor of floating-point numbers.

    Args:
        tensors: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> import torch
        >>> check_real_tensors(queries=torch.ones(2, 3).long())
        Traceback (most recent call last):
            ...
        ValueError: queries: expected floating-point numbers, got torch.int64; pass queries.float()
    """
    check_tensors(**tensors)
    for name, tensor in tensors.items():
        assert isinstance(tensor, Tensor)
        if not tensor.is_floating_point():
            raise ValueError(f"{name}: expected floating-point numbers, got {tensor.dtype}; pass {name}.float()")
        if tensor.itemsize == 1:
            raise ValueError(
                f"{name}: expected floating-point numbers of 16 bits at least, got {tensor.dtype}, which torch does "
                f"not compute with; pass {name}.float()"
            )


def check_dense(**arrays: object) -> None:
    """Refuses tensors that do not hold every number: sparse ones, and those of the device ``meta``.

    Args:
        arrays: name of an argument to what came; what is no tensor is left to others.

    Raises:
        ValueError: naming the argument and the way out.

    Example:
        >>> import torch
        >>> check_dense(documents=torch.eye(2).to_sparse())
        Traceback (most recent call last):
            ...
        ValueError: documents: expected a dense tensor, got torch.sparse_coo; pass documents.to_dense()
    """
    for name, array in arrays.items():
        if isinstance(array, Tensor) and array.layout is not torch.strided:
            raise ValueError(f"{name}: expected a dense tensor, got {array.layout}; pass {name}.to_dense()")
        if isinstance(array, Tensor) and array.is_meta:
            raise ValueError(f"{name}: expected numbers, got a tensor on the device meta, which has none; load them")


def check_columns(argument: str, columns: object, items: int, *, what: str = "items") -> None:
    """Refuses what is no mapping of names to one number for each item.

    Args:
        argument: its name.
        columns: what came.
        items: how many there are.
        what: they are.

    Raises:
        ValueError: naming the argument and the column, what was expected and what came.

    Example:
        >>> import torch
        >>> check_columns("covariates", {"age": torch.ones(2)}, 3)
        Traceback (most recent call last):
            ...
        ValueError: covariates: expected one number for each of 3 items as 'age', got (2,)
    """
    if not isinstance(columns, Mapping):
        raise ValueError(f"{argument}: expected columns by name, got {type(columns).__name__}; pass a dictionary")
    for name, column in columns.items():
        check_tensors(**{f"{argument}[{name!r}]": column})
        if column.shape != (items,):
            raise ValueError(
                f"{argument}: expected one number for each of {items} {what} as {name!r}, got {tuple(column.shape)}"
            )


def check_probabilities(name: str, probabilities: Tensor | float) -> None:
    """Refuses numbers outside of 0 to 1; NaN among the rows of a tensor stands for what is not known.

    Args:
        name: of the argument.
        probabilities: a number, or one for each row.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_probabilities("update_probability", 1.5)
        Traceback (most recent call last):
            ...
        ValueError: update_probability: expected shares from 0 to 1, got 1.5; 1 is every step
    """
    if isinstance(probabilities, Tensor):
        is_outside = bool(((probabilities < 0) | (probabilities > 1)).any())
        came = f"{float(probabilities.min()):g} to {float(probabilities.max()):g}" if is_outside else ""
    else:
        is_number = isinstance(probabilities, int | float) and not isinstance(probabilities, bool)
        is_outside, came = not is_number or not 0 <= probabilities <= 1, repr(probabilities)
    if is_outside:
        raise ValueError(f"{name}: expected shares from 0 to 1, got {came}; 1 is every step")
