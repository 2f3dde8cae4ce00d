"""Files that are written whole or not at all: streamed ones, small ones, and JSON."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_json(file: Path, content: Any, *, indent: int | None = None) -> None:
    """Writes JSON whole or not at all; the folder is made.

    Args:
        file: where it goes.
        content: of what JSON knows.
        indent: spaces, for people to read.

    Raises:
        ValueError: if something in it is NaN or infinite, which JSON cannot say.
        OSError: if the file cannot be written.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent)
    write_atomically(file, (text + "\n").encode("utf-8"))


def write_atomically(file: Path, content: bytes) -> None:
    """Writes a small file whole or not at all, see :func:`atomic_file`.

    Args:
        file: where it goes; a link of that name is replaced by the file.
        content: all of it.

    Raises:
        OSError: if the file cannot be written; it names ``file``.
    """
    with atomic_file(file) as temporary:
        temporary.write_bytes(content)


@contextmanager
def atomic_file(file: Path) -> Iterator[Path]:
    """A temporary file of the same folder to write to, which is moved into place at the end; the folder is made.

    A process that is killed on the way leaves the old file as it was. The temporary file has an unguessable name and
    is made exclusively, so neither a link that somebody put there is followed nor another writer's file taken over; on
    an error it is removed. A device or a pipe is written to as it stands.

    Args:
        file: where it goes; a link of that name is replaced by the file.

    Yields:
        The path to write to.

    Raises:
        OSError: if the file cannot be made, written or put in place; it names ``file``.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "made" / "numbers.txt"
        >>> with atomic_file(file) as temporary:
        ...     _ = temporary.write_text("1 2 3")
        ...     file.exists()
        False
        >>> file.read_text(), [file.name for file in file.parent.iterdir()]
        ('1 2 3', ['numbers.txt'])
    """
    temporary = file.with_name(f".{file.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and not (file.is_file() or file.is_dir()):
            yield file
            return
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(file)) from error
        raise
