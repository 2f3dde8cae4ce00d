import gzip
import json

import fsspec
import pyarrow.parquet as pq
import pytest

from lightning_normdyn.datasets import MalformedFileError, MinedRow
from lightning_normdyn.datasets.formats import (
    read_hard_negatives,
    write_hard_negative_texts,
    write_hard_negatives,
)
from lightning_normdyn.datasets.formats.hard_negatives import negatives_by_query

ROWS = [
    MinedRow("q1", "d3", ("d7", "d2"), (0.9, 0.6, 0.1 + 0.2)),
    MinedRow("q1", "d4", ("d7", "d2"), (0.8, 0.6, 0.1 + 0.2)),
    MinedRow("fräge", "d1", ("d9",), (0.5, -0.25)),
    MinedRow("q4", "d1", (), (0.5,)),
]


@pytest.mark.parametrize("name", ["mined.jsonl", "mined.jsonl.gz", "folder/mined.jsonl"])
@pytest.mark.parametrize("place", ["path", "memory"])
def test_ids_are_read_back_as_they_were_written(name, place, tmp_path):
    file = str(tmp_path / name) if place == "path" else f"memory://{tmp_path.name}/{name}"
    assert write_hard_negatives(ROWS, file) == 4
    assert list(read_hard_negatives(file)) == ROWS
    with fsspec.open(file, "rb") as stream:
        data = stream.read()
    first = json.loads((gzip.decompress(data) if name.endswith(".gz") else data).splitlines()[0])
    assert first == {
        "query-id": "q1",
        "positive-id": "d3",
        "negative-ids": ["d7", "d2"],
        "scores": list(ROWS[0].scores),
    }


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "mined.jsonl"
    write_hard_negatives(ROWS, file)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_hard_negatives([*ROWS[:2], ROWS[2]._replace(scores=(0.5, float("nan")))], file)
    assert list(read_hard_negatives(file)) == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["mined.jsonl"]


def test_positions_are_those_of_the_set_and_strangers_are_counted(tmp_path):
    file = tmp_path / "mined.jsonl"
    write_hard_negatives(ROWS, file)
    queries, documents = {"q1": 5, "q4": 6}, {"d2": 2, "d7": 7}
    with pytest.warns(UserWarning, match=r"mined.jsonl: 1 rows of unknown queries, left out \(first: line 3\)$"):
        assert negatives_by_query(file, queries, documents) == {5: (7, 2), 6: ()}
    with pytest.warns(UserWarning, match="2 negatives of unknown ids, left out"):
        assert negatives_by_query(file, {"q1": 0, "q4": 1, "fräge": 2}, {"d2": 2, "d9": 9}) == {0: (2,), 1: (), 2: (9,)}
    with pytest.raises(
        MalformedFileError, match="expected hard negatives of queries and documents of this set, got none"
    ):
        negatives_by_query(file, {"other": 0}, documents)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[]", "a JSON object"),
        ('{"query-id": "q", "positive-id": "d"}', "a list of ids in field 'negative-ids'"),
        (
            '{"query-id": "q", "positive-id": "d", "negative-ids": "e"}',
            "a list of ids in field 'negative-ids', got 'e'",
        ),
        ('{"query-id": "q", "positive-id": "d", "negative-ids": [["e"]]}', "a text or a whole number"),
        ('{"query-id": "q", "negative-ids": []}', "a field 'positive-id'"),
        (
            '{"query-id": "q", "positive-id": "d", "negative-ids": ["e"], "scores": [1]}',
            "2 scores, the positive's first",
        ),
        ('{"query-id": "q", "positive-id": "d", "negative-ids": [], "scores": ["1"]}', "numbers in field 'scores'"),
    ],
)
def test_a_malformed_line_is_refused_by_its_number(line, said, tmp_path):
    file = tmp_path / "mined.jsonl"
    file.write_text('{"query-id": 1, "positive-id": 2, "negative-ids": [3]}\n' + line + "\n")
    rows = read_hard_negatives(file)
    assert next(rows) == MinedRow("1", "2", ("3",), ())
    with pytest.raises(MalformedFileError, match=rf"mined.jsonl, line 2: expected .*{said}".replace("[", r"\[")):
        next(rows)


