"""BEIR folders come back as they were written, in memory and on disk."""

from __future__ import annotations

import gzip
import json
import tempfile
import tracemalloc
import warnings
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st
from small_files import beir, json_lines, rows, write

from lightning_normdyn.datasets import MalformedFileError
from lightning_normdyn.datasets.formats import read_beir, stream_beir_corpus
from lightning_normdyn.datasets.reading.arrow_column import ArrowColumn

HEADER = ("query-id", "corpus-id", "score")


def pairs(found, split):
    """Judgements by id."""
    return {
        (found.queries.ids[query], found.documents.ids[document]): grade
        for query, document, grade in zip(*(column.tolist() for column in found.judgements[split]), strict=True)
    }


def test_a_document_is_title_space_and_text(tmp_path):
    found = read_beir(beir(tmp_path))
    assert found.documents.ids == ["d1", "d2", "d3"]
    assert list(found.documents.texts) == ["One first text", "second", "third"]
    assert list(stream_beir_corpus(tmp_path)) == list(zip(found.documents.ids, found.documents.texts, strict=True))
    assert (found.queries.ids, list(found.queries.texts)) == (["q1", "q2"], ["what?", "who?"])
    assert pairs(found, "test") == {("q1", "d2"): 1.0}


def test_splits_go_by_one_name_and_in_one_order(tmp_path):
    content = rows(HEADER, ("q1", "d1", 2))
    found = read_beir(beir(tmp_path, test=content, dev=content, hard=content, train=content))
    assert list(found.judgements) == ["train", "validation", "test", "hard"]


@pytest.mark.parametrize(
    "content",
    [
        rows(HEADER, ("q1", "d2", 2), ("q2", "d1", 0)),
        rows(("q1", "d2", 2), ("q2", "d1", 0)),
        rows(("q1", 0, "d2", 2), ("q2", 0, "d1", 0)),
        rows(("q1", "Q0", "d2", 2), ("q2", "Q0", "d1", 0), by=" "),
        "\ufeff" + rows(HEADER, ("q1", "d2", "2.0"), ("q2", "d1", 0)).replace("\n", "\r\n") + "\r\n\r\n",
    ],
    ids=["header", "no header", "TREC", "TREC by spaces", "CRLF and byte-order mark"],
)
def test_judgements_of_every_layout(tmp_path, content):
    assert pairs(read_beir(beir(tmp_path, test=content)), "test") == {("q1", "d2"): 2.0, ("q2", "d1"): 0.0}


def test_ids_may_be_numbers_and_answers_come_along(tmp_path):
    folder = beir(
        tmp_path,
        corpus=json_lines({"_id": 7, "title": None, "text": "seven"}),
        queries=json_lines(
            {"_id": 1, "text": "a"},
            {"_id": 2, "text": "b", "metadata": {"answer": "yes"}},
            {"_id": 3, "text": "c", "metadata": {"answer": ["x", "y"]}},
        ),
        test=rows((1, 7, 1)),
    )
    found = read_beir(folder)
    assert pairs(found, "test") == {("1", "7"): 1.0}
    assert found.answers == {1: ("yes",), 2: ("x", "y")}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
IDS = st.lists(
    st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=5), min_size=1, max_size=6, unique=True
)


@settings(max_examples=40)
@given(st.data())
def test_round_trip(data):
    documents = {id: (data.draw(TEXT), data.draw(TEXT)) for id in data.draw(IDS)}
    queries = {id: data.draw(TEXT) for id in data.draw(IDS)}
    judged = data.draw(
        st.dictionaries(
            st.tuples(st.sampled_from(list(queries)), st.sampled_from(list(documents))),
            st.integers(-2, 3),
            min_size=1,
        )
    )
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # empty texts are wanted here
        folder = beir(
            Path(name),
            corpus=json_lines(*({"_id": id, "title": a, "text": b} for id, (a, b) in documents.items())),
            queries=json_lines(*({"_id": id, "text": text} for id, text in queries.items())),
            test=rows(HEADER, *((*pair, grade) for pair, grade in judged.items())),
        )
        kept, mapped = read_beir(folder), read_beir(folder, cache=folder / "cache")
        again = read_beir(folder, cache=folder / "cache")
        for found in (kept, mapped, again):
            assert list(found.documents.ids) == list(documents)
            assert list(found.documents.texts) == [f"{a} {b}".strip() for a, b in documents.values()]
            assert list(found.queries.texts) == list(queries.values())
            assert pairs(found, "test") == judged


