"""The embedding tables of a saved model, read row by row without building the model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zipfile import is_zipfile

import torch
from torch import Tensor

from lightning_normdyn.datasets.problems import MalformedFileError

_INDEX, _SINGLE, _PICKLED = "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin"
_PICKLED_INDEX = "pytorch_model.bin.index.json"
_TABLE = re.compile(r"(emb|wte|vocab|token|table|lm_head|shared)", re.IGNORECASE)
_NO_TABLE = re.compile(r"(position|wpe|token_type|relative|norm|bias|proj)", re.IGNORECASE)
_OUTPUT = re.compile(r"(lm_head|embed_out|decoder\.weight|^output\.weight|\.output\.weight|predictions)", re.IGNORECASE)
_CHUNK_NUMBERS = 2**22
_SHARE_OF_WORDS = 4


class SavedTable(NamedTuple):
    """One matrix of a checkpoint.

    Attributes:
        name: of the tensor.
        kind: ``output`` where its name is that of a head that scores the vocabulary, else ``input``.
        rows: of it.
        dim: numbers in a row.
        dtype: as it is saved.
        source: the file, or the tensor itself where the file had to be loaded whole.
    """

    name: str
    kind: Literal["input", "output"]
    rows: int
    dim: int
    dtype: torch.dtype
    source: Path | Tensor

    def chunks(self) -> Iterator[Tensor]:
        """Its rows in order, ``[some, dim]`` on the CPU, some 4 million numbers at a time."""
        size = max(1, _CHUNK_NUMBERS // self.dim)
        if isinstance(self.source, Tensor):
            yield from (chunk.float() if chunk.element_size() == 1 else chunk for chunk in self.source.split(size))
            return
        from safetensors import safe_open

        with safe_open(str(self.source), framework="pt") as tensors:
            rows = tensors.get_slice(self.name)
            for start in range(0, self.rows, size):
                chunk = rows[start : start + size]
                yield chunk.float() if chunk.element_size() == 1 else chunk  # torch cannot compute with 8 bits


class Checkpoint(NamedTuple):
    """What is known about a saved model.

    Attributes:
        place: the folder or the file.
        tables: its embedding tables.
        config: of the model, empty where there is none.
    """

    place: Path
    tables: list[SavedTable]
    config: Mapping[str, Any]

    @property
    def padding_row(self) -> int | None:
        """``pad_token_id`` of the config."""
        padding = text_config(self.config).get("pad_token_id")
        return padding if isinstance(padding, int) and padding >= 0 else None

    @property
    def is_tied(self) -> bool:
        """Whether the one table that is saved scores the vocabulary too, as the config has it.

        A bare encoder (``BertModel``) scores nothing, whatever its config ties.
        """
        architectures = self.config.get("architectures") or ["unknown"]
        is_bare = all(re.search(r"(?<!Head)Model$", str(name)) for name in architectures)
        return (
            bool(self.config.get("tie_word_embeddings"))
            and not is_bare
            and all(table.kind == "input" for table in self.tables)
        )


def read_checkpoint(place: str | Path, *, column: str | None = None) -> Checkpoint:
    """Finds the embedding tables of a model folder of transformers, of one of its files, or of a Lightning checkpoint.

    In a folder they are the matrices with as many rows as the config's vocabulary; without a config, those that are
    named like a table. Pickled files (.bin, .ckpt, .pt, .pth) are loaded with ``weights_only=True``, which runs no code
    of theirs.

    Args:
        place: folder, or file: .safetensors, .bin, .ckpt, .pt or .pth.
        column: name of a tensor to take instead.

    Raises:
        MalformedFileError: if there are no weights, none that is a table, or a file cannot be read.
        FileNotFoundError: if there is no such place.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "last.ckpt"
        >>> torch.save({"state_dict": torch.nn.Embedding(20, 4).state_dict(prefix="table.")}, file)
        >>> [(table.name, table.kind, table.rows, table.dim) for table in read_checkpoint(file).tables]
        [('table.weight', 'input', 20, 4)]
    """
    place = Path(place)
    if not place.exists():
        raise FileNotFoundError(2, "No such file or directory", str(place))
    folder = place if place.is_dir() else place.parent
    matrices = list(_matrices(place))
    config = _read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    tables = _choose(matrices, text_config(config).get("vocab_size"), column)
    if not tables:
        names = ", ".join(f"{table.name} {table.rows} x {table.dim}" for table in matrices[:8]) or "none"
        wanted = "a table of embeddings" if column is None else f"a matrix named '{column}'"
        raise MalformedFileError(place, None, wanted, f"the matrices {names}", "name one with --column")
    return Checkpoint(place, tables, config)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config that is about text, which models of several kinds of input hold inside."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) and "vocab_size" not in config else config


def _choose(matrices: list[SavedTable], vocabulary: object, column: str | None) -> list[SavedTable]:
    if column is not None:
        return [table for table in matrices if table.name == column]
    named = [table for table in matrices if _TABLE.search(table.name) and not _NO_TABLE.search(table.name)]
    of_vocabulary = [table for table in matrices if table.rows == vocabulary]
    tall = [table for table in matrices if table.rows >= _SHARE_OF_WORDS * table.dim]
    return of_vocabulary or named or tall


def _matrices(place: Path) -> Iterator[SavedTable]:
    if place.is_dir():
        place = _weights(place)
    if place.name.endswith(".index.json"):
        shards = _read_json(place).get("weight_map")
        if not isinstance(shards, Mapping):
            raise MalformedFileError(place, None, "a weight_map of tensors to files", "none")
        for shard in sorted(set(map(str, shards.values()))):
            file = place.parent / Path(shard).name
            if not file.is_file():
                raise MalformedFileError(place, None, f"all its shards, '{file.name}' too", "none", "download it again")
            yield from _matrices(file)
    elif place.suffix == ".safetensors":
        yield from _of_safetensors(place)
    else:
        yield from _of_pickle(place)


def _weights(folder: Path) -> Path:
    """The file of a folder that leads to its weights."""
    single = [folder / name for name in (_INDEX, _SINGLE, _PICKLED, _PICKLED_INDEX) if (folder / name).is_file()]
    weight_files = [file for suffix in ("safetensors", "ckpt") for file in sorted(folder.glob(f"*.{suffix}"))]
    if not single and len(weight_files) != 1:
        listing = ", ".join(file.name for file in weight_files) or "neither"
        expected = f"{_SINGLE}, {_INDEX} or {_PICKLED}"
        raise MalformedFileError(folder, None, expected, listing, "name the file itself")
    return (single or weight_files)[0]


def _of_safetensors(file: Path) -> Iterator[SavedTable]:
    if find_spec("safetensors") is None:
        raise ValueError(f"{file}: needs safetensors; install with: pip install 'lightning-normdyn[text]'")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as tensors:
            for name in sorted(tensors.keys()):
                tensor = tensors.get_slice(name)
                shape = tensor.get_shape()
                if len(shape) == 2 and all(shape):
                    rows, dim = shape
                    dtype = tensor[:1].dtype
                    if dtype.is_floating_point:
                        yield SavedTable(name, _kind(name), rows, dim, dtype, file)
    except SafetensorError as error:
        raise MalformedFileError(
            file, None, "a whole .safetensors file", f"one that cannot be read ({error})"
        ) from error


def _of_pickle(file: Path) -> Iterator[SavedTable]:
    try:
        # Files of before torch 1.6 are no archives, and torch maps nothing else into memory.
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except Exception as error:  # torch raises what its unpickler met
        # Advice to load without weights_only comes before what was met.
        complaint = str(error).rpartition("Unpickler error:")[2].strip().partition("\n")[0].partition(". ")[0][:160]
        raise MalformedFileError(
            file, None, "weights and plain values", f"a file that torch does not load so ({complaint})",
            "save its state_dict as .safetensors",
        ) from error  # fmt: skip
    state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    for name, tensor in state.items() if isinstance(state, Mapping) else ():
        if isinstance(tensor, Tensor) and tensor.dim() == 2 and tensor.is_floating_point() and tensor.numel():
            rows, dim = tensor.shape
            yield SavedTable(str(name), _kind(str(name)), rows, dim, tensor.dtype, tensor)


def _kind(name: str) -> Literal["input", "output"]:
    return "output" if _OUTPUT.search(name) else "input"


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MalformedFileError(file, None, "JSON", f"something else ({error})") from error
    return content if isinstance(content, dict) else {}
