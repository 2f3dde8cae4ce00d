"""Exact search against sorting every score in float64, whatever the chunks, the device of thought or the ties."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.retrieval import exact_top_k, norm_aware_top_k
from lightning_normdyn.retrieval.search.running_top_k import RunningTopK
from lightning_normdyn.retrieval.search.top_k import merged_top_k

D = 6


@pytest.fixture(scope="module", autouse=True)
def narrow_tiles():
    """Few queries would have one tile hold all documents, and nothing would be carried from one to the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_normdyn.retrieval.search.top_k.tile_width", lambda *_: 128)
        yield


def whole_numbers(seed, n=5, m=3000, most=3):
    """Embeddings of small whole numbers: scores are exact in float32, and many are equal."""
    draw = torch.Generator().manual_seed(seed)
    return (torch.randint(-most, most + 1, (rows, D), generator=draw).float() for rows in (n, m))


def by_sorting(queries, documents, k, excluded=()):
    scores = (queries.double() @ documents.double().T).tolist()
    found = []
    for query, row in enumerate(scores):
        allowed = [document for document in range(len(row)) if (query, document) not in excluded]
        found.append(sorted(allowed, key=lambda document: (-row[document], document))[:k])
    return torch.tensor(found), torch.tensor([[scores[q][d] for d in row] for q, row in enumerate(found)])


@pytest.mark.parametrize("k", [1, 10, 100, 1500])
@pytest.mark.parametrize("backwards", [False, True])
def test_ties_go_to_the_smaller_index(k, backwards):
    """Documents from worst to best are the hardest: each chunk holds the best so far."""
    queries, documents = whole_numbers(k)
    if backwards:
        documents = documents[(documents @ queries[0]).argsort(stable=True)]
    indices, scores = by_sorting(queries, documents, k)
    found = exact_top_k(queries, documents, k)
    assert torch.equal(found.indices, indices)
    assert torch.equal(found.scores.double(), scores.double())


@given(
    st.integers(1, 5),
    st.integers(1, 2500),
    st.integers(1, 40),
    st.integers(1, 2500),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2499)), max_size=30, unique=True),
)
@settings(max_examples=12)
def test_any_size_and_any_exclusion(n, m, k, chunk_size, excluded):
    queries, documents = whole_numbers(m, n, m)
    excluded = [(query, document) for query, document in excluded if query < n and document < m]
    pairs = tuple(torch.tensor(excluded, dtype=torch.int64).view(-1, 2).unbind(1))
    found = exact_top_k(queries, documents, k, chunk_size=chunk_size, excluded_pairs=pairs)
    assert found.indices.shape == (n, min(k, m))
    for query in range(n):
        indices, _ = by_sorting(queries[query : query + 1], documents, k, {(0, d) for q, d in excluded if q == query})
        row = found.indices[query].tolist()
        missing = min(k, m) - indices.shape[1]
        assert row == indices[0].tolist() + [-1] * missing
        assert found.scores[query].isneginf().sum() == missing


def test_chunks_and_kinds_of_documents_change_no_bit(tmp_path):
    draw = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(7, 40, generator=draw), torch.randn(20_000, 40, generator=draw)
    found = exact_top_k(queries, documents, 30)
    stored = np.memmap(tmp_path / "documents", dtype=np.float32, mode="w+", shape=documents.shape)
    stored[:] = documents.numpy()
    stored.flush()
    read = np.memmap(tmp_path / "documents", dtype=np.float32, mode="r", shape=documents.shape)
    for other, size in [
        (documents, 1),
        (documents, 17_000),
        (read, None),
        (documents.T.contiguous().T, None),
        (documents.split(777), None),
        ((part.numpy() for part in documents.split(9_999)), 1),
    ]:
        again = exact_top_k(queries, other, 30, chunk_size=size)
        assert torch.equal(again.indices, found.indices)
        assert torch.equal(again.scores, found.scores)
    assert (found.scores[:, -1] > 0).all()
    worst = exact_top_k(-queries, documents.abs() + 1, 30)
    assert torch.equal(worst.indices, (-queries @ (documents.abs() + 1).T).topk(30).indices)


