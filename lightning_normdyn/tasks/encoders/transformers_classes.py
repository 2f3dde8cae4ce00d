"""Classes of transformers, imported when they are used."""

from __future__ import annotations

from typing import Any


def transformers_classes(*names: str) -> list[Any]:
    """Imports classes.

    Raises:
        ModuleNotFoundError: if transformers is not installed.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "transformers: expected it for a pretrained text model, found nothing; install lightning-normdyn[text]"
        ) from error
    return [getattr(transformers, name) for name in names]
