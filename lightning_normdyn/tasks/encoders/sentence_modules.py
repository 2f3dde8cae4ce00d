"""Reads how a sentence-transformers model pools tokens and whether it normalizes its output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

Pooling = Literal["mean", "cls", "max", "last"]

_MODES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
_KNOWN = ("Transformer", "Pooling", "Normalize")


class SentenceModules(NamedTuple):
    """How tokens become an embedding.

    Attributes:
        pooling: of the tokens.
        has_normalize: whether the model ends in a normalisation to length one.
    """

    pooling: Pooling
    has_normalize: bool


def sentence_modules(model: str, pooling: Pooling | None = None) -> SentenceModules:
    """Reads ``modules.json`` and the pooling's ``config.json`` where the model has them.

    Args:
        model: a name on the model hub, or a local folder.
        pooling: what the user asks for; wins over what the model says.

    Returns:
        The pooling asked for, else the model's own, else ``mean``.

    Raises:
        ValueError: if the model ends in layers of another kind, or pools in a way that is not known, or a file of it
            is damaged.
    """
    modules = _read_json(model, "modules.json", list) or []
    try:
        kinds = {module["type"].rsplit(".", 1)[-1]: module["path"] for module in modules}
    except (TypeError, KeyError, AttributeError) as error:
        raise _damaged(f"{model}/modules.json", error) from error
    other_kinds = [kind for kind in kinds if kind not in _KNOWN]
    if other_kinds:
        raise ValueError(
            f"model: expected a transformer with pooling alone, got {model} with {', '.join(other_kinds)} after it; "
            "load such a model in a TextEncoder of your own"
        )
    if pooling is None:
        pooling = _stated_pooling(model, kinds["Pooling"]) if "Pooling" in kinds else "mean"
    return SentenceModules(pooling, "Normalize" in kinds)


def _stated_pooling(model: str, folder: str) -> Pooling:
    config = _read_json(model, f"{folder}/config.json", dict) or {}
    modes = [name for name, value in config.items() if name.startswith("pooling_mode_") and value]
    if len(modes) == 1 and modes[0] in _MODES:
        return _MODES[modes[0]]
    raise ValueError(
        f"pooling: expected {model} to pool in one of the ways {', '.join(_MODES.values())}, got "
        f"{', '.join(modes) or 'none'}; say which one to take"
    )


def _read_json(model: str, file: str, kind: type[list[Any]] | type[dict[str, Any]]) -> Any:
    place = Path(model) / file if Path(model).is_dir() else _downloaded(model, file)
    if place is None or not place.is_file():
        return None
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(place, error) from error
    if not isinstance(content, kind):
        raise _damaged(place, TypeError(f"expected a JSON {kind.__name__}, got {type(content).__name__}"))
    return content


def _damaged(file: object, error: Exception) -> ValueError:
    return ValueError(f"model: '{file}' is damaged ({type(error).__name__}: {error}); save or download the model again")


def _downloaded(model: str, file: str) -> Path | None:
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(model, file)
    except OSError:  # no such file, or no such model, which loading it will say better
        return None
    return None if path is None else Path(path)