@pytest.mark.parametrize("name", ["texts.parquet", "texts.jsonl", "texts.jsonl.gz"])
@pytest.mark.parametrize("output_format", ["n-tuple", "triplet"])
@pytest.mark.filterwarnings("ignore:.*rows with fewer than 2 negatives")
def test_texts_have_the_columns_of_sentence_transformers(name, output_format, tmp_path):
    file = tmp_path / name
    count = write_hard_negative_texts(ROWS, file, output_format=output_format, output_scores=True)
    if name.endswith(".parquet"):
        rows = pq.read_table(file).to_pylist()
    else:
        data = file.read_bytes()
        rows = [json.loads(line) for line in (gzip.decompress(data) if name.endswith(".gz") else data).splitlines()]
    tuples = [
        {"query": row.query, "positive": row.positive, "negative_1": row.negatives[0], "negative_2": row.negatives[1],
         "scores": list(row.scores)}
        for row in ROWS[:2]
    ]  # fmt: skip
    triplets = [
        {"query": row.query, "positive": row.positive, "negative": negative, "scores": [row.scores[0], score]}
        for row in ROWS
        for negative, score in zip(row.negatives, row.scores[1:], strict=True)
    ]
    assert rows == (tuples if output_format == "n-tuple" else triplets)
    assert [list(row) for row in rows] == [list(row) for row in (tuples if output_format == "n-tuple" else triplets)]
    assert count == len(rows)


def test_rows_that_a_tuple_has_no_room_for_are_counted(tmp_path):
    with pytest.warns(UserWarning, match=r"2 rows with fewer than 2 negatives, left out \(first: line 3\)"):
        assert write_hard_negative_texts(ROWS, tmp_path / "texts.jsonl") == 2


def test_parquet_of_many_rows_is_written_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_normdyn.datasets.formats.hard_negatives._BATCH_ROWS", 3)
    rows = [MinedRow(f"q{n}", "p", ("n",), ()) for n in range(10)]
    assert write_hard_negative_texts(rows, tmp_path / "a.parquet") == 10
    assert pq.read_table(tmp_path / "a.parquet").column("query").to_pylist() == [row.query for row in rows]


def test_datasets_reads_what_was_written(tmp_path):
    datasets = pytest.importorskip("datasets")
    write_hard_negative_texts(ROWS[:2], tmp_path / "texts.parquet")
    loaded = datasets.Dataset.from_parquet(str(tmp_path / "texts.parquet"), cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == ["query", "positive", "negative_1", "negative_2"]


def test_wrong_names_and_empty_rows_are_refused(tmp_path):
    for call, said in [
        (lambda: write_hard_negatives(ROWS, tmp_path / "a.tsv"), "file: expected a name that ends in .jsonl"),
        (lambda: write_hard_negative_texts(ROWS, tmp_path / "a.csv"), "file: expected a name that ends in .parquet"),
        (lambda: write_hard_negative_texts(ROWS[3:], tmp_path / "a.jsonl"), "rows: expected one with a negative"),
        (
            lambda: write_hard_negative_texts(ROWS, tmp_path / "a.jsonl", output_format="pair"),
            "output_format: expected",
        ),
        (lambda: list(read_hard_negatives(tmp_path / "none.jsonl")), ".*none.jsonl: expected a file, got nothing"),
        (lambda: list(read_hard_negatives("memory://none.jsonl")), "memory://none.jsonl: expected a file, got nothing"),
        (lambda: write_hard_negatives(ROWS, "nosuch://bucket/a.jsonl"), "nosuch://bucket/a.jsonl: expected a path or"),
    ]:
        with pytest.raises(ValueError, match=f"^{said}"):
            call()
