"""Where a Milvus collection is: a folder of Milvus Lite or a server, the client of it, and its errors in a sentence."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_normdyn.passwords import without_passwords
from lightning_normdyn.retrieval.indexes.staged_path import check_staged_place
from lightning_normdyn.retrieval.indexes.writer import in_plain_words, optional


class MilvusPlace:
    """A place of collections; Milvus Lite lets one process open a folder.

    Args:
        out: a path that ends in ``.db``, or the URL of a server, whose token is read from ``MILVUS_TOKEN``.

    Raises:
        ValueError: if it is neither.
        OSError: if nothing can be written there.
    """

    def __init__(self, out: str) -> None:
        self._pymilvus = optional("pymilvus", extra="milvus")
        self.out, self.is_remote = out, "://" in out
        self._is_shared = False
        self._new_folders: list[Path] = []
        if not self.is_remote:
            self._check_folder(Path(out))

    def _check_folder(self, folder: Path) -> None:
        if folder.suffix != ".db":
            raise ValueError(
                f"out: expected a name that ends in .db, or the URL of a server, for milvus, got '{self.out}'"
            )
        check_staged_place(folder, overwrite=True, folder=True)
        if folder.is_file():
            raise NotADirectoryError(
                f"out: expected a database of Milvus Lite, which is a folder, got the file '{folder}'; choose another"
            )
        self._servers()
        self._new_folders = [path for path in (folder, *folder.parents) if not path.exists()]

    def connect(self) -> Any:
        """A client."""
        if not self.is_remote:
            Path(self.out).parent.mkdir(parents=True, exist_ok=True)
            self._is_shared = os.path.abspath(self.out) in getattr(self._servers(), "_servers", ())  # noqa: PTH100
        return self._pymilvus.MilvusClient(self.out, token=os.environ.get("MILVUS_TOKEN", ""))

    def disconnect(self, client: Any) -> None:
        """Lets go of the folder, which Milvus Lite would hold until the end of the process.

        Args:
            client: of :meth:`connect`.
        """
        client.close()
        if not self.is_remote and not self._is_shared:
            self._servers().release_server(self.out)

    def remove(self) -> None:
        """Removes the folder, if it was made for it, and those above it that were, if nothing else is in them."""
        for folder in self._new_folders:
            if folder == Path(self.out):
                shutil.rmtree(folder, ignore_errors=True)
            elif folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _servers(self) -> Any:
        """Servers of Milvus Lite in this process, by folder: one that a client of the user's has begun stays."""
        return optional("milvus_lite.server_manager", extra="milvus").server_manager_instance

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Without the tracebacks that are logged for each error besides raising it, and for what Milvus Lite lacks."""
        loggers = [logging.getLogger(name) for name in ("pymilvus", "milvus_lite", "grpc._server")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

    @contextmanager
    def in_one_sentence(self) -> Iterator[None]:
        """Says what Milvus refuses.

        Raises:
            ValueError: in the place of an error of its own.
        """
        try:
            with self.quiet():
                yield
        except self._pymilvus.MilvusException as error:
            message = in_plain_words(error)
            reason = without_passwords(getattr(error, "message", message) or message, self.out)
            way_out = "check URL and token" if self.is_remote else "see whether another process has it open"
            place = without_passwords(self.out)
            raise ValueError(f"out: Milvus at '{place}' refuses ({reason}); {way_out}") from None
