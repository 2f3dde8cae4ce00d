"""The sweep against one float64 ranking an exponent, and what it must find in planted relevance."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.sparse import csr_matrix

from lightning_normdyn.core import NORMALIZATIONS
from lightning_normdyn.core.statistics.ranking import grade_ranking, measure_named
from lightning_normdyn.datasets import Judgements
from lightning_normdyn.retrieval import sweep_alpha
from lightning_normdyn.retrieval.exponent.running_alpha_top_k import log_norms, norm_bands
from lightning_normdyn.retrieval.exponent.sweep import ALPHAS
from lightning_normdyn.retrieval.search.tiles import tile_width


@pytest.fixture(scope="module", autouse=True)
def narrow_tiles():
    """Few queries would have one tile hold all documents, and nothing would be carried from one to the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_normdyn.retrieval.exponent.sweep.tile_width", lambda *_: 128)
        yield


def embeddings(seed, n, m, spread, d=8):
    draw = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(rows, d, generator=draw) * (spread * torch.randn(rows, 1, generator=draw)).exp() for rows in (n, m)
    )


def judged(seed, n, m, pairs=300):
    draw = torch.Generator().manual_seed(seed + 1)
    keys = torch.randperm(n * m, generator=draw)[:pairs].sort().values
    return Judgements(keys // m, keys % m, torch.randint(0, 4, (len(keys),), generator=draw).float())


def one_at_a_time(queries, documents, judgements, measure, gamma=1.0, excluded=()):
    """Every exponent by itself: all scores in float64, sorted, the smaller index first among equals."""
    q, d = queries.double(), documents.double()
    norms = d.norm(dim=1)
    norms = norms.where(norms > 0, 1)
    rows = []
    for alpha in ALPHAS:
        scores = (q @ d.T) * norms ** (alpha - gamma)
        for pair in excluded:
            scores[pair] = -torch.inf
        indices = scores.sort(dim=1, descending=True, stable=True).indices
        indices = indices.where(scores.gather(1, indices) > -torch.inf, -1)
        wanted = measure_named(measure)
        rows.append(wanted.of(grade_ranking(indices[:, : wanted.depth], judgements, len(queries))))
    return torch.stack(rows)


@given(
    st.integers(0, 10**6),
    st.integers(1, 12),
    st.integers(1, 1500),
    st.sampled_from([0.0, 0.1, 0.5, 2.0]),
    st.sampled_from(["ndcg@10", "map@30", "hits@1", "recall@700"]),
    st.integers(1, 1500),
)
@settings(max_examples=12)
def test_every_exponent_ranks_as_if_it_were_alone(seed, n, m, spread, measure, chunk_size):
    queries, documents = embeddings(seed, n, m, spread)
    judgements = judged(seed, n, m)
    found = sweep_alpha(queries.double(), documents, judgements, measure=measure, chunk_size=chunk_size)
    expected = one_at_a_time(queries, documents, judgements, measure)
    torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-12, equal_nan=True)
    assert found.alphas.tolist() == list(ALPHAS)
    assert found.measure == measure


@pytest.mark.parametrize("normalization", [*NORMALIZATIONS, "learnable"])
def test_every_normalization_in_float32(normalization):
    queries, documents = embeddings(1, 20, 3000, 0.5)
    judgements = judged(1, 20, 3000, 20_000)
    learnt = {"gamma_query": 0.2, "gamma_document": 0.6} if normalization == "learnable" else {}
    gamma = 0.6 if normalization == "learnable" else NORMALIZATIONS[normalization][1]
    found = sweep_alpha(queries, documents.split(999), judgements, normalization=normalization, **learnt)
    expected = one_at_a_time(queries, documents, judgements, "ndcg@10", gamma)
    torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-12)
    assert expected.mean(1).std() > 0.003


def test_ties_zero_vectors_and_exclusions():
    """Whole numbers on axes: many scores are equal, many zero, and lengths differ."""
    draw = torch.Generator().manual_seed(2)
    documents = torch.randint(-1, 2, (3000, 3), generator=draw).double()
    documents[documents.count_nonzero(1) != 1] = 0
    documents *= 2.0 ** torch.randint(-1, 2, (3000, 1), generator=draw)
    queries = torch.cat((torch.eye(3), -torch.eye(3), torch.zeros(1, 3))).double()
    judgements = judged(2, 7, 3000, 4000)
    pairs = torch.randint(0, 7, (400,), generator=draw), torch.randint(0, 3000, (400,), generator=draw)
    excluded = list(zip(*(column.tolist() for column in pairs), strict=True))
    for measure in ("ndcg@10", "map@500"):
        found = sweep_alpha(queries, documents, judgements, measure=measure, chunk_size=1024, excluded_pairs=pairs)
        expected = one_at_a_time(queries, documents, judgements, measure, excluded=excluded)
        torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("planted", [-1.2, 0.0, 0.6])
