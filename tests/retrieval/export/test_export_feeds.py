"""Feeds: of the form that servers document, read back and ranked by brute force; lines run against a stand-in."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from export_cases import by_formula, embeddings, export as export_rows, parquet_source, ranked, source_of
from search_server import serving

from lightning_normdyn.cli import export
from lightning_normdyn.cli.main import main
from lightning_normdyn.retrieval import export_vectors
from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.indexes import feed_file

CLIENTS = {"elasticsearch": "elasticsearch", "opensearch": "opensearchpy"}
ENDINGS = {"elasticsearch": ".ndjson", "opensearch": ".ndjson", "vespa": ".jsonl"}
OPTIONS = [
    {},
    {"augment": True, "metric": "euclidean"},
    {"keep_norm": True},
    {"keep_norm": True, "dim": 8},
    {"alpha": -0.4, "normalization": "cosine", "keep_norm": True},
    {"normalization": "cosine", "keep_norm": True},
]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def bulk_documents(file):
    """Id, action and document, by the reference of ``_bulk``: a line each, both JSON, and a line break at the end."""
    text = Path(file).read_text(encoding="utf-8")
    assert text.endswith("\n")
    lines = [json.loads(line) for line in text[:-1].split("\n")]
    for action, document in zip(lines[::2], lines[1::2], strict=True):
        ((word, about),) = action.items()
        assert set(about) == {"_id"}
        yield about["_id"], word, document


def vespa_documents(file):
    """Id, operation and fields, by the reference of Vespa's JSON: an operation a line."""
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        operation = json.loads(line)
        word = "put" if "put" in operation else "update"
        scheme, _, kind, modifier, text = operation[word].split(":", 4)
        assert (scheme, kind, modifier) == ("id", "docs", "")
        fields = {name: value["assign"] if word == "update" else value for name, value in operation["fields"].items()}
        assert set(operation) == {word, "fields"} | ({"create"} if word == "update" else set())
        assert fields["id"] == text
        yield text, word, {**fields, "embedding": fields["embedding"]["values"]}


DOCUMENTS = {"elasticsearch": bulk_documents, "opensearch": bulk_documents, "vespa": vespa_documents}


@pytest.mark.parametrize("target", ENDINGS)
@pytest.mark.parametrize("keep_norm", [False, True], ids=["lengths", "norms apart"])
def test_a_feed_holds_what_was_folded_and_ranks_by_the_score(target, keep_norm):
    documents, queries = embeddings(m=300)
    ids = [f'd "{row}"\\ ü:' for row in range(300)]
    folding, file = Folding("dot", alpha=0.5, keep_norm=keep_norm), f"x{ENDINGS[target]}"
    writer = export_rows(source_of(documents, ".", ids=ids), target, file, folding, name="docs")
    entries = list(DOCUMENTS[target](file))
    assert [id for id, *_ in entries] == ids
    stored = np.array([document["embedding"] for *_, document in entries], np.float32)
    direct = export_vectors(documents) if keep_norm else export_vectors(documents, normalization="dot", alpha=0.5)
    np.testing.assert_array_equal(stored, direct.numpy())
    if keep_norm:
        norms = [document["norm"] for *_, document in entries]
        assert norms == pytest.approx(documents.double().norm(dim=1).tolist(), rel=1e-6)
    assert writer.search(queries, 10).ids == ranked(queries, documents, 1.5, ids)
    manifest = json.loads(Path(f"{file}.export.json").read_text())
    assert (manifest["exponent"], manifest["keep_norm"]) == (1.5, keep_norm)


def test_fields_are_named_for_elasticsearch():
    source, rows = parquet_source(embeddings(m=50)[0], ".")
    export_rows(source, "elasticsearch", "x.ndjson", Folding("dot", keep_norm=True), index="hnsw", name="docs")
    mapping = json.loads(Path("x.ndjson.mapping.json").read_text())["mappings"]
    text = {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}}
    vector = {"dims": 24, "index": True, "similarity": "max_inner_product", "index_options": {"type": "hnsw"}}
    assert mapping["properties"] == {
        "embedding": {"type": "dense_vector", **vector},
        "norm": {"type": "float"},
        "year": {"type": "long"},
        "score": {"type": "double"},
        "tags": text,
        "seen": {"type": "date"},
    }
    assert mapping["_meta"]["normdyn.export"]["keep_norm"] is True
    for (id, _, document), row in zip(bulk_documents("x.ndjson"), rows, strict=True):
        seen = row["seen"] and row["seen"].isoformat()
        assert (id, document["year"], document["score"]) == (row["doc_id"], row["year"], row["score"])
        assert (document["tags"], document["seen"]) == (row["tags"], seen)


