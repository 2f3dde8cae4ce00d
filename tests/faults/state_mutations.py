"""Ways to spoil a state of plain data, at every place of it: each mutation is a copy with one thing changed."""

from __future__ import annotations

import copy
import datetime
import math

import torch

_ABSENT = object()


class Foreign:
    """What no checkpoint of ours holds."""


def mutations(state):
    """Name, and a function that makes the spoilt copy, for each place and each way that applies there."""
    for name, value in _whole(state):
        yield f"whole: {name}", lambda value=value: value
    for path, value in _places(state):
        for way, change in _ways(value):
            yield f"{'.'.join(map(str, path))}: {way}", lambda path=path, change=change: _with(state, path, change)


def _whole(state):
    yield "a text", "no state"
    yield "a list", [state]
    yield "a tensor", torch.ones(3)
    yield "an entry of a foreign class", {"version": 2, "targets": Foreign()}
    yield "nested once more", {"state": state}
    yield "nothing but a version", {"version": 2}
    yield "a number", 7


_FEW = 2


def _places(value, path=()):
    """Every place, but for those of courses and of long lists, which are all alike: the first few."""
    children = []
    if isinstance(value, dict):
        children = list(value.items())[: _FEW if path and path[-1] == "courses" else None]
    elif isinstance(value, (list, tuple)):
        children = list(enumerate(value))[:_FEW]
    for key, child in children:
        yield (*path, key), child
        yield from _places(child, (*path, key))


def _with(state, path, change):
    state = copy.deepcopy(state)
    owner = state
    for key in path[:-1]:
        owner = owner[key]
    if change is _ABSENT:
        del owner[path[-1]]
    else:
        owner[path[-1]] = change
    return state


def _ways(value):
    yield "left out", _ABSENT
    yield "of a foreign class", Foreign()
    yield "in another dict", {"value": value}
    if value is not None:
        yield "None", None
    if isinstance(value, torch.Tensor):
        yield from _tensor_ways(value)
    elif isinstance(value, bool):
        yield "a number", 3
    elif isinstance(value, (int, float)):
        yield "negative", -1 - value
        yield "NaN", math.nan
        yield "a text", str(value)
        yield "a tensor", torch.tensor([value, value])
        yield "a date", datetime.date(2026, 1, 1)
    elif isinstance(value, str):
        yield "another text", value + "x"
        yield "a number", 5
    elif isinstance(value, (list, tuple)):
        yield "cut short", value[:-1]
        yield "empty", []
        yield "twice as long", [*value, *value]
    elif isinstance(value, dict):
        yield "empty", {}
        yield "a list", list(value.items())


def _tensor_ways(value):
    yield "a list", value.tolist()
    yield "of another dtype", value.to(torch.float16) if value.is_floating_point() else value.to(torch.float32) - 0.5
    yield "complex", value.to(torch.complex64)
    yield "with a dimension more", value[None]
    yield "sparse", value.to_sparse() if value.ndim else value.to(torch.int8)
    if value.ndim:
        yield "cut short", value[:-1]
        yield "without rows", value[:0]
        yield "twice as long", torch.cat((value, value))
    if value.ndim > 1:
        yield "narrower", value[:, :-1]
        yield "flat", value.flatten()
    if value.is_floating_point():
        yield "negative", -1 - value.abs()
        yield "NaN", torch.full_like(value, math.nan)
        yield "infinite", torch.full_like(value, math.inf)
