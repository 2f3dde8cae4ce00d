"""LanceDB: what goes in comes out ranked by the score, and indexes that would normalise are refused."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from export_cases import embeddings, export, parquet_source, ranked, source_of

from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.export.index_export import measure_loss, survey_source
from lightning_normdyn.retrieval.indexes.staged_path import StagedPath

lancedb = pytest.importorskip("lancedb")


def make_table(folder, dim=24, cosine=False, ids=("d1",), **columns):
    documents = embeddings(m=max(len(ids), 300))[0].numpy()[:, :dim]
    rows = len(documents) if cosine else len(ids)
    names = [f"d{row}" for row in range(rows)] if cosine else list(ids)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(documents[:rows].reshape(-1)), dim)
    table = lancedb.connect(folder).create_table("docs", pa.table({"id": names, "embedding": vectors, **columns}))
    if cosine:
        config = lancedb.index.IvfFlat(distance_type="cosine", num_partitions=1)
        table.create_index("embedding", config=config)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [({}, "float32"), ({}, "float16"), ({"augment": True, "metric": "cosine"}, "float32")],
)
def test_round_trip(tmp_path, options, dtype):
    documents, queries = embeddings()
    source, folding = source_of(documents, tmp_path), Folding("cosine", alpha=0.5, **options)
    writer = export(source, "lancedb", tmp_path / "db", folding, name="docs", dtype=dtype)
    assert writer.search(folding.index_queries(queries), 10).ids == ranked(queries, documents, 0.5, source.ids)
    assert [one.name for one in (tmp_path / "db").iterdir()] == ["docs.lance"]


def test_a_user_finds_it_by_inner_product(tmp_path):
    documents, queries = embeddings()
    source = source_of(documents, tmp_path)
    writer = export(source, "lancedb", tmp_path / "db", Folding("dot"), name="docs")
    table = lancedb.connect(tmp_path / "db").open_table("docs")
    rows = table.search(queries[0].numpy()).distance_type("dot").limit(10).to_list()
    assert [row["id"] for row in rows] == ranked(queries, documents, 1, source.ids)[0]
    exact = (queries[0].double() @ documents.double().T).topk(10).values.tolist()
    assert writer.search(queries[:1], 10).scores[0] == pytest.approx(exact, rel=1e-5)


def test_an_index_is_built_for_inner_product(tmp_path):
    documents, queries = embeddings(m=600)
    source, folding = source_of(documents, tmp_path), Folding("dot")
    writer = export(source, "lancedb", tmp_path / "db", folding, name="docs", index="hnsw")
    table = lancedb.connect(tmp_path / "db").open_table("docs")
    (index,) = table.list_indices()
    assert table.index_stats(index.name).distance_type == "dot"
    assert measure_loss(source, folding, survey_source(source, folding), writer, queries).recall > 0.5


def test_a_table_is_replaced_whole(tmp_path):
    documents, queries = embeddings()
    source = source_of(documents, tmp_path)
    export(source, "lancedb", tmp_path / "db", name="docs")
    with pytest.raises(ValueError, match="'docs' exists already; pass --overwrite"):
        export(source, "lancedb", tmp_path / "db", Folding("dot"), name="docs")
    writer = export(source, "lancedb", tmp_path / "db", Folding("dot"), name="docs", overwrite=True)
    assert writer.search(queries, 10).ids == ranked(queries, documents, 1, source.ids)
    assert [one.name for one in (tmp_path / "db").iterdir()] == ["docs.lance"]


@pytest.mark.parametrize(
    ("existing", "said"),
    [
        ({"cosine": True}, "has an index that compares cosines, which divides every norm out again; expected dot"),
        ({"dim": 8}, "holds 8 numbers a vector, got 24"),
        ({"ids": ("d1", "stranger")}, "holds 1 other ids, 'stranger' among them"),
    ],
)
def test_a_table_that_cannot_take_them_is_refused(tmp_path, existing, said):
    make_table(tmp_path / "db", **existing)
    before = lancedb.connect(tmp_path / "db").open_table("docs").to_arrow()
    with pytest.raises(ValueError, match=said):
        export(source_of(embeddings()[0], tmp_path), "lancedb", tmp_path / "db", name="docs", overwrite=True)
    assert lancedb.connect(tmp_path / "db").open_table("docs").to_arrow() == before


def test_few_vectors_and_urls_are_refused(tmp_path):
    source = source_of(embeddings(m=100)[0], tmp_path)
    with pytest.raises(ValueError, match="at least 256 vectors for LanceDB's ivfpq to learn from, got 100"):
        export(source, "lancedb", tmp_path / "db", index="ivfpq")
    with pytest.raises(ValueError, match="out: expected a folder for lancedb, got a URL"):
        export(source, "lancedb", "s3://bucket/db")
    assert not (tmp_path / "db").exists()


def read_table(folder):
    return {row["id"]: row for row in lancedb.connect(folder).open_table("docs").to_arrow().to_pylist()}


def columns_of(row):
    return {name: value for name, value in row.items() if name not in ("id", "doc_id", "embedding")}


def test_columns_go_along_and_those_of_a_table_that_is_replaced_stay(tmp_path):
    make_table(tmp_path / "db", ids=("d3", "d250", "d1"), text=["three", "many", "one"], year=pa.array([1, 2, 3]))
    documents, queries = embeddings()
    ids = [f"d{row}" for row in range(len(documents))]
    source, rows = parquet_source(documents, tmp_path, ids=ids)
    writer = export(source, "lancedb", tmp_path / "db", name="docs", overwrite=True)
    texts = {"d3": "three", "d250": "many", "d1": "one"}
    table = read_table(tmp_path / "db")
    assert {id: columns_of(row) for id, row in table.items()} == {
        row["doc_id"]: columns_of(row) | {"text": texts.get(row["doc_id"])} for row in rows
    }
    assert lancedb.connect(tmp_path / "db").open_table("docs").schema.field("seen").type == pa.timestamp("us")
    assert writer.search(queries, 10).ids == ranked(queries, documents, 0, ids)


def test_rows_of_a_live_table_get_new_vectors_and_the_others_stay(tmp_path):
    documents, queries = embeddings()
    old, _ = parquet_source(documents, tmp_path, ids=[f"d{row}" for row in range(len(documents))])
    export(old, "lancedb", tmp_path / "db", Folding("dot"), name="docs")
    before = read_table(tmp_path / "db")
    changed = embeddings(m=20, seed=5)[0]
    ids = [*old.ids[-10:], *(f"new {row}" for row in range(10))]
    new = source_of(changed, tmp_path, ids=ids)
    writer = export(new, "lancedb", tmp_path / "db", Folding("dot"), name="docs", upsert=True)
    vectors = torch.cat([documents[:-10], changed])
    assert writer.search(queries, 10).ids == ranked(queries, vectors, 1, [*old.ids[:-10], *ids])
    after = read_table(tmp_path / "db")
    by_id = dict(zip(old.ids, documents.tolist(), strict=True)) | dict(zip(ids, changed.tolist(), strict=True))
    assert {id: row["embedding"] for id, row in after.items()} == {id: pytest.approx(v) for id, v in by_id.items()}
    assert all(columns_of(after[id]) == columns_of(row) for id, row in before.items())
    with pytest.raises(ValueError, match=r"upsert: expected exponent 1\.0 as of the vectors in LanceDB's table 'docs'"):
        export(new, "lancedb", tmp_path / "db", name="docs", upsert=True)


def test_new_rows_of_a_live_table_are_taken_into_its_index(tmp_path):
    source = source_of(embeddings()[0], tmp_path)
    export(source, "lancedb", tmp_path / "db", Folding("dot"), name="docs", index="hnsw")
    new = source_of(embeddings(m=20, seed=5)[0], tmp_path, ids=[f"new {row}" for row in range(20)])
    export(new, "lancedb", tmp_path / "db", Folding("dot"), name="docs", index="hnsw", upsert=True)
    table = lancedb.connect(tmp_path / "db").open_table("docs")
    stats = table.index_stats(table.list_indices()[0].name)
    assert (stats.num_indexed_rows, stats.num_unindexed_rows) == (420, 0)


def test_a_killed_export_goes_on_and_gives_the_same_table(tmp_path, monkeypatch):
    documents, _ = embeddings()
    source, _ = parquet_source(documents, tmp_path)
    source = source._replace(chunk_size=50)
    export(source, "lancedb", tmp_path / "unbroken", name="docs")
    code = "lightning_normdyn.retrieval.indexes.lancedb_table"
    calls = []

    def checkpoint(self, rows, **state):
        calls.append(rows)
        if rows == 250:
            raise KeyboardInterrupt
        original(self, rows, **state)

    original = StagedPath.checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(f"{code}.StagedPath.checkpoint", checkpoint)
        patch.setattr(f"{code}.LanceTable.discard", lambda writer: writer._output._lock.release())
        with pytest.raises(KeyboardInterrupt):
            export(source, "lancedb", tmp_path / "db", name="docs")
    with pytest.warns(UserWarning, match="was killed after 200 rows; this one goes on from there"):
        export(source, "lancedb", tmp_path / "db", name="docs")
    unbroken, table = (
        lancedb.connect(tmp_path / place).open_table("docs").to_arrow().to_pylist() for place in ("unbroken", "db")
    )
    assert table == unbroken
    assert [one.name for one in (tmp_path / "db").iterdir()] == ["docs.lance"]