SCHEMA = """schema docs {
    document docs {
        field id type string {
            indexing: summary | attribute
        }
        field norm type float {
            indexing: summary | attribute
        }
        field year type long {
            indexing: summary | attribute
        }
        field score type double {
            indexing: summary | attribute
        }
        field tags type array<string> {
            indexing: summary | attribute
        }
        field seen type string {
            indexing: summary | attribute
        }
        field embedding type tensor<float>(x[24]) {
            indexing: attribute | index
            attribute {
                distance-metric: dotproduct
            }
            index {
                hnsw {
                    max-links-per-node: 24
                }
            }
        }
    }
    rank-profile norm_aware {
        inputs {
            query(q) tensor<float>(x[24])
        }
        first-phase {
            expression: sum(query(q) * attribute(embedding)) * pow(attribute(norm), 0.5)
        }
    }
}
"""


def test_the_schema_of_vespa_scores_by_inner_product():
    source, rows = parquet_source(embeddings(m=50)[0], ".")
    folding = Folding("cosine", alpha=0.5, keep_norm=True)
    np.save("q.npy", embeddings()[1])
    export_rows(source, "vespa", "x.jsonl", folding, index="hnsw", name="docs", parameters=parameters(m=24))
    assert Path("x.jsonl.sd").read_text().partition("\n")[2] == SCHEMA
    for (id, _, document), row in zip(vespa_documents("x.jsonl"), rows, strict=True):
        expected = {"year": row["year"], "score": row["score"], "tags": row["tags"]}
        assert {"id": id, **{name: document.get(name) for name in expected}} == {"id": row["doc_id"], **expected}
        assert None not in document.values()


def parameters(**values):
    from lightning_normdyn.retrieval.indexes import IndexParameters

    return IndexParameters(**values)


