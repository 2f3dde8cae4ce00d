"""Text of a file, plain or gzipped: line by line, or the whole of it."""

from __future__ import annotations

import codecs
import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from lightning_normdyn.datasets.problems import MalformedFileError
from lightning_normdyn.datasets.storage_place import StoragePlace

File = str | os.PathLike[str]

_BOM = "\ufeff"
_BROKEN_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)


class Line(NamedTuple):
    """A line and where it stands.

    Attributes:
        number: counted from 1, blank lines included.
        text: without the line's end.
    """

    number: int
    text: str


def read_lines(file: File, *, encoding: str = "utf-8", keep_blank: bool = False) -> Iterator[Line]:
    r"""Reads the lines of a file; CRLF and a byte-order mark do no harm.

    Lines end at ``\n`` alone: other characters that Unicode calls line ends occur inside texts.

    Args:
        file: plain, or gzipped if its name ends in ``.gz``.
        encoding: of the text.
        keep_blank: whether lines without any sign but spaces are passed on.

    Raises:
        MalformedFileError: while reading, if the file is missing or a folder, is not in that encoding, or is gzipped
            and broken or cut short.
    """
    with open_file(file) as stream:
        number = 0
        try:
            for number, data in enumerate(stream, start=1):
                text = _decode(file, number, data, encoding).rstrip("\r\n")
                if keep_blank or text.strip(" "):
                    yield Line(number, text)
        except _BROKEN_GZIP as error:
            raise MalformedFileError(
                file, number + 1, "a whole gzip file", f"'{error}'", "fetch the file again"
            ) from None


def check_encoding(encoding: object) -> None:
    """Refuses what Python cannot decode.

    Raises:
        ValueError: naming the argument.

    Example:
        >>> check_encoding("latin1x")
        Traceback (most recent call last):
        ValueError: encoding: expected one that Python knows, such as utf-8 or latin-1, got 'latin1x'
    """
    try:
        codecs.lookup(str(encoding))
    except LookupError:
        raise ValueError(
            f"encoding: expected one that Python knows, such as utf-8 or latin-1, got {encoding!r}"
        ) from None


def open_file(file: File) -> IO[bytes]:
    """Opens a file of this machine, or a URL that fsspec knows, for its bytes, unzipped if its name ends in ``.gz``.

    Raises:
        MalformedFileError: if it is missing or a folder.
    """
    place = StoragePlace(file)
    kind = place.kind()
    if kind == "directory":
        raise MalformedFileError(str(place), None, "a file", "a folder", "name the file inside it")
    if not kind and not (place.path is not None and place.path.exists()):  # a pipe is there too
        raise MalformedFileError(str(place), None, "a file", "nothing of that name", "check the path")
    if place.path is not None:
        return _open_bytes(place.path)
    stream = place.open()
    return cast(IO[bytes], gzip.open(stream)) if place.suffix == ".gz" else stream


def read_text(file: File, *, argument: str) -> str:
    """Reads the whole of a UTF-8 text file that a user names, without its byte-order mark.

    Args:
        file: plain, or gzipped if its name ends in ``.gz``.
        argument: what the user gave it as, which errors begin with.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it is a folder, empty, not UTF-8 or not the gzip that its name says.
    """
    path = Path(file)
    if not path.exists():
        raise FileNotFoundError(f"{argument}: there is no file '{path}'; expected a UTF-8 text file, plain or .gz")
    if path.is_dir():
        raise ValueError(f"{argument}: '{path}' is a folder; expected a text file, so name the files inside it")
    try:
        with _open_bytes(path) as stream:
            data = stream.read()
    except _BROKEN_GZIP as error:
        raise ValueError(
            f"{argument}: '{path}' is not a whole gzip file ({error}); expected gzipped UTF-8 text"
        ) from None
    if not data.strip():
        raise ValueError(f"{argument}: '{path}' is empty; expected a UTF-8 text file")
    try:
        return data.decode("utf-8").removeprefix(_BOM)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{argument}: '{path}' is not UTF-8 at line {line} (byte {error.start} is 0x{data[error.start]:02x}); "
            "expected a UTF-8 text file, plain or .gz, so convert it first"
        ) from None


def _open_bytes(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _decode(file: File, number: int, data: bytes, encoding: str) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise MalformedFileError(
            file,
            number,
            f"{encoding.upper()} text",
            f"byte 0x{data[error.start]:02x} in column {error.start + 1}",
            "convert the file first, or pass its encoding where the reader takes one (old files are often latin-1)",
        ) from None
    return text.removeprefix(_BOM) if number == 1 else text
