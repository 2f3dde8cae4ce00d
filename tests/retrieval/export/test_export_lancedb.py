"""LanceDB: what goes in comes out ranked by the score, and indexes that would normalise are refused."""

from __future__ import annotations

import pyarrow as pa
import pytest
from export_cases import embeddings, export, ranked, source_of

from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.export.index_export import measure_loss, survey_source

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
        ({"text": ["x"]}, "has the columns embedding, id, text, which replacing it would lose"),
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
