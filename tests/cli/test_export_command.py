"""``normdyn export`` from the command line to an index, and what it says of bad input."""

from __future__ import annotations

import signal
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_normdyn.cli import export
from lightning_normdyn.cli.main import main
from lightning_normdyn.retrieval import indexes, norm_aware_top_k
from lightning_normdyn.retrieval.indexes import TARGETS
from lightning_normdyn.retrieval.indexes.flat_binary_file import NpyFile

faiss = pytest.importorskip("faiss")


@pytest.fixture
def documents():
    draw = torch.Generator().manual_seed(0)
    documents = torch.randn(500, 16, generator=draw) * torch.rand(500, 1, generator=draw).add(0.2)
    documents[7] = 0
    np.save("vectors.npy", documents.numpy())
    return documents


def run(capsys, *words):
    code = main(["export", "--embeddings", "vectors.npy", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_an_index_ranks_by_the_score_and_says_what_it_holds(documents, capsys):
    Path("ids.txt").write_text("\ufeff" + "".join(f"{row + 1000}\n" for row in range(500)), encoding="utf-8")
    words = ["--alpha", "0.5", "--to", "faiss", "--out", "x.faiss", "--ids", "ids.txt", "--chunk-size", "64"]
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert "500 embeddings of 16 numbers, lengths from" in out
    assert "1 embeddings have length 0: they stay so and score 0 with every query." in out
    assert "To be stored: each times its length to the power -0.5; norms count with exponent 0.5." in out
    assert "recall" not in out
    queries = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    found = faiss.read_index("x.faiss").search(queries.numpy(), 10)[1] - 1000
    assert found.tolist() == norm_aware_top_k(queries, documents, 10, alpha=0.5).indices.tolist()
    code, _, err = run(capsys, *words)
    assert (code, "'x.faiss' exists already; pass --overwrite" in err) == (2, True)
    assert run(capsys, *words, "--overwrite")[0] == 0


@pytest.mark.parametrize("target", ["npy", "parquet", "safetensors", "faiss"])
def test_a_place_that_will_not_do_is_named_before_anything_is_printed(documents, target, capsys):
    file = Path(f"x.{target}")
    file.write_text("mine")
    folder = Path(f"folder.{target}")
    folder.mkdir()
    refusals = {
        str(file): f"out: '{file}' exists already; pass --overwrite to replace it, or choose another",
        str(folder): f"out: expected a file, got the folder '{folder}'; name a file, such as one in it",
        f"/proc/x.{target}": f"out: cannot write '/proc/x.{target}' (No such file or directory); choose a folder of",
    }
    for place, sentence in refusals.items():
        code, out, err = run(capsys, "--to", target, "--out", place)
        assert (code, out) == (2, "")
        assert err.startswith(f"normdyn: {sentence}")
        assert err.count("\n") == 1
    assert file.read_text() == "mine"
    assert not any(folder.iterdir())


def test_losses_are_printed_and_the_remedy_where_they_are_large(documents, capsys):
    words = ["--normalization", "dot", "--to", "faiss", "--sample", "50", "--overwrite", "--out", "x.faiss"]
    _, out, _ = run(capsys, *words, "--index", "IVF16,PQ2x4")
    assert "recall@10 against exact search in float32: 0." in out
    assert "over 50 of the documents as queries" in out
    assert "That is below the 0.95 that was asked for." in out
    assert "Tried on 500 rows with the same queries, where it finds 0." in out
    assert "  plain graph: recall@10 " in out
    assert "--index flat without --keep-norm is exact." in out
    np.save("queries.npy", np.eye(16, dtype=np.float32))
    _, out, _ = run(capsys, *words, "--index", "hnsw", "--queries", "queries.npy", "--augment", "--dtype", "float16")
    assert "over 16 queries" in out
    assert "float16 changes a score by at most" in out
    assert "queries = np.pad(queries, ((0, 0), (0, 1)))" in out
    code, _, err = run(capsys, *words, "--index", "hnsw", "--queries", "ids.npy")
    assert (code, err.count("\n")) == (2, 1)
    np.save("queries.npy", np.eye(3, dtype=np.float32))
    _, _, err = run(capsys, *words, "--queries", "queries.npy")
    assert err == "normdyn: queries: expected vectors of 16 numbers as the documents have, got [3, 3]\n"


def test_an_exact_search_by_distance_is_measured_too(documents, capsys):
    documents[3] *= 1e7
    np.save("vectors.npy", documents.numpy())
    words = ["--normalization", "dot", "--augment", "--metric", "euclidean", "--to", "faiss", "--out", "x.faiss"]
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert "recall@10 against exact search in float32: 0." in out
    assert "That is low for an exact search" in out


def test_unit_length_is_said_first(capsys):
    np.save("vectors.npy", np.eye(20, dtype=np.float16))
    code, out, _ = run(capsys, "--alpha", "1", "--to", "npy", "--out", "x.npy")
    assert code == 0
    assert out.startswith("All embeddings have length 1 already, so folding does nothing")
    np.testing.assert_array_equal(np.load("x.npy"), np.eye(20))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--to", "npy", "--out", "x.npy", "--metric", "cosine"],
            "metric: expected inner_product, got cosine, which divi",
        ),
        (["--to", "npy", "--out", "x.npy", "--ids", "none.txt"], "ids: expected a file with one id a line, got none"),
        (["--to", "npy", "--out", "x.npy", "--index", "hnsw"], "index: expected flat for npy, got 'hnsw'"),
        (
            ["--to", "npy", "--out", "vectors.npy"],
            "out: expected another file than that of the embeddings, got 'vectors",
        ),
        (["--to", "npy", "--out", "./vectors.npy", "--overwrite"], "out: expected another file than that of the embed"),
    ],
)
def test_errors_are_one_sentence_and_leave_nothing(documents, capsys, words, said):
    code, _, err = run(capsys, *words)
    assert code == 2
    assert err.startswith(f"normdyn: {said}")
    assert err.count("\n") == 1
    assert [file.name for file in Path().iterdir()] == ["vectors.npy"]
    np.testing.assert_array_equal(np.load("vectors.npy"), documents.numpy())


