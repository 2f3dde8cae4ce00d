"""What a run is called."""

from __future__ import annotations

import re
from pathlib import Path

_VERSION = re.compile(r"version_\d+")


def run_name(folder: Path) -> str:
    """The folder's name, with its parent's where it is but a version's number.

    Args:
        folder: the run's folder, absolute.

    Example:
        >>> run_name(Path("/logs/words/version_0")), run_name(Path("/logs/words"))
        ('words/version_0', 'words')
    """
    return "/".join(folder.parts[-2:]) if _VERSION.fullmatch(folder.name) and folder.parent.name else folder.name
