"""Where a file lies: a path on this machine, or a URL that fsspec opens; a folder of shards likewise."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from lightning_normdyn.atomic_file import atomic_file
from lightning_normdyn.passwords import without_passwords

_SCHEME = "://"


class StoragePlace:
    """A file or a folder, on this machine or wherever fsspec reaches.

    It holds its address alone, and is pickled with the whole path, so that a process in another folder, or on another
    machine, can open it too.

    Args:
        address: a path, or a URL such as ``s3://bucket/vectors`` or ``memory://vectors``; one of ``file://`` is a path.

    Raises:
        ValueError: if no file system of that kind is known, or the package that reaches it is not installed.

    Example:
        >>> place = StoragePlace("memory://set/part-0.parquet")
        >>> place.suffix, place.path, str(StoragePlace("http://me:secret@host/x.npy"))
        ('.parquet', None, 'http://me:***@host/x.npy')
    """

    def __init__(self, address: str | os.PathLike[str]) -> None:
        text = os.fspath(address)
        self.path: Path | None = None
        self._url = ""
        if not is_url(text):
            self.path = Path(text)
            return
        self._url = text
        system, inner = self._resolved()
        if type(system).__name__ == "LocalFileSystem":
            self.path, self._url = Path(inner), ""

    def __str__(self) -> str:
        return without_passwords(self._url) if self.path is None else str(self.path)

    def __reduce__(self) -> tuple[type[StoragePlace], tuple[str]]:
        return StoragePlace, (self._url if self.path is None else str(self.path.absolute()),)

    @property
    def suffix(self) -> str:
        """The ending of its name."""
        return PurePosixPath(self._url.partition("?")[0]).suffix if self.path is None else self.path.suffix

    @property
    def is_of_this_process(self) -> bool:
        """Whether no other process can open it."""
        return self.path is None and type(self._resolved()[0]).__name__ == "MemoryFileSystem"

    def kind(self) -> str:
        """``file``, ``directory``, or nothing if there is neither."""
        if self.path is not None:
            return "file" if self.path.is_file() else "directory" * self.path.is_dir()
        with self.one_sentence():
            system, inner = self._resolved()
            try:
                return "directory" if system.isdir(inner) else str(system.info(inner)["type"])
            except FileNotFoundError:
                return ""

    def handle(self) -> Any:
        """What pyarrow opens: the path, or an open file."""
        return str(self.path) if self.path is not None else self.open()

    def open(self) -> BinaryIO:
        """Opens it for reading, at any place of it."""
        if self.path is not None:
            return self.path.open("rb")
        with self.one_sentence():
            system, inner = self._resolved()
            return cast("BinaryIO", system.open(inner, "rb"))

    @contextmanager
    def replacing(self) -> Iterator[Path]:
        """A file of this machine to write to, which at the end is put in the place whole, or not at all on an error.

        Beside a path it is a hidden file of the same folder, see :func:`~lightning_normdyn.atomic_file.atomic_file`;
        to anywhere else it is uploaded at the end.

        Yields:
            The path to write to.

        Raises:
            OSError: if it cannot be made, written or put in place.

        Example:
            >>> place = StoragePlace("memory://set/negatives.jsonl")
            >>> with place.replacing() as file:
            ...     _ = file.write_text("{}")
            >>> place.open().read()
            b'{}'
        """
        if self.path is not None:
            with atomic_file(self.path) as file:
                yield file
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "file"
            yield file
            with self.one_sentence("written", "write"):
                system, inner = self._resolved()
                system.makedirs(system._parent(inner), exist_ok=True)
                system.put_file(str(file), inner)

    def shards(self, ending: str) -> list[StoragePlace]:
        """Files of a folder and of those in it, by name; names that begin with a dot or an underscore are no shards."""
        names = sorted(name for name in self._names() if name.endswith(ending) and not _is_hidden(name))
        if self.path is not None:
            return [StoragePlace(self.path / name) for name in names]
        return [StoragePlace(f"{self._url.rstrip('/')}/{name}") for name in names]

    @contextmanager
    def one_sentence(
        self, done: str = "read", verb: str = "read", *, of_reader: Callable[[Exception], bool] = lambda _: False
    ) -> Iterator[None]:
        """Names the place in what a remote file system complains about, each in errors of its own; a path's go on.

        Args:
            done: what could not be done to it.
            verb: the same as what the user may do.
            of_reader: tells errors of who reads the file's content, which go on too.

        Raises:
            OSError: in the place of an error of any other kind but ``ValueError``.
        """
        try:
            yield
        except (ValueError, MemoryError):
            raise
        except Exception as error:
            if self.path is not None or of_reader(error) or str(self) in str(error):
                raise
            lines = without_passwords(str(error), self._url).strip().splitlines() or ["no reason was given"]
            raise OSError(
                f"{self}: cannot be {done} ({type(error).__name__}: {lines[0].rstrip('.')}); check the address, and "
                f"that you may {verb} there"
            ) from error

    def _names(self) -> list[str]:
        """Of all files below, relative to the folder."""
        if self.path is not None:
            return [file.relative_to(self.path).as_posix() for file in self.path.rglob("*") if file.is_file()]
        with self.one_sentence():
            system, inner = self._resolved()
            root = inner.rstrip("/")
            return [name[len(root) :].lstrip("/") for name in system.find(root) if name.startswith(root)]

    def _resolved(self) -> tuple[Any, str]:
        """The file system and the path in it."""
        from fsspec.core import url_to_fs

        try:
            system, inner = url_to_fs(self._url)
        except ImportError as error:
            cause = error.__cause__
            package = (isinstance(cause, ImportError) and cause.name) or error.name or "more than is installed"
            raise ValueError(
                f"{self}: needs the package {package}, which is not installed; install it with: pip install {package}"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{self}: expected a path or a URL that fsspec knows, such as s3://, gs:// or file://, got "
                f"'{without_passwords(self._url).partition(_SCHEME)[0]}{_SCHEME}' ({error}); check the address"
            ) from error
        return system, str(inner)


def is_url(text: str) -> bool:
    """Whether a text is a URL and no path.

    Example:
        >>> is_url("s3://bucket/x.npy"), is_url("runs/x.npy")
        (True, False)
    """
    return bool(text.partition(_SCHEME)[0]) and _SCHEME in text


def _is_hidden(name: str) -> bool:
    """Of what a writer keeps for itself: ``_temporary/``, ``_SUCCESS``, ``.part.crc``."""
    return any(part.startswith(("_", ".")) for part in PurePosixPath(name).parts)
