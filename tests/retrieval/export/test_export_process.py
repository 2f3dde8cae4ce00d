"""Embeddings looked through, written whole or not at all, and one dimension more: what holds for every target."""

from __future__ import annotations

import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from export_cases import by_formula, embeddings, export, source_of
from hypothesis import given, settings, strategies as st

from lightning_normdyn.retrieval import exact_top_k
from lightning_normdyn.retrieval.export.folding import Folding, augment_documents, augment_queries
from lightning_normdyn.retrieval.export.index_export import Source, measure_loss, survey_source, write_index
from lightning_normdyn.retrieval.indexes import Destination, index_writer


@given(st.integers(0, 1000), st.floats(0.1, 1.5), st.floats(1, 3))
@settings(max_examples=20)
def test_one_dimension_more_gives_every_metric_the_same_ranking(seed, spread, slack):
    """But for ties: stored in float32 the coordinate is off by at most 2^-24 of itself, half a squared distance so by
    2^-24·radius² and a cosine by 2^-24 of itself; two documents change places within twice that."""
    documents, queries = embeddings(m=60, d=6, seed=seed, spread=spread)
    radius = slack * float(documents.double().norm(dim=1).max())
    longer, asked = augment_documents(documents, radius=radius).double(), augment_queries(queries).double()
    torch.testing.assert_close(longer.norm(dim=1), torch.full((60,), radius, dtype=torch.float64), rtol=2**-24, atol=0)
    inner = queries.double() @ documents.double().T
    torch.testing.assert_close(asked @ longer.T, inner, rtol=1e-12, atol=1e-12)
    distances = torch.cdist(asked, longer, compute_mode="donot_use_mm_for_euclid_dist")
    rounding = 1.001 * 2**-24  # and the little that float64 adds
    for scores, error in ((-distances, rounding * radius**2), (cosines(asked, longer), rounding * inner.abs().max())):
        best = scores.topk(10).indices
        assert (inner.gather(1, best) - inner.topk(10).values).abs().max() <= 2 * error
    assert augment_documents(documents, radius=radius).dtype == torch.float32


def cosines(queries, documents):
    return queries @ documents.T / queries.norm(dim=1)[:, None] / documents.norm(dim=1)


def test_a_radius_below_a_norm_is_refused():
    with pytest.raises(ValueError, match="radius: expected at least the largest norm of all documents, 5, got 4"):
        augment_documents(torch.tensor([[3.0, 4.0]]), radius=4.0)


@given(st.floats(-2, 2), st.sampled_from(["cosine", "dot", "qnorm", "dnorm", "learnable"]), st.booleans())
@settings(max_examples=25)
def test_what_is_written_ranks_by_the_score(alpha, normalization, augment):
    gamma = 0.7 if normalization == "learnable" else None
    folding = Folding(normalization, alpha=alpha, gamma_document=gamma, augment=augment)
    documents, queries = embeddings(m=500)
    radius = float(folding.fold(documents).double().norm(dim=1).max())
    found = exact_top_k(folding.index_queries(queries), folding.index_documents(documents, radius=radius), 100).indices
    kept = {"cosine": 0, "dnorm": 0, "dot": 1, "qnorm": 1, "learnable": 0.3}[normalization]
    scores = by_formula(queries, documents, kept + alpha)
    best = scores.topk(100).values
    assert (scores.gather(1, found) - best).abs().max() <= 1e-5 * best.abs().max()


def test_a_survey_sees_every_row_whatever_the_chunks(tmp_path):
    documents, _ = embeddings()
    norms = documents.double().norm(dim=1)
    for rows in (1000, 7):
        seen = survey_source(source_of(documents, tmp_path, chunk_size=rows), Folding("dot"))
        assert (seen.rows, seen.zeros, seen.unit_length, seen.same_length) == (len(documents), 1, False, False)
        assert seen.longest == pytest.approx(float(norms.max()), rel=1e-6)
        assert seen.shortest == pytest.approx(float(norms[norms > 0].min()), rel=1e-6)
        assert seen.radius == seen.longest
        assert seen.largest == pytest.approx(float(documents.abs().max()))
        torch.testing.assert_close(seen.sample, documents, rtol=0, atol=0)


@pytest.mark.parametrize(("length", "unit"), [(1.0, True), (27.0, False)])
def test_embeddings_of_one_length_are_noticed(tmp_path, length, unit):
    documents, _ = embeddings()
    documents = length * torch.nn.functional.normalize(documents[1:]).half().float()
    seen = survey_source(source_of(documents, tmp_path), Folding())
    assert seen.same_length
    assert seen.unit_length is unit
    documents[3] *= 1.01
    assert not survey_source(source_of(documents, tmp_path), Folding()).same_length


