"""Milvus Lite: what goes in comes out ranked by the score, fields stay, and collections that normalise are refused."""

from __future__ import annotations

import pytest
import torch
from export_cases import embeddings, export, parquet_source, ranked, source_of

from lightning_normdyn.cli.main import main
from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.export.index_export import measure_loss, survey_source
from lightning_normdyn.retrieval.indexes import milvus_collection

pymilvus = pytest.importorskip("pymilvus")
server_manager = pytest.importorskip("milvus_lite.server_manager")


@pytest.fixture
def place(tmp_path):
    return tmp_path / "made" / "x.db"


class Client:
    """A client of one's own, which lets go of the file afterwards."""

    def __init__(self, place):
        self.place = place

    def __enter__(self):
        self.place.parent.mkdir(exist_ok=True)
        self.client = pymilvus.MilvusClient(str(self.place))
        return self.client

    def __exit__(self, *_):
        self.client.close()
        server_manager.server_manager_instance.release_server(str(self.place))


def entities(place, name="docs"):
    with Client(place) as client:
        client.load_collection(name)
        rows = client.query(name, filter="", output_fields=["*"], limit=1000)
        return {row["id"]: {field: value for field, value in row.items() if field != "id"} for row in rows}


def collections(place):
    with Client(place) as client:
        return client.list_collections()


def make_collection(place, *, metric="IP", dim=24, key="VARCHAR", ids=("d3",), name="docs"):
    kinds = pymilvus.DataType
    schema = pymilvus.MilvusClient.create_schema()
    schema.add_field("id", kinds[key], is_primary=True, **({"max_length": 99} if key == "VARCHAR" else {}))
    schema.add_field("embedding", kinds.FLOAT_VECTOR, dim=dim)
    schema.add_field("title", kinds.VARCHAR, max_length=50)
    with Client(place) as client:
        indexes = client.prepare_index_params()
        indexes.add_index("embedding", index_type="FLAT", metric_type=metric)
        client.create_collection(name, schema=schema, index_params=indexes)
        client.insert(name, [{"id": id, "embedding": [0.0] * dim, "title": f"title of {id}"} for id in ids])


@pytest.mark.parametrize(
    ("options", "index"),
    [({}, "flat"), ({}, "hnsw"), ({"augment": True, "metric": "cosine"}, "flat"), ({"keep_norm": True}, "hnsw")],
)
def test_round_trip(place, tmp_path, options, index):
    documents, queries = embeddings(m=60)
    source, folding = source_of(documents, tmp_path), Folding("cosine", alpha=0.5, **options)
    writer = export(source, "milvus", place, folding, name="docs", index=index)
    loss = measure_loss(source, folding, survey_source(source, folding), writer, queries, recall=1.0)
    result = writer.search(folding.index_queries(queries), 10)
    assert loss.recall == 1
    assert result.ids == ranked(queries, documents, 0.5, source.ids)
    assert writer.approximate == (index == "hnsw")
    if not options:
        exact = queries.double() @ (documents.double() * documents.norm(dim=1, keepdim=True) ** -0.5).nan_to_num().T
        assert result.scores[0] == pytest.approx(exact[0].topk(10).values.tolist(), rel=1e-5)


def test_an_export_is_replaced_whole_and_leaves_one_collection(place, tmp_path):
    documents, queries = embeddings(m=60)
    source = source_of(documents, tmp_path)
    export(source, "milvus", place, name="docs")
    with pytest.raises(ValueError, match="'docs' exists already; pass --overwrite"):
        export(source, "milvus", place, Folding("dot"), name="docs")
    writer = export(source, "milvus", place, Folding("dot"), name="docs", overwrite=True)
    assert writer.search(queries, 10).ids == ranked(queries, documents, 1, source.ids)
    assert collections(place) == ["docs"]


def test_a_client_of_the_users_stays_connected(place, tmp_path):
    make_collection(place, name="others")
    with Client(place) as client:
        export(source_of(embeddings(m=60)[0], tmp_path), "milvus", place, name="docs")
        assert sorted(client.list_collections()) == ["docs", "others"]


