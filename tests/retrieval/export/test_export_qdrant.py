"""Qdrant, embedded: what goes in comes out ranked by the score, and collections that would normalise are refused."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
import torch
from export_cases import embeddings, export, parquet_source, ranked, source_of

from lightning_normdyn.cli.main import main
from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.indexes.qdrant_collection import QdrantCollection

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


def read_points(folder, name="docs"):
    client = qdrant.QdrantClient(path=str(folder))
    try:
        points, _ = client.scroll(name, limit=10_000, with_vectors=True)
        return {point.id: (point.payload, point.vector) for point in points}
    finally:
        client.close()


MIXED_IDS = ["7", "18446744073709551615", "a8098c1a-f86e-11da-bd1a-00112444be1e", "007", "18446744073709551616", "-1"]


def test_numbers_and_uuids_are_the_points_own_ids(folder, tmp_path):
    documents, queries = embeddings(m=6)
    writer = export(source_of(documents, tmp_path, ids=MIXED_IDS), "qdrant", folder, Folding("dot"), name="docs")
    points = read_points(folder)
    kept = {7, 2**64 - 1, MIXED_IDS[2]}
    hashed = {str(uuid.uuid5(uuid.NAMESPACE_OID, text)) for text in MIXED_IDS[3:]}
    assert set(points) == kept | hashed
    assert {payload["id"] for payload, _ in points.values()} == set(MIXED_IDS)
    assert writer.search(queries, 3).ids == ranked(queries, documents, 1, MIXED_IDS, k=3)


def test_columns_are_payload(folder, tmp_path):
    documents, queries = embeddings(m=60)
    source, rows = parquet_source(documents, tmp_path)
    writer = export(source, "qdrant", folder, name="docs")
    points = read_points(folder)
    for row in rows:
        assert points[int(row["doc_id"])][0] == {
            "id": row["doc_id"],
            "year": row["year"],
            "score": row["score"],
            "tags": row["tags"],
            "seen": row["seen"] and row["seen"].isoformat(),
        }
    assert writer.search(queries, 10).ids == ranked(queries, documents, 0, source.ids)


def test_a_collection_of_the_users_keeps_ids_and_payload_when_it_is_replaced(folder, tmp_path):
    models, client = qdrant.models, qdrant.QdrantClient(path=str(folder))
    client.create_collection("docs", vectors_config=models.VectorParams(size=24, distance=models.Distance.DOT))
    names = [0, 1, "a8098c1a-f86e-11da-bd1a-00112444be1e", 9]
    payloads = [{"text": "zero", "year": 1}, {}, {"text": "two"}, {"id": "8", "text": "another's"}]
    client.upsert("docs", models.Batch(ids=names, vectors=[[0.0] * 24] * 4, payloads=payloads))
    client.close()
    documents, queries = embeddings(m=60)
    ids = [names[2] if row == 2 else str(row) for row in range(60)]
    source, rows = parquet_source(documents, tmp_path, ids=ids)
    writer = export(source, "qdrant", folder, name="docs", overwrite=True)
    points = read_points(folder)
    assert len(points) == 60
    assert points[0][0]["text"] == "zero"
    assert points[0][0]["year"] == rows[0]["year"]
    assert points[names[2]][0]["text"] == "two"
    assert points[9][0]["text"] == "another's"
    assert points[9][0]["id"] == "8"
    assert writer.search(queries, 10).ids == ranked(queries, documents, 0, ids)


def test_rows_of_a_live_collection_get_new_vectors_and_the_others_stay(folder, tmp_path):
    documents, queries = embeddings(m=60)
    ids = [str(row) if row % 2 else f"d{row}" for row in range(60)]
    old, _ = parquet_source(documents, tmp_path, ids=ids)
    export(old, "qdrant", folder, Folding("dot"), name="docs")
    before = read_points(folder)
    changed = embeddings(m=20, seed=5)[0]
    new_ids = [*ids[50:], *(f"new {row}" for row in range(10))]
    writer = export(
        source_of(changed, tmp_path, ids=new_ids), "qdrant", folder, Folding("dot"), name="docs", upsert=True
    )
    after = read_points(folder)
    by_id = dict(zip(ids, documents, strict=True)) | dict(zip(new_ids, changed, strict=True))
    assert len(after) == 70
    for name, (payload, vector) in after.items():
        assert vector == pytest.approx(by_id[payload["id"]].tolist(), rel=1e-6)
        assert name not in before or payload == before[name][0]
    all_vectors = torch.stack([*by_id.values()])
    assert writer.search(queries, 10).ids == ranked(queries, all_vectors, 1, [*by_id])


@pytest.mark.parametrize(
    ("folding", "options", "said"),
    [
        (Folding("cosine", alpha=0.5), {}, "upsert: expected exponent 1.0 as of the vectors in Qdrant's collection"),
        (Folding("dot", augment=True), {}, "upsert: expected no augment"),
        (Folding("dot"), {"overwrite": True}, "upsert: expected no overwrite beside it"),
    ],
)
def test_other_vectors_are_not_mixed_in(folder, tmp_path, folding, options, said):
    source = source_of(embeddings(m=60, d=23 if folding.augment else 24)[0], tmp_path)
    export(source_of(embeddings(m=60)[0], tmp_path / "old"), "qdrant", folder, Folding("dot"), name="docs")
    before = read_points(folder)
    with pytest.raises(ValueError, match=said):
        export(source, "qdrant", folder, folding, name="docs", upsert=True, **options)
    assert read_points(folder) == before


def test_a_collection_without_a_record_takes_embeddings_as_they_are_alone(folder, tmp_path):
    make_collection(folder, payload={"text": "x"})
    documents, _ = embeddings(m=3)
    source = source_of(documents, tmp_path, ids=["1", "2", "3"])
    with pytest.raises(ValueError, match=r"expected embeddings as they are \(--normalization dot\)"):
        export(source, "qdrant", folder, name="docs", upsert=True)
    export(source, "qdrant", folder, Folding("dot"), name="docs", upsert=True)
    points = read_points(folder)
    assert points[1] == ({"text": "x", "id": "1"}, documents[0].tolist())
    assert set(points) == {1, 2, 3}


def test_a_killed_export_goes_on_and_gives_the_same_collection(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_normdyn.retrieval.indexes.qdrant_collection.QdrantCollection.batch_rows", 50)
    documents, _ = embeddings(m=400)
    source, _ = parquet_source(documents, tmp_path)
    export(source, "qdrant", tmp_path / "unbroken", name="docs")
    collection = "lightning_normdyn.retrieval.indexes.qdrant_collection.QdrantCollection"

    def killed(self):
        self._client.close()

    sent = []
    original_send = QdrantCollection._send

    def send(self, names, *rest):
        sent.extend(names)
        if len(sent) == 250 and broken:
            raise KeyboardInterrupt
        original_send(self, names, *rest)

    monkeypatch.setattr(f"{collection}._send", send)
    broken = True
    with monkeypatch.context() as patch:
        patch.setattr(f"{collection}.discard", killed)
        with pytest.raises(KeyboardInterrupt):
            export(source, "qdrant", folder, name="docs")
    broken = False
    sent.clear()
    with pytest.warns(UserWarning, match="was killed; this one goes on from its row 150"):
        export(source, "qdrant", folder, name="docs")
    assert len(sent) == 250
    assert read_points(folder) == read_points(tmp_path / "unbroken")
    assert len(collections(folder)) == 1


def test_columns_and_upserts_by_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    documents, _ = embeddings(m=30)
    _, rows = parquet_source(documents, tmp_path)
    np.save("docs.npy", documents.numpy())
    command = ["export", "--embeddings", "shards", "--column", "vector", "--normalization", "dot"]
    store = [*command, "--to", "qdrant", "--out", "q", "--name", "docs"]
    assert main([*store, "--payload", "year", "--payload", "score"]) == 0
    points = read_points("q")
    assert points[3][0] == {"id": "3", "year": rows[3]["year"], "score": rows[3]["score"]}
    assert main([*store, "--payload", "all", "--upsert"]) == 0
    assert read_points("q")[3][0] == {**points[3][0], "tags": [], "seen": rows[3]["seen"].isoformat()}
    capsys.readouterr()
    for words, said in {
        "--payload yaer": "expected columns beside vectors and ids, year, score, tags, seen, got 'yaer', which is not",
        "--payload vector": "got 'vector', which holds the vectors or the ids",
        "--upsert --overwrite": "upsert: expected no overwrite beside it",
        "--upsert --append": "append: expected a file, got qdrant; add rows to it with --upsert",
        "--upsert --keep-norm": "upsert: expected keep_norm False as of the vectors in",
        "--upsert --dtype float16": "upsert: expected dtype 'float32' as of the vectors in",
        "--upsert --index hnsw --m 8": "m: expected nothing with index 'hnsw' of qdrant --upsert, got 8",
        "--payload all --embeddings docs.npy": "payload: expected embeddings in .parquet",
    }.items():
        words = words.split()
        options = [word for word in store if "--embeddings" not in words or word not in ("--column", "vector")]
        assert main([*options, *words]) == 2
        assert said in capsys.readouterr().err
    stores = "qdrant, lancedb, pgvector, milvus or a feed (elasticsearch, opensearch, vespa)"
    for words, said in {
        "--to faiss --out x.faiss --payload all": f"payload: expected {stores}, got faiss",
        "--to parquet --out x.parquet --upsert": f"upsert: expected {stores}, got parquet",
    }.items():
        assert main([*command, *words.split()]) == 2
        assert said in capsys.readouterr().err