def test_equal_documents_tie_wherever_they_lie():
    vectors = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    found = exact_top_k(vectors[:2], vectors[2:].expand(9_000, 40), 50)
    assert torch.equal(found.indices, torch.arange(50).expand(2, 50))


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=5), st.integers(1, 60), st.integers(0, 99))
@settings(max_examples=15)
def test_parts_that_are_searched_apart_find_what_one_search_finds(sizes, k, seed):
    """Few whole numbers: most scores are equal, also across parts, and the first row is the better."""
    queries, documents = whole_numbers(seed, m=sum(sizes), most=2)
    parts = documents.split(sizes)
    first_rows = [sum(sizes[:number]) for number in range(len(sizes))]
    merged = merged_top_k([exact_top_k(queries, part, k) for part in parts], first_rows, k)
    whole = exact_top_k(queries, documents, k)
    assert torch.equal(merged.scores, whole.scores)
    assert torch.equal(merged.indices, whole.indices)
    assert torch.equal(merged.indices, by_sorting(queries, documents, min(k, len(documents)))[0])
    with pytest.raises(ValueError, match="expected one or more, got none"):
        merged_top_k([], [], k)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    """Ranks of sums that half precision could not tell apart, or not hold at all."""
    draw = torch.Generator().manual_seed(2)
    queries, documents = 60 * torch.randn(4, 64, generator=draw), 60 * torch.randn(5000, 64, generator=draw)
    queries, documents = queries.to(dtype), documents.to(dtype)
    indices, scores = by_sorting(queries, documents, 20)
    with torch.autocast("cpu", torch.bfloat16):
        found = exact_top_k(queries, documents, 20)
    assert found.scores.dtype == torch.float32
    assert torch.equal(found.indices, indices)
    torch.testing.assert_close(found.scores.double(), scores.double(), rtol=1e-5, atol=1e-2)


def test_float64_tells_apart_what_float32_cannot():
    documents = 1 + torch.arange(2000, dtype=torch.float64).unsqueeze(1) * 1e-12
    found = exact_top_k(torch.ones(1, 1), documents, 5)
    assert found.indices.tolist() == [[1999, 1998, 1997, 1996, 1995]]
    assert found.scores.dtype == torch.float64


def test_more_queries_than_one_block_holds():
    draw = torch.Generator().manual_seed(3)
    queries, documents = torch.randn(5000, 3, generator=draw), torch.randn(1500, 3, generator=draw)
    last = (torch.tensor([4999]), torch.tensor([int((documents @ queries[4999]).argmax())]))
    found, filtered = exact_top_k(queries, documents, 2), exact_top_k(queries, documents, 2, excluded_pairs=last)
    assert torch.equal(found.indices, (queries @ documents.T).topk(2).indices)
    assert torch.equal(filtered.indices[:4999], found.indices[:4999])
    assert filtered.indices[4999, 0] == found.indices[4999, 1]


def test_nothing_to_find():
    assert exact_top_k(torch.ones(2, 3), torch.empty(0, 3), 4).indices.shape == (2, 0)
    assert exact_top_k(torch.empty(0, 3), torch.ones(5, 3), 4).indices.shape == (0, 4)
    assert exact_top_k(torch.ones(1, 3), [], 4).scores.shape == (1, 0)


@pytest.mark.parametrize("excluded", [False, True])
def test_faiss_finds_the_same(excluded):
    pytest.importorskip("faiss")
    draw = torch.Generator().manual_seed(4)
    queries, documents = torch.randn(6, 8, generator=draw), torch.randn(4000, 8, generator=draw)
    first = exact_top_k(queries, documents, 3).indices
    pairs = (torch.arange(6).repeat_interleave(3), first.flatten()) if excluded else None
    ours = exact_top_k(queries, documents, 12, excluded_pairs=pairs)
    theirs = exact_top_k(queries, documents, 12, excluded_pairs=pairs, chunk_size=900, backend="faiss")
    assert torch.equal(ours.indices, theirs.indices)
    torch.testing.assert_close(ours.scores, theirs.scores)
    assert torch.isin(ours.indices[0], first[0]).any() != excluded


def test_candidates_in_any_order_tell_ties_by_index():
    draw = torch.Generator().manual_seed(5)
    scores = torch.randint(0, 4, (2, 300), generator=draw).double()
    running_top_k = RunningTopK(2, 20, scores, ascending=False)
    for columns in torch.randperm(300, generator=draw).split(7):
        for row in range(2):
            running_top_k.offer(torch.full_like(columns, row), columns, scores[row, columns])
    running_top_k.settle()
    for row in range(2):
        best = sorted(range(300), key=lambda at: (-scores[row, at].item(), at))[:20]
        assert running_top_k.indices[row].tolist() == best