def test_problems_are_counted_in_one_warning(tmp_path):
    folder = beir(
        tmp_path,
        corpus=json_lines({"_id": "d1", "text": "one"}, {"_id": "d2", "text": " "}),
        test=rows(HEADER, ("q1", "d1", 1), ("q1", "d9", 1), ("q9", "d1", 1), ("q1", "d1", 1), ("q8", "d1", 1)),
    )
    for _ in range(2):  # the second time from the cache
        with pytest.warns(UserWarning, match="empty documents") as caught:
            found = read_beir(folder, cache=tmp_path / "cache")
        assert pairs(found, "test") == {("q1", "d1"): 1.0}
        assert len(caught) == 1
        said = str(caught[0].message)
        assert "1 empty documents, kept as empty texts (first: id d2)" in said
        assert f"1 judgements of unknown documents, left out (first: {tmp_path / 'qrels/test.tsv'}, line 3)" in said
        assert "2 judgements of unknown queries, left out" in said
        assert "1 repeated judgements, kept once" in said
        assert Path(caught[0].filename) == Path(__file__)


def test_of_a_pair_judged_twice_the_later_grade_counts(tmp_path):
    """As in BEIR's own loader, which fills a dictionary; TREC-COVID has such pairs."""
    folder = beir(tmp_path, test=rows(HEADER, ("q1", "d1", 1), ("q2", "d1", 1), ("q1", "d1", 0), ("q1", "d1", 2)))
    with pytest.warns(UserWarning, match=r"2 pairs judged again with another grade, the later one taken .*line 4"):
        assert pairs(read_beir(folder), "test") == {("q1", "d1"): 2.0, ("q2", "d1"): 1.0}


GOOD = json.dumps({"_id": "d1", "text": "x"}) + "\n"
MALFORMED = {
    "no JSON": ({"corpus": GOOD + "{'_id': 1}\n"}, r"corpus\.jsonl, line 2: expected a JSON object"),
    "cut JSON": ({"corpus": GOOD + GOOD[:-5]}, r"corpus\.jsonl, line 2: expected a JSON object"),
    "no object": ({"corpus": "[1]\n"}, r"line 1: expected a JSON object, got '\[1\]'"),
    "no id": ({"corpus": '{"key": "a", "text": "x"}\n'}, r"line 1: expected a field '_id', got the fields \['key', 't"),
    "no text": ({"corpus": '{"_id": "a"}\n'}, r"line 1: expected a field 'text'"),
    "text of another kind": ({"corpus": '{"_id": "a", "text": 3}\n'}, r"expected a text in field 'text', got 3"),
    "text is null": ({"queries": '{"_id": "a", "text": null}\n'}, r"expected a text in field 'text', got None"),
    "title of another kind": ({"corpus": '{"_id": "a", "title": [], "text": ""}'}, r"a text in field 'title'"),
    "id of another kind": (
        {"corpus": '{"_id": 1.5, "text": "x"}\n'},
        r"a text or a whole number in field '_id', got 1",
    ),
    "id is a truth": ({"corpus": '{"_id": true, "text": "x"}\n'}, r"in field '_id', got True"),
    "empty id": ({"corpus": '{"_id": "", "text": "x"}\n'}, r"in field '_id', got ''"),
    "half a surrogate pair": ({"corpus": '{"_id": "a", "text": "\\ud83d"}\n'}, r"Unicode text in field 'text'"),
    "document twice": ({"corpus": GOOD + "\n" + GOOD}, r"corpus\.jsonl, line 3: .* got 'd1' again; keep one"),
    "query twice": ({"queries": GOOD + GOOD}, r"queries\.jsonl, line 2: .* got 'd1' again"),
    "not UTF-8": ({"corpus": b'{"_id": "a", "text": "\xe9"}'}, r"corpus\.jsonl, line 1: expected UTF-8"),
    "two columns": ({"test": "q1\td1\n"}, r"test\.tsv, line 1: expected 3 or 4 columns, got 2"),
    "another width": ({"test": "q1\td1\t1\nq1\t0\td2\t1\n"}, r"test\.tsv, line 2: expected 3 columns, got 4"),
    "grade in words": ({"test": "q1\td1\tyes\n"}, r"test\.tsv, line 1: expected a number as a grade, got 'yes'"),
    "grade not finite": ({"test": "q1\td1\tnan\n"}, r"expected a number as a grade, got 'nan'"),
    "no judgements": ({"test": "query-id\tcorpus-id\tscore\n"}, r"test\.tsv: expected judgements .*, got none"),
    "judgements of others": (
        {"test": "q8\td8\t1\n"},
        r"test\.tsv: expected judgements .*; check that the files belong",
    ),
    "a split twice": (
        {"dev": "q1\td1\t1\n", "val": "q1\td1\t1\n"},
        r"one file of split 'validation', got dev\.tsv and",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_folders_are_refused(tmp_path, case):
    parts, message = MALFORMED[case]
    with pytest.raises(MalformedFileError, match=message):
        read_beir(beir(tmp_path, **parts))


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("corpus.jsonl", r"expected a file corpus\.jsonl, plain or \.gz, .*, got qrels, queries\.jsonl"),
        ("queries.jsonl", r"expected a file queries\.jsonl"),
        ("qrels/test.tsv", r"qrels: expected judgements such as test\.tsv, got no \.tsv file"),
    ],
)
def test_missing_files_are_refused(tmp_path, removed, message):
    (beir(tmp_path) / removed).unlink()
    with pytest.raises(MalformedFileError, match=message):
        read_beir(tmp_path)


