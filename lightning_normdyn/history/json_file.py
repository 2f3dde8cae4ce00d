"""Writes JSON files whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_json(file: Path, content: Any, *, indent: int | None = None) -> None:
    """Writes beside the file's name and moves it there in one step; the folder is made.

    Args:
        file: where it goes.
        content: of what JSON knows.
        indent: spaces, for people to read.

    Raises:
        ValueError: if something in it is NaN or infinite, which JSON cannot say.
        OSError: if the file cannot be written.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary_file = file.with_name(f"{file.name}.tmp")
    try:
        temporary_file.write_text(text + "\n", encoding="utf-8")
        temporary_file.replace(file)
    except OSError as error:
        temporary_file.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(file)) from error
