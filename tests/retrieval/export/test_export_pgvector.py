"""PostgreSQL with pgvector: a server of its own is started, or the tests say why not."""

from __future__ import annotations

import struct
import subprocess
import tempfile
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from export_cases import embeddings, export, parquet_source, ranked, source_of
from start_postgres import NoPostgresError, start

from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.export.index_export import measure_loss, survey_source
from lightning_normdyn.retrieval.indexes.pgvector_table import copy_rows


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("psycopg")
    with tempfile.TemporaryDirectory(prefix="pg") as folder:  # short: a Unix socket's path has at most 107 bytes
        try:
            Path(folder).chmod(0o755)
            dsn, stop = start(Path(folder) / "s")
        except NoPostgresError as error:
            pytest.skip(f"no PostgreSQL: {error}")
        yield dsn, Path(stop[0]), Path(folder)
        from start_postgres import account

        subprocess.run(stop, capture_output=True, check=True, cwd=folder, user=account())


@pytest.fixture
def dsn(server):
    import psycopg

    with psycopg.connect(server[0], autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS docs")
    return server[0]


def do(dsn, *commands):
    import psycopg

    with psycopg.connect(dsn) as connection:
        for command in commands:
            answer = connection.execute(command)
        return answer.fetchall() if answer.description else None


@pytest.mark.parametrize(
    ("options", "dtype"),
    [({}, "float32"), ({}, "float16"), ({"augment": True, "metric": "cosine"}, "float32")],
)
def test_round_trip(dsn, tmp_path, options, dtype):
    documents, queries = embeddings()
    ids = [f"tab\t{row}\n'ü" for row in range(len(documents))]
    source, folding = source_of(documents, tmp_path, ids=ids), Folding("cosine", alpha=0.5, **options)
    writer = export(source, "pgvector", dsn, folding, name="docs", dtype=dtype)
    assert writer.search(folding.index_queries(queries), 10).ids == ranked(queries, documents, 0.5, ids)
    kind = {"float32": "vector", "float16": "halfvec"}[dtype]
    assert do(dsn, "SELECT pg_typeof(embedding)::text, count(*) FROM docs GROUP BY 1") == [(kind, len(documents))]


def test_the_graph_serves_inner_products(dsn, tmp_path):
    documents, queries = embeddings(m=600)
    source, folding = source_of(documents, tmp_path), Folding("dot")
    writer = export(source, "pgvector", dsn, folding, name="docs", index="hnsw")
    assert "vector_ip_ops" in do(dsn, "SELECT indexdef FROM pg_indexes WHERE indexdef LIKE '%hnsw%'")[0][0]
    assert measure_loss(source, folding, survey_source(source, folding), writer, queries).recall > 0.8


def test_rows_that_are_there_keep_their_other_columns(dsn, tmp_path):
    documents, queries = embeddings()
    rows = [str(row) for row in range(len(documents))]
    source = source_of(documents, tmp_path, ids=rows)
    do(
        dsn,
        "CREATE EXTENSION IF NOT EXISTS vector",
        "CREATE TABLE docs (id int PRIMARY KEY, body text, embedding vector(24))",
        "INSERT INTO docs (id, body) SELECT i, 'text ' || i FROM generate_series(0, 9) AS i",
    )
    with pytest.raises(ValueError, match="PostgreSQL's table 'docs' exists already; pass --overwrite"):
        export(source, "pgvector", dsn, name="docs")
    writer = export(source, "pgvector", dsn, Folding("dot"), name="docs", overwrite=True)
    assert writer.search(queries, 10).ids == ranked(queries, documents, 1, rows)
    assert do(dsn, "SELECT body FROM docs WHERE id = 7") == [("text 7",)]
    assert do(dsn, "SELECT count(*) FROM docs") == [(len(documents),)]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            [
                "CREATE TABLE docs (id text, embedding vector(24))",
                "CREATE INDEX c ON docs USING hnsw (embedding vector_cosine_ops)",
            ],
            "has the index c, which compares cosines and so divides every norm out again; drop it",
        ),
        (["CREATE TABLE docs (id text, embedding vector(8))"], r"has embedding as vector\(8\), expected vector\(24\)"),
        (["CREATE TABLE docs (id text, embedding halfvec(24))"], r"has embedding as halfvec\(24\), expected vector"),
        (["CREATE TABLE docs (id text)"], "has no column embedding"),
        (
            ["CREATE TABLE docs (id text, embedding vector(24))", "INSERT INTO docs VALUES ('stranger')"],
            "holds 1 other ids, 'stranger' among them",
        ),
        (
            ["CREATE TABLE docs (id text, body text NOT NULL, embedding vector(24))"],
            "PostgreSQL refuses .*null value in column",
        ),
    ],
)
def test_a_table_that_cannot_take_them_is_refused_and_stays(dsn, tmp_path, made, said):
    do(dsn, "CREATE EXTENSION IF NOT EXISTS vector", *made)
    before = do(dsn, "SELECT * FROM docs")
    with pytest.raises(ValueError, match=said) as caught:
        export(source_of(embeddings()[0], tmp_path), "pgvector", dsn, name="docs", overwrite=True)
    assert "\n" not in str(caught.value)
    assert do(dsn, "SELECT * FROM docs") == before