def test_only_zero_vectors_are_of_no_length(tmp_path):
    seen = survey_source(source_of(torch.zeros(5, 3), tmp_path), Folding(alpha=-1))
    assert (seen.zeros, seen.same_length, seen.radius) == (5, False, 0)


def test_half_precision_on_disk_is_taken(tmp_path):
    documents, _ = embeddings()
    halved = np.asarray(documents.numpy(), np.float16)
    seen = survey_source(source_of(halved, tmp_path), Folding("dot"))
    torch.testing.assert_close(seen.sample, documents.half().float(), rtol=0, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_row_is_named_and_nothing_written(tmp_path, bad):
    documents, _ = embeddings()
    documents[321, 5] = bad
    with pytest.raises(ValueError, match=r"embeddings: row 321 \(id 'd321'\) expected finite numbers"):
        export(source_of(documents, tmp_path), "npy", tmp_path / "made" / "x.npy")
    assert not (tmp_path / "made").exists()


def test_what_float16_cannot_hold_is_named(tmp_path):
    documents, _ = embeddings()
    documents[222] *= 70_000 / documents[222].abs().max()
    source = source_of(documents, tmp_path)
    export(source, "npy", tmp_path / "x.npy", Folding("dot"))
    with pytest.raises(ValueError, match=r"row 222 \(id 'd222'\) is too large for float16 once it is folded"):
        export(source, "npy", tmp_path / "y.npy", Folding("dot"), dtype="float16")
    export(source, "npy", tmp_path / "z.npy", Folding("cosine"), dtype="float16")
    documents[222] *= 65_000 / documents[222].abs().max()
    longer = source_of(documents, tmp_path)
    export(longer, "npy", tmp_path / "fits.npy", Folding("dot"), dtype="float16")
    with pytest.raises(ValueError, match=r"augment: expected folded embeddings no longer than 65504 for float16"):
        export(longer, "npy", tmp_path / "made" / "x.npy", Folding("dot", augment=True), dtype="float16")
    assert not (tmp_path / "made").exists()
    documents[222] *= 1e15
    with pytest.raises(ValueError, match="the chunk begins at row 150 of the embeddings"):
        survey_source(source_of(documents, tmp_path), Folding("dot", alpha=2))


def test_lengths_whose_square_is_infinite_are_refused(tmp_path):
    source = source_of(3e19 * torch.eye(3, 2), tmp_path)
    survey_source(source, Folding("dot", augment=True))
    with pytest.raises(ValueError, match=r"no longer than 1\.8447e\+19 for squares in float32, which euclidean needs"):
        survey_source(source, Folding("dot", augment=True, metric="euclidean"))


@pytest.mark.parametrize("target", ["npy", "faiss"])
def test_what_euclidean_distances_lose_is_measured(tmp_path, target):
    pytest.importorskip({"faiss": "faiss"}.get(target, "torch"))
    documents, queries = embeddings()
    folding = Folding("dot", augment=True, metric="euclidean")
    recalls = []
    for longest in (1, 1e6):  # one outlier: the squares of all lengths hide the differences of scores
        documents[7] *= longest
        source = source_of(documents, tmp_path)
        seen = survey_source(source, folding)
        writer = export(source, target, tmp_path / f"x.{target}", folding, overwrite=True)
        recalls.append(measure_loss(source, folding, seen, writer, queries).recall)
    assert recalls[0] > 0.99
    assert recalls[1] < 0.5


def test_what_float16_makes_zero_is_named(tmp_path):
    documents, _ = embeddings()
    documents[222] *= 2**-25 / documents[222].abs().max()  # half of float16's smallest number, rounded to even: zero
    source = source_of(documents, tmp_path)
    with pytest.raises(ValueError, match=r"row 222 \(id 'd222'\) is so small once it is folded that float16 makes it"):
        export(source, "npy", tmp_path / "made" / "x.npy", Folding("dot"), dtype="float16")
    assert not (tmp_path / "made").exists()
    export(source, "npy", tmp_path / "cosine.npy", Folding("cosine"), dtype="float16")
    documents[222] *= 1.5
    export(source_of(documents, tmp_path), "npy", tmp_path / "fits.npy", Folding("dot"), dtype="float16")
    assert np.load(tmp_path / "fits.npy")[222].any()


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["a", "b", "a"], "ids: expected each id once, got 'a' in rows 0 and 2; keep one of them or rename the other"),
        (["a", "b"], "ids: expected one for each of 3 embeddings, got 2"),
    ],
)
def test_ids_name_each_row(tmp_path, ids, said):
    with pytest.raises(ValueError, match=said):
        survey_source(source_of(torch.eye(3), tmp_path, ids=ids), Folding())
    with pytest.raises(ValueError, match="embeddings: expected at least one vector, got none"):
        survey_source(source_of(np.zeros((0, 3), np.float32), tmp_path, ids=[]), Folding())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metric": "cosine"}, "metric: expected inner_product, got cosine, which divides every norm out again"),
        ({"metric": "euclidean"}, "got euclidean, which counts norms in another way; with augment it ranks the same"),
        ({"normalization": "learnable"}, "gamma_document: expected the learnt exponent with normalization 'learnable'"),
        (
            {"gamma_document": 0.3},
            "gamma_document: expected no exponent but with learnable, got normalization 'cosine'",
        ),
        ({"alpha": math.nan}, "alpha: expected a finite exponent"),
    ],
)
def test_foldings_that_would_rank_otherwise_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Folding(**options)