SPOILT = torch.ones(3000, 2).index_fill(0, torch.tensor([2000]), torch.nan)
HUGE = torch.full((2, 2), 3e38)
LOW = torch.tensor([[-1e30], [1.0]])
PAIR = (torch.tensor([1]), torch.tensor([0]))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda q: exact_top_k(q, SPOILT, 1), "documents: expected finite numbers, got NaN .* in row 2000"),
        (lambda q: exact_top_k(q, SPOILT, 1, backend="faiss"), "documents: .* in row 2000"),
        (lambda q: exact_top_k(SPOILT, q, 1), "queries: expected finite numbers, .* in row 2000"),
        (lambda q: exact_top_k(q, HUGE, 1), r"scores within torch.float32, got larger ones from row 0 on"),
        (lambda q: exact_top_k(1e30 * q[:, :1], LOW, 2), r"scores within torch.float32, got larger ones from row 0 on"),
        (lambda q: exact_top_k(1e30 * q[:, :1], LOW, 2, backend="faiss"), r"scores within torch.float32, got larger"),
        (lambda q: exact_top_k(q[:, :1], LOW * torch.inf, 2), "documents: expected finite numbers, .* in row 0"),
        (lambda q: exact_top_k(q[0], q, 1), r"queries: expected \[n, d\], got \(2,\); a single one is queries\[None\]"),
        (lambda q: exact_top_k(q, torch.ones(1, 3), 1), r"documents: expected \[m, 2\] .* got \(1, 3\)"),
        (lambda q: exact_top_k(q, iter([7]), 1), r"documents: expected \[m, 2\] .* got int"),
        (lambda q: exact_top_k(q, q, 0), "k: expected a whole number, 1 or more, got 0"),
        (lambda q: exact_top_k(q, q, 1, chunk_size=0), "chunk_size: expected a whole number, 1 or more, got 0"),
        (lambda q: exact_top_k(q, q, 1, backend="annoy"), "backend: expected 'auto', 'torch' or 'faiss'"),
        (
            lambda q: exact_top_k(q, q, 1, excluded_pairs=PAIR),
            "excluded_pairs: expected queries by position, 0 to 0, got 1 to 1",
        ),
        (lambda q: exact_top_k(q, q, 1, excluded_pairs=(PAIR[0], q)), r"excluded_pairs: .* got \(1,\) and \(1, 2\)"),
        (lambda q: exact_top_k(q.double(), q, 1, backend="faiss"), "queries: expected float32 on the CPU for faiss"),
    ],
)
def test_what_does_not_fit_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(torch.ones(1, 2))


def test_scores_as_low_as_the_type_goes_are_scores():
    found = exact_top_k(torch.tensor([[1e19]]), torch.tensor([[-3e19], [1.0]]), 2)
    assert found.indices.tolist() == [[1, 0]]
    assert found.scores.isfinite().all()


def test_more_than_all_documents_take_no_room():
    _, documents = whole_numbers(0)
    found = exact_top_k(documents[:2], documents, 10**12)
    assert found.indices.shape == (2, len(documents))
    assert torch.equal(found.indices, exact_top_k(documents[:2], documents, len(documents)).indices)
    assert norm_aware_top_k(documents[:2], documents, 10**12).indices.shape == (2, len(documents))


def test_faiss_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert exact_top_k(torch.ones(1, 2), torch.ones(1, 2), 1).indices.tolist() == [[0]]
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lightning-normdyn\[faiss\]'"):
        exact_top_k(torch.ones(1, 2), torch.ones(1, 2), 1, backend="faiss")


def test_products_are_exact_whatever_training_asked_for():
    """``medium`` lets float32 products be rounded; the search asks for whole ones and puts the setting back."""
    queries, documents = (torch.randn(rows, 64, generator=torch.Generator().manual_seed(rows)) for rows in (20, 600))
    exact = exact_top_k(queries, documents, 10)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        again = exact_top_k(queries, documents, 10)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(again.indices, exact.indices)
    assert torch.equal(again.scores, exact.scores)


def test_either_product_of_a_processor_finds_what_float64_finds(monkeypatch):
    """oneDNN's where it is wide enough, and the one of torch.mm."""
    draw = torch.Generator().manual_seed(3)
    queries, documents = torch.randn(33, 47, generator=draw), torch.randn(2100, 47, generator=draw)
    best = (queries.double() @ documents.double().T).topk(7)
    for is_wide in (torch.backends.mkldnn.is_available(), False):
        choice = "lightning_normdyn.retrieval.search.tiles._has_wide_products"
        monkeypatch.setattr(choice, lambda _, is_wide=is_wide: is_wide)
        top_k = exact_top_k(queries, documents, 7)
        assert torch.equal(top_k.indices, best.indices)
        torch.testing.assert_close(top_k.scores.double(), best.values, rtol=1e-5, atol=1e-5)
