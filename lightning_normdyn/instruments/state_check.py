"""Checks of plain data: what a state out of a checkpoint must be before any of it is believed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Check = Callable[[Any, str], None]
"""Looks at a value and its place in the state.

Raises:
    ValueError: with the place, what was expected and what came.
"""


_LARGEST = torch.finfo(torch.float64).max


def whole(least: int = 0) -> Check:
    """A whole number, ``least`` or more.

    Example:
        >>> whole()(-3, "steps")
        Traceback (most recent call last):
            ...
        ValueError: steps: expected a whole number, 0 or more, got -3
    """

    def check(value: Any, place: str) -> None:
        if type(value) is not int or value < least:
            _refuse(place, f"a whole number, {least} or more", value)

    return check


def number(least: float = -math.inf) -> Check:
    """A finite number, ``least`` or more."""

    def check(value: Any, place: str) -> None:
        if type(value) not in (int, float) or not math.isfinite(value) or value < least:
            _refuse(place, "a finite number" if least == -math.inf else f"a finite number, {least:g} or more", value)

    return check


def flag(value: Any, place: str) -> None:
    """True or False."""
    if type(value) is not bool:
        _refuse(place, "True or False", value)


def word(*choices: str) -> Check:
    """One of some words; any text where none are given."""

    def check(value: Any, place: str) -> None:
        if type(value) is not str or (choices and value not in choices):
            _refuse(place, f"one of {', '.join(choices)}" if choices else "a text", value)

    return check


def optional(check: Check) -> Check:
    """None, or what another check passes."""
    return lambda value, place: None if value is None else check(value, place)


class Sizes(dict[str, int]):
    """Lengths that go by a name: the first tensor that has one settles it for all others."""

    def are_those_of(self, shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
        """Whether a shape is as wanted, where a name stands for any length that is the same everywhere."""
        if len(shape) != len(wanted):
            return False
        return all(
            size == (self.setdefault(name, size) if isinstance(name, str) else name)
            for size, name in zip(shape, wanted, strict=True)
        )


def tensor(
    *shape: int | str,
    sizes: Sizes | None = None,
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64),
    least: float = -_LARGEST,
    most: float = _LARGEST,
    unless: Tensor | None = None,
    may_be_nan: bool = False,
) -> Check:
    """A tensor of a shape and data type whose numbers lie within limits.

    Args:
        shape: lengths, or names of them.
        sizes: what the names stand for.
        dtypes: those that may come.
        least: smallest number; without one, all must be finite.
        most: largest number; likewise.
        unless: places along the last dimension where numbers may be anything, a mask.
        may_be_nan: whether NaN and infinity may stand anywhere.

    Example:
        >>> tensor(3, least=0)(torch.tensor([1.0, -1.0, 0.0]), "norms")
        Traceback (most recent call last):
            ...
        ValueError: norms: expected numbers of 0 or more, got -1.0
    """

    def check(value: Any, place: str) -> None:
        if type(value) is not Tensor or value.layout is not torch.strided or value.device.type == "meta":
            _refuse(place, "a tensor", value)
        if value.dtype not in dtypes or not (Sizes() if sizes is None else sizes).are_those_of(
            tuple(value.shape), shape
        ):
            names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            lengths = ", ".join(
                str(sizes.get(size, size) if sizes is not None and isinstance(size, str) else size) for size in shape
            )
            _refuse(place, f"{names} [{lengths}]", value)
        numbers = value.detach().cpu().double()  # float32 would round the limits to infinity
        outside = ~((numbers >= least) & (numbers <= most))
        if may_be_nan:
            outside &= numbers.isfinite()
        if unless is not None:
            outside &= ~unless.cpu()
        if bool(outside.any()):
            limits = f"numbers of {least:g} or more" if most >= _LARGEST else f"numbers of {least:g} to {most:g}"
            limits = "finite numbers" if least <= -_LARGEST else limits
            raise ValueError(f"{place}: expected {limits}, got {numbers[outside][0].item()}")

    return check


def listed(*checks: Check) -> Check:
    """A list or tuple with so many members, each as its check asks."""

    def check(value: Any, place: str) -> None:
        if type(value) not in (list, tuple) or len(value) != len(checks):
            _refuse(place, f"a list of {len(checks)}", value)
        for index, (member, member_check) in enumerate(zip(value, checks, strict=True)):
            member_check(member, f"{place}[{index}]")

    return check


def each(member_check: Check) -> Check:
    """A list of any length, each member as the check asks."""

    def check(value: Any, place: str) -> None:
        if type(value) is not list:
            _refuse(place, "a list", value)
        for index, member in enumerate(value):
            member_check(member, f"{place}[{index}]")

    return check


def mapped(value_check: Check) -> Check:
    """A dict from texts to values as the check asks."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict) or any(type(key) is not str for key in value):
            _refuse(place, "a dict by names", value)
        for key, member in value.items():
            value_check(member, f"{place}.{key}")

    return check


def fields(checks: Mapping[str, Check], *, later: Mapping[str, Check] | None = None) -> Check:
    """A dict with an entry for each check; others are passed over.

    Args:
        checks: entries that must be there.
        later: entries that need not be there.

    Example:
        >>> fields({"steps": whole()})({"step": 3}, "state")
        Traceback (most recent call last):
            ...
        ValueError: state: expected an entry 'steps', got step
    """

    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            _refuse(place, "a dict", value)
        for name, entry_check in checks.items():
            if name not in value:
                names = ", ".join(str(key) for key in value)
                raise ValueError(f"{place}: expected an entry '{name}', got {names or 'none'}")
            entry_check(value[name], f"{place}.{name}")
        for name, entry_check in (later or {}).items():
            if name in value:
                entry_check(value[name], f"{place}.{name}")

    return check


def _refuse(place: str, wanted: str, value: Any) -> None:
    if isinstance(value, Tensor):
        came = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    elif isinstance(value, (dict, list, tuple)):
        came = f"a {type(value).__name__} of {len(value)}"
    elif type(value) in (bool, int, float, str, type(None)):
        came = repr(value)
    else:
        came = f"a {type(value).__name__}"
    raise ValueError(f"{place}: expected {wanted}, got {came if len(came) < 80 else came[:80] + '...'}")
