"""Files that are written whole or not at all, and JSON among them."""

from __future__ import annotations

import json
import os
import secrets
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
    """Writes into a temporary file of the same folder and moves it into place; the folder is made.

    A process that is killed on the way leaves the old file as it was. The temporary file has an unguessable name and
    is opened exclusively, so neither a link that somebody put there is followed nor another writer's file taken over;
    on an error it is removed. A device or a pipe is written to as it stands.

    Args:
        file: where it goes; a link of that name is replaced by the file.
        content: all of it.

    Raises:
        OSError: if the file cannot be written; it names ``file``.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and not (file.is_file() or file.is_dir()):
            file.write_bytes(content)
        else:
            _replace(file, content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


def _replace(file: Path, content: bytes) -> None:
    temporary = file.with_name(f".{file.name[:100]}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
