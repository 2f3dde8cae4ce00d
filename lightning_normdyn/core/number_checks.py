"""Checks of arguments that are numbers or flags: whole, positive, finite and in a range; true or false."""

from __future__ import annotations

import math
from numbers import Integral, Real

from torch import Tensor


def check_count(minimum: int = 1, /, *, hint: str = "", **counts: object) -> None:
    """Refuses what is no whole number of at least ``minimum``; ``True`` and ``2.0`` are none.

    Args:
        minimum: the smallest number that makes sense.
        hint: the likely fix, to end the sentence with.
        counts: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_count(dim=8, batch_size=2.5)
        Traceback (most recent call last):
            ...
        ValueError: batch_size: expected a whole number, 1 or more, got 2.5
    """
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, Integral) or int(count) < minimum:
            raise ValueError(f"{name}: expected a whole number, {minimum} or more, got {shown(count)}{ending(hint)}")


def check_positive(*, hint: str = "", **numbers: object) -> None:
    """Refuses a number that is not positive and finite, and what is no number.

    Args:
        hint: the likely fix, to end the sentence with.
        numbers: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_positive(temperature=0.05, lr=-1, hint="1e-3 is common")
        Traceback (most recent call last):
            ...
        ValueError: lr: expected a positive number, got -1; 1e-3 is common
    """
    for name, number in numbers.items():
        if not 0 < _real(number) < math.inf:
            raise ValueError(f"{name}: expected a positive number, got {shown(number)}{ending(hint)}")


def check_not_negative(*, unknown: bool = False, hint: str = "", **numbers: object) -> None:
    """Refuses a number that is negative or not finite, and what is no number.

    Args:
        unknown: whether NaN and infinity pass, which stand for what is not known or has no end.
        hint: the likely fix, to end the sentence with.
        numbers: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_not_negative(weight_decay=-0.1)
        Traceback (most recent call last):
            ...
        ValueError: weight_decay: expected a number, 0 or more, got -0.1
    """
    for name, number in numbers.items():
        is_unknown = unknown and isinstance(number, float) and not (math.isfinite(number) or number < 0)
        if not is_unknown and not 0 <= _real(number) < math.inf:
            raise ValueError(f"{name}: expected a number, 0 or more, got {shown(number)}{ending(hint)}")


def check_number(**numbers: object) -> None:
    """Refuses what is no number at all; NaN and infinity pass.

    Args:
        numbers: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_number(drift="0")
        Traceback (most recent call last):
            ...
        ValueError: drift: expected a number, got '0'
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, Real | Tensor):
            raise ValueError(f"{name}: expected a number, got {shown(number)}")


def check_finite_number(*, hint: str = "", **numbers: object) -> None:
    """Refuses a number that is not finite, and what is no number.

    Args:
        hint: the likely fix, to end the sentence with.
        numbers: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_finite_number(alpha=float("nan"))
        Traceback (most recent call last):
            ...
        ValueError: alpha: expected a finite number, got nan
    """
    for name, number in numbers.items():
        if not math.isfinite(_real(number)):
            raise ValueError(f"{name}: expected a finite number, got {shown(number)}{ending(hint)}")


def check_share(*, hint: str = "", **shares: object) -> None:
    """Refuses what is no number between 0 and 1, both of them left out.

    Args:
        hint: the likely fix, to end the sentence with.
        shares: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_share(level=95, hint="0.95 is usual")
        Traceback (most recent call last):
            ...
        ValueError: level: expected a share between 0 and 1, got 95; 0.95 is usual
    """
    for name, share in shares.items():
        if not 0 < _real(share) < 1:
            raise ValueError(f"{name}: expected a share between 0 and 1, got {shown(share)}{ending(hint)}")


def check_flag(*, hint: str = "", **flags: object) -> None:
    """Refuses what is neither true nor false: any word would count as true, ``"no"`` among them.

    Args:
        hint: the likely fix, to end the sentence with.
        flags: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_flag(symmetric="no")
        Traceback (most recent call last):
            ...
        ValueError: symmetric: expected True or False, got 'no'
    """
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"{name}: expected True or False, got {shown(flag)}{ending(hint)}")


def _real(number: object) -> float:
    """The number; NaN for what is none, such as a word, a flag, or a tensor of several."""
    is_single = isinstance(number, Tensor) and number.numel() == 1 and not number.is_complex()
    if isinstance(number, bool) or not (isinstance(number, Real) or is_single):
        return math.nan
    return float(number)  # type: ignore[arg-type]


_MOST_LETTERS, _MOST_NUMBERS = 80, 8


def shown(value: object) -> str:
    """What came, on one line of a message: a large or sparse array by its type and shape, of the rest a line at most.

    Example:
        >>> import torch
        >>> shown(torch.eye(3)), len(shown(list(range(1000))))
        ('Tensor of torch.float32 (3, 3)', 80)
    """
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and (math.prod(shape) > _MOST_NUMBERS or not hasattr(value, "tolist")):
        return f"{type(value).__name__} of {getattr(value, 'dtype', 'unknown type')} {tuple(shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 3]}..."


def ending(hint: str) -> str:
    """A hint as the end of a sentence; nothing for none."""
    return f"; {hint}" if hint else ""
