"""Folders that commands write to: made new, checked before anything is computed, with the files of a demo run."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_normdyn.atomic_file import write_atomically, write_json

if TYPE_CHECKING:
    from lightning_normdyn.tasks.tokens.vocabulary import Vocabulary

SUMMARY_FILE = "summary.json"
VOCABULARY_FILE = "vocabulary.tsv"


def create_run_folder(out: str | None = None, *, command: str = "demo") -> Path:
    """Makes the folder of a run and checks that it can be written.

    Args:
        out: a new or empty folder. By default ``runs/<command>-<time>`` under the current folder or, where that cannot
            be written, a temporary one.
        command: what the default folder is named after.

    Raises:
        ValueError: if ``out`` exists and is not an empty folder.
        OSError: if ``out`` cannot be made or written.
    """
    if out is not None:
        return _create_chosen(Path(out))
    try:
        return _create_default(Path("runs"), command)
    except OSError:
        return Path(tempfile.mkdtemp(prefix=f"normdyn-{command}-"))


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Writes ``summary.json`` whole or not at all; the summary holds no NaN or infinity, which JSON cannot say."""
    write_json(folder / SUMMARY_FILE, summary, indent=2)


def write_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    """Writes one line per row of the table, whole or not at all: the word, a tab, its count."""
    lines = [f"{word}\t{count}\n" for word, count in zip(*vocabulary, strict=True)]
    write_atomically(folder / VOCABULARY_FILE, "".join(lines).encode("utf-8"))


def read_words(folder: Path) -> list[str] | None:
    """Reads the words of a run's table; ``None`` if the run kept none."""
    file = folder / VOCABULARY_FILE
    if not file.exists():
        return None
    try:
        with file.open(encoding="utf-8-sig") as lines:  # splitlines() would also break at marks that a word may hold
            return [line.rstrip("\n").split("\t")[0] for line in lines]
    except UnicodeDecodeError as error:
        raise ValueError(f"run: '{file}' is no UTF-8 text ({error}); remove it to draw rows without names") from error


def _create_chosen(folder: Path) -> Path:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        kind = "is not empty" if folder.is_dir() else "is not a folder"
        raise ValueError(f"out: '{folder}' {kind}; expected a new or empty folder, so that no earlier run is lost")
    make_writable(folder)
    return folder


def make_writable(folder: Path) -> None:
    """Makes a folder unless it is there, and tries to write in it.

    Raises:
        OSError: if ``folder`` cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unusable(folder, error) from error


def check_writable(folder: Path) -> None:
    """Tries whether a folder can be written, or made, without making it.

    Raises:
        OSError: if it cannot.
    """
    nearest = next(ancestor for ancestor in (folder, *folder.absolute().parents) if ancestor.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise unusable(folder, error) from error


def check_output_file(file: Path, option: str) -> None:
    """Tries whether a file can be written, without making it or its folder.

    Args:
        file: that is to be.
        option: that names it.

    Raises:
        ValueError: if a folder is there.
        OSError: if it cannot be written.
    """
    if file.is_dir():
        raise ValueError(f"{option}: expected a file, got the folder '{file}'; name a file, such as one in it")
    if file.exists() and not file.is_file():
        return  # a device or a pipe
    try:
        check_writable(file.parent)
    except OSError as error:
        raise OSError(str(error).replace("out: ", f"{option}: ", 1)) from error


def unusable(folder: Path, error: OSError, option: str = "out") -> OSError:
    """The error of a folder that cannot be written, as a sentence that says what to do."""
    return OSError(f"{option}: cannot write to '{folder}' ({error.strerror}); choose a folder of your own")


def _create_default(parent: Path, command: str) -> Path:
    name = time.strftime(f"{command}-%Y%m%d-%H%M%S")
    for suffix in ("", *(f"-{number}" for number in range(2, 100))):
        folder = parent / (name + suffix)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"'{parent / name}' and its successors are taken")
