"""Opens embeddings of each format as a matrix: a function a format, and the table that names it by its ending."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from lightning_normdyn.core.embedding_codes import codes_error, is_code_type
from lightning_normdyn.datasets.embedding_matrix import (
    PARQUET,
    Array,
    ArrayMatrix,
    CodeMatrix,
    MappedMatrix,
    Matrix,
    ParquetMatrix,
    ParquetShard,
    SafetensorsMatrix,
    StreamedMatrix,
    unreadable,
)
from lightning_normdyn.datasets.storage_place import StoragePlace

_ID_COLUMNS = ("id", "_id", "ids", "doc_id", "key")
_FOOTERS_AT_ONCE = 16  # each is a request or two where shards lie in a bucket
_RANGES = "ranges"
_CODE_PRECISIONS = ("int8", "uint8")
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_SAFETENSORS_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip


class ColumnChoice(NamedTuple):
    """Which column, array or tensor of a file is meant.

    Attributes:
        name: that the user gave.
        preferred_name: the one to take where the file has it and no name was given.
    """

    name: str | None = None
    preferred_name: str | None = None

    def among(self, names: list[str], place: StoragePlace, *, kind: str) -> str:
        """The one that is meant.

        Raises:
            ValueError: if it cannot be told.
        """
        if self.name is None and self.preferred_name in names:
            return str(self.preferred_name)
        if self.name is None and len(names) == 1:
            return names[0]
        if self.name in names:
            return str(self.name)
        expectation = f"column {self.name!r}" if self.name is not None else "column to be named"
        raise ValueError(f"{place}: expected {expectation} among its {kind}, got {', '.join(names) or 'none'}")


def open_npy(place: StoragePlace, choice: ColumnChoice) -> Matrix:
    """The array of a ``.npy`` file: mapped from a disk, read piece by piece from elsewhere."""
    if choice.name is not None:
        raise ValueError(f"{place}: expected no column for .npy, which holds one matrix, got '{choice.name}'")
    if place.path is None:
        return _streamed_npy(place)
    matrix = np.load(place.path, mmap_mode="r", allow_pickle=False)
    _check_numbers(place, matrix.dtype, matrix.shape)
    return MappedMatrix(place, (matrix.shape[0], matrix.shape[1]))


def _streamed_npy(place: StoragePlace) -> Matrix:
    with place.open() as stream, place.one_sentence():
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"{place}: expected version 1 or 2 of .npy, got {version}; write it with numpy.save")
        shape, by_column, dtype = _HEADERS[version](stream)
        start = stream.tell()
    _check_numbers(place, dtype, shape)
    if by_column:
        raise ValueError(
            f"{place}: expected rows one after the other, got columns (Fortran's order), which cannot be read row by "
            "row from there; write numpy.ascontiguousarray of it"
        )
    return StreamedMatrix(place, start, (shape[0], shape[1]), dtype.itemsize, partial(np.frombuffer, dtype=dtype))


def open_npz(place: StoragePlace, choice: ColumnChoice) -> Matrix:
    """A matrix of a ``.npz`` archive, which numpy reads as a whole, with the ids in it."""
    with place.open() as stream, np.load(stream, allow_pickle=False) as archive:
        matrices = [name for name in archive.files if archive[name].ndim == 2]
        name = choice.among(_without_ranges(matrices, choice), place, kind="two-dimensional arrays")
        array, ids = archive[name], _archived_ids(place, archive)
        if _RANGES in matrices and name != _RANGES and str(array.dtype) in _CODE_PRECISIONS:
            return _decoded_codes(place, ArrayMatrix(array, ids), str(array.dtype), archive[_RANGES])
        _check_numbers(place, array.dtype, array.shape)
        return ArrayMatrix(array, ids)


def _without_ranges(names: list[str], choice: ColumnChoice) -> list[str]:
    """Names of matrices without that of the ranges, which no one means unless they say so."""
    return [name for name in names if name != _RANGES or choice.name == _RANGES or len(names) == 1]


def _decoded_codes(place: StoragePlace, codes: Matrix, precision: str, ranges: Array) -> Matrix:
    """Embeddings of codes that lie beside their ranges."""
    if ranges.shape != (2, codes.dim):
        raise ValueError(
            f"{place}: expected '{_RANGES}' [2, {codes.dim}] beside {precision} codes, got {list(ranges.shape)}; is it "
            "the smallest and the largest number of each dimension?"
        )
    return CodeMatrix(codes, "int8" if precision == "int8" else "uint8", ranges)


def _archived_ids(place: StoragePlace, archive: Any) -> list[str] | None:
    if "ids" in archive.files:
        return [str(value) for value in archive["ids"]]
    if not {"id_bytes", "id_ends"} <= set(archive.files):
        return None
    content, ends = archive["id_bytes"].tobytes(), archive["id_ends"].tolist()
    try:
        return [content[start:end].decode("utf-8") for start, end in pairwise([0, *ends])]
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: expected ids in UTF-8, got others ({error}); write the file again") from error


def open_parquet(place: StoragePlace, choice: ColumnChoice) -> Matrix:
    """A list column of a ``.parquet`` file, or of all shards of a folder, by name; shards without rows are left out."""
    places = place.shards(PARQUET) if place.kind() == "directory" else [place]
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        footers = dict(zip(map(str, places), pool.map(_footer, places), strict=True))
    shards = [ParquetShard(place, footers[str(place)][0]) for place in places]
    shards = [shard for shard in shards if shard.rows] or shards[:1]
    schema = footers[str(shards[0].place)][1]
    column = choice.among(_list_columns(schema), shards[0].place, kind="list columns")
    for shard in shards:
        _check_no_codes(shard.place, footers[str(shard.place)][1], column)
    id_column = next((field.name for field in schema if field.name in _ID_COLUMNS), None)
    for shard in shards[1:]:
        _check_alike(shard.place, footers[str(shard.place)][1], shards[0].place, schema, column, id_column)
    with shards[0].one_sentence():
        return ParquetMatrix(shards, column, id_column)


def _footer(place: StoragePlace) -> tuple[int, pa.Schema]:
    """Rows and columns of a file."""
    shard = ParquetShard(place, 0)
    with shard.one_sentence():
        parquet = shard.open()
        return parquet.metadata.num_rows, parquet.schema_arrow


def _list_columns(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if _is_list(field.type)]


def _check_no_codes(place: StoragePlace, schema: pa.Schema, column: str) -> None:
    """Refuses a column of codes, and shards without the column not at all."""
    if column in _list_columns(schema) and is_code_type(schema.field(column).type.value_type):
        raise codes_error(f"{place}, '{column}'", schema.field(column).type.value_type)


def _is_list(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))


def _check_alike(
    place: StoragePlace,
    schema: pa.Schema,
    first: StoragePlace,
    first_schema: pa.Schema,
    column: str,
    id_column: str | None,
) -> None:
    """Refuses a shard whose columns are not those of the first."""
    if column not in _list_columns(schema):
        raise ValueError(
            f"{place}: expected the column '{column}' of numbers as in {first}, got "
            f"{', '.join(schema.names) or 'no columns'}; write all shards alike, or move it out of the folder"
        )
    ids = [field.name for field in schema if field.name in _ID_COLUMNS]
    if id_column is None and ids:
        raise ValueError(
            f"{place}: expected no ids as in {first}, got '{ids[0]}'; write ids into all shards or into none"
        )
    if id_column is not None and id_column not in ids:
        raise ValueError(
            f"{place}: expected ids in '{id_column}' as in {first}, got none; write ids into all shards or into none"
        )
    dims = [getattr(kind.field(column).type, "list_size", None) for kind in (first_schema, schema)]
    if None not in dims and dims[0] != dims[1]:
        raise ValueError(
            f"{place}: expected {dims[0]} numbers in '{column}' as in {first}, got {dims[1]}; are both of one model?"
        )


def open_safetensors(place: StoragePlace, choice: ColumnChoice) -> Matrix:
    """A tensor of a ``.safetensors`` file."""
    if place.path is None:
        return _streamed_safetensors(place, choice)
    if find_spec("safetensors") is None:
        raise ValueError(f"{place}: needs safetensors; install with: pip install 'lightning-normdyn[text]'")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(place.path), framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (no dictionary)
            shapes = {name: piece.get_shape() for name, piece in slices.items()}
            types = {name: piece.get_dtype() for name, piece in slices.items()}
    except SafetensorError as error:
        raise unreadable(place, place.suffix, error) from error
    matrices = {name: SafetensorsMatrix(place, name, *shape) for name, shape in shapes.items() if len(shape) == 2}
    return _of_safetensors(place, choice, matrices, types)


def _of_safetensors(
    place: StoragePlace, choice: ColumnChoice, matrices: Mapping[str, Matrix], types: Mapping[str, str]
) -> Matrix:
    """The tensor that is meant, decoded where it is one of codes with ranges beside it."""
    name = choice.among(_without_ranges(list(matrices), choice), place, kind="two-dimensional tensors")
    precision = str(_SAFETENSORS_TYPES.get(types[name], types[name])).rpartition(".")[2]
    if name != _RANGES and _RANGES in matrices and precision in _CODE_PRECISIONS:
        ranges = np.concatenate(list(matrices[_RANGES].blocks(range(matrices[_RANGES].rows), 2)))
        return _decoded_codes(place, matrices[name], precision, ranges)
    if is_code_type(precision):
        raise codes_error(f"{place}, '{name}'", precision)
    return matrices[name]


def _streamed_safetensors(place: StoragePlace, choice: ColumnChoice) -> Matrix:
    """Reads the header by itself, of which the library wants the whole file: its length, then JSON."""
    with place.open() as stream, place.one_sentence():
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(min(size, 2**27)).decode("utf-8"))
    tensors = {name: entry for name, entry in header.items() if len(entry.get("shape", ())) == 2}
    name = choice.among(_without_ranges(list(tensors), choice), place, kind="two-dimensional tensors")
    if tensors[name]["dtype"] not in _SAFETENSORS_TYPES:
        raise ValueError(f"{place}: expected numbers in '{name}', got {tensors[name]['dtype']}; write them as float32")
    matrices = {
        other: _streamed_tensor(place, 8 + size, entry)
        for other, entry in tensors.items()
        if entry["dtype"] in _SAFETENSORS_TYPES
    }
    return _of_safetensors(place, choice, matrices, {other: entry["dtype"] for other, entry in tensors.items()})


def _streamed_tensor(place: StoragePlace, first_byte: int, entry: Mapping[str, Any]) -> Matrix:
    dtype = _SAFETENSORS_TYPES[entry["dtype"]]
    start = first_byte + entry["data_offsets"][0]
    return StreamedMatrix(place, start, tuple(entry["shape"]), dtype.itemsize, partial(_decoded, dtype=dtype))


def _decoded(content: bytes, dtype: torch.dtype) -> Array:
    numbers = torch.frombuffer(bytearray(content), dtype=dtype)
    array: Array = (numbers if dtype == torch.float64 else numbers.float()).numpy()
    return array


FORMATS: Mapping[str, Callable[[StoragePlace, ColumnChoice], Matrix]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    PARQUET: open_parquet,
    ".safetensors": open_safetensors,
}
"""Ending of a file to what opens it; a folder is one of Parquet shards."""


def _check_numbers(place: StoragePlace, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if len(shape) == 2 and is_code_type(dtype):
        raise codes_error(place, dtype)
    if len(shape) != 2 or dtype.kind not in "fiu":
        raise ValueError(f"{place}: expected numbers [n, d], got {dtype} {list(shape)}")
