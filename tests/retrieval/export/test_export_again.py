"""What was exported is known for it: exponents are not folded twice, rows are appended by id, killed exports go on."""

from __future__ import annotations

import json
import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from export_cases import embeddings, export as export_rows, source_of

from lightning_normdyn.cli import export
from lightning_normdyn.cli.main import main
from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.indexes import binary_stream, flat_binary_file, index_file, parquet_file

FILES = ["npy", "parquet", "safetensors"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def vectors_of(file):
    if file.endswith(".parquet"):
        return np.stack(pq.read_table(file)["embedding"].to_numpy())
    if file.endswith(".safetensors"):
        from safetensors.numpy import load_file

        return load_file(file)["embeddings"]
    return np.load(file)


def save(rows=400, d=24, file="v.npy"):
    documents = embeddings(rows, d)[0].numpy()
    np.save(file, documents)
    return documents


def powered(documents, power):
    norms = np.linalg.norm(documents.astype(np.float64), axis=1, keepdims=True)
    return documents * np.where(norms > 0, norms, 1) ** (power - 1)


@pytest.mark.parametrize("kind", FILES)
def test_an_exponent_is_not_folded_twice(kind, capsys):
    documents = save()
    first, second, third = f"first.{kind}", f"second.{kind}", "third.npy"
    export(embeddings="v.npy", to=kind, out=first, alpha=0.4)
    words = ["export", "--embeddings", first, "--to", kind, "--out", second, "--alpha", "0.4"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.startswith("These embeddings are what an export wrote: their lengths carry exponent 0.4 of the original")
    assert "To be stored: as they are; norms count with exponent 0.4." in out
    np.testing.assert_allclose(vectors_of(second), powered(documents, 0.4), rtol=1e-5, atol=1e-7)
    export(embeddings=second, to="npy", out=third, alpha=-0.6)
    np.testing.assert_allclose(vectors_of(third), powered(documents, -0.6), rtol=1e-5, atol=1e-7)


def test_what_cannot_be_undone_is_refused(capsys):
    save()
    export(embeddings="v.npy", to="npy", out="unit.npy")
    export(embeddings="v.npy", to="npy", out="longer.npy", normalization="dot", augment=True)
    export(embeddings="v.npy", to="npy", out="apart.npy", normalization="dot", keep_norm=True)
    for file, said in {
        "unit.npy": "embeddings: expected lengths that carry norms, got vectors that an export gave length 1",
        "apart.npy": "embeddings: expected lengths that carry norms, got directions, whose norms an export with --keep",
        "longer.npy": "embeddings: expected embeddings, got 'longer.npy', whose last dimension an export with --aug",
    }.items():
        assert main(["export", "--embeddings", file, "--to", "npy", "--out", "x.npy", "--alpha", "0.5"]) == 2
        assert capsys.readouterr().err.startswith(f"normdyn: {said}")
    export(embeddings="unit.npy", to="npy", out="again.npy")
    np.testing.assert_allclose(np.load("again.npy"), np.load("unit.npy"), rtol=1e-6, atol=1e-8)


def test_a_manifest_of_other_vectors_is_passed_over_and_said():
    documents = save()
    export(embeddings="v.npy", to="npy", out="x.npy", alpha=0.4)
    np.save("x.npy", documents[::-1])
    with pytest.warns(UserWarning, match=r"'x\.npy\.export\.json' describes other vectors than 'x\.npy' holds"):
        export(embeddings="x.npy", to="npy", out="y.npy", alpha=0.4)
    np.testing.assert_allclose(np.load("y.npy"), powered(documents[::-1], 0.4), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [*FILES, "faiss", "usearch"])
@pytest.mark.parametrize("keep_norm", [False, True], ids=["lengths", "norms apart"])
def test_rows_are_appended_by_id(kind, keep_norm):
    pytest.importorskip({"faiss": "faiss", "usearch": "usearch"}.get(kind, "torch"))
    documents, queries = embeddings(500)
    folding, ids = Folding("dot", alpha=-0.3, keep_norm=keep_norm), [f"d{row}" for row in range(500)]
    options = {"index": "hnsw"} if kind in ("faiss", "usearch") else {}
    export_rows(source_of(documents[:300], ".", ids=ids[:300]), kind, f"x.{kind}", folding, **options)
    for rows in (slice(200, 420), slice(0, 500)):
        source = source_of(documents[rows], ".", ids=ids[rows])
        writer = export_rows(source, kind, f"x.{kind}", folding, append=True, **options)
    whole = export_rows(source_of(documents, ".", ids=ids), kind, f"whole.{kind}", folding, **options)
    assert writer.search(queries, 10).ids == whole.search(queries, 10).ids
    assert json.loads(Path(f"x.{kind}.export.json").read_text())["rows"] == 500
    if kind in FILES:
        np.testing.assert_array_equal(vectors_of(f"x.{kind}"), vectors_of(f"whole.{kind}"))
    with pytest.raises(ValueError, match=r"append: expected exponent 0\.7 as of the vectors that are there, got 1\.0"):
        export_rows(source, kind, f"x.{kind}", Folding("dot", keep_norm=keep_norm), append=True, **options)
    Path(f"x.{kind}.export.json").unlink()
    if kind in ("npy", "faiss", "usearch"):
        with pytest.raises(ValueError, match=r"append: expected the manifest 'x.*', got none, so the exponent"):
            export_rows(source, kind, f"x.{kind}", folding, append=True, **options)


def test_usearchs_flat_index_is_exact_with_the_smallest_graph():
    """Every file of USearch is a graph, which 'flat' does not search: a good one took a hundred times as long."""
    usearch = pytest.importorskip("usearch.index")
    documents, queries = embeddings(500)
    ids, folding = [f"d{row}" for row in range(500)], Folding("dot")
    export_rows(source_of(documents[:400], ".", ids=ids[:400]), "usearch", "x.usearch", folding)
    assert usearch.Index.restore("x.usearch").connectivity == 2
    writer = export_rows(source_of(documents, ".", ids=ids), "usearch", "x.usearch", folding, append=True)
    best = np.argsort(-(np.asarray(queries, np.float64) @ np.asarray(documents, np.float64).T), axis=1)[:, :10]
    assert writer.search(queries, 10).ids == [[ids[row] for row in ranking] for ranking in best]


def test_rows_that_were_there_are_said(capsys):
    np.save("a.npy", embeddings(60)[0])
    np.save("b.npy", 2 * embeddings(80)[0])
    words = ["export", "--to", "npy", "--out", "x.npy", "--normalization", "dot"]
    assert main([*words, "--embeddings", "a.npy", "--append"]) == 0
    assert "Added" not in capsys.readouterr().out
    assert main([*words, "--embeddings", "b.npy", "--append"]) == 0
    words_of_rows = " ".join(capsys.readouterr().out.split())
    assert "Added: 20 of 80 embeddings; the ids of the others are there already" in words_of_rows
    assert "numbers of rows, from 0: give new rows of another file --ids of their own." in words_of_rows
    Path("ids.txt").write_text("".join(f"{row}\n" for row in range(80, 140)))
    assert main([*words, "--embeddings", "a.npy", "--append", "--ids", "ids.txt"]) == 0
    assert "Added: 60 of 60 embeddings.\n" in capsys.readouterr().out
    assert len(np.load("x.npy")) == 140


def test_longer_rows_do_not_fit_beside_an_added_dimension():
    documents, _ = embeddings(300)
    folding = Folding("dot", augment=True)
    export_rows(source_of(documents, ".", ids=[f"d{row}" for row in range(300)]), "npy", "x.npy", folding)
    source = source_of(100 * documents[:5], ".", ids=list("abcde"))
    with pytest.raises(ValueError, match="append: expected folded embeddings no longer than"):
        export_rows(source, "npy", "x.npy", folding, append=True)


def test_recall_after_appending_is_measured_where_all_rows_are_given(capsys):
    pytest.importorskip("faiss")
    documents = save(600)
    np.save("some.npy", documents[:200])
    np.save("rest.npy", documents[200:])
    Path("rest.txt").write_text("".join(f"{row}\n" for row in range(200, 600)))
    words = ["export", "--to", "faiss", "--out", "x.faiss", "--normalization", "dot", "--index", "hnsw"]
    assert main([*words, "--embeddings", "some.npy"]) == 0
    capsys.readouterr()
    assert main([*words, "--embeddings", "rest.npy", "--ids", "rest.txt", "--append"]) == 0
    assert "Recall was not measured: 200 vectors of the index are not among these embeddings" in capsys.readouterr().out
    assert main([*words, "--embeddings", "v.npy", "--append"]) == 0
    assert "recall@10 against exact search in float32: " in capsys.readouterr().out
    assert main([*words, "--embeddings", "v.npy", "--append", "--overwrite"]) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked and killed")
@pytest.mark.parametrize("kind", [*FILES, "faiss", "usearch"])
@pytest.mark.parametrize("keep_norm", [False, True], ids=["lengths", "norms apart"])
def test_a_killed_export_goes_on(kind, keep_norm, monkeypatch):
    pytest.importorskip({"faiss": "faiss", "usearch": "usearch"}.get(kind, "torch"))
    monkeypatch.setattr(flat_binary_file, "_SYNCED_BYTES", 1)
    monkeypatch.setattr(parquet_file, "_ROWS_PER_PART", 100)
    monkeypatch.setattr(index_file, "_SECONDS_BETWEEN_SAVES", -1.0)
    monkeypatch.setattr(index_file, "_LEAST_SHARE", 0)
    documents, queries = embeddings(1000)
    source = source_of(documents, ".", chunk_size=100)
    folding, options = Folding("dot", keep_norm=keep_norm), {"index": "IVF4,Flat"} if kind == "faiss" else {}
    whole = export_rows(source, kind, f"whole.{kind}", folding, **options)
    writer_type = type(whole)
    child = os.fork()
    if not child:
        add, added = writer_type.add, []

        def killed(self, ids, *rest):
            added.append(ids)
            if len(added) == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            add(self, ids, *rest)

        writer_type.add = killed
        export_rows(source, kind, f"x.{kind}", folding, **options)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert not Path(f"x.{kind}").exists()
    counts = []
    add = writer_type.add

    def counted(self, ids, *rest):
        counts.append(len(ids))
        add(self, ids, *rest)

    monkeypatch.setattr(writer_type, "add", counted)
    with pytest.warns(UserWarning, match=rf"an export to 'x\.{kind}' was killed after 600 rows; this one goes on from"):
        writer = export_rows(source, kind, f"x.{kind}", folding, **options)
    assert sum(counts) == 400
    assert writer.search(queries, 10) == whole.search(queries, 10)
    if kind == "usearch":  # whose levels of a graph are drawn anew where it is read again
        restore, rows = pytest.importorskip("usearch.index").Index.restore, np.arange(1000)
        np.testing.assert_array_equal(restore("x.usearch").get(rows), restore("whole.usearch").get(rows))
    elif kind != "parquet":
        assert Path(f"x.{kind}").read_bytes() == Path(f"whole.{kind}").read_bytes()
    else:
        assert pq.read_table("x.parquet").equals(pq.read_table("whole.parquet"))
    files = sorted(file.name for file in Path().iterdir() if file.name.startswith(("x.", ".x")))
    assert files == sorted(file.name.replace("whole", "x") for file in Path().glob("whole.*"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_rows(source, kind, f"x.{kind}", folding, overwrite=True, **options)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked and killed")
def test_another_export_begins_anew_after_a_kill(monkeypatch):
    monkeypatch.setattr(flat_binary_file, "_SYNCED_BYTES", 1)
    documents, _ = embeddings(300)
    source = source_of(documents, ".", chunk_size=100)
    child = os.fork()
    if not child:
        monkeypatch.setattr(flat_binary_file.NpyFile, "close", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        export_rows(source, "npy", "x.npy", Folding("dot"))
    os.waitpid(child, 0)
    with pytest.warns(UserWarning, match="which it left half-written, was removed"):
        export_rows(source, "npy", "x.npy", Folding("cosine", alpha=0.5))
    np.testing.assert_allclose(np.load("x.npy"), powered(documents.numpy(), 0.5), rtol=1e-5, atol=1e-7)


def test_rows_of_a_stream_are_little_endian_and_end_where_they_should(tmp_path):
    stream = binary_stream.BinaryStream(tmp_path / "x.npy", binary_stream.npy_header("<f4", (4, 2)), 8)
    stream.write(np.arange(6, dtype=">f4").reshape(3, 2))
    stream.sync()
    stream.close()
    again = binary_stream.BinaryStream(tmp_path / "x.npy", binary_stream.npy_header("<f4", (4, 2)), 8, rows_done=2)
    again.write(np.full((2, 2), 9, np.float32))
    again.close()
    assert np.load(tmp_path / "x.npy").tolist() == [[0, 1], [2, 3], [9, 9], [9, 9]]


def test_prefixes_are_folded_with_norms_of_their_own():
    documents = save()
    export(embeddings="v.npy", to="npy", out="x.npy", dim=7, alpha=0.5)
    np.testing.assert_allclose(np.load("x.npy"), powered(documents[:, :7], 0.5), rtol=1e-5, atol=1e-7)
    assert not np.allclose(np.load("x.npy"), powered(documents, 0.5)[:, :7], rtol=1e-3)


def test_norms_beside_vectors_are_those_of_the_embeddings():
    documents = save()
    norms = np.linalg.norm(documents.astype(np.float64), axis=1)
    for alpha, of_zero in ((0.5, 0), (-0.5, 1)):
        export(embeddings="v.npy", to="parquet", out="x.parquet", alpha=alpha, keep_norm=True, overwrite=True)
        table = pq.read_table("x.parquet")
        np.testing.assert_allclose(table["norm"].to_numpy()[1:], norms[1:], rtol=1e-6)
        assert table["norm"][0].as_py() == of_zero
        np.testing.assert_allclose(np.stack(table["embedding"].to_numpy()), powered(documents, 0), rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match=r"norms whose power 4 is within float32, got 1e\+12"):
        Folding("dot", alpha=3, keep_norm=True).norms(torch.tensor([[1e12, 0.0]]))
