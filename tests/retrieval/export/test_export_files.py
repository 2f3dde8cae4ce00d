"""Files of vectors: written by hand, read by the libraries whose formats they are."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from export_cases import embeddings, export, ranked, source_of

from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.retrieval import export_vectors, norm_aware_top_k
from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.indexes import Contents, Destination, index_writer
from lightning_normdyn.retrieval.indexes.staged_path import StagedPath

CASES = [
    ({"normalization": "cosine", "alpha": -0.5}, -0.5),
    ({"normalization": "dot", "alpha": 0.5}, 1.5),
    ({"normalization": "learnable", "gamma_document": 0.7}, 0.3),
]


def by_library(file):
    if file.suffix == ".npy":
        return np.load(file, allow_pickle=False)
    if file.suffix == ".parquet":
        table = pq.read_table(file)
        assert table.column("id").to_pylist()[:2] == ["d0", "d1"]
        return np.stack(table.column("embedding").to_numpy())
    safetensors = pytest.importorskip("safetensors.numpy")
    return safetensors.load_file(file)["embeddings"]


@pytest.mark.parametrize("target", ["npy", "parquet", "safetensors"])
@pytest.mark.parametrize(("options", "power"), CASES)
def test_a_file_holds_folded_vectors_and_ranks_by_the_score(tmp_path, target, options, power):
    documents, queries = embeddings()
    source = source_of(documents, tmp_path)
    file = tmp_path / "made" / f"vectors.{target}"
    writer = export(source, target, file, Folding(**options))
    direct = {name: value for name, value in options.items() if name in ("normalization", "alpha", "gamma_document")}
    np.testing.assert_array_equal(by_library(file), export_vectors(documents, **direct).numpy())
    found = writer.search(queries, 10)
    assert found.ids == ranked(queries, documents, power, source.ids)
    rows = norm_aware_top_k(queries, documents, 10, **direct).indices.tolist()
    assert found.ids == [[f"d{row}" for row in best] for best in rows]


@pytest.mark.parametrize("target", ["npy", "parquet", "safetensors"])
def test_half_precision_is_half_the_numbers_rounded(tmp_path, target):
    documents, _ = embeddings()
    export(source_of(documents, tmp_path), target, tmp_path / f"vectors.{target}", dtype="float16")
    stored = by_library(tmp_path / f"vectors.{target}")
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, export_vectors(documents).half().numpy())
    again = EmbeddingFile(tmp_path / f"vectors.{target}")
    torch.testing.assert_close(again.read(), torch.from_numpy(stored.astype(np.float32)), rtol=0, atol=0)


def test_norms_of_a_table_are_searched_without_a_warning(tmp_path, recwarn):
    documents, queries = embeddings()
    source, always = source_of(documents, tmp_path, chunk_size=1000), torch.is_warn_always_enabled()
    writer = export(source, "parquet", tmp_path / "x.parquet", Folding("cosine", alpha=0.5, keep_norm=True))
    torch.set_warn_always(True)
    try:
        assert writer.search(queries, 10).ids == ranked(queries, documents, 0.5, source.ids)
    finally:
        torch.set_warn_always(always)
    assert not recwarn.list


def test_ids_lie_beside_a_file_unless_they_are_numbers_of_rows(tmp_path):
    documents, queries = embeddings()
    names = [f"name {row} ü" for row in range(len(documents))]
    writer = export(source_of(documents, tmp_path, ids=names), "npy", tmp_path / "a.npy")
    assert (tmp_path / "a.npy.ids.txt").read_text(encoding="utf-8").splitlines() == names
    assert writer.search(queries, 3).ids == ranked(queries, documents, 0, names, 3)
    rows = [str(row) for row in range(len(documents))]
    plain = source_of(documents, tmp_path, ids=rows)
    with pytest.raises(FileExistsError, match=r"a\.npy\.ids\.txt' holds the ids of other vectors"):
        export(plain, "npy", tmp_path / "a.npy", overwrite=True)
    assert export(plain, "npy", tmp_path / "b.npy").search(queries, 3).ids == ranked(queries, documents, 0, rows, 3)
    assert not (tmp_path / "b.npy.ids.txt").exists()
    with pytest.raises(ValueError, match="without line breaks for this target, got 'two\\\\nlines' in row 0"):
        export(source_of(documents, tmp_path, ids=["two\nlines", *rows[1:]]), "npy", tmp_path / "c.npy")


@pytest.mark.parametrize("metric", ["inner_product", "euclidean", "cosine"])
def test_a_file_is_searched_by_its_metric(tmp_path, metric):
    documents, queries = embeddings()
    ids = [str(row) for row in range(len(documents))]
    writer = index_writer("npy", Destination(str(tmp_path / "x.npy")))
    writer.open(Contents(documents.shape[1], metric, ids, documents))
    writer.add(ids, documents)
    writer.close()
    d, q = documents.double(), queries.double()
    scores = {"inner_product": q @ d.T, "euclidean": -torch.cdist(q, d), "cosine": q @ (d / d.norm(dim=1)[:, None]).T}
    best = scores[metric].nan_to_num(0).topk(10).indices
    assert writer.search(queries, 10).ids == [[str(row) for row in rows] for rows in best.tolist()]


def test_nothing_is_overwritten_unasked(tmp_path):
    documents, _ = embeddings()
    source, file = source_of(documents, tmp_path), tmp_path / "vectors.parquet"
    file.write_text("precious")
    with pytest.raises(FileExistsError, match=r"exists already; pass --overwrite"):
        export(source, "parquet", file)
    assert file.read_text() == "precious"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["embeddings.npy", "vectors.parquet"]
    export(source, "parquet", file, overwrite=True)
    assert EmbeddingFile(file).rows == len(documents)
    with pytest.raises(ValueError, match=r"out: expected a file that ends in \.npy"):
        export(source, "npy", tmp_path / "vectors.txt")
    for url in ("s3://bucket/vectors.npy", f"file://{tmp_path}/vectors.npy"):
        with pytest.raises(ValueError, match="out: expected a file for npy, got a URL; export to a file and copy"):
            export(source, "npy", url)
    with pytest.raises(ValueError, match="index: expected flat for npy, got 'hnsw'"):
        export(source, "npy", tmp_path / "new.npy", index="hnsw")


@pytest.mark.parametrize(("target", "name"), [("faiss", "runs"), ("npy", "runs.npy")])
def test_a_file_never_replaces_a_folder(tmp_path, target, name):
    if target == "faiss":
        pytest.importorskip("faiss")
    source, folder = source_of(embeddings()[0], tmp_path), tmp_path / name
    folder.mkdir()
    (folder / "precious.txt").write_text("kept")
    with pytest.raises(IsADirectoryError, match="out: expected a file, got the folder"):
        export(source, target, folder, overwrite=True)
    assert (folder / "precious.txt").read_text() == "kept"


def test_what_somebody_else_wrote_meanwhile_is_kept(tmp_path):
    staged = StagedPath(tmp_path / "index", overwrite=False)
    staged.path.write_text("ours")
    (tmp_path / "index").write_text("theirs")
    with pytest.raises(FileExistsError, match="written by somebody else meanwhile"):
        staged.publish()
    assert (tmp_path / "index").read_text() == "theirs"
    with pytest.raises(NotADirectoryError, match="expected a folder, got the file"):
        StagedPath(tmp_path / "index" / "deeper", overwrite=False)
