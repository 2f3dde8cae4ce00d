"""Stores that compute one thing or another, by numpy and by libraries, are told apart by five planted vectors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lightning_normdyn.cli import check_store as command
from lightning_normdyn.cli.main import main
from lightning_normdyn.retrieval.export.store_check import IDS, check_store, planted_vectors


def scores_by(kind, queries, vectors):
    """In float64, one pair at a time."""
    scores = np.empty((len(queries), len(vectors)))
    for row, column in itertools.product(range(len(queries)), range(len(vectors))):
        q, v = queries[row].astype(float), vectors[column].astype(float)
        scores[row, column] = {
            "inner product": q @ v,
            "cosine": q @ v / np.sqrt((q @ q) * (v @ v)),
            "normalised at upload": q @ v / np.sqrt(v @ v),
            "euclidean": -np.sqrt((q - v) @ (q - v)),
        }[kind]
    return scores


def store(kind, dtype=np.float32, sign=1, scores_as=None):
    """A search function that computes so; its scores as they are, as distances, or none."""

    def search(vectors, ids, queries, k):
        scores = sign * scores_by(kind, queries, vectors.astype(dtype))
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        ranked = [[ids[row] for row in rows] for rows in order]
        return ranked if scores_as is None else (ranked, scores_as(np.take_along_axis(scores, order, 1)))

    return search


KINDS = ("inner product", "cosine", "euclidean", "normalised at upload")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dim", [4, 33])
def test_each_kind_is_told(kind, dtype, sign, dim):
    verdict = check_store(store(kind, dtype, sign, scores_as=np.asarray), dim)
    assert verdict == (kind, sign < 0, dtype == np.float16)
    without_scores = check_store(store(kind, dtype, sign), dim)
    assert without_scores == ("cosine" if kind == KINDS[3] else kind, sign < 0, dtype == np.float16)


def test_rankings_differ_from_kind_to_kind_by_far():
    vectors, queries = planted_vectors()
    kept = [row for row in range(5) if row != 4]  # without one of the two that are nearly equal
    rankings, gaps = [], []
    for kind, sign in itertools.product(KINDS[:3], (1, -1)):
        scores = sign * scores_by(kind, queries, vectors[kept])
        rankings.append(np.argsort(-scores, axis=1).tolist())
        gaps.append(np.diff(np.sort(scores, axis=1)).min())
    assert all(one != other for one, other in itertools.combinations(rankings, 2))
    assert min(gaps) > 0.05


@pytest.mark.parametrize("scores_as", [np.negative, lambda scores: 1 - scores])
def test_scores_may_be_distances(scores_as):
    assert check_store(store(KINDS[3], scores_as=scores_as)).computes == KINDS[3]
    assert check_store(store("cosine", scores_as=scores_as)).computes == "cosine"


def test_a_ranking_by_nothing_is_unknown():
    verdict = check_store(lambda _vectors, ids, queries, _k: [ids] * len(queries))
    assert verdict == ("unknown", False, None)
    assert not verdict.is_right


@pytest.mark.parametrize("answer", [[IDS], [IDS[:2]] * 3, [[*IDS[:4], "x"]] * 3])
def test_other_answers_are_refused(answer):
    with pytest.raises(ValueError, match="search: expected all of 101, 102, 103, 104, 105 for each of 3 queries"):
        check_store(lambda *_: answer)


@pytest.mark.parametrize(
    ("target", "options"),
    [("npy", {}), ("safetensors", {}), ("parquet", {"dtype": "float16"}), ("faiss", {"index": "hnsw"}),
     ("faiss", {"dtype": "float16"}), ("qdrant", {}), ("qdrant", {"dtype": "float16"}), ("lancedb", {}), ("milvus", {}),
     ("milvus", {"index": "hnsw"}), ("usearch", {}), ("usearch", {"index": "hnsw", "dtype": "float16"})],
)  # fmt: skip
def test_targets_of_export_rank_by_inner_product(target, options):
    packages = {"qdrant": "qdrant_client", "milvus": "pymilvus", "npy": "numpy", "parquet": "numpy"}
    pytest.importorskip(packages.get(target, target))
    record = command(to=target, **options)
    assert record.verdict == ("inner product", False, options.get("dtype") == "float16")
    assert record.exit_code == 0


MODULE = """
import faiss

def normalising(vectors, ids, queries, k):
    faiss.normalize_L2(vectors)  # in place
    return by(faiss.METRIC_INNER_PRODUCT, vectors, ids, queries, k)

def distances(vectors, ids, queries, k):
    return by(faiss.METRIC_L2, vectors, ids, queries, k)

def by(metric, vectors, ids, queries, k):
    index = faiss.IndexFlat(vectors.shape[1], metric)
    index.add(vectors)
    scores, rows = index.search(queries, k)
    return [[ids[row] for row in found] for found in rows], scores

def short(vectors):
    pass
"""


def test_a_function_of_ones_own(tmp_path, monkeypatch, capsys):
    pytest.importorskip("faiss")
    (tmp_path / "planted_store.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    assert main(["check-store", "--function", "planted_store:normalising"]) == 1
    assert "ranks by inner product of normalised vectors: vectors get length 1" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main(["check-store", "--function", "planted_store:distances"]) == 1
    assert "planted_store:distances ranks by euclidean: long vectors are far away" in capsys.readouterr().out
    for words, said in {
        "--function planted_store:short": "expected one that takes vectors, ids, queries and k, got planted_store",
        "--function planted_store:none": "expected a function in planted_store, got 'none'",
        "--function planted_store": "expected module:function, got 'planted_store'",
        "--function no_such_store:x": "expected a module here or installed, got 'no_such_store'",
        "--to npy --function planted_store:short": "expected either --to or --function",
        "--to faisss": "did you mean 'faiss'?",
        "--to npy --dim 3": "dim: expected 4 or more, got 3",
        "--to npy --out x.npy": "out: expected the URL of a server or nothing with npy, got 'x.npy'",
        "--to pgvector": "out: expected PostgreSQL's connection string",
        "--to vespa": "to: expected a store that runs here or at --out, got vespa, for which export writes a feed",
        "": "expected either --to or --function",
    }.items():
        assert main(["check-store", *words.split()]) == 2
        assert said in capsys.readouterr().err
