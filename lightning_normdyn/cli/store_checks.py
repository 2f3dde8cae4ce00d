"""``normdyn check-store``: what a target of ``export``, or a function of the user's, really ranks by."""

from __future__ import annotations

import inspect
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from lightning_normdyn.cli.exports.request import named_target, target_writer
from lightning_normdyn.retrieval.export.store_check import Array, Search, StoreVerdict, check_store
from lightning_normdyn.retrieval.indexes import Contents, Destination, IndexWriter, Manifest
from lightning_normdyn.retrieval.indexes.writer import RemovableWriter, Storage


class StoreCheckRecord(NamedTuple):
    """What ``normdyn check-store`` prints.

    Attributes:
        store: what was asked.
        verdict: what it ranks by.
    """

    store: str
    verdict: StoreVerdict

    @property
    def exit_code(self) -> int:
        """Success if norms count in it."""
        return 0 if self.verdict.is_right else 1

    def print_to(self, console: Console) -> None:
        """Prints the verdict."""
        console.print(self.verdict.sentence(self.store))


def check_function(name: str, dim: int) -> StoreCheckRecord:
    """Asks a function of the user's.

    Args:
        name: ``module:function``; modules of the working folder count.
        dim: numbers a vector.

    Raises:
        ValueError: if there is no such function, or it answers otherwise than it should.
    """
    return StoreCheckRecord(name, check_store(_imported(name), dim))


def check_target(to: str, out: str | None, index: str, dtype: Storage, dim: int) -> StoreCheckRecord:
    """Asks a target of ``export``, in a collection for the time being.

    Args:
        to: a word of ``TARGETS``.
        out: the server's URL or connection string; ``None`` for a folder for the time being.
        index: as ``export`` has it.
        dtype: of the stored numbers.
        dim: numbers a vector.

    Raises:
        ValueError: if there is no such target, or it needs a place.
        OSError: if nothing can be written there.
        MissingExtraError: if its package is not installed.
    """
    target = named_target(to)
    if target.feed is not None:
        raise ValueError(
            f"to: expected a store that runs here or at --out, got {to}, for which export writes a feed alone; ask its "
            "server by --function module:function"
        )
    if out is None and to == "pgvector":
        raise ValueError("out: expected PostgreSQL's connection string with pgvector, got nothing; name it")
    if out is not None and to != "pgvector" and "://" not in out:
        raise ValueError(f"out: expected the URL of a server or nothing with {to}, got '{out}'; leave it out")
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / f"vectors{target.ending}") if out is None else out
        destination = Destination(place, f"normdyn_check_{secrets.token_hex(4)}", dtype, index)
        return StoreCheckRecord(to, check_store(_search_of(target_writer(to, destination)), dim))


def _search_of(writer: IndexWriter) -> Search:
    def search(vectors: Array, ids: list[str], queries: Array, k: int) -> tuple[Any, Any]:
        documents = torch.from_numpy(vectors)
        destination = writer.destination
        dim = documents.shape[1]
        manifest = Manifest(1.0, index_kind=destination.index, dtype=destination.dtype, dim=dim, rows=len(ids))
        with _removed(writer):
            try:
                writer.open(Contents(dim, "inner_product", ids, documents, manifest=manifest))
                writer.add(ids, documents)
                writer.close()
            except BaseException:
                writer.discard()
                raise
            result = writer.search(torch.from_numpy(queries), k)
        return result.ids, result.scores

    return search


@contextmanager
def _removed(writer: IndexWriter) -> Iterator[None]:
    """Afterwards nothing of it is left in a database."""
    try:
        yield
    finally:
        if isinstance(writer, RemovableWriter):
            writer.remove()


def _imported(name: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ValueError(f"function: expected module:function, got {name!r}; such as my_store:search")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        function = getattr(import_module(module_name), function_name, None)
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0]:
            raise
        raise ValueError(
            f"function: expected a module here or installed, got '{module_name}'; check the name"
        ) from None
    if not callable(function):
        raise ValueError(f"function: expected a function in {module_name}, got '{function_name}'; check the name")
    if not _takes_four(function):
        raise ValueError(
            f"function: expected one that takes vectors, ids, queries and k, got {name}{inspect.signature(function)}; "
            "let it store the vectors under the ids and return the k nearest ids of each query"
        )
    return function  # type: ignore[no-any-return]


def _takes_four(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(*range(4))
    except TypeError:
        return False
    except ValueError:  # of a builtin, which has no signature
        pass
    return True
