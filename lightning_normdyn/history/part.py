"""Parts of a log: Parquet files that say by their names what they hold, and whether it is what was written."""

from __future__ import annotations

import io
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lightning_normdyn.atomic_file import atomic_file

_NAME = re.compile(r"part-(\d{4,})-(\d{8,})-(\d{8,})-([0-9a-f]{8})\.parquet")


class Part(NamedTuple):
    """A finished part: ``part-<stretch>-<first>-<last>-<checksum>.parquet``.

    Parquet's own checksums cover its pages and not its footer, where one wrong bit shifts or renames whole columns; the
    checksum in the name covers every byte.

    Attributes:
        stretch: of the run, up from 0; a run that is resumed begins another.
        first: number of the first flush whose rows are in it.
        last: of the last: more than one, where small parts were put together.
        checksum: CRC-32 of the file, eight digits.
        file: where it lies.
    """

    stretch: int
    first: int
    last: int
    checksum: str
    file: Path

    @classmethod
    def of_file(cls, file: Path) -> Part | None:
        """What the name says; ``None`` for a file that is no part.

        Example:
            >>> Part.of_file(Path("part-0001-00000003-00000004-0a1b2c3d.parquet"))[:4]
            (1, 3, 4, '0a1b2c3d')
        """
        match = _NAME.fullmatch(file.name)
        return match and cls(int(match[1]), int(match[2]), int(match[3]), match[4], file)


def write_part(folder: Path, stretch: int, first: int, last: int, table: pa.Table) -> Part:
    """Writes a part: when this returns it is on the disk whole, else there is none.

    Args:
        folder: of the log; it is made.
        stretch: see :class:`Part`, as the two numbers.
        first: of its flushes.
        last: of its flushes.
        table: the rows; columns that are null throughout are left out.

    Raises:
        OSError: if it cannot be written.
    """
    buffer = io.BytesIO()
    names = [
        name for name, column in zip(table.schema.names, table.columns, strict=True) if column.null_count < len(column)
    ]
    pq.write_table(table.select(names), buffer, compression="zstd", write_page_checksum=True)
    content = buffer.getbuffer()
    checksum = f"{zlib.crc32(content):08x}"
    file = folder / f"part-{stretch:04d}-{first:08d}-{last:08d}-{checksum}.parquet"
    with atomic_file(file) as temporary, temporary.open("wb") as stream:
        stream.write(content)
    return Part(stretch, first, last, checksum, file)


def read_columns(part: Part, schema: pa.Schema) -> pa.Table:
    """Reads a part: those columns of the schema that it has.

    Args:
        part: the part.
        schema: the columns to read.

    Raises:
        ValueError: if it is damaged; the message names it.
        OSError: if it cannot be opened or read.
    """
    content = part.file.read_bytes()
    if f"{zlib.crc32(content):08x}" != part.checksum:
        raise ValueError(
            f"history: '{part.file}' is damaged (its {len(content):,} bytes are not those that were written)"
        )
    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"history: '{part.file}' cannot be read ({' '.join(str(error).split())})") from error
    fields = [field for field in schema if field.name in table.schema.names]
    columns = [table.column(field.name).cast(field.type) for field in fields]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def read_part(part: Part, schema: pa.Schema) -> pa.Table:
    """Reads a part as :func:`read_columns` does; columns of the schema that it does not have are null."""
    table = read_columns(part, schema)
    for place, field in enumerate(schema):
        if field.name not in table.schema.names:
            table = table.add_column(place, field, pa.chunked_array([pa.nulls(len(table), field.type)]))
    return table


def part_files(folder: Path) -> list[Part]:
    """The parts of a log, oldest first, those left out whose rows are in a broader one too.

    A broader one is made before those that it replaces are removed, so both may lie there for a moment, or for ever
    after a kill.

    Args:
        folder: of the log; one that does not exist has none.
    """
    return [part for part, _ in grouped_parts(folder)]


def grouped_parts(folder: Path) -> list[tuple[Part, list[Part]]]:
    """Each part that counts with those whose rows it holds too, which stand in for it should it be damaged."""
    files = folder.iterdir() if folder.is_dir() else []
    parts = sorted(
        (part for file in files if (part := Part.of_file(file))),
        key=lambda part: (part.stretch, part.first, -part.last),
    )
    groups: list[tuple[Part, list[Part]]] = []
    for part in parts:
        if groups and groups[-1][0].stretch == part.stretch and part.last <= groups[-1][0].last:
            groups[-1][1].append(part)
        else:
            groups.append((part, []))
    return groups