def test_a_planted_exponent_is_the_best(planted):
    queries, documents = embeddings(3, 40, 3000, 0.4)
    scores = (
        torch.nn.functional.cosine_similarity(queries[:, None], documents, dim=2) * documents.norm(dim=1) ** planted
    )
    top = scores.topk(10, dim=1).indices
    judgements = Judgements(torch.arange(40).repeat_interleave(10), top.flatten(), torch.ones(400))
    found = sweep_alpha(queries, documents, judgements)
    assert found.alphas[found.values.mean(1).argmax()] == pytest.approx(planted)
    assert found.values.mean(1).max() > 0.999


@pytest.mark.parametrize("reach", [1.1, 1.5, 30.0])
def test_a_document_that_enters_at_one_exponent_alone_is_found(reach):
    """For each exponent a document that is best there and nowhere else, in a band of its own and at its end.

    At ``log |d| = a / 2`` and ``log cos = c - |log |d||²`` a document is best at exponent ``a``. All of these are there
    from the start, a little worse, so that any cutoff but that of the exponent, at that end of the band, is too high.
    """
    alphas, width = torch.tensor(ALPHAS, dtype=torch.float64), tile_width(21, torch.device("cpu"))
    norms, cosines = (alphas / 2).exp(), 0.9 * (-(alphas / 2).square()).exp()
    draw = torch.Generator().manual_seed(0)

    def chunk(norms, cosines, others):
        filling = 1e-4 * (2 * torch.rand(width - len(norms), generator=draw, dtype=torch.float64) - 1)
        lengths, cosines = torch.cat((norms, others[: len(filling)])), torch.cat((cosines, filling))
        return torch.stack((lengths * cosines, lengths * (1 - cosines.square()).sqrt()), dim=1)

    steps = torch.rand(width, generator=draw, dtype=torch.float64)
    chunks = [chunk(norms, 0.995 * cosines, (4 * steps - 2).exp())]
    for alpha, norm, cosine in zip(alphas, norms, cosines, strict=True):
        others = norm * torch.pow(reach, steps if alpha < 1 else -steps)  # the power beside the product is alpha - 1
        chunks.append(chunk(norm[None], cosine[None], others))
    judgements = Judgements.of([(number, width * (number + 1), 1.0) for number in range(21)])
    queries = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(21, 2)
    sweep = sweep_alpha(queries, torch.cat(chunks), judgements, alphas=alphas, measure="hits@1", chunk_size=width)
    torch.testing.assert_close(sweep.values, torch.eye(21, dtype=torch.float64))


def test_only_judged_queries_have_a_value():
    queries, documents = embeddings(4, 5, 50, 0.3)
    judgements = Judgements.of([(3, 7, 2.0), (1, 4, 0.0)])
    found = sweep_alpha(queries, documents, judgements, alphas=torch.tensor([1.0, -1.0, 0.0]), measure="recall@50")
    assert found.alphas.tolist() == [-1, 0, 1]
    assert found.values.isnan().all(0).tolist() == [True, True, True, False, True]
    assert found.values[:, 3].tolist() == [1, 1, 1]
    assert sweep_alpha(queries, documents, Judgements.of([])).values.isnan().all()


@given(st.integers(1, 300), st.integers(1, 64), st.booleans())
@settings(max_examples=30)
def test_bands_hold_every_document_once_from_both_ends_inwards(rows, width, sample):
    chunk = embeddings(rows, 1, rows, 1.0)[1]
    chunk[::7] = 0
    bands = [band._replace(documents=band.documents.clone()) for band in norm_bands(chunk, width, sample=sample)]
    assert torch.cat([band.indices for band in bands]).sort().values.tolist() == list(range(rows))
    assert all(0 < len(band.indices) <= width for band in bands)
    assert all(torch.equal(band.documents, chunk[band.indices]) for band in bands)
    inwards = [*bands[1 + sample :: 2], *bands[sample::2][::-1]]
    assert (torch.cat([torch.empty(0), *(band.log_norms for band in inwards)]).diff() >= 0).all()
    if sample:
        third = min(rows, width) // 3
        ends, norms = bands[0].log_norms.sort().values, log_norms(chunk).sort().values
        assert torch.equal(ends[:third], norms[:third])
        assert torch.equal(ends[len(ends) - third :], norms[rows - third :])