def test_an_alias_is_moved(place, tmp_path):
    make_collection(place, name="old")
    with Client(place) as client:
        client.create_alias("old", "docs")
    documents, queries = embeddings(m=60)
    source = source_of(documents, tmp_path)
    writer = export(source, "milvus", place, name="docs", overwrite=True)
    assert writer.search(queries, 10).ids == ranked(queries, documents, 0, source.ids)
    (name,) = collections(place)
    assert name.startswith("docs_normdyn_")
    again = export(source, "milvus", place, Folding("dot"), name="docs", overwrite=True)
    assert again.search(queries, 10).ids == ranked(queries, documents, 1, source.ids)
    assert len(collections(place)) == 1


@pytest.mark.parametrize(
    ("existing", "said"),
    [
        ({"metric": "COSINE"}, "compares by COSINE, which divides every norm out again; expected IP"),
        ({"metric": "L2"}, "compares by L2, which ranks otherwise"),
        ({"dim": 8}, "holds 8 numbers a vector, got 24"),
        ({"ids": ("d1", "stranger")}, "holds 1 other ids, 'stranger' among them"),
        (
            {"key": "INT64", "ids": ()},
            "ids: expected whole numbers, as those of the collection that is there, got 'd0'",
        ),
    ],
)
def test_a_collection_that_cannot_take_them_is_refused(place, tmp_path, existing, said):
    make_collection(place, **existing)
    before = entities(place)
    with pytest.raises(ValueError, match=said):
        export(source_of(embeddings(m=60)[0], tmp_path), "milvus", place, name="docs", overwrite=True)
    assert collections(place) == ["docs"]
    assert entities(place) == before


@pytest.mark.parametrize("key", ["VARCHAR", "INT64"])
def test_fields_and_payload_go_along_and_those_that_were_there_stay(place, tmp_path, key):
    make_collection(place, key=key, ids=("3", "5") if key == "VARCHAR" else (3, 5))
    documents, queries = embeddings(m=60)
    source, rows = parquet_source(documents, tmp_path)
    writer = export(source, "milvus", place, name="docs", overwrite=True)
    stored = entities(place)
    for row in rows:
        id, seen = row["doc_id"], row["seen"]
        entity = stored[id if key == "VARCHAR" else int(id)]
        expected = {"year": row["year"], "score": row["score"], "tags": row["tags"], "seen": seen and seen.isoformat()}
        assert {name: entity.get(name) for name in expected} == expected
        assert entity.get("title") == (f"title of {id}" if id in ("3", "5") else None)
    assert writer.search(queries, 10).ids == ranked(queries, documents, 0, source.ids)


def test_entities_of_a_live_collection_get_new_vectors_and_the_others_stay(place, tmp_path, monkeypatch):
    documents, queries = embeddings(m=60)
    old, _ = parquet_source(documents, tmp_path, ids=[f"d{row}" for row in range(60)])
    export(old, "milvus", place, Folding("dot"), name="docs")
    before = entities(place)
    changed = embeddings(m=20, seed=5)[0]
    ids = [*old.ids[50:], *(f"new {row}" for row in range(10))]
    new = source_of(changed, tmp_path, ids=ids)
    client, calls = pymilvus.MilvusClient, []
    upsert = client.upsert
    monkeypatch.setattr(client, "upsert", lambda *args, **options: calls.append(options) or upsert(*args, **options))
    writer = export(new, "milvus", place, Folding("dot"), name="docs", upsert=True)
    assert calls == [
        {"partial_update": True}
    ]  # without it a server takes other fields away, which Milvus Lite does not
    by_id = dict(zip(old.ids, documents, strict=True)) | dict(zip(ids, changed, strict=True))
    after = entities(place)
    assert set(after) == set(by_id)
    for id, entity in after.items():
        assert entity.pop("embedding") == pytest.approx(by_id[id].tolist(), rel=1e-6)
        assert id not in before or entity == {name: value for name, value in before[id].items() if name != "embedding"}
    assert writer.search(queries, 10).ids == ranked(queries, torch.stack([*by_id.values()]), 1, [*by_id])
    with pytest.raises(ValueError, match=r"upsert: expected exponent 1\.0 as of the vectors in Milvus' collection"):
        export(new, "milvus", place, name="docs", upsert=True)


