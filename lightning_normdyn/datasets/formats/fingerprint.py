"""What tells a cached file whether the files that it was made of are still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from lightning_normdyn.datasets.formats.lines import File

_LAYOUT = "1"
"""Changes when the same source would come out otherwise, so that old caches are not taken for new ones."""


def fingerprint(files: Iterable[File], *options: str) -> str:
    """Sixteen hexadecimal digits of where files are, how long and how old, and of what was asked of them."""
    said = [_LAYOUT, *options]
    for file in files:
        found = Path(file).resolve()
        state = found.stat()
        said.append(f"{found}|{state.st_size}|{state.st_mtime_ns}")
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]
