"""Errors of a checkpoint that Lightning cannot restore, each as one sentence that names the file."""

from __future__ import annotations

import re
import traceback
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lightning_normdyn.cli.user_errors import users_traceback

_READ = {"resume_start", "_load_from_checkpoint", "_parse_ckpt_path"}
_FILES = ("checkpoint_connector.py", str(Path("core", "saving.py")), str(Path("pytorch_lightning", "cli.py")))
_RESTORED = {
    "restore_datamodule": "the state of its data",
    "restore_model": "the weights",
    "restore_callbacks": "the state of its callbacks",
    "restore_precision_plugin_state": "the state of its precision",
    "restore_loops": "the place in its training",
    "restore_optimizers": "the state of its optimizers",
    "restore_optimizers_and_schedulers": "the state of its optimizers and schedulers",
    "restore_lr_schedulers": "the state of its schedulers",
}
_TERMINAL_CODE = re.compile(r"\x1b\[\d*m")
_NOT_OF_THE_FILE = (MemoryError, torch.cuda.OutOfMemoryError, ArgumentError)


class CheckpointError(ValueError):
    """A file is no checkpoint, or one of something else."""


@contextmanager
def fitting_checkpoint(checkpoint: str | None, trainer: Any = None) -> Iterator[None]:
    """Names the checkpoint where it cannot be read, or where it is not of the model.

    Args:
        checkpoint: as it was asked for.
        trainer: that restores it, and knows the file behind a word such as ``last``.

    Raises:
        CheckpointError: in place of the error of reading or restoring.
    """
    try:
        yield
    except Exception as error:
        sentence = _sentence(error, getattr(trainer, "ckpt_path", None) or checkpoint)
        if sentence is None or users_traceback(error) is not None:
            raise
        raise CheckpointError(sentence) from error


def loading_options(checkpoint: object) -> dict[str, Any]:
    """How Lightning is to load a checkpoint, so that none runs code.

    torch loads a file with ``weights_only=True`` by itself; of a URL Lightning makes it ``False``.

    Args:
        checkpoint: path or URL, or ``None``.

    Example:
        >>> loading_options("last.ckpt"), loading_options("https://host/last.ckpt")
        ({}, {'weights_only': True})
    """
    return {"weights_only": True} if "://" in str(checkpoint) else {}


def _sentence(error: Exception, file: object) -> str | None:
    """What is wrong with the file; ``None`` if the error is not of restoring it."""
    if isinstance(error, _NOT_OF_THE_FILE):
        return None
    if isinstance(error, RuntimeError) and "loading state_dict" in str(error):
        return (
            f"ckpt_path: expected weights of the model that config describes, got others in '{file}'; pass the configs "
            "and options of its training, or the config.yaml that fit saved"
        )
    step = _step(error)
    if isinstance(error, FileNotFoundError) and error.filename is None and str(file) in str(error):
        return f"ckpt_path: expected a checkpoint, got no file '{file}'; check the path"
    if step is None or isinstance(error, FileNotFoundError | PermissionError):  # which name the file themselves
        return None
    complaint = _complaint(error)
    if step in _RESTORED:
        return (
            f"ckpt_path: expected {_RESTORED[step]} in '{file}', got none that fits{complaint}; pass a checkpoint "
            "that this training saved, with its configs and options"
        )
    if _came_open(error):
        return (
            f"ckpt_path: expected a checkpoint that fit saved, got something else in '{file}'{complaint}; name a "
            ".ckpt file of a run"
        )
    if "Weights only load failed" in str(error):
        return (
            f"ckpt_path: expected a checkpoint that holds weights and plain values, got other objects in '{file}', or "
            f"damage{complaint}; name a .ckpt file of a run that you trust"
        )
    return (
        f"ckpt_path: expected a checkpoint that fit saved, got a file that cannot be read, '{file}'{complaint}; it "
        "may be damaged or cut short: name another one"
    )


def _step(error: Exception) -> str | None:
    """The innermost step of Lightning's restoring that the error came through."""
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(_FILES)]
    return next((name for name in reversed(names) if name in _RESTORED or name in _READ), None)


def _came_open(error: Exception) -> bool:
    """Whether the file could be read, and what it held would not do."""
    frames = traceback.extract_tb(error.__traceback__)
    return not any(Path(frame.filename).parts[-2:] == ("torch", "serialization.py") for frame in frames)


def _complaint(error: Exception) -> str:
    """The first sentence of the error in brackets, on one line; nothing of one that is about somebody's code alone."""
    if isinstance(error, AttributeError | TypeError):
        return ""
    if isinstance(error, OSError) and error.strerror:
        return f" ({error.strerror})"
    first_line = str(error).strip().partition("\n")[0]
    text = " ".join(_TERMINAL_CODE.sub("", first_line).split()).partition(". ")[0][:160]
    return f" ({type(error).__name__}: {text})".replace(": )", ")")
