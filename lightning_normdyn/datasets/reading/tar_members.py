"""Members of a tar archive, one after the other."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from lightning_normdyn.datasets.problems import MalformedFileError
from lightning_normdyn.datasets.reading.lines import File, open_file


class Member(NamedTuple):
    """A file of an archive."""

    name: str
    data: bytes


def read_tar(file: File) -> Iterator[Member]:
    """Reads the files of an archive in their order, plain or ``.gz``.

    Raises:
        MalformedFileError: while reading, if it is missing, no archive, ends early, or goes on behind its end mark.
    """
    last = "the start"
    with open_file(file) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictHeader) as archive:
                for header in archive:
                    if not header.isfile():
                        continue
                    member = archive.extractfile(header)
                    assert member is not None
                    yield Member(header.name, member.read())
                    last = header.name
                _check_rest(archive)
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise MalformedFileError(
                file, None, "a whole tar archive", f"'{error}' after {last}", "fetch the shard again"
            ) from None


def _check_rest(archive: tarfile.TarFile) -> None:
    """Refuses what comes behind the end mark: archives that were joined would be read in part."""
    while archive.fileobj is not None and (trailing_bytes := archive.fileobj.read(1 << 16)):
        if trailing_bytes.strip(b"\0"):
            raise tarfile.ReadError("more content behind the end mark")


class _StrictHeader(tarfile.TarInfo):
    """Where an archive lacks its end or its next header is broken, tarfile stops as if it were whole."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:  # type: ignore[override]
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} where a file or the end mark should be") from None
