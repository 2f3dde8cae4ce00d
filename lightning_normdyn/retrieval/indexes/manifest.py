"""Manifest of an export: which exponent stored vectors carry, in a file beside them and in their own metadata."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.atomic_file import write_json

METADATA_KEY = "normdyn.export"
"""Key of a manifest in the metadata of Parquet, safetensors and LanceDB."""

FIRST_ROWS = 16
"""Rows that the checksum of a manifest is of."""

_FORMAT = 1


class Manifest(NamedTuple):
    """What was written.

    Attributes:
        exponent: of the original norm that lengths of stored vectors carry, beside the cosine; with ``keep_norm`` that
            which scores are made with.
        keep_norm: whether stored vectors have length 1 and norms lie beside them.
        radius: the length that one dimension more gives all; ``None`` without it.
        metric: what they are compared by.
        index_kind: how they are searched.
        dtype: of the stored numbers.
        dim: numbers a vector as stored.
        rows: how many.
        checksum: of the first stored rows, see :class:`FirstRows`; ``None`` where nobody reads them as vectors.
    """

    exponent: float
    keep_norm: bool = False
    radius: float | None = None
    metric: str = "inner_product"
    index_kind: str = "flat"
    dtype: str = "float32"
    dim: int = 0
    rows: int = 0
    checksum: int | None = None

    def text(self) -> str:
        """As JSON."""
        return json.dumps({"format": _FORMAT, **self._asdict()})

    @classmethod
    def parsed(cls, text: str | bytes) -> Manifest | None:
        """What :meth:`text` wrote; ``None`` for anything else.

        Example:
            >>> Manifest.parsed(Manifest(0.5).text()) == Manifest(0.5), Manifest.parsed("{}")
            (True, None)
        """
        try:
            content = json.loads(text)
            return cls(**{name: content[name] for name in cls._fields}) if content["format"] == _FORMAT else None
        except (ValueError, KeyError, TypeError):
            return None

    def write(self, file: Path, findings: Mapping[str, Any] | None = None) -> None:
        """Writes it as JSON for people and programs.

        Args:
            file: where to.
            findings: what was measured.
        """
        write_json(file, {"format": _FORMAT, **self._asdict(), **(findings or {})}, indent=1)

    def check_same(self, other: Manifest) -> None:
        """Refuses to append vectors that were made otherwise.

        Args:
            other: of what is there.

        Raises:
            ValueError: if something differs, with its name.
        """
        for name in ("exponent", "keep_norm", "metric", "index_kind", "dtype", "dim"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                raise ValueError(
                    f"append: expected {name} {theirs!r} as of the vectors that are there, got {ours!r}; export with "
                    "the same options, or all anew with --overwrite"
                )
        if (self.radius is None) != (other.radius is None):
            has, wants = ("no ", "leave --augment out") if other.radius is None else ("", "pass --augment")
            raise ValueError(f"append: the vectors that are there have {has}dimension more; {wants}")


class FirstRows:
    """Checksum of the first 16 rows as they are stored, however they come.

    Example:
        >>> whole, rows = FirstRows(), FirstRows()
        >>> whole.add(torch.eye(3)), rows.add(torch.eye(3)[:1]), rows.add(torch.eye(3)[1:])
        (None, None, None)
        >>> whole.checksum == rows.checksum
        True
    """

    def __init__(self) -> None:
        self.checksum, self._count = 0, 0

    @classmethod
    def noted(cls, checksum: int) -> FirstRows:
        """As it was after more rows than it looks at."""
        first_rows = cls()
        first_rows.checksum, first_rows._count = checksum, FIRST_ROWS
        return first_rows

    def add(self, vectors: Tensor) -> None:
        """Takes the next rows."""
        rows = vectors[: FIRST_ROWS - self._count]
        self._count += len(rows)
        self.checksum = zlib.crc32(rows.to(torch.float32).contiguous().numpy().tobytes(), self.checksum)


def manifest_file(vectors: Path) -> Path:
    """Where the manifest of a file of vectors is.

    Example:
        >>> manifest_file(Path("vectors.npy")).name
        'vectors.npy.export.json'
    """
    return vectors.with_name(f"{vectors.name}.export.json")


def read_manifest(vectors: Path) -> Manifest | None:
    """The manifest of a file of vectors: that in its own metadata, or that beside it.

    Args:
        vectors: the file.

    Returns:
        ``None`` if there is none, as of embeddings that no export wrote.
    """
    text = _METADATA.get(vectors.suffix, _no_text)(vectors)
    if text is None and manifest_file(vectors).is_file():
        text = manifest_file(vectors).read_bytes()
    return None if text is None else Manifest.parsed(text)


def existing_manifest(vectors: Path) -> Manifest:
    """Of vectors that are to be appended to.

    Raises:
        ValueError: if there is none.
    """
    manifest = read_manifest(vectors)
    if manifest is None:
        raise ValueError(
            f"append: expected the manifest '{manifest_file(vectors)}', got none, so the exponent of the vectors that "
            "are there is not known; export all anew with --overwrite"
        )
    return manifest


def _no_text(file: Path) -> bytes | None:
    del file
    return None


def _of_parquet(file: Path) -> bytes | None:
    import pyarrow.parquet as pq

    metadata = pq.read_schema(file).metadata or {}
    text: bytes | None = metadata.get(METADATA_KEY.encode())
    return text


def _of_safetensors(file: Path) -> bytes | None:
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    text = header.get("__metadata__", {}).get(METADATA_KEY)
    return None if text is None else str(text).encode()


_METADATA = {".parquet": _of_parquet, ".safetensors": _of_safetensors}