def test_extreme_lengths_have_logarithms():
    chunk = torch.tensor([[3e-30, 4e-30], [3e30, 4e30], [3.0, 4.0], [0.0, 0.0]])
    expected = torch.tensor([5e-30, 5e30, 5.0, 5e-30], dtype=torch.float64).log()
    torch.testing.assert_close(log_norms(chunk), expected, rtol=1e-6, atol=1e-6)


ONE = Judgements.of([(0, 0, 1.0)])
FAR = Judgements.of([(0, 0, 1.0), (0, 5, 1.0)])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda x: sweep_alpha(x, x, ONE, alphas=(1.0, 2.0)), "alphas: expected different finite .* got .1.0, 2.0."),
        (lambda x: sweep_alpha(x, x, ONE, alphas=(0.0, 0.0)), "alphas: expected different"),
        (
            lambda x: sweep_alpha(x, x, ONE, alphas=csr_matrix([[0.0, 1.0]])),
            r"^alphas: expected exponents, 0 among them, got csr_matrix of float64 \(1, 2\); pass a list of numbers$",
        ),
        (
            lambda x: sweep_alpha(x, x, ONE, alphas=torch.eye(3)),
            r"^alphas: expected exponents \[a\], got Tensor of [^\n]*$",
        ),
        (
            lambda x: sweep_alpha(x, x, ONE, alphas=list(range(1, 500))),
            r"^alphas: .*0 among them, got \[1.0, .{,90}\.\.\.; 0 is",
        ),
        (lambda x: sweep_alpha(x, x, ONE, measure="ndcg"), "measure: expected one of"),
        (
            lambda x: sweep_alpha(x, x, Judgements.of([(5, 0, 1.0)])),
            "judgements: expected queries .* 0 to 1, got 5 to 5",
        ),
        (lambda x: sweep_alpha(x, x, FAR), "judgements: expected documents .* 0 to 1, got 0 to 5"),
        (lambda x: sweep_alpha(x, iter([x]), FAR), "judgements: expected documents .* 0 to 1, got 0 to 5"),
        (
            lambda x: sweep_alpha(x, iter([x]), Judgements.of([(0, -1, 1.0)])),
            "documents by position, from 0 up, got -1",
        ),
        (lambda x: sweep_alpha(x, x, Judgements.of([(0, 0, torch.nan)])), "judgements: expected finite grades"),
        (lambda x: sweep_alpha(x, torch.full((3, 2), torch.nan), ONE), "documents: expected finite numbers, .* row 0"),
        (lambda x: sweep_alpha(x, torch.eye(3, 2) / torch.tensor([1, 0]), ONE), "documents: expected finite numbers, "),
        (
            lambda x: sweep_alpha(x, x, ONE, owners=torch.tensor([0, 2**40])),
            "owners: expected documents .* in a row, got",
        ),
        (lambda x: sweep_alpha(x, x.to_sparse(), ONE), "documents: expected a dense tensor, got .*to_dense"),
        (
            lambda x: sweep_alpha(x, 1e200 * x.double(), ONE),
            "documents: expected norms whose powers are within float64",
        ),
        (  # no factor brings these nearer to each other
            lambda x: sweep_alpha(x, torch.tensor([[1e-7, 0], [1e7, 0]]), ONE, alphas=(0.0, 200.0)),
            "norms between 1e-07, 1e[+]07 from row 0 on; take alphas nearer 0, or scale",
        ),
        (lambda x: sweep_alpha(x[0], x, ONE), r"queries: expected \[n, d\]"),
    ],
)
def test_what_does_not_fit_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(torch.ones(2, 2))


def test_a_spoilt_document_is_named_wherever_its_norm_puts_it():
    queries, documents = embeddings(5, 3, 5000, 0.5)
    documents[3210, 2] = torch.nan
    with pytest.raises(ValueError, match="in row 3210"):
        sweep_alpha(queries, documents, ONE, chunk_size=2048)