@pytest.mark.parametrize("target", ["npy", "parquet", "safetensors", "faiss", "usearch", "lancedb"])
def test_an_interrupted_export_leaves_what_was_there(tmp_path, target):
    pytest.importorskip({name: name for name in ("faiss", "usearch", "lancedb")}.get(target, "torch"))
    documents, queries = embeddings()
    whole = source_of(documents, tmp_path)
    out = tmp_path / "made" / f"x.{target}"

    class Interrupted(Source):
        def chunks(self, tell):
            yield next(super().chunks(tell))
            raise KeyboardInterrupt

    seen = survey_source(whole, Folding())
    with pytest.raises(KeyboardInterrupt):
        write_index(Interrupted(*whole), Folding(), seen, index_writer(target, Destination(str(out))))
    assert not (tmp_path / "made").exists()
    writer = export(whole, target, out)
    before, files = writer.search(queries, 5), sorted(out.parent.rglob("*"))
    destination = Destination(str(out), overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        write_index(Interrupted(*whole), Folding("dot"), seen, index_writer(target, destination))
    assert writer.search(queries, 5) == before
    assert sorted(out.parent.rglob("*")) == files


@pytest.mark.parametrize("target", ["npy", "parquet", "faiss"])
def test_passes_in_parts_write_the_same_bytes_and_measure_the_same_loss(tmp_path, target, monkeypatch):
    pytest.importorskip({"faiss": "faiss"}.get(target, "torch"))
    monkeypatch.setattr("lightning_normdyn.retrieval.export.index_export._SAMPLE_ROWS", 100)
    documents, queries = embeddings(1000)
    alone = source_of(documents, tmp_path, chunk_size=60)
    told = []

    def passes(tell, work, *, by_chunk=False):
        size = 60 if by_chunk else 240
        for start in range(0, 1000, size):
            rows = range(start, min(start + size, 1000))
            sent, file = pickle.loads(pickle.dumps((work, alone.file)))
            yield pickle.loads(pickle.dumps(sent(file.chunks(60, rows), rows)))
            tell(len(rows))

    apart = alone._replace(spread=lambda tell: partial(passes, tell))
    options = {"index": "hnsw"} if target == "faiss" else {"dtype": "float16"}
    folding, losses, content = Folding("dot", alpha=-0.5), [], []
    for name, source in (("alone", alone), ("apart", apart)):
        writer = index_writer(target, Destination(str(tmp_path / f"{name}.{target}"), **options))
        seen = survey_source(source, folding, half=target != "faiss", tell=told.append)
        write_index(source, folding, seen, writer)
        losses.append(measure_loss(source, folding, seen, writer, queries, half=target != "faiss"))
        content.append(((tmp_path / f"{name}.{target}").read_bytes(), seen[:-1], seen.sample.tolist()))
    assert content[0] == content[1]
    assert losses[0] == losses[1]
    assert sum(told) == 2000
    np.save(tmp_path / "embeddings.npy", documents.index_fill(0, torch.tensor([700]), torch.inf).numpy())
    for source in (alone, apart):
        with pytest.raises(ValueError, match=r"^embeddings: row 700 \(id 'd700'\) expected finite numbers"):
            survey_source(source, folding)


def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match=r"target: expected one of npy, parquet, .*, got 'weaviate'"):
        index_writer("weaviate", Destination("x"))
