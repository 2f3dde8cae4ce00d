"""Optional dependencies, and what to say when one is missing."""

from __future__ import annotations

from importlib.util import find_spec


class MissingExtraError(ImportError):
    """A command needs a package that a plain installation leaves out."""


def require(*modules: str, extra: str) -> None:
    """Checks that optional packages are installed, without importing them.

    Args:
        modules: the names under which they are imported.
        extra: the extra of lightning-normdyn that brings them.

    Raises:
        MissingExtraError: if one is not installed.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            f"this command needs {' and '.join(missing)}; install with: pip install 'lightning-normdyn[{extra}]'"
        )
