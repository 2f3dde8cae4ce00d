"""Where corpus, queries and judgements of a BEIR set lie, in its own layout, the hub's Parquet or mteb's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_normdyn.datasets.problems import MalformedFileError
from lightning_normdyn.datasets.reading.folder import by_split, find_file, require_folder
from lightning_normdyn.datasets.reading.json_lines import read_json_lines
from lightning_normdyn.datasets.reading.lines import File
from lightning_normdyn.datasets.reading.parquet import parquet_columns, read_parquet, text_in

_TEXT_ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")
_JUDGEMENT_ENDINGS = (".tsv", ".tsv.gz", ".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet")
_ID_NAMES = ("_id", "id")
_JUDGEMENT_FOLDERS = ("qrels", "default", "data")


class BeirFiles(NamedTuple):
    """Files of a set.

    Attributes:
        corpus: of documents, one or several shards.
        queries: likewise.
        judgements: split to its files, in the order train, validation, test, others.
    """

    corpus: Sequence[Path]
    queries: Sequence[Path]
    judgements: Mapping[str, Sequence[Path]]


class TextRow(NamedTuple):
    """A document or a query.

    Attributes:
        file: where it stands.
        line: of the file, or the row of a Parquet file.
        id: as the source spells it.
        title: empty where there is none.
        text: of it.
        answers: that it states itself.
    """

    file: File
    line: int
    id: str
    title: str
    text: str
    answers: tuple[str, ...]


def beir_files(folder: File, *, judgements: bool = True) -> BeirFiles:
    """Finds the files of a set in its folder.

    ``corpus`` and ``queries`` are ``.jsonl[.gz]`` or ``.parquet`` files, or folders of such; judgements are files named
    by split in ``qrels`` (or ``default`` or ``data``, as the hub has them), or one file ``qrels``, which is then
    ``test``.

    Args:
        folder: of the set.
        judgements: whether they are looked for, too.

    Raises:
        MalformedFileError: if something is missing, or there twice.
    """
    root = require_folder(folder)
    return BeirFiles(_texts(root, "corpus"), _texts(root, "queries"), judgement_files(root) if judgements else {})


def judgement_files(root: Path) -> Mapping[str, Sequence[Path]]:
    """Finds the judgements of each split in the folder of a set; a folder ``qrels`` goes before all else.

    Raises:
        MalformedFileError: if there are none, or two files are of one split.
    """
    names = [f"qrels{ending}" for ending in _JUDGEMENT_ENDINGS if not ending.endswith(".gz")]
    single = None if (root / "qrels").is_dir() else find_file(root, *names)
    if single is not None:
        return {"test": [single]}
    folders = [root / name for name in _JUDGEMENT_FOLDERS if (root / name).is_dir()]
    if not folders:
        require_folder(root / "qrels")
    files = [file for file in sorted(folders[0].iterdir()) if file.name.endswith(_JUDGEMENT_ENDINGS)]
    if not files:
        raise MalformedFileError(folders[0], None, "judgements such as test.tsv", "no .tsv file")
    return by_split(folders[0], [(file.name.split(".")[0], file) for file in files])


def read_texts(files: Sequence[Path]) -> Iterator[TextRow]:
    """Reads documents or queries, JSON lines or Parquet.

    Raises:
        MalformedFileError: while reading, if a file does not hold what it should.
    """
    for file in files:
        yield from _of_parquet(file) if file.suffix == ".parquet" else _of_json(file)


def _texts(root: Path, name: str) -> list[Path]:
    names = [f"{name}{ending}" for ending in _TEXT_ENDINGS if not ending.endswith(".gz")]
    file = find_file(root, *names)
    if file is not None:
        return [file]
    inside = sorted((root / name).iterdir()) if (root / name).is_dir() else sorted(root.glob(f"{name}-*.parquet"))
    files = [file for file in inside if file.name.endswith(_TEXT_ENDINGS)]
    if not files:
        listing = ", ".join(sorted(file.name for file in root.iterdir())[:5]) or "an empty folder"
        expected = f"a file {name}.jsonl, plain or .gz, {name}.parquet, or a folder {name} of such"
        raise MalformedFileError(root, None, expected, listing)
    return files


def _of_json(file: Path) -> Iterator[TextRow]:
    for entry in read_json_lines(file):
        id = entry.id(next((name for name in _ID_NAMES if name in entry.fields), _ID_NAMES[0]))
        title, text = entry.text("title", default=""), entry.text("text")
        yield TextRow(file, entry.line, id, title, text, _answers(entry.fields.get("metadata")))


def _of_parquet(file: Path) -> Iterator[TextRow]:
    columns = parquet_columns(file)
    id_name = next((name for name in _ID_NAMES if name in columns), _ID_NAMES[0])
    optional = [name for name in ("title", "metadata") if name in columns]
    for _, row, (id, text, *others) in read_parquet([file], id_name, "text", *optional):
        values = dict(zip(optional, others, strict=True))
        title = values.get("title")
        yield TextRow(
            file,
            row,
            text_in(file, row, id_name, id),
            "" if title is None else text_in(file, row, "title", title),
            text_in(file, row, "text", text),
            _answers(values.get("metadata")),
        )


def _answers(metadata: object) -> tuple[str, ...]:
    answer = metadata.get("answer") if isinstance(metadata, dict) else None
    texts = [answer] if isinstance(answer, str) else answer
    if isinstance(texts, list) and texts and all(isinstance(text, str) and text for text in texts):
        return tuple(texts)
    return ()