def test_bad_queries_are_found_before_anything_is_written(documents, capsys):
    queries = np.eye(16, dtype=np.float32)
    queries[5, 2] = np.nan
    np.save("queries.npy", queries)
    code, out, err = run(capsys, "--to", "npy", "--out", "x.npy", "--queries", "queries.npy")
    assert (code, out) == (2, "")
    assert err.startswith("normdyn: queries: expected finite numbers, got NaN or infinite ones in row 5;")
    assert not Path("x.npy").exists()


def test_queries_of_length_0_are_left_out_of_what_is_measured(documents, capsys):
    draw = np.random.default_rng(0)
    queries = np.concatenate([np.zeros((40, 16)), draw.standard_normal((20, 16))]).astype(np.float32)
    np.save("queries.npy", queries)
    np.save("zeros.npy", queries[:40])
    words = ["--normalization", "dot", "--to", "faiss", "--index", "IVF8,Flat", "--overwrite", "--out", "x.faiss"]
    with pytest.warns(UserWarning, match=r"queries: 40 of 60 in queries\.npy are zero vectors"):
        code, out, _ = run(capsys, *words, "--queries", "queries.npy", "--recall", "1", "--nprobe", "8")
    assert code == 0
    assert "recall@10 against exact search in float32: 1.0000, over 20 queries" in out
    code, out, err = run(capsys, *words, "--queries", "zeros.npy")
    assert (code, out) == (2, "")
    assert err.startswith("normdyn: queries: expected at least one with a length above 0, got 40 zero vectors in zeros")
    np.save("vectors.npy", np.zeros((300, 16), np.float32))
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert "Recall was not measured: all embeddings that could be queries are zero vectors" in out


