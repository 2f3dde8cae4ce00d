"""FAISS indexes: exact ones rank by the score, approximate ones lose what is measured."""

from __future__ import annotations

import pytest
from export_cases import embeddings, export, ranked, source_of

from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.export.index_export import measure_loss, survey_source
from lightning_normdyn.retrieval.indexes import Destination, IndexParameters, index_writer

faiss = pytest.importorskip("faiss")


@pytest.mark.parametrize("options", [{}, {"augment": True}, {"augment": True, "metric": "euclidean"}])
def test_a_flat_index_ranks_by_the_score(tmp_path, options):
    documents, queries = embeddings()
    source = source_of(documents, tmp_path)
    writer = export(source, "faiss", tmp_path / "x.faiss", Folding("cosine", alpha=0.5, **options))
    folding = Folding("cosine", alpha=0.5, **options)
    assert writer.search(folding.index_queries(queries), 10).ids == ranked(queries, documents, 0.5, source.ids)
    index = faiss.read_index(str(tmp_path / "x.faiss"))
    wanted = faiss.METRIC_L2 if "metric" in options else faiss.METRIC_INNER_PRODUCT
    assert (index.metric_type, index.ntotal, index.d) == (wanted, len(documents), 24 + bool(options))


def test_whole_numbers_are_ids_of_the_index_itself(tmp_path):
    documents, queries = embeddings()
    ids = [str(7 * row + 2**40) for row in range(len(documents))]
    writer = export(source_of(documents, tmp_path, ids=ids), "faiss", tmp_path / "x.faiss")
    assert sorted(file.name for file in tmp_path.glob("x.*")) == ["x.faiss", "x.faiss.export.json"]
    numbers = faiss.read_index(str(tmp_path / "x.faiss")).search(queries.numpy(), 10)[1]
    assert [[str(one) for one in row] for row in numbers.tolist()] == ranked(queries, documents, 0, ids)
    assert writer.search(queries, 10).ids == ranked(queries, documents, 0, ids)


@pytest.mark.parametrize(("index", "least"), [("hnsw", 0.95), ("IVF8,PQ4x4", 0.2), ("IVF8,SQ8", 0.3)])
def test_the_loss_of_an_approximate_index_is_its_recall(tmp_path, index, least):
    documents, queries = embeddings(m=1000, d=16)
    source, folding = source_of(documents, tmp_path), Folding("dot")
    writer = export(source, "faiss", tmp_path / "x.faiss", folding, index=index)
    loss = measure_loss(source, folding, survey_source(source, folding), writer, queries)
    found = writer.search(queries, 10).ids
    exact = ranked(queries, documents, 1, source.ids)
    shared = sum(len(set(one) & set(best)) for one, best in zip(found, exact, strict=True))
    assert loss.recall == pytest.approx(shared / 60)
    assert loss[1:] == (10, 6, None)
    assert writer.approximate
    assert loss.recall >= least


def test_a_dimension_that_eight_does_not_divide_is_padded(tmp_path):
    documents, queries = embeddings(m=600, d=8)
    folding = Folding("dot", augment=True)
    writer = export(source_of(documents, tmp_path), "faiss", tmp_path / "x.faiss", folding, index="ivfpq")
    assert len(writer.search(folding.index_queries(queries), 10).ids[0]) == 10


def test_half_precision_states_its_loss(tmp_path):
    documents, queries = embeddings(m=1500)
    source, folding = source_of(documents, tmp_path), Folding("dot")
    writer = export(source, "faiss", tmp_path / "x.faiss", folding, dtype="float16")
    loss = measure_loss(source, folding, survey_source(source, folding), writer, queries, half=True)
    exact = queries.double() @ documents.double().T
    rounded = queries.double() @ documents.half().double().T
    expected = ((rounded - exact).abs() / exact.abs().amax(1, keepdim=True)).max()
    assert loss.score_error == pytest.approx(float(expected), rel=1e-6)
    assert 1e-5 < loss.score_error < 2e-3
    assert loss.recall > 0.95


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"index": "ivfpq"}, "index: expected at least 256 vectors for ivfpq to learn from, got 100; take flat"),
        ({"index": "IVF512,Flat"}, "index: FAISS cannot make 'IVF512,Flat' of 100 vectors of 24 numbers"),
        ({"index": "Nonsense"}, "index: FAISS cannot make 'Nonsense'"),
        ({"index": "L2norm,Flat"}, "index: expected no L2norm, which divides every norm out again, got 'L2norm,Flat'"),
        ({"index": "PCA8,L2Norm,IVF4,Flat"}, "index: expected no L2norm"),
        ({"index": "IDMap,Flat"}, "index: expected no IDMap, which is added anyway, got 'IDMap,Flat'; leave it out"),
        ({"index": "IDMap2,HNSW32"}, "index: expected no IDMap"),
        ({"index": "ivfpq", "dtype": "float16"}, "dtype: expected float32 with index 'ivfpq'"),
    ],
)
def test_what_faiss_cannot_make_is_said_and_leaves_nothing(tmp_path, options, said):
    source = source_of(embeddings(m=100)[0], tmp_path)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (what it says is compared below)
        export(source, "faiss", tmp_path / "made" / "x.faiss", **options)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


def test_equal_lengths_may_be_divided_out(tmp_path):
    documents, queries = embeddings()
    source, folding = source_of(documents, tmp_path), Folding("dot", augment=True)
    writer = export(source, "faiss", tmp_path / "x.faiss", folding, index="L2norm,Flat")
    assert writer.search(folding.index_queries(queries), 10).ids == ranked(queries, documents, 1, source.ids)


def test_faiss_has_no_cosine(tmp_path):
    with pytest.raises(ValueError, match="metric: expected inner_product or euclidean"):
        export(source_of(embeddings()[0], tmp_path), "faiss", tmp_path / "x", Folding(augment=True, metric="cosine"))


def test_without_faiss_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"needs faiss; install with: pip install 'lightning-normdyn\[faiss\]'"
    ):
        index_writer("faiss", Destination("x.faiss"))


@pytest.mark.parametrize(("index", "options"), [("hnsw", {"m": 1}), ("HNSW1", {}), ("hnsw", {"m": 10**9})])
def test_graphs_that_end_the_process_are_refused(tmp_path, index, options):
    source = source_of(embeddings()[0], tmp_path)
    with pytest.raises(ValueError, match=r"m: expected 2 to 1024 neighbours of a node of a graph of FAISS, got 1"):
        export(source, "faiss", tmp_path / "x.faiss", index=index, parameters=IndexParameters(**options))
    assert not list(tmp_path.glob("*x.faiss*"))
