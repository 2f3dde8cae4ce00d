"""Turns the ``probe=`` option (a batch, a loader, a path) into calls of the encoder."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_normdyn.capture.call import Call
from lightning_normdyn.caution import SettingsError
from lightning_normdyn.core.number_checks import check_count

ProbeSource = Any
"""``None`` (the first training batch), ``False`` (no probe), a batch, a loader, a path, or these by target name."""


def check_probe(probe: ProbeSource) -> ProbeSource:
    """Refuses what cannot be a probe, and a file that is not there."""
    if probe is True or (isinstance(probe, (int, float)) and not isinstance(probe, bool)):
        raise ValueError(
            f"probe: expected None, False, a batch of the encoder's inputs, a loader of them or a path, got {probe!r}"
        )
    if isinstance(probe, (str, os.PathLike)) and not Path(probe).is_file():
        raise ValueError(f"probe: no file '{os.fspath(probe)}'; torch.save the encoder's inputs there")
    return probe


def check_probe_items(items: int) -> int:
    """Refuses a number of items that is none."""
    check_count(probe_items=items)
    return items


def probe_of(probe: ProbeSource, name: str, names: Collection[str]) -> ProbeSource:
    """What the user gave for one target: the whole, or what a mapping of target names holds under its own.

    Args:
        probe: what the user gave.
        name: the target.
        names: all targets.
    """
    if isinstance(probe, Mapping) and any(key in names for key in probe):
        return probe.get(name)
    return probe


def user_calls(probe: ProbeSource, name: str, most_items: int, module: nn.Module | None = None) -> list[Call] | None:
    """The calls that a user's probe asks for.

    Args:
        probe: what the user gave for this target.
        name: the target.
        most_items: most items.
        module: what is to be called.

    Returns:
        Calls of the encoder with ``most_items`` items at most; ``None`` if it is left to the first training batch.

    Raises:
        ValueError: if there is no tensor in it, or some of it requires grad.
    """
    if isinstance(probe, (str, os.PathLike)):
        probe = _read(probe)
    if probe is None:
        return None
    calls, items_left = [], most_items
    for batch in _batches(probe):
        call = Call.of(batch, module)
        rows = call.rows()
        if not rows:
            raise SettingsError(f"probe: expected tensors that '{name}' is called with, got {type(batch).__name__}")
        if call.requires_grad():
            raise SettingsError(
                f"probe: the inputs for '{name}' require grad; give the encoder's inputs, detached from any model"
            )
        calls.append(call.first_rows(rows, items_left))
        items_left -= min(rows, items_left)
        if not items_left:
            break
    return calls


def _read(path: str | os.PathLike[str]) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or foreign file makes torch raise
        raise SettingsError(
            f"probe: '{os.fspath(path)}' is no batch of tensors that torch.save wrote ({type(error).__name__})"
        ) from error


def _batches(probe: Any) -> Iterable[Any]:
    """One batch as a list of one; a loader as it is."""
    if isinstance(probe, (Tensor, Mapping, list, tuple)):
        return [probe]
    if isinstance(probe, Iterable):
        return probe
    raise SettingsError(
        f"probe: expected a batch of the encoder's inputs, a loader of them or a path, got {type(probe).__name__}"
    )
