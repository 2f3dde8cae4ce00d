"""Hooks of a training step in which a callback does nothing, and which Lightning is spared calling meanwhile."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

from lightning_normdyn.callbacks.lightning import Callback, Trainer

_STEP_HOOKS = ("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward")
"""Of each training step, but for those that every monitor has a use for."""


def set_aside_idle_hooks(callback: Callback, trainer: Trainer) -> None:
    """Shows Lightning ``None`` in the place of each hook of a training step that a callback inherits empty.

    Lightning calls an empty hook like any other: it asks for the callback's key and opens a span of the profiler, which
    takes longer than what a monitor does in most of them. A hook that is ``None`` it passes over. The class keeps its
    hooks: those of a subclass are called as ever, and may call the ones of their base. Nor is anything set aside of a
    callback that is none of the trainer's: another one passes calls on to it, and would call ``None``.

    Args:
        callback: whose hooks are set aside, until :func:`restore_idle_hooks`.
        trainer: that calls them.

    Example:
        >>> class Stopwatch(Callback):
        ...     def on_before_backward(self, trainer, pl_module, loss): ...
        >>> stopwatch = Stopwatch()
        >>> set_aside_idle_hooks(stopwatch, SimpleNamespace(callbacks=[stopwatch]))
        >>> stopwatch.on_before_backward is None, stopwatch.on_after_backward is None
        (False, True)
        >>> restore_idle_hooks(stopwatch)
        >>> stopwatch.on_after_backward is None
        False
    """
    is_called_by_trainer = any(each is callback for each in trainer.callbacks)  # type: ignore[attr-defined]
    if is_called_by_trainer and _passes_over_missing_hooks():
        idle_hooks = (hook for hook in _STEP_HOOKS if getattr(type(callback), hook) is getattr(Callback, hook))
        vars(callback).update(dict.fromkeys(idle_hooks) | vars(callback))


def restore_idle_hooks(callback: Callback) -> None:
    """Shows the hooks again that were set aside, if any were.

    Args:
        callback: whose hooks.
    """
    for hook in vars(callback).keys() - without_idle_hooks(vars(callback)).keys():
        delattr(callback, hook)


def without_idle_hooks(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a callback but for the hooks that are set aside, for a copy of it.

    Args:
        attributes: its own, by name.
    """
    return {name: value for name, value in attributes.items() if name not in _STEP_HOOKS or value is not None}


def _passes_over_missing_hooks() -> bool:
    """Whether the Lightning that is installed passes over a hook that is ``None``, where another might fail."""
    trainer = SimpleNamespace(callbacks=[SimpleNamespace(on_train_start=None)], lightning_module=None)
    try:
        calls = import_module(f"{Trainer.__module__.rpartition('.')[0]}.call")
        calls._call_callback_hooks(trainer, "on_train_start")
    except Exception:  # its hooks are left alone then
        return False
    return True
