"""Images with captions: a table beside image files, or Parquet with the images in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_normdyn.core.object_checks import check_path
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.arrow_column import ArrowColumn, write_columns
from lightning_normdyn.datasets.reading.cached_texts import fingerprint
from lightning_normdyn.datasets.reading.folder import find_file
from lightning_normdyn.datasets.reading.json_lines import read_json_lines
from lightning_normdyn.datasets.reading.lines import File, read_lines
from lightning_normdyn.datasets.reading.parquet import parquet_columns, read_parquet, text_in
from lightning_normdyn.datasets.reading.picture import EncodedImages, ImageFiles, open_image
from lightning_normdyn.datasets.reading.rows import Row, read_columns
from lightning_normdyn.datasets.records import CaptionedImages

_TABLES = (
    "metadata.csv",
    "captions.csv",
    "metadata.tsv",
    "captions.tsv",
    "metadata.jsonl",
    "results.csv",
    "captions.txt",
)
_IMAGES, _CAPTIONS = "image", "caption"
# What owners call the columns, tried where the default name is asked for and not there.
_OTHER_NAMES = {
    _IMAGES: ("file_name", "image_name", "filename", "filepath", "jpg"),
    _CAPTIONS: ("text", "comment", "sentence", "txt"),
}
_IMAGE_FOLDERS = ("", "images", "Images", "flickr30k_images")


def read_image_text(
    path: File,
    *,
    image_column: str = _IMAGES,
    caption_column: str = _CAPTIONS,
    group_column: str | None = None,
    check_images: bool = True,
    cache: File | None = None,
) -> CaptionedImages:
    """Reads captioned images; broken and missing ones are left out with their captions, and reported.

    Args:
        path: a ``.csv`` or ``.tsv`` file, plain or ``.gz``, whose column of images names files relative to its folder;
            a ``.parquet`` file whose column holds encoded images (bytes, or ``{bytes, path}`` as Hugging Face writes
            them) or names of files beside it; or a folder with ``metadata.csv``, ``metadata.jsonl`` (imagefolder of
            Hugging Face), ``captions.csv`` or ``results.csv`` (Flickr30k, parted by pipes), or else with Parquet files,
            read in the order of their names. Files are looked for beside the table and in ``images`` or
            ``flickr30k_images`` there.
        image_column: name of the column of images; ``file_name`` and ``image_name`` will do where there is no
            ``image``.
        caption_column: of captions, ``text`` and ``comment`` likewise; empty ones are kept and reported.
        group_column: of what may not be split between training and evaluation; each image its own if left out.
        check_images: whether each image is opened once now. Otherwise a broken one raises when it is taken; missing
            files are found either way.
        cache: a folder for an Arrow file of Parquet's images, which then stay on disk and are opened from there.

    Raises:
        MalformedFileError: if a file is missing or does not hold what it should, or no image is left.
    """
    check_path("folder or file", path=path)
    columns = _Columns(image_column, caption_column, group_column, check_images)
    problems = Problems(path)
    table, parquet = _find(Path(path))
    images = _from_table(table, columns, problems) if table else _from_parquet(parquet, columns, problems, cache)
    if not len(images):
        raise MalformedFileError(path, None, "images that can be opened", str(problems.counts or "none"))
    for number, caption in enumerate(images.captions, start=1):
        if not caption.strip():
            problems.count("empty captions, kept", line=f"image {number}")
    problems.report()
    return images


_BROKEN = "broken images, left out with their captions"
_MISSING = "missing images, left out with their captions"


class _Columns(NamedTuple):
    """Names of the columns, and whether images are opened to see that they can be."""

    image: str
    caption: str
    group: str | None
    check: bool

    @property
    def names(self) -> list[tuple[str, ...]]:
        """Names of each column, to be tried in turn."""
        names = [(name, *_OTHER_NAMES.get(name, ())) for name in (self.image, self.caption)]
        return names if self.group is None else [*names, (self.group,)]

    def among(self, names: Collection[str]) -> list[str]:
        """The name that each column has, or the one that is then missed."""
        return [next((name for name in kin if name in names), kin[0]) for kin in self.names]

    def fault(self, source: bytes | Path, name: str) -> str:
        """What is wrong with an image, or nothing."""
        try:
            if self.check:
                open_image(source, name=name)
        except MalformedFileError:
            return _BROKEN
        return ""


def _find(path: Path) -> tuple[Path | None, Sequence[Path]]:
    if not path.is_dir():
        return (None, [path]) if path.suffix == ".parquet" else (path, [])
    table = find_file(path, *_TABLES)
    parquet = sorted(path.glob("*.parquet"))
    if table is None and not parquet:
        raise MalformedFileError(path, None, f"one of {', '.join(_TABLES)}, or Parquet files", "none")
    return table, parquet


def _from_table(table: Path, columns: _Columns, problems: Problems) -> CaptionedImages:
    files, captions, groups = [], [], []
    for line, (name, caption, *group) in _table_rows(table, columns, problems):
        name = name.strip()
        if not name:
            raise MalformedFileError(table, line, f"a file name in column '{columns.image}'", "an empty cell")
        file = _beside(table, name)
        fault = columns.fault(file, str(file)) if file is not None else _MISSING
        if file is None or fault:
            problems.count(fault, line=f"{table}, line {line}")
            continue
        files.append(file)
        captions.append(caption)
        groups.append(group[0] if group else name)
    return CaptionedImages(ImageFiles(files), captions, groups)


def _table_rows(table: Path, columns: _Columns, problems: Problems) -> Iterator[Row]:
    """File name, caption and group of each row, as JSON lines or parted by tabs, commas or pipes."""
    if table.name.removesuffix(".gz").endswith(".jsonl"):
        for entry in read_json_lines(table):
            names = columns.among(entry.fields)
            yield Row(entry.line, [entry.text(name) for name in names])
        return
    first = next(read_lines(table), None)
    if first is None or "|" not in first.text or "\t" in first.text:
        yield from read_columns(table, *columns.names)
        return
    header, *rows = (Row(number, [cell.strip() for cell in text.split("|")]) for number, text in read_lines(table))
    names = columns.among(header.cells)
    missing = [name for name in names if name not in header.cells]
    if missing:
        raise MalformedFileError(table, header.line, f"a column named '{missing[0]}'", ", ".join(header.cells))
    places = [list(header.cells).index(name) for name in names]
    for row in rows:
        # Flickr30k has a row that lacks a pipe, and captions with one.
        if len(row.cells) < len(header.cells):
            problems.count("rows without all cells, left out", line=f"{table}, line {row.line}")
            continue
        last = " | ".join(row.cells[len(header.cells) - 1 :])
        cells = [*row.cells[: len(header.cells) - 1], last]
        yield Row(row.line, [cells[place] for place in places])


def _beside(table: Path, name: str) -> Path | None:
    places = (table.parent / folder / name for folder in _IMAGE_FOLDERS)
    return next((file for file in places if file.is_file()), None)


def _from_parquet(files: Sequence[Path], columns: _Columns, problems: Problems, cache: File | None) -> CaptionedImages:
    encoded, texts = _columns(files, columns, cache)
    places = []
    for place, (fault, name) in enumerate(zip(texts["fault"], texts["name"], strict=True)):
        if fault:
            problems.count(fault, line=name)
        else:
            places.append(place)
    captions, groups, names = ([texts[column][place] for place in places] for column in ("caption", "group", "name"))
    return CaptionedImages(EncodedImages(encoded, names, places), captions, groups)


def _columns(
    files: Sequence[Path], spec: _Columns, cache: File | None
) -> tuple[Sequence[bytes], dict[str, Sequence[str]]]:
    """All rows, faulty ones too: what a cache leaves out could not be reported when it is opened again."""
    names = "caption", "group", "name", "fault"
    if cache is None:
        rows = list(_rows(files, spec))
        columns = list(zip(*rows, strict=True)) or [()] * (1 + len(names))
        return columns[0], dict(zip(names, columns[1:], strict=True))
    file = Path(cache) / f"images-{fingerprint(files, *map(str, spec))}.arrow"
    if not file.exists():
        write_columns(file, _rows(files, spec), image=bytes, **dict.fromkeys(names, str))
    return ArrowColumn[bytes](file, "image"), {name: list(ArrowColumn[str](file, name)) for name in names}


def _rows(files: Sequence[Path], columns: _Columns) -> Iterator[tuple[bytes, str, str, str, str]]:
    for shard in files:
        names = columns.among(parquet_columns(shard))
        for file, row, (image, caption, *group) in read_parquet([shard], *names):
            name = f"{file}, row {row}"
            encoded = _encoded(shard, row, names[0], image)
            fault = columns.fault(encoded, name) if encoded else _MISSING
            group_name = text_in(file, row, str(columns.group), group[0]) if group else name
            yield encoded or b"", text_in(file, row, names[1], caption), group_name, name, fault


def _encoded(file: Path, row: int, column: str, image: object) -> bytes | None:
    """What a file of the image holds, which may lie beside the Parquet file; ``None`` if there is none."""
    content = image.get("bytes") if isinstance(image, dict) else image
    if isinstance(image, dict) and content is None:
        content = image.get("path")
    if isinstance(content, str):
        beside = _beside(file, content)
        return None if beside is None else beside.read_bytes()
    if content is not None and not isinstance(content, bytes):
        raise MalformedFileError(file, row, f"encoded images or names of files in column '{column}'", repr(image)[:80])
    return content
