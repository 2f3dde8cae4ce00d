"""Lines and rows come as they were written, whatever the line ends; broken ones are named by file and line."""

from __future__ import annotations

import csv
import gzip
import io
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from small_files import write

from lightning_normdyn.datasets import MalformedFileError
from lightning_normdyn.datasets.formats.listed_texts import read_listed_texts
from lightning_normdyn.datasets.reading.lines import read_lines
from lightning_normdyn.datasets.reading.rows import read_columns, read_rows


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
@pytest.mark.parametrize(
    "content",
    ["one\ntwo\n", "one\r\ntwo\r\n", "\ufeffone\ntwo", "one\n\n  \ntwo\n\n\n"],
    ids=["plain", "CRLF", "byte-order mark", "blank lines"],
)
def test_lines_are_the_same_however_they_end(tmp_path, name, content):
    assert [text for _, text in read_lines(write(tmp_path / name, content))] == ["one", "two"]


def test_numbers_count_blank_lines_and_other_line_ends_stay_inside(tmp_path):
    lines = list(read_lines(write(tmp_path / "a.txt", "a\u2028b\x85c\n\nd\n")))
    assert lines == [(1, "a\u2028b\x85c"), (3, "d")]


def cut_gzip():
    return gzip.compress(os.urandom(40_000).hex("\n").encode())[:20_000]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\nna\xefve\n", r"a\.txt, line 2: expected UTF-8 text, got byte 0xef in column 3; convert"),
        ("a.txt", "caf\xe9".encode("utf-16"), r"line 1: expected UTF-8 text, got byte 0xff"),
        ("a.txt.gz", None, r"a\.txt\.gz: expected a file, got nothing of that name; check"),
        ("a", "folder", r"a: expected a file, got a folder"),
    ],
)
def test_unreadable_files_are_refused(tmp_path, name, content, message):
    if content == "folder":
        (tmp_path / name).mkdir()
    elif content is not None:
        write(tmp_path / name, content)
    with pytest.raises(MalformedFileError, match=message):
        list(read_lines(tmp_path / name))


@pytest.mark.parametrize(
    "content", [cut_gzip(), b"no gzip", gzip.compress(b"text\n") + b"more"], ids=["cut", "none", "more after it"]
)
def test_broken_gzip_is_refused_at_the_line_where_it_breaks(tmp_path, content):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(MalformedFileError, match=r"a\.gz, line \d+: expected a whole gzip file"):
        list(read_lines(tmp_path / "a.gz"))


CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(
    lambda cell: cell.strip()
)


@settings(max_examples=60)
@given(st.lists(st.tuples(CELLS, CELLS.map(lambda cell: cell + '"\n\n, ' + cell)), min_size=1, max_size=6))
def test_csv_cells_round_trip_with_quotes_commas_and_line_breaks(table):
    table = [(first.removeprefix("\ufeff") or "a", second) for first, second in table]
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(table)
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder) / "a.csv", stream.getvalue())
        assert [tuple(row.cells) for row in read_rows(file, delimiter=",")] == table


def test_columns_are_found_by_name_in_any_order(tmp_path):
    file = write(tmp_path / "a.tsv", "x\tScore\tName\n1\t2\tb\n")
    assert list(read_columns(file, ("title", "name"), "score")) == [(2, ["b", "2"])]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "name\tscore\na\t1\nb\n", r"a\.tsv, line 3: expected 2 columns, got 1"),
        ("a.tsv", "name\tgrade\na\t1\n", r"line 1: expected a column named 'score', got 'name', 'grade'"),
        ("a.tsv", "", r"line 1: expected a row that names the columns, got an empty file"),
        ("a.csv", 'name,score\n"open,1\n', r"a\.csv, line 2: expected comma-separated cells, .*; close every quote"),
        ("a.csv", 'name,score\n"a"b,1\n', r"a\.csv, line 2: expected comma-separated cells"),
    ],
)
def test_malformed_tables_are_refused(tmp_path, name, content, message):
    with pytest.raises(MalformedFileError, match=message):
        list(read_columns(write(tmp_path / name, content), "name", "score"))


def test_texts_without_ids_in_a_file_that_is_to_have_them_are_told_the_ending_they_need(tmp_path):
    message = r"a\.tsv, line 1: expected an id, a tab and a text, got no tab; .*\.txt"
    with pytest.raises(MalformedFileError, match=message):
        read_listed_texts(write(tmp_path / "a.tsv", "a first text\nanother\n"))
    assert len(read_listed_texts(write(tmp_path / "a.txt", "a first text\nanother\n"))) == 2