def test_an_interrupted_export_leaves_no_table(dsn, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_normdyn.retrieval.indexes.pgvector_table.PgvectorTable.close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(source_of(embeddings()[0], tmp_path), "pgvector", dsn, name="docs")
    assert do(dsn, "SELECT to_regclass('docs')") == [(None,)]


def test_a_table_of_any_name_gets_its_new_vectors(dsn, tmp_path):
    """Not those of the table for the time being, whatever that is called."""
    do(dsn, "DROP TABLE IF EXISTS normdyn_new")
    old, queries = embeddings()
    rows = [str(row) for row in range(len(old))]
    for documents in (old, old.flip(0)):
        source = source_of(documents, tmp_path, ids=rows)
        writer = export(source, "pgvector", dsn, Folding("dot"), name="normdyn_new", overwrite=True)
    assert writer.search(queries, 10).ids == ranked(queries, old.flip(0), 1, rows)


@pytest.mark.parametrize("name", ["", " ", ".docs", "docs.", "d" * 64, "pg_temp.docs", "a\0b"])
def test_a_name_that_no_lasting_table_has_is_refused(tmp_path, name):
    pytest.importorskip("psycopg")
    with pytest.raises(ValueError, match=r"^name: expected a "):
        export(source_of(embeddings()[0], tmp_path), "pgvector", "host=nowhere", name=name)


PASSWORDS = {
    "a URL": "postgresql://me:hush-hush@127.0.0.1:9/x?connect_timeout=2",
    "with a sign": "postgresql://me:hush@hush@127.0.0.1:9/x?connect_timeout=2",
    "with a slash": "postgresql://me:hush/hush@127.0.0.1:9/x?connect_timeout=2",
    "in the query": "postgresql://127.0.0.1:9/x?password=hush&connect_timeout=2",
    "quoted": "host=127.0.0.1 port=9 password='hush hush' connect_timeout=2",
    "unquoted": "host=127.0.0.1 port=9 password=my hush connect_timeout=2",
    "half a URL": "postgresql://me:hush@[",
    "of another sign": "postgresql://me:%hush@127.0.0.1/x",
}


@pytest.mark.parametrize("place", PASSWORDS)
def test_no_error_has_a_password_in_it(tmp_path, place):
    pytest.importorskip("psycopg")
    with pytest.raises(ValueError, match=r"^out: ") as caught:
        export(source_of(embeddings()[0], tmp_path), "pgvector", PASSWORDS[place])
    assert "hush" not in "".join(traceback.format_exception(caught.value))


def test_a_server_that_is_not_there_is_one_sentence(tmp_path):
    pytest.importorskip("psycopg")
    dsn = f"host={tmp_path} user=me password=secret dbname=x connect_timeout=2"
    with pytest.raises(ValueError, match="out: PostgreSQL refuses") as caught:
        export(source_of(embeddings()[0], tmp_path), "pgvector", dsn)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_in_the_binary_format_are_what_the_server_sends(dsn):
    import psycopg

    do(dsn, "CREATE EXTENSION IF NOT EXISTS vector", "CREATE TABLE docs (id text, v vector(3), h halfvec(3))")
    do(dsn, "INSERT INTO docs VALUES ('ü', '[1.5,-2,1e-7]', '[1.5,-2,6e-5]')")
    for column, dtype in (("v", np.float32), ("h", np.float16)):
        with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
            question = f"COPY (SELECT id, {column} FROM docs) TO STDOUT (FORMAT BINARY)"
            with cursor.copy(question) as copy:
                sent = b"".join(bytes(part) for part in copy)
        vector = np.array([[1.5, -2, 1e-7 if column == "v" else 6e-5]], dtype)
        assert sent[19:-2] == copy_rows(["ü"], vector)
        assert struct.unpack("!h", sent[-2:]) == (-1,)


def test_a_table_has_one_graph_however_often_it_is_written(dsn, tmp_path):
    source = source_of(embeddings(m=300)[0], tmp_path)
    for _ in range(2):
        export(source, "pgvector", dsn, Folding("dot"), name="docs", index="hnsw", overwrite=True)
    assert do(dsn, "SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%hnsw%'") == [(1,)]


def test_columns_have_types_of_their_own(dsn, tmp_path):
    documents, queries = embeddings()
    source, rows = parquet_source(documents, tmp_path)
    writer = export(source, "pgvector", dsn, name="docs")
    stored = do(dsn, "SELECT id, year, score, tags, seen FROM docs")
    assert sorted(stored) == sorted(tuple(row.values()) for row in rows)
    kinds = do(dsn, "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'docs'")
    assert dict(kinds).items() >= {"year": "bigint", "score": "double precision", "tags": "jsonb"}.items()
    assert writer.search(queries, 10).ids == ranked(queries, documents, 0, source.ids)


def test_rows_of_a_live_table_get_new_vectors_and_the_others_stay(dsn, tmp_path):
    do(
        dsn,
        "CREATE EXTENSION IF NOT EXISTS vector",
        "CREATE TABLE docs (id int PRIMARY KEY, body text, year smallint, embedding vector(24))",
        "INSERT INTO docs SELECT i, 'text ' || i, 7, array_fill(i, ARRAY[24])::vector FROM generate_series(-9, 9) AS i",
    )
    documents, queries = embeddings(m=40)
    source, rows = parquet_source(documents, tmp_path)
    with pytest.raises(ValueError, match=r"expected embeddings as they are \(--normalization dot\)"):
        export(source, "pgvector", dsn, name="docs", upsert=True)
    writer = export(source, "pgvector", dsn, Folding("dot"), name="docs", upsert=True)
    stored = do(dsn, "SELECT id, body, year, seen FROM docs ORDER BY id")
    assert stored[:9] == [(i, f"text {i}", 7, None) for i in range(-9, 0)]
    assert stored[9:] == [(i, f"text {i}" if i < 10 else None, 1900 + i, rows[i]["seen"]) for i in range(40)]
    ids = [*map(str, range(-9, 0)), *source.ids]
    vectors = torch.cat([torch.arange(-9.0, 0)[:, None].expand(-1, 24), documents])
    assert writer.search(queries, 10).ids == ranked(queries, vectors, 1, ids)
    with pytest.raises(ValueError, match=r"expected exponent 1\.0 as of the vectors in PostgreSQL's table 'docs'"):
        export(source, "pgvector", dsn, name="docs", upsert=True)


def test_it_is_checked_and_nothing_is_left(dsn):
    from lightning_normdyn.cli import check_store

    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    before = do(dsn, tables)
    assert check_store(to="pgvector", out=dsn).verdict == ("inner product", False, False)
    assert check_store(to="pgvector", out=dsn, index="hnsw", dtype="float16").verdict == ("inner product", False, True)
    assert do(dsn, tables) == before