def test_an_interrupted_export_leaves_what_was_there(place, tmp_path, monkeypatch):
    documents, queries = embeddings(m=60)
    source = source_of(documents, tmp_path)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(milvus_collection.MilvusCollection, "close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export(source, "milvus", place, name="docs")
        assert not place.parent.exists()
    writer = export(source, "milvus", place, name="docs")
    with monkeypatch.context() as patch:
        patch.setattr(milvus_collection.MilvusCollection, "close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export(source, "milvus", place, Folding("dot"), name="docs", overwrite=True)
    assert writer.search(queries, 10).ids == ranked(queries, documents, 0, source.ids)
    assert collections(place) == ["docs"]


def test_a_killed_export_goes_on_and_gives_the_same_collection(place, tmp_path, monkeypatch):
    monkeypatch.setattr(milvus_collection.MilvusCollection, "batch_rows", 50)
    documents, _ = embeddings(m=400)
    source, _ = parquet_source(documents, tmp_path)
    export(source, "milvus", tmp_path / "unbroken.db", name="docs")
    sent, client = [], pymilvus.MilvusClient
    upsert = client.upsert

    def killed_at(limit):
        def send(self, name, rows, **options):
            sent.extend(rows)
            if len(sent) == limit:
                raise KeyboardInterrupt
            return upsert(self, name, rows, **options)

        return send

    with monkeypatch.context() as patch:
        patch.setattr(client, "upsert", killed_at(250))
        patch.setattr(milvus_collection.MilvusCollection, "discard", milvus_collection.MilvusCollection._disconnect)
        with pytest.raises(KeyboardInterrupt):
            export(source, "milvus", place, name="docs")
    sent.clear()
    monkeypatch.setattr(client, "upsert", killed_at(None))
    with pytest.warns(UserWarning, match="was killed; this one goes on from its row 150"):
        export(source, "milvus", place, name="docs")
    assert len(sent) == 250
    assert entities(place) == entities(tmp_path / "unbroken.db")
    assert collections(place) == ["docs"]


def test_what_it_does_not_have_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source_of(embeddings(m=30)[0], tmp_path)
    (tmp_path / "mine.db").write_text("mine")
    words = ["export", "--embeddings", "embeddings.npy", "--to", "milvus", "--out", "x.db"]
    for more, said in {
        "--out x": "out: expected a name that ends in .db, or the URL of a server, for milvus, got 'x'",
        "--name a-b": "name: expected letters, digits and underscores, no digit first, for Milvus, got 'a-b'",
        "--dtype float16": "dtype: expected float32 for milvus, since Milvus Lite has no other, got float16",
        "--out mine.db": "out: expected a database of Milvus Lite, which is a folder, got the file 'mine.db'",
        "--out /proc/x.db": "out: cannot write '/proc/x.db' (No such file or directory); choose a folder of your own",
        "--index hnsw --m 1": "m: expected 2 to 1024 neighbours of a node of a graph of Milvus, got 1",
        "--index ivfpq": "index: expected flat or hnsw for milvus, got 'ivfpq'",
        "--nprobe 3": "nprobe: expected nothing with index 'flat' of milvus, got 3; it has nothing to set",
        "--append": "append: expected a file, got milvus; add rows to it with --upsert",
        "--out http://127.0.0.1:9": "out: Milvus at 'http://127.0.0.1:9' refuses (Fail connecting to server",
    }.items():
        assert main([*words, *more.split()]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert not (tmp_path / "x.db").exists()
