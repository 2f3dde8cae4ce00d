"""Texts with a category each, as in BANKING77 (arXiv 2003.04807)."""

from __future__ import annotations

from pathlib import Path

import torch

from lightning_normdyn.core.object_checks import check_path
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.folder import find_splits
from lightning_normdyn.datasets.reading.lines import File, check_encoding
from lightning_normdyn.datasets.reading.rows import read_columns
from lightning_normdyn.datasets.records import LabelledTexts


def read_labelled_texts(
    folder: File, *, text_column: str = "text", label_column: str = "category", encoding: str = "utf-8"
) -> dict[str, LabelledTexts]:
    """Reads ``train``, ``dev`` and ``test`` files whose first row names the columns, ``.tsv`` or ``.csv`` or ``.gz``.

    Args:
        folder: of the files; some may be missing.
        text_column: name of the column of texts.
        label_column: name of the column of classes.
        encoding: of the text, such as ``latin-1``.

    Returns:
        Split (``train``, ``validation``, ``test``) to its texts; classes are those of all splits, sorted. Empty texts
        are kept and reported, as are texts whose class training lacks.

    Raises:
        MalformedFileError: if a file does not hold what it should.
        ValueError: if Python knows no such encoding.
    """
    check_path("folder", folder=folder)
    check_encoding(encoding)
    problems = Problems(folder)
    rows = {}
    for split, file in find_splits(folder, endings=(".tsv", ".csv")).items():
        rows[split] = _read(file, text_column, label_column, problems, encoding)
    classes = sorted({label for split in rows.values() for _, label in split})
    numbers = {label: number for number, label in enumerate(classes)}
    if "train" in rows:
        _count_untrained(rows, problems)
    problems.report()
    return {
        split: LabelledTexts([text for text, _ in pairs], torch.tensor([numbers[label] for _, label in pairs]), classes)
        for split, pairs in rows.items()
    }


def _read(file: Path, text_column: str, label_column: str, problems: Problems, encoding: str) -> list[tuple[str, str]]:
    pairs = []
    for line, (text, label) in read_columns(file, text_column, label_column, encoding=encoding):
        label = label.strip()
        if not label:
            raise MalformedFileError(file, line, f"a class in column '{label_column}'", "an empty cell")
        if not text.strip():
            problems.count("empty texts, kept", line=f"{file.name}, line {line}")
        pairs.append((text, label))
    if not pairs:
        raise MalformedFileError(file, None, "texts", "none")
    return pairs


def _count_untrained(rows: dict[str, list[tuple[str, str]]], problems: Problems) -> None:
    train_labels = {label for _, label in rows["train"]}
    for split, pairs in rows.items():
        for number, (_, label) in enumerate(pairs, start=1):
            if label not in train_labels:
                problems.count("texts of a class that training lacks, kept", line=f"text {number} of {split}")
