"""Qdrant, embedded: what goes in comes out ranked by the score, and collections that would normalise are refused."""

from __future__ import annotations

import pytest
from export_cases import embeddings, export, ranked, source_of

from lightning_normdyn.retrieval.export.folding import Folding

qdrant = pytest.importorskip("qdrant_client")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "db"


def collections(folder):
    client = qdrant.QdrantClient(path=str(folder))
    try:
        return [one.name for one in client.get_collections().collections]
    finally:
        client.close()


def make_collection(folder, size=24, distance="Dot", payload=None):
    models, client = qdrant.models, qdrant.QdrantClient(path=str(folder))
    client.create_collection("docs", vectors_config=models.VectorParams(size=size, distance=models.Distance(distance)))
    if payload is not None:
        client.upsert("docs", models.Batch(ids=[1], vectors=[[0.0] * size], payloads=[payload]))
    client.close()


@pytest.mark.parametrize(
    ("options", "dtype"),
    [({}, "float32"), ({}, "float16"), ({"augment": True, "metric": "cosine"}, "float32")],
)
def test_round_trip(folder, tmp_path, options, dtype):
    documents, queries = embeddings(m=60)
    source, folding = source_of(documents, tmp_path), Folding("cosine", alpha=0.5, **options)
    writer = export(source, "qdrant", folder, folding, name="docs", dtype=dtype)
    found = writer.search(folding.index_queries(queries), 10)
    assert found.ids == ranked(queries, documents, 0.5, source.ids)
    assert not writer.approximate


def test_an_export_is_replaced_at_once_and_leaves_one_collection(folder, tmp_path):
    documents, queries = embeddings(m=60)
    source = source_of(documents, tmp_path)
    export(source, "qdrant", folder, name="docs")
    with pytest.raises(ValueError, match="'docs' exists already; pass --overwrite"):
        export(source, "qdrant", folder, Folding("dot"), name="docs")
    writer = export(source, "qdrant", folder, Folding("dot"), name="docs", overwrite=True)
    assert writer.search(queries, 10).ids == ranked(queries, documents, 1, source.ids)
    assert len(collections(folder)) == 1


@pytest.mark.parametrize(
    ("existing", "said"),
    [
        ({"distance": "Cosine"}, "compares by Cosine, which divides every norm out again; expected Dot"),
        ({"distance": "Euclid"}, "compares by Euclid, which ranks otherwise"),
        ({"size": 8}, "holds 8 numbers a vector, got 24"),
        ({"payload": {"id": "stranger"}}, "holds 1 other ids, 'stranger' among them"),
        ({"payload": {}}, "holds 1 other ids, '1' among them"),
        (
            {"payload": {"id": "d0", "text": "x"}},
            r"has payload besides the id \('text'\), which replacing it would lose",
        ),
    ],
)
def test_a_collection_that_cannot_take_them_is_refused(folder, tmp_path, existing, said):
    make_collection(folder, **existing)
    with pytest.raises(ValueError, match=said):
        export(source_of(embeddings(m=60)[0], tmp_path), "qdrant", folder, name="docs", overwrite=True)
    assert collections(folder) == ["docs"]


def test_a_plain_collection_of_the_same_ids_is_replaced(folder, tmp_path):
    make_collection(folder, payload={"id": "d3"})
    documents, queries = embeddings(m=60)
    source = source_of(documents, tmp_path)
    writer = export(source, "qdrant", folder, name="docs", overwrite=True)
    assert writer.search(queries, 10).ids == ranked(queries, documents, 0, source.ids)


def test_an_interrupted_export_leaves_what_was_there(folder, tmp_path, monkeypatch):
    documents, queries = embeddings(m=60)
    source = source_of(documents, tmp_path)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lightning_normdyn.retrieval.indexes.qdrant_collection.QdrantCollection.close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export(source, "qdrant", folder, name="docs")
        assert not folder.exists()
    writer = export(source, "qdrant", folder, name="docs")
    with monkeypatch.context() as patch:
        patch.setattr("lightning_normdyn.retrieval.indexes.qdrant_collection.QdrantCollection.close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export(source, "qdrant", folder, Folding("dot"), name="docs", overwrite=True)
    assert writer.search(queries, 10).ids == ranked(queries, documents, 0, source.ids)
    assert len(collections(folder)) == 1


# qdrant-client 1.20 leaves its lock's file open when it fails to lock it
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_folder_in_use_is_said(folder, tmp_path):
    client = qdrant.QdrantClient(path=str(folder))
    try:
        with pytest.raises(ValueError, match="out: Qdrant cannot open the folder"):
            export(source_of(embeddings(m=60)[0], tmp_path), "qdrant", folder)
    finally:
        client.close()


def test_a_server_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"out: Qdrant at .http://127\.0\.0\.1:9. refuses") as caught:
        export(source_of(embeddings(m=60)[0], tmp_path), "qdrant", "http://127.0.0.1:9")
    assert "\n" not in str(caught.value)


def test_after_the_alias_was_touched_nothing_is_removed(folder, tmp_path, monkeypatch):
    documents, queries = embeddings(m=60)
    source = source_of(documents, tmp_path)
    export(source, "qdrant", folder, name="docs")
    client = qdrant.QdrantClient

    def fails(*_, **__):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(client, "delete_collection", fails)
        with pytest.raises(OSError, match="the disk is gone"):
            export(source, "qdrant", folder, Folding("dot"), name="docs", overwrite=True)
    with pytest.warns(UserWarning, match="an export to Qdrant's collection 'docs' was killed; docs-normdyn-"):
        writer = export(source, "qdrant", folder, Folding("dot"), name="docs", overwrite=True)
    assert writer.search(queries, 10).ids == ranked(queries, documents, 1, source.ids)
    assert len(collections(folder)) == 1