def test_a_corpus_both_plain_and_zipped_and_one_cut_short_are_refused(tmp_path):
    content = json_lines(*({"_id": str(n), "text": f"{n * 7919 % 10007}"} for n in range(5000)))
    write(beir(tmp_path) / "corpus.jsonl.gz", content)
    with pytest.raises(MalformedFileError, match=r"got corpus\.jsonl and corpus\.jsonl\.gz; keep the one you mean"):
        read_beir(tmp_path)
    (tmp_path / "corpus.jsonl").unlink()
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(content.encode())[:9000])
    with pytest.raises(MalformedFileError, match=r"corpus\.jsonl\.gz, line \d{3,}: expected a whole gzip file"):
        read_beir(tmp_path, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_the_cache_is_used_until_the_corpus_changes(tmp_path):
    read = []

    def progress(documents):
        read.append("corpus")
        yield from documents

    for _ in range(2):
        found = read_beir(beir_once(tmp_path), cache=tmp_path / "cache", progress=progress)
        assert isinstance(found.documents.texts, ArrowColumn)
    assert read == ["corpus"]
    write(tmp_path / "corpus.jsonl", json_lines({"_id": "d2", "text": "changed"}))
    assert list(read_beir(tmp_path, cache=tmp_path / "cache").documents.texts) == ["changed"]


def beir_once(folder):
    return folder if (folder / "corpus.jsonl").exists() else beir(folder)


def test_a_corpus_on_disk_is_never_held_in_memory(tmp_path):
    read_beir(beir(tmp_path / "small"), cache=tmp_path / "cache")  # what pyarrow imports when first used is not counted
    text, count = "word " * 400, 12_000
    write(
        beir(tmp_path) / "corpus.jsonl",
        "".join(f'{{"_id": "d{number}", "title": "", "text": "{text}"}}\n' for number in range(count)),
    )
    whole = len(text) * count
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    found = read_beir(tmp_path, cache=tmp_path / "cache")
    for _ in range(count // 4):
        assert found.documents.texts[3] == text.strip()
    streamed = sum(len(one) for _, one in stream_beir_corpus(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert streamed == len(text.strip()) * count
    assert peak < whole / 2, f"{peak / 1e6:.0f} of {whole / 1e6:.0f} MB"
    assert pa.total_allocated_bytes() - before < whole / 4
