"""The small files beside the weights of a model: in its folder, or on the model hub."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_SECONDS = 3.0  # that the hub has to answer in
_SURE_SECONDS = 60.0  # after which it is asked again
_SAFE, _SHARDS, _PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


class ModelFiles:
    """Files of one model; what is not there is ``None``.

    Args:
        model: a local folder, or a name on the model hub, from where files are fetched one by one.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "config.json").write_text('{"hidden_size": 8}')
        >>> files = ModelFiles(str(folder))
        >>> files.object("config.json"), files.path("modules.json")
        ({'hidden_size': 8}, None)
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.is_folder = Path(model).is_dir()

    @property
    def from_cache(self) -> bool:
        """Whether files come from the hub's cache alone, for the hub does not answer."""
        return not self.is_folder and not _hub_answers(self.model, int(time.monotonic() // _SURE_SECONDS))

    def path(self, file: str) -> Path | None:
        """Where a file lies on this machine."""
        if self.is_folder:
            place: Path | None = Path(self.model) / file
        else:
            place = _downloaded(self.model, file, from_cache=self.from_cache)
        return place if place is not None and place.is_file() else None

    def object(self, file: str) -> dict[str, Any] | None:
        """A JSON object.

        Raises:
            ValueError: if the file is damaged.
        """
        content: dict[str, Any] | None = self._json(file, dict)
        return content

    def array(self, file: str) -> list[Any] | None:
        """A JSON list.

        Raises:
            ValueError: if the file is damaged.
        """
        content: list[Any] | None = self._json(file, list)
        return content

    def _json(self, file: str, kind: type[dict[str, Any]] | type[list[Any]]) -> Any:
        place = self.path(file)
        if place is None:
            return None
        try:
            content = json.loads(place.read_text(encoding="utf-8"))
        except ValueError as error:
            raise damaged(place, error) from error
        if not isinstance(content, kind):
            raise damaged(place, TypeError(f"expected a JSON {kind.__name__}, got {type(content).__name__}"))
        return content

    def tensors(self, folder: str) -> Mapping[str, Tensor]:
        """Weights of a module that has a folder of its own.

        Raises:
            ValueError: if there are none, or the file is damaged.
        """
        from safetensors.torch import load_file

        safe, pickled = self.path(_joined(folder, _SAFE)), None
        if safe is None:
            pickled = self.path(_joined(folder, _PICKLED))
        try:
            if safe is not None:
                return load_file(safe)
            if pickled is not None:
                weights: Mapping[str, Tensor] = torch.load(pickled, map_location="cpu", weights_only=True)
                return weights
        except Exception as error:  # what cannot be unpickled can raise anything
            raise damaged(safe or pickled, error) from error
        raise ValueError(
            f"model: expected {_SAFE} or {_PICKLED} in '{_joined(self.model, folder)}', got neither; save or download "
            "the model again"
        )

    def stored_dtype(self, folder: str = "") -> torch.dtype | None:
        """Precision of the weights as they are stored; ``None`` where the files do not say."""
        from safetensors import safe_open

        shards = self.object(_joined(folder, _SHARDS))
        first_shard = next(iter(shards.get("weight_map", {}).values()), _SAFE) if shards is not None else _SAFE
        file = self.path(_joined(folder, first_shard))
        if file is not None:
            with safe_open(str(file), framework="pt") as tensors:
                names = [tensors.get_slice(name).get_dtype() for name in tensors.keys()]  # noqa: SIM118
            return next((_DTYPES[name] for name in names if name in _DTYPES), None)
        config = self.object(_joined(folder, "config.json")) or {}
        dtype = getattr(torch, str(config.get("dtype", config.get("torch_dtype"))), None)
        return dtype if isinstance(dtype, torch.dtype) else None


def damaged(file: object, error: Exception) -> ValueError:
    """The error of a file that does not hold what it should."""
    complaint = " ".join(str(error).partition("\n")[0].split())[:200]
    return ValueError(
        f"model: '{file}' is damaged ({type(error).__name__}: {complaint}); save or download the model again"
    )


def _joined(folder: str, file: str) -> str:
    return f"{folder}/{file}" if folder and file else folder or file


def unknown(model: str, error: Exception) -> ValueError:
    """The error of a name that is neither a folder nor to be had from the hub."""
    reason = (
        "the hub cannot be reached and no copy of it is in the cache; connect, or copy the model's folder here"
        if isinstance(error.__cause__, OSError) or "connect" in str(error) or "offline" in str(error)
        else "the hub has no such model, or gives it to members alone; check the name, or log in with hf auth login"
    )
    return ValueError(
        f"model: expected a folder or a name on the model hub, got '{model}': there is no such folder here, and "
        f"{reason}"
    )


@lru_cache(maxsize=16)
def _hub_answers(model: str, _minute: int) -> bool:
    """Whether the hub can be reached, asked once a minute: of each file the library asks six times in half of it."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().model_info(model, timeout=_SECONDS)
    except HFValidationError as error:
        raise ValueError(
            f"model: expected a folder or a name on the model hub, got '{model}': there is no such folder here, and "
            "the hub has no such names; check the path"
        ) from error
    except HfHubHTTPError:  # an answer, which is told apart where the file is asked for
        return True
    except Exception:  # of whatever client the library has, or its own for offline mode
        return False
    return True


def _downloaded(model: str, file: str, *, from_cache: bool) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(model, file, local_files_only=from_cache)
    except OSError as error:
        if "does not appear to have a file named" in str(error):
            return None
        if not isinstance(try_to_load_from_cache(model, "config.json"), str):
            # At once: each further file would be tried for half a minute where there is no network.
            raise unknown(model, error) from error
        warnings.warn(
            f"model: the hub cannot be reached, and files of {model} that are not in its cache count as missing",
            stacklevel=4,
        )
        return None
    return None if path is None else Path(path)