@pytest.mark.parametrize("target", ENDINGS)
def test_rows_are_appended_and_a_killed_export_goes_on(target, monkeypatch):
    monkeypatch.setattr(feed_file, "_SYNCED_BYTES", 1)
    documents, queries = embeddings(500)
    ids, file = [f"d{row}" for row in range(500)], f"x{ENDINGS[target]}"
    options = {"name": "docs"}
    whole = f"whole{ENDINGS[target]}"
    export_rows(source_of(documents, ".", ids=ids), target, whole, Folding("dot"), **options)
    export_rows(source_of(documents[:300], ".", ids=ids[:300]), target, file, Folding("dot"), **options)
    writer = export_rows(source_of(documents, ".", ids=ids), target, file, Folding("dot"), append=True, **options)
    assert Path(file).read_bytes() == Path(whole).read_bytes()
    assert writer.search(queries, 10).ids == ranked(queries, documents, 1, ids)
    with pytest.raises(ValueError, match=r"append: expected exponent 1\.0 as of the vectors that are there, got 0\.0"):
        export_rows(source_of(documents, ".", ids=ids), target, file, append=True, **options)
    if not hasattr(os, "fork"):
        return
    source, writer_type, again = source_of(documents, ".", ids=ids, chunk_size=100), type(writer), f"y{ENDINGS[target]}"
    child = os.fork()
    if not child:
        monkeypatch.setattr(writer_type, "close", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        export_rows(source, target, again, Folding("dot"), **options)
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.warns(UserWarning, match="was killed after 500 rows; this one goes on from there"):
        export_rows(source, target, again, Folding("dot"), **options)
    assert Path(again).read_bytes() == Path(whole).read_bytes()
    assert not list(Path().glob(f".{again}*"))


def test_updates_are_made_of_upsert():
    source, _ = parquet_source(embeddings(m=40)[0], ".")
    for target, ending in ENDINGS.items():
        export_rows(source, target, f"x{ending}", Folding("dot"), name="docs", upsert=True, overwrite=True)
        for id, word, document in DOCUMENTS[target](f"x{ending}"):
            fields = document["doc"] if target != "vespa" else document
            assert word == "update"
            assert fields["year"] == 1900 + int(id)
            assert "score" in fields  # none, too: what was there goes
    assert '"doc_as_upsert":true' in Path("x.ndjson").read_text()
    assert '"create":true' in Path("x.jsonl").read_text()


def run_lines(lines, **names):
    exec(lines, names)
    return names


@pytest.mark.parametrize("target", CLIENTS)
def test_lines_that_are_printed_fill_a_server_and_find_the_best(target, monkeypatch):
    pytest.importorskip(CLIENTS[target])
    documents, queries = embeddings(m=120, d=16)
    documents[3] = 0
    np.save("v.npy", documents.numpy())
    Path("ids.txt").write_text("".join(f"d {row} ü\n" for row in range(120)), encoding="utf-8")
    names = [f"d {row} ü" for row in range(120)]
    for number, options in enumerate(OPTIONS):
        for index in ("flat", "hnsw"):
            settings = {"normalization": "dot", "ids": "ids.txt", "index": index, **options}
            record = export(embeddings="v.npy", to=target, out=f"{index}{number}.ndjson", name="docs", **settings)
            assert record.loss_description == ([] if index == "flat" else [record.loss_description[0]])
            with serving(target) as (store, url):
                monkeypatch.setenv(f"{target.upper()}_URL", url)
                run_lines(record.feed.replace("2000", "50"))
                ids = run_lines(record.search, queries=queries.numpy())["ids"]
                assert sum(path.startswith("/docs/_bulk") for _, path in store.requests) == 5
            d = options.get("dim", 16)
            power = options.get("alpha", 1 if settings["normalization"] == "dot" else 0)
            exact = by_formula(queries[:, :d], documents[:, :d], power)
            assert ids == [[names[row] for row in rows] for rows in exact.topk(10).indices.tolist()], (options, index)


@pytest.mark.parametrize("target", CLIENTS)
def test_a_feed_of_updates_leaves_other_fields(target, monkeypatch, capsys):
    pytest.importorskip(CLIENTS[target])
    source, rows = parquet_source(embeddings(m=40)[0], ".")
    command = ["--column", "vector", "--normalization", "dot", "--name", "docs", "--to", target]
    changed = embeddings(m=40, seed=3)[0]
    np.save("changed.npy", changed.numpy())
    with serving(target) as (store, url):
        monkeypatch.setenv(f"{target.upper()}_URL", url)
        for words in (
            ["--embeddings", "shards", "--out", "a.ndjson", "--payload", "all", *command],
            ["--embeddings", "changed.npy", "--out", "b.ndjson", "--upsert", *command[2:]],
        ):
            assert main(["export", *words]) == 0
            run_lines("\n".join(json.loads(Path(f"{words[3]}.export.json").read_text())["feed"]))
        stored = store.documents["docs"]
    assert capsys.readouterr().out.count("Whether the index holds vectors of that exponent was not checked") == 1
    assert set(stored) == set(source.ids)
    for row in rows:
        assert stored[row["doc_id"]]["year"] == row["year"]
        assert stored[row["doc_id"]]["embedding"] == pytest.approx(changed[int(row["doc_id"])].tolist(), rel=1e-7)


PAGE = Path(__file__).parents[3] / "docs" / "commands" / "check-store.md"


@pytest.mark.parametrize(("target", "file"), [("elasticsearch", "my_store"), ("opensearch", "my_opensearch")])
def test_functions_of_the_page_tell_what_a_server_ranks_by(target, file, monkeypatch, capsys):
    pytest.importorskip(CLIENTS[target])
    (code,) = re.findall(rf"```\w+\n(# {file}, a module here\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    similarity = {"elasticsearch": ("max_inner_product", "cosine"), "opensearch": ("innerproduct", "cosinesimil")}[
        target
    ]
    Path(f"{file}.py").write_text(code)
    Path(f"{file}_by_cosine.py").write_text(code.replace(*similarity))
    with serving(target) as (store, url):
        monkeypatch.setenv(f"{target.upper()}_URL", url)
        assert main(["check-store", "--function", f"{file}:search"]) == 0
        assert "ranks by inner product: norms count" in " ".join(capsys.readouterr().out.split())
        assert main(["check-store", "--function", f"{file}_by_cosine:search"]) == 1
        assert "ranks by cosine: every norm is divided out" in " ".join(capsys.readouterr().out.split())
        assert not store.mappings


def test_lines_for_vespa_are_of_the_form_that_its_client_takes(monkeypatch):
    documents, queries = embeddings(m=30, d=16)
    np.save("v.npy", documents.numpy())
    asked = []

    class Answer:
        def __init__(self):
            self.hits = [{"fields": {"id": "7"}}]

    class Vespa:
        def __init__(self, url):
            self.url = url

        def query(self, body):
            asked.append(body)
            return Answer()

    monkeypatch.setitem(__import__("sys").modules, "vespa", type(os)("vespa"))
    application = type(os)("vespa.application")
    application.Vespa = Vespa
    monkeypatch.setitem(__import__("sys").modules, "vespa.application", application)
    nearest = "nearestNeighbor(embedding, q)"
    for options, where in [
        ({}, f"{{targetHits: 10, approximate: false}}{nearest}"),
        ({"index": "hnsw", "ef_search": 200}, f"{{targetHits: 10, hnsw.exploreAdditionalHits: 190}}{nearest}"),
        ({"keep_norm": True}, "true"),
        (
            {"keep_norm": True, "index": "hnsw", "candidates": 64, "ef_search": 100},
            f"{{targetHits: 64, hnsw.exploreAdditionalHits: 36}}{nearest}",
        ),
    ]:
        record = export(
            embeddings="v.npy", to="vespa", out="x.jsonl", name="docs", overwrite=True, normalization="dot", **options
        )
        names = run_lines(record.search, queries=queries.numpy())
        assert names["ids"] == [["7"]] * len(queries)
        assert asked[-1] == {
            "yql": f"select id from docs where {where}",
            "ranking": "norm_aware",
            "hits": 10,
            "input.query(q)": queries[-1].tolist(),
        }
        assert record.feed == "cp x.jsonl.sd schemas/docs.sd\nvespa deploy --wait 300\nvespa feed x.jsonl"


def test_numbers_are_the_shortest_that_read_back():
    draw = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (40_000,), generator=draw, dtype=torch.int64).to(torch.int32)
    rows = bits.view(torch.float32).numpy()
    edges = np.array([0.0, -0.0, 1e-45, 3.4028235e38, 1.1754944e-38, 16777217.0, 0.1, -1 / 3], np.float32)
    rows = np.concatenate([rows[np.isfinite(rows)], edges])
    (text,) = feed_file.vector_texts(rows[None])
    again = np.array(json.loads(text, parse_int=float), np.float64).astype(np.float32)
    assert again.tobytes() == rows.tobytes()
    digits = (re.sub(r"e.*|[-.]", "", number).strip("0") for number in text[1:-1].split(","))
    assert max(map(len, digits)) <= 9
    assert all(re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", number) for number in text[1:-1].split(","))


def test_what_a_server_does_not_have_is_one_sentence(capsys):
    np.save("v.npy", embeddings(m=30)[0].numpy())
    np.save("tiny.npy", 1e-6 * embeddings(m=30)[0].numpy())
    np.save("wide.npy", np.ones((2, 4097), np.float32))
    parquet_source(embeddings(m=30)[0], ".")
    Path("long.txt").write_text("".join(f"{'x' * 600}{row}\n" for row in range(30)))
    Path("bell.txt").write_text("".join(f"\a{row}\n" for row in range(30)))
    for words, said in {
        "elasticsearch x.txt": "out: expected a file that ends in .ndjson or .jsonl or .json, got 'x.txt'",
        "elasticsearch x.ndjson --name Docs": "name: expected small letters, digits, dots, dashes and underscores",
        "vespa x.jsonl --name a-b": "name: expected letters, digits and underscores for a schema of Vespa, got 'a-b'",
        "opensearch x.ndjson --dtype float16": "dtype: expected float32 for opensearch, whose feed is text, got flo",
        "elasticsearch x.ndjson --index ivfpq": "index: expected flat or hnsw for elasticsearch, got 'ivfpq'",
        "elasticsearch x.ndjson --m 8": "m: expected nothing with index 'flat' of elasticsearch, got 8",
        "elasticsearch x.ndjson --upsert --append": "append: expected no upsert beside it, whose documents are updates",
        "elasticsearch x.ndjson --ids long.txt": "ids: expected 1 to 512 bytes for Elasticsearch, got 'xxxx",
        "vespa x.jsonl --ids bell.txt": "ids: expected text without control characters, which Vespa refuses",
        "elasticsearch x.ndjson --embeddings wide.npy": "embeddings: expected 4,096 numbers at most for Elasticsearch",
        "elasticsearch x.ndjson --keep-norm --metric cosine": "metric: expected inner_product, since embeddings of len",
        "elasticsearch s3://x.ndjson": "out: expected a file for elasticsearch, got a URL",
    }.items():
        to, out, *more = words.split()
        assert main(["export", "--embeddings", "v.npy", "--to", to, "--out", out, *more]) == 2, words
        error = capsys.readouterr().err
        assert error.startswith(f"normdyn: {said}")
        assert error.count("\n") == 1
    assert not list(Path().glob("x.*"))
    Path("x.ndjson.mapping.json").write_text("mine")
    words = ["export", "--embeddings", "v.npy", "--to", "opensearch", "--out", "x.ndjson"]
    assert main(words) == 2
    assert "'x.ndjson.mapping.json' exists already; pass --overwrite" in capsys.readouterr().err
    with pytest.warns(UserWarning, match=r"scores 1 \+ <q, d> in float32, and the longest stored vector of a sample"):
        export(embeddings="tiny.npy", to="elasticsearch", out="y.ndjson", normalization="dot")
