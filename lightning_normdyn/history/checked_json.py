"""Small JSON files with a checksum in them, so that a wrong bit is not read as another number."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from lightning_normdyn.atomic_file import write_atomically

_CHECKSUM = "checksum"


def write_checked(file: Path, content: dict[str, Any]) -> None:
    """Writes an object whole or not at all, with its checksum as one entry more.

    Args:
        file: where it goes.
        content: of what JSON knows, and NaN and infinity, which Python's own reads too.

    Raises:
        TypeError: if something in it is none of that.
        OSError: if the file cannot be written.
    """
    text = json.dumps({**content, _CHECKSUM: _checksum(content)}, indent=1)
    write_atomically(file, f"{text}\n".encode("ascii"))


def read_checked(file: Path) -> dict[str, Any]:
    """Reads what :func:`write_checked` wrote.

    Args:
        file: of it.

    Raises:
        ValueError: if it is damaged; the message names it.
        FileNotFoundError: if there is none.
        OSError: if it cannot be read.
    """
    try:
        content = dict(json.loads(file.read_bytes()))
        if content.pop(_CHECKSUM, None) != _checksum(content):
            raise ValueError("it is not what was written")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"history: '{file}' is damaged ({error})") from error
    return content


def _checksum(content: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode('ascii')):08x}"