def test_lengths_whose_scores_would_be_infinite_are_refused_before_anything_is_written(documents, capsys):
    np.save("vectors.npy", 1e31 * documents.numpy())
    words = ["--normalization", "dot", "--to", "faiss", "--out", "x.faiss", "--overwrite"]
    for graph in (["--index", "hnsw"], ["--index", "hnsw", "--augment"]):
        code, out, err = run(capsys, *words, *graph)
        assert (code, out) == (2, "")
        assert err.startswith(
            "normdyn: embeddings: expected folded lengths whose inner products are within float32, got"
        )
        assert "with one another; divide all embeddings by one number, which changes no ranking\n" in err
        assert [file.name for file in Path().iterdir()] == ["vectors.npy"]
    np.save("queries.npy", 1e10 * np.eye(16, dtype=np.float32))
    code, out, err = run(capsys, *words, "--queries", "queries.npy")
    assert (code, out, "with queries of up to 1e+10; divide" in err) == (2, "", True)
    code, out, _ = run(capsys, *words, "--index", "hnsw", "--keep-norm", "--m", "64", "--recall", "1")
    assert code == 0  # of unit vectors, and queries of length 1
    assert "recall@10 against exact search in float32: 1.0000" in out


def test_sigterm_cleans_up_as_ctrl_c_does(documents, capsys, monkeypatch):
    add = NpyFile.add

    def terminated(self, *batch):
        add(self, *batch)
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(NpyFile, "add", terminated)
    code, out, err = run(capsys, "--to", "npy", "--out", "made/x.npy", "--chunk-size", "64")
    assert (code, "Written" in out, err) == (143, False, "normdyn: terminated\n")
    assert not Path("made").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_missing_package_is_named(documents, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    code, _, err = run(capsys, "--to", "faiss", "--out", "x.faiss")
    assert code == 2
    assert "needs faiss; install with: pip install 'lightning-normdyn[faiss]'" in err


def test_help_names_the_shipped_targets(capsys):
    assert main(["export", "--help"]) == 0
    help_text = " ".join(capsys.readouterr().out.split())
    files, stores = "npy, parquet or safetensors", "faiss, usearch, qdrant, lancedb, milvus or pgvector"
    feeds = "elasticsearch, opensearch or vespa"
    assert f"a file ({files}), an index ({stores}), or a feed that a server takes in ({feeds})" in help_text
    assert set(TARGETS) == {word for words in (files, stores, feeds) for word in words.replace(" or", ",").split(", ")}


def test_an_unknown_target_is_one_sentence_from_the_table(documents, capsys):
    code, out, err = run(capsys, "--to", "fais", "--out", "x.faiss")
    assert (code, out) == (2, "")
    assert err == f"normdyn: to: expected one of {', '.join(TARGETS)}, got 'fais'; did you mean 'faiss'?\n"


TARGET_MODULE = """
from lightning_normdyn.retrieval.indexes.flat_binary_file import NpyFile
from lightning_normdyn.retrieval.indexes.writer import IndexTarget

TARGETS = {"shelf": IndexTarget(NpyFile, "look on the shelf", place="shelf {name} of {out}")}
"""


@pytest.fixture
def shelf_module(tmp_path, monkeypatch):
    """A module of a target of one's own, beside the shipped ones; the table is made anew with it."""
    folder = tmp_path / "targets"
    folder.mkdir()
    (folder / "shelf.py").write_text(TARGET_MODULE, encoding="utf-8")
    monkeypatch.setattr(indexes, "__path__", [*indexes.__path__, str(folder)])
    with monkeypatch.context() as reloading:
        reloading.setattr(indexes, "targets", indexes.targets)
        reloading.delitem(sys.modules, indexes.targets.__name__)
        fresh_table = import_module(indexes.targets.__name__).TARGETS
    assert set(fresh_table) == {*TARGETS, "shelf"}
    monkeypatch.setitem(TARGETS, "shelf", fresh_table["shelf"])
    yield
    del sys.modules[f"{indexes.__name__}.shelf"], indexes.shelf


@pytest.mark.usefixtures("shelf_module")
def test_a_target_is_one_file_in_the_folder_of_targets(documents, capsys):
    code, out, err = run(capsys, "--to", "shelf", "--out", "x.npy", "--normalization", "dot")
    assert (code, err) == (0, "")
    assert "Written: shelf embeddings of x.npy\n" in out
    assert "Search: look on the shelf, queries as they are, metric inner_product\n" in out
    np.testing.assert_array_equal(np.load("x.npy"), documents.numpy())
    assert export(embeddings="vectors.npy", to="shelf", out="y.npy").to == "shelf"
