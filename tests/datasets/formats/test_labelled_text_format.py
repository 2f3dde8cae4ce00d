"""Labelled texts come back with one list of classes for all splits."""

from __future__ import annotations

import pytest
from small_files import rows, write

from lightning_normdyn.datasets import MalformedFileError
from lightning_normdyn.datasets.formats import read_labelled_texts

HEADER = ("text", "category")


def named(found):
    return {
        split: [(t, one.classes[n]) for t, n in zip(one.texts, one.labels.tolist(), strict=True)]
        for split, one in found.items()
    }


@pytest.mark.parametrize(
    ("name", "by"), [("train.tsv", "\t"), ("train.csv", ","), ("train.tsv.gz", "\t")], ids=["TSV", "CSV", "gzip"]
)
def test_round_trip(tmp_path, name, by):
    train = [("where is my card?", "card"), ("how much?", "price"), ("still not here", "card")]
    write(tmp_path / name, rows(HEADER, *train, by=by))
    write(tmp_path / "test.tsv", rows(HEADER, ("what price", "price")))
    found = read_labelled_texts(tmp_path)
    assert named(found) == {"train": train, "test": [("what price", "price")]}
    assert [one.classes for one in found.values()] == [["card", "price"]] * 2
    assert len(found["train"]) == 3


def test_empty_texts_and_unknown_classes_are_counted(tmp_path):
    write(tmp_path / "train.tsv", rows(("label", "said"), ("a", "x"), ("a", "")))
    write(tmp_path / "dev.tsv", rows(("label", "said"), ("b", "y")))
    said = (
        r"1 empty texts, kept \(first: train.tsv, line 3\); 1 texts of a class that training lacks, .*text 1 of valid"
    )
    with pytest.warns(UserWarning, match=said):
        found = read_labelled_texts(tmp_path, text_column="said", label_column="label")
    assert named(found) == {"train": [("x", "a"), ("", "a")], "validation": [("y", "b")]}


def test_latin_1_is_read_when_it_is_said(tmp_path):
    write(tmp_path / "train.csv", "text,category\ncafé près,drink\n".encode("latin-1"))
    with pytest.raises(MalformedFileError, match=r"line 2: expected UTF-8 .*pass its encoding .*latin-1"):
        read_labelled_texts(tmp_path)
    assert named(read_labelled_texts(tmp_path, encoding="latin-1")) == {"train": [("café près", "drink")]}
    with pytest.raises(ValueError, match=r"encoding: expected one that Python knows, .* got 'latin-x'"):
        read_labelled_texts(tmp_path, encoding="latin-x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (rows(HEADER, ("a", "b", "c")), r"train\.tsv, line 2: expected 2 columns, got 3"),
        (rows(HEADER, ("a", " ")), r"line 2: expected a class in column 'category', got an empty cell"),
        (rows(("text", "label"), ("a", "b")), r"line 1: expected a column named 'category', got 'text', 'label'"),
        (rows(HEADER), r"train\.tsv: expected texts, got none"),
        (b"text\tcategory\n\xe9\ta\n", r"line 2: expected UTF-8 text, got byte 0xe9 in column 1"),
    ],
)
def test_malformed_files_are_refused(tmp_path, content, message):
    write(tmp_path / "train.tsv", content)
    with pytest.raises(MalformedFileError, match=message):
        read_labelled_texts(tmp_path)
