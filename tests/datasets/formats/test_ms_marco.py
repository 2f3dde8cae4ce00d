"""MS MARCO triples stream once over ranks and workers."""

from __future__ import annotations

import pytest
from small_files import json_lines, rows, write
from torch.utils.data import DataLoader

from lightning_normdyn.datasets import MalformedFileError
from lightning_normdyn.datasets.formats import MsMarcoTriples, TextTriple

TRIPLES = [TextTriple(f"query {n}", f"right {n}", f"wrong {n}") for n in range(11)]


def test_each_row_is_read_once_by_all_ranks_and_workers(tmp_path):
    file = write(tmp_path / "triples.tsv.gz", rows(*TRIPLES))
    assert list(MsMarcoTriples(file)) == TRIPLES
    read = []
    for rank in range(2):
        stream = MsMarcoTriples(file, rank=rank, ranks=2)
        read.append([TextTriple(*row) for row in DataLoader(stream, batch_size=None, num_workers=2)])
    assert sorted(map(len, read)) == [5, 6]
    assert sorted(read[0] + read[1]) == sorted(TRIPLES)


def with_ids(folder, triples=(("1", "p2", "p1"), ("2", "p1", "p3"))):
    write(folder / "triples.tsv", rows(*triples))
    write(folder / "queries.tsv", rows((1, "one"), (2, "two")))
    write(folder / "collection.tsv", rows(("p1", "first"), ("p2", "second\tpart"), ("p3", "third")))
    return {name: folder / f"{name}.tsv" for name in ("triples", "queries", "collection")}


@pytest.mark.parametrize("cached", [False, True])
def test_ids_are_looked_up(tmp_path, cached):
    stream = MsMarcoTriples(**with_ids(tmp_path), cache=tmp_path / "cache" if cached else None)
    assert list(stream) == [("one", "second\tpart", "first"), ("two", "first", "third")]
    assert list(stream) == list(stream)


def test_unknown_ids_and_empty_texts_are_counted(tmp_path):
    stream = MsMarcoTriples(**with_ids(tmp_path, [(1, "p2", "p1"), (1, "p9", "p1"), (9, "p1", "p1")]))
    with pytest.warns(UserWarning, match=r"triples\.tsv: 2 triples with an unknown id, left out \(first: line 2\)"):
        assert len(list(stream)) == 1
    with pytest.warns(UserWarning, match=r"1 triples with an empty text, kept \(first: line 2\)"):
        assert len(list(MsMarcoTriples(write(tmp_path / "a.tsv", "a\tb\tc\na\t\tc\n")))) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\tc\na\tb\n", r"t\.tsv, line 2: expected 3 columns, got 2"),
        ("", r"t\.tsv: expected triples, got none"),
        (b"a\tb\t\xff\n", r"t\.tsv, line 1: expected UTF-8"),
    ],
)
def test_malformed_triples_are_refused(tmp_path, content, message):
    stream = MsMarcoTriples(write(tmp_path / "t.tsv", content))
    with pytest.raises(MalformedFileError, match=message):
        list(stream)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("queries", "1\tone\n1\ttwo\n", r"queries\.tsv, line 2: .* got '1' again"),
        ("collection", "p1 first\n", r"collection\.tsv, line 1: expected an id, a tab and a text, got 'p1 first'"),
    ],
)
def test_malformed_texts_are_refused(tmp_path, name, content, message):
    files = with_ids(tmp_path)
    write(files[name], content)
    with pytest.raises(MalformedFileError, match=message):
        MsMarcoTriples(**files)


def test_arguments_that_do_not_fit_are_refused(tmp_path):
    files = with_ids(tmp_path)
    with pytest.raises(ValueError, match="both queries and collection"):
        MsMarcoTriples(files["triples"], queries=files["queries"])
    with pytest.raises(ValueError, match=r"rank: expected one of 0 to ranks - 1 .* got 2 of 2"):
        MsMarcoTriples(files["triples"], rank=2, ranks=2)


def test_json_lines_give_every_positive_and_every_negative(tmp_path):
    entries = [
        {"query": "one", "pos": ["a", "b"], "neg": ["x", "y", "z"], "scores": [1]},
        {"anchor": "two", "positive": "c", "negative": "v"},
    ]
    triples = [("one", "a", "x"), ("one", "b", "y"), ("one", "a", "z"), ("two", "c", "v")]
    file = write(tmp_path / "t.jsonl.gz", json_lines(*entries))
    assert list(MsMarcoTriples(file)) == triples
    assert sorted([*MsMarcoTriples(file, ranks=2), *MsMarcoTriples(file, rank=1, ranks=2)]) == sorted(triples)
    places = with_ids(tmp_path) | {
        "triples": write(tmp_path / "ids.jsonl", json_lines({"qid": 1, "pos": ["p1"], "neg": ["p3"]}))
    }
    assert list(MsMarcoTriples(**places)) == [("one", "first", "third")]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"query": "a", "pos": [], "neg": ["b"]},
            r"line 1: expected a text or a list of texts in field 'pos', got \[\]",
        ),
        (
            {"query": "a", "pos": ["b"]},
            r"in field 'neg', got \"the fields \['pos', 'query'\]\"; write query, pos and neg",
        ),
        ({"query": "a", "pos": ["b"], "neg": {"bm25": [1]}}, r"in field 'neg', got \{'bm25'"),
    ],
)
def test_malformed_json_lines_are_refused(tmp_path, entry, message):
    with pytest.raises(MalformedFileError, match=message):
        list(MsMarcoTriples(write(tmp_path / "t.jsonl", json_lines(entry))))


def test_a_fourth_field_is_left_out_and_said(tmp_path):
    file = write(tmp_path / "t.tsv", rows(("a", "b", "c", 3), ("d", "e", "f", 4)))
    with pytest.warns(UserWarning, match=r"2 rows with a fourth field, which is left out \(first: line 1\)"):
        assert list(MsMarcoTriples(file)) == [("a", "b", "c"), ("d", "e", "f")]
    with pytest.raises(MalformedFileError, match="line 2: expected 4 columns, got 3"):
        list(MsMarcoTriples(write(file, "a\tb\tc\td\na\tb\tc\n")))
