"""Context managers for small trainings: one thread, and Lightning without notes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_CHATTER = (
    "GPU available but not used",
    r".*isinstance\(treespec, LeafSpec\)",  # Lightning, under recent torch
)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps torch on one thread: steps this small gain little from more, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def quiet_lightning(*messages: str) -> Iterator[None]:
    """Hushes Lightning's notes about hardware, tips and the end of training; its warnings stay.

    Args:
        messages: beginnings of further warnings to hush, as regular expressions.
    """
    notes = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    level = notes.level
    notes.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in (*_CHATTER, *messages):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        notes.setLevel(level)
