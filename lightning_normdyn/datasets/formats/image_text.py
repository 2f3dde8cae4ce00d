"""Images with captions: a table beside image files, or Parquet with the images in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_normdyn.core.object_checks import check_path
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.arrow_column import ArrowColumn, write_columns
from lightning_normdyn.datasets.reading.cached_texts import fingerprint
from lightning_normdyn.datasets.reading.folder import find_file
from lightning_normdyn.datasets.reading.lines import File
from lightning_normdyn.datasets.reading.parquet import read_parquet, text_in
from lightning_normdyn.datasets.reading.picture import EncodedImages, ImageFiles, open_image
from lightning_normdyn.datasets.reading.rows import read_columns
from lightning_normdyn.datasets.records import CaptionedImages

_TABLES = ("metadata.csv", "captions.csv", "metadata.tsv", "captions.tsv")


def read_image_text(
    path: File,
    *,
    image_column: str = "image",
    caption_column: str = "caption",
    group_column: str | None = None,
    check_images: bool = True,
    cache: File | None = None,
) -> CaptionedImages:
    """Reads captioned images; broken and missing ones are left out with their captions, and reported.

    Args:
        path: a ``.csv`` or ``.tsv`` file, plain or ``.gz``, whose column of images names files relative to its folder;
            a ``.parquet`` file whose column holds encoded images (bytes, or ``{bytes, path}`` as Hugging Face writes
            them); or a folder with ``metadata.csv`` or ``captions.csv``, or else with Parquet files, read in the order
            of their names.
        image_column: name of the column of images.
        caption_column: of captions; empty ones are kept and reported.
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
    def names(self) -> list[str]:
        return [self.image, self.caption, *([] if self.group is None else [self.group])]

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
    for line, (name, caption, *group) in read_columns(table, *columns.names):
        file = table.parent / name.strip()
        if not name.strip():
            raise MalformedFileError(table, line, f"a file name in column '{columns.image}'", "an empty cell")
        fault = columns.fault(file, str(file)) if file.is_file() else _MISSING
        if fault:
            problems.count(fault, line=f"{table}, line {line}")
            continue
        files.append(file)
        captions.append(caption)
        groups.append(group[0] if group else name.strip())
    return CaptionedImages(ImageFiles(files), captions, groups)


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
    for file, row, (image, caption, *group) in read_parquet(files, *columns.names):
        name = f"{file}, row {row}"
        encoded = image.get("bytes") if isinstance(image, dict) else image
        if encoded is not None and not isinstance(encoded, bytes):
            raise MalformedFileError(file, row, f"encoded images in column '{columns.image}'", repr(image)[:80])
        fault = columns.fault(encoded, name) if encoded else _MISSING
        group_name = text_in(file, row, str(columns.group), group[0]) if group else name
        yield encoded or b"", text_in(file, row, columns.caption, caption), group_name, name, fault
