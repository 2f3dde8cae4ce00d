"""BRIGHT's Parquet comes back with right and excluded documents."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_files import write

from lightning_normdyn.datasets import MalformedFileError
from lightning_normdyn.datasets.formats import read_bright

EXAMPLES = [
    {"query": "why?", "id": "0", "gold_ids": ["a", "b"], "gold_ids_long": ["A"], "excluded_ids": ["c"]},
    {"query": "how?", "id": "1", "gold_ids": ["c"], "gold_ids_long": ["B"], "excluded_ids": ["N/A"]},
]
DOCUMENTS = [{"id": id, "content": f"about {id}"} for id in "abc"]


def parquet(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(table), path)


def bright(folder, *, domain="biology", examples=EXAMPLES, documents=DOCUMENTS):
    parquet(folder / "examples" / f"{domain}-00000-of-00001.parquet", examples)
    parquet(folder / "documents" / f"{domain}-00000-of-00002.parquet", documents[:1])
    parquet(folder / "documents" / f"{domain}-00001-of-00002.parquet", documents[1:])
    parquet(folder / "long_documents" / f"{domain}-00000-of-00001.parquet", [{"id": i, "content": i} for i in "AB"])
    return folder


def listed(judgements):
    return list(zip(*(column.tolist() for column in judgements), strict=True))


@pytest.mark.parametrize("cached", [False, True])
def test_both_kinds_of_documents(tmp_path, cached):
    cache = tmp_path / "cache" if cached else None
    found = read_bright(bright(tmp_path), cache=cache)
    assert (found.documents.ids, list(found.documents.texts)) == (["a", "b", "c"], ["about a", "about b", "about c"])
    assert list(found.queries.texts) == ["why?", "how?"]
    assert listed(found.judgements["test"]) == [(0, 0, 1.0), (0, 1, 1.0), (1, 2, 1.0)]
    assert listed(found.excluded_pairs["test"]) == [(0, 2, 0.0)]
    with pytest.warns(UserWarning, match="1 excluded documents that are not searched anyway"):
        long = read_bright(tmp_path, domain="biology", long_documents=True, cache=cache)
    assert (long.documents.ids, listed(long.judgements["test"])) == (["A", "B"], [(0, 0, 1.0), (1, 1, 1.0)])


def test_one_of_several_domains(tmp_path):
    bright(bright(tmp_path, domain="bio", documents=[{"id": i, "content": "x"} for i in "abcd"]), domain="biology")
    assert len(read_bright(tmp_path, domain="bio").documents) == 4
    with pytest.raises(MalformedFileError, match="expected one domain, got bio, biology; pass domain"):
        read_bright(tmp_path)


def test_unknown_documents_are_counted(tmp_path):
    folder = bright(tmp_path, examples=[{**EXAMPLES[0], "gold_ids": ["a", "x", "z"], "excluded_ids": ["y"]}])
    said = r"2 judgements of unknown .*parquet, row 1\); 1 excluded documents that are not searched anyway"
    with pytest.warns(UserWarning, match=said):
        assert listed(read_bright(folder).judgements["test"]) == [(0, 0, 1.0)]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"documents": [*DOCUMENTS, DOCUMENTS[0]]}, r"of-00002\.parquet, line 3: .* got 'a' again"),
        ({"documents": [{"id": "a", "text": "x"}] * 2}, r"expected a column 'content', got the columns 'id', 'text'"),
        ({"documents": [{"id": "a", "content": None}, DOCUMENTS[1]]}, r"line 1: expected a text in column 'content'"),
        ({"examples": [{**EXAMPLES[0], "gold_ids": "a"}]}, r"line 1: expected a list of ids in column 'gold_ids'"),
        ({"examples": [{**EXAMPLES[0], "gold_ids": []}]}, r"expected documents that 'gold_ids' names, got none"),
    ],
)
def test_malformed_folders_are_refused(tmp_path, parts, message):
    with pytest.raises(MalformedFileError, match=message):
        read_bright(bright(tmp_path, **parts))


def test_broken_and_missing_files_are_refused(tmp_path):
    with pytest.raises(MalformedFileError, match="examples: expected Parquet files, got none"):
        read_bright(tmp_path)
    file = bright(tmp_path) / "examples" / "biology-00000-of-00001.parquet"
    write(file, file.read_bytes()[:-9])
    with pytest.raises(MalformedFileError, match="expected a whole Parquet file"):
        read_bright(tmp_path)
