"""Where an export goes: the writer of its target, and errors of the disk that name the place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_normdyn.cli.user_errors import MissingExtraError
from lightning_normdyn.nearest_word import nearest
from lightning_normdyn.retrieval.indexes import TARGETS, Destination, IndexWriter, index_writer
from lightning_normdyn.retrieval.indexes.writer import IndexTarget


def named_target(to: str) -> IndexTarget:
    """The target of a name.

    Args:
        to: a word of ``TARGETS``.

    Raises:
        ValueError: if there is no such target.
    """
    if to not in TARGETS:
        raise ValueError(f"to: expected one of {', '.join(TARGETS)}, got {to!r}{nearest(to, tuple(TARGETS))}")
    return TARGETS[to]


def target_writer(to: str, destination: Destination) -> IndexWriter:
    """What writes there.

    Args:
        to: a word of ``TARGETS``.
        destination: where vectors go, and how they are kept.

    Raises:
        ValueError: if there is no such target.
        MissingExtraError: if its package is not installed.
    """
    named_target(to)
    try:
        return index_writer(to, destination)
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error)) from error


@contextmanager
def disk_errors_of(place: str) -> Iterator[None]:
    """Names the place where an error of the disk names no file, or one that is there for the time being alone.

    Args:
        place: where is written, in words.

    Raises:
        OSError: in the place of one that only has a number.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        reason = os.strerror(error.errno)
        raise OSError(f"out: cannot write {place} ({reason}); free some space, or choose another place") from error
