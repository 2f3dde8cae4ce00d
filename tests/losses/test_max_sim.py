"""Late interaction: a float64 loop over tokens, padding of every kind, chunks, halves, memory and another library."""

import itertools

import contrast_oracle as oracle
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_normdyn.core.contrast import token_maxima
from lightning_normdyn.losses import InfoNCE, MaxSim

N, M, Q, T, D = 5, 7, 4, 6, 5
QUERY_LENGTHS = [4, 1, 3, 2, 4]
DOCUMENT_LENGTHS = [3, 6, 1, 5, 2, 4, 6]
IDS = torch.tensor([0, 3, 0, -1, -1, 3, 0])


def tokens(rows, length, seed, width=D):
    generator = torch.Generator().manual_seed(seed)
    norms = (0.3 * torch.randn(rows, length, 1, generator=generator)).exp()
    return torch.randn(rows, length, width, generator=generator) * norms


def mask(lengths, width):
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def batch(dtype=torch.float32, width=D):
    """Queries and documents, and their masks; what is padded is no number."""
    masks = mask(QUERY_LENGTHS, Q), mask(DOCUMENT_LENGTHS, T)
    sides = tokens(N, Q, 0, width), tokens(M, T, 1, width)
    queries, documents = (
        side.masked_fill(~flags[..., None], torch.nan).to(dtype).requires_grad_()
        for side, flags in zip(sides, masks, strict=True)
    )
    return queries, documents, *masks


class Reference:
    """The loss as its definition reads: every score of two tokens by itself."""

    def __init__(self, queries, documents, *, normalization, temperature=0.3, is_mean=True):
        self.of_tokens = oracle.Scores(queries[0], documents[0], normalization=normalization, temperature=temperature)
        self.queries, self.documents = (side.detach().double().requires_grad_() for side in (queries, documents))
        rows = []
        for i in range(len(queries)):
            row = []
            for j in range(len(documents)):
                best = [
                    max(self.score(i, a, j, b) for b in range(DOCUMENT_LENGTHS[j])) for a in range(QUERY_LENGTHS[i])
                ]
                row.append(sum(best) / (len(best) if is_mean else 1))
            rows.append(torch.stack(row))
        self.logits = torch.stack(rows)

    def score(self, i, a, j, b):
        return self.of_tokens.of(self.queries[i, a][None], self.documents[j, b][None], 0, 1)[0, 0]

    def losses(self, *, symmetric=False, ids=None):
        """Of the queries, ``[n]``."""
        values = []
        for i in range(N):
            columns = [j for j in range(M) if j == i or ids is None or ids[j] == -1 or ids[j] != ids[i]]
            forth = self.logits[i, columns].logsumexp(0) - self.logits[i, i]
            back = self.logits[[k for k in columns if k < N], i].logsumexp(0) - self.logits[i, i]
            values.append((forth + back) / 2 if symmetric else forth)
        return torch.stack(values)

    def leaves(self, normalization):
        leaves = [self.queries, self.documents, self.of_tokens.log_scale]
        return [*leaves, self.of_tokens.raw_gammas] if normalization == "learnable" else leaves


def make(normalization, **options):
    settings = {"temperature": 0.3, "learnable_temperature": True, "max_scale": 1e3}
    return MaxSim(normalization=normalization, **(settings | options))


def assert_same(value, expected, sources, references, *, tolerance=1e-5):
    torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=0)
    gradients = torch.autograd.grad(value, sources)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, references), strict=True):
        gap = float((ours.double() - theirs.reshape(ours.shape)).norm())
        assert gap <= tolerance * float(theirs.norm()) + 1e-12


def sources(loss, queries, documents):
    learnt = [loss.similarity.raw_gammas] if loss.similarity.normalization == "learnable" else []
    return [queries, documents, loss.scaling.log_scale, *learnt]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("is_mean", [True, False])
@pytest.mark.parametrize("normalization", oracle.GRID)
def test_padded_queries_and_documents_are_those_of_the_loop(normalization, is_mean, symmetric):
    queries, documents, query_mask, document_mask = batch()
    loss = make(normalization, symmetric=symmetric, length_normalize=is_mean, chunk_size=2)
    reference = Reference(queries, documents, normalization=normalization, is_mean=is_mean)
    value = loss(queries, documents, query_mask=query_mask, document_mask=document_mask.long(), document_ids=IDS)
    expected = reference.losses(symmetric=symmetric, ids=IDS.tolist()).mean()
    assert_same(value, expected, sources(loss, queries, documents), reference.leaves(normalization))


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 100])
@pytest.mark.parametrize("side", [2, 8, 512])
def test_chunks_and_packing_change_nothing(monkeypatch, side, chunk_size):
    """Every document and every token on its own, or all at once; in float64, where a difference would be a mistake."""
    monkeypatch.setitem(token_maxima._TILE_SIDE, "cpu", side)
    queries, documents, query_mask, document_mask = batch(torch.float64)
    loss = make("qnorm", symmetric=True, chunk_size=chunk_size)
    reference = Reference(queries, documents, normalization="qnorm")
    packed = documents[document_mask]
    value = loss(queries, packed, query_mask=query_mask, document_lengths=torch.tensor(DOCUMENT_LENGTHS))
    leaves = sources(loss, queries, documents)
    expected = reference.losses(symmetric=True).mean()
    # a learnt scale is a float32 number here and there, and starts a rounding off
    assert_same(value, expected, leaves[:2], reference.leaves("qnorm")[:2], tolerance=1e-6)
    padded = loss(queries, documents, query_mask=query_mask, document_mask=document_mask)
    torch.testing.assert_close(padded, value, rtol=1e-14, atol=0)


def test_a_gradient_stands_alone_where_only_one_side_trains():
    queries, documents, query_mask, document_mask = batch()
    masks = {"query_mask": query_mask, "document_mask": document_mask}
    whole = torch.autograd.grad(MaxSim()(queries, documents, **masks), [queries, documents])
    (of_queries,) = torch.autograd.grad(MaxSim()(queries, documents.detach(), **masks), [queries])
    (of_documents,) = torch.autograd.grad(MaxSim()(queries.detach(), documents, **masks), [documents])
    torch.testing.assert_close((of_queries, of_documents), whole)
    assert not of_queries[~query_mask].any()
    assert not of_documents[~document_mask].any()


def test_one_token_each_is_infonce():
    queries, documents = (x[:, :1].clone().double().requires_grad_() for x in (tokens(N, 1, 2), tokens(M, 1, 3)))
    options = {"normalization": "dnorm", "symmetric": True, "temperature": 0.2}
    single = InfoNCE(**options)(queries[:, 0], documents[:, 0], document_ids=IDS)
    assert_same(MaxSim(**options)(queries, documents, document_ids=IDS), single, *[[queries, documents]] * 2)


def test_reductions_and_weights_are_over_queries():
    queries, documents, query_mask, document_mask = batch()
    masks = {"query_mask": query_mask, "document_mask": document_mask}
    each = Reference(queries, documents, normalization="dot").losses().detach()
    weights = torch.arange(1.0, N + 1)
    none = make("dot", reduction="none")(queries, documents, **masks)
    torch.testing.assert_close(none.double(), each, rtol=1e-5, atol=0)
    values = [
        make("dot", reduction="sum")(queries, documents, **masks),
        make("dot", reduction="sum")(queries, documents, **masks, weights=weights),
        make("dot")(queries, documents, **masks, weights=weights),
    ]
    total = (each * weights).sum()
    torch.testing.assert_close(
        torch.stack(values).double(), torch.stack([each.sum(), total, total / weights.sum()]), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 2e-3), (torch.float16, 5e-4)])
@pytest.mark.parametrize("normalization", ["cosine", "qnorm", "learnable"])
def test_halves_cost_the_rounding_of_the_gradient(normalization, dtype, most):
    queries, documents, query_mask, document_mask = batch(dtype, width=64)  # over many numbers, roundings even out
    loss = make(normalization)
    reference = Reference(queries, documents, normalization=normalization)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(queries, documents, query_mask=query_mask, document_mask=document_mask)
    assert value.dtype == torch.float32
    expected = reference.losses().mean()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    assert_same(value, expected, sources(loss, queries, documents), reference.leaves(normalization), tolerance=most)


def test_the_temperature_goes_by_the_spread_of_mean_cosines():
    queries, documents, query_mask, document_mask = batch()
    masks = {"query_mask": query_mask, "document_mask": document_mask}
    loss = MaxSim(normalization="dot", temperature="auto", length_normalize=False)
    loss(queries, documents, **masks)
    spreads = []
    for normalization, is_mean in (("dot", False), ("cosine", True)):
        scores = Reference(queries, documents, normalization=normalization, temperature=1.0, is_mean=is_mean).logits
        others = [scores[i, [j for j in range(M) if j != i]].detach() for i in range(N)]
        spreads.append(torch.stack([row.var(correction=0) for row in others]).mean().sqrt())
    assert float(loss.temperature) == pytest.approx(float(0.05 * spreads[0] / spreads[1]), rel=1e-5)
    cosine = MaxSim(temperature="auto")
    cosine(queries, documents, **masks)
    assert float(cosine.temperature) == pytest.approx(0.05, rel=1e-5)


class Largest(TorchDispatchMode):
    """The most numbers that any operation had room for."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(x, torch.Tensor):
                self.numbers = max(self.numbers, x.untyped_storage().nbytes() // 4)
        return result


def test_no_tensor_is_as_large_as_all_scores_of_tokens(monkeypatch):
    monkeypatch.setitem(token_maxima._TILE_SIDE, "cpu", 256)
    n, q, t, d = 64, 16, 40, 8
    queries, documents = torch.randn(n, q, d, requires_grad=True), torch.randn(n, t, d, requires_grad=True)
    with Largest() as streamed:
        MaxSim(symmetric=True)(queries, documents).backward()
    gradients = queries.grad, documents.grad
    with Largest() as plain:
        leaves = [x.detach().requires_grad_() for x in (queries, documents)]
        vectors = [torch.nn.functional.normalize(x, dim=-1) for x in leaves]
        logits = torch.einsum("nqd,mtd->nmqt", *vectors).amax(-1).mean(-1) / 0.05
        forth, back = (torch.nn.functional.cross_entropy(x, torch.arange(n)) for x in (logits, logits.T))
        ((forth + back) / 2).backward()
    assert plain.numbers == n * q * n * t
    assert streamed.numbers <= max(256**2, n * q * n // 2)  # a tile, or the places of the nearest tokens in int16
    for ours, leaf in zip(gradients, leaves, strict=True):
        torch.testing.assert_close(ours, leaf.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("is_mean", [False, True])
def test_scores_are_those_of_sentence_transformers(is_mean):
    package = pytest.importorskip("sentence_transformers.util.similarity")
    if not hasattr(package, "maxsim"):
        pytest.skip("this version of sentence-transformers has no maxsim")
    queries, documents, query_mask, document_mask = batch()
    queries, documents = queries.detach().nan_to_num(0), documents.detach().nan_to_num(0)
    theirs = package.maxsim(queries, documents, query_mask, document_mask, length_normalize=is_mean)
    loss = MaxSim(normalization="dot", length_normalize=is_mean)
    ours = loss.scores(queries, documents, query_mask=query_mask, document_mask=document_mask)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("with_negatives", [False, True])
def test_the_loss_is_that_of_sentence_transformers(with_negatives):
    package = pytest.importorskip("sentence_transformers.multi_vector_encoder.losses.multiple_negatives_ranking")

    class Encoder(torch.nn.Module):
        def forward(self, features, task=None):
            vectors = torch.nn.functional.normalize(features["tokens"], dim=-1)
            return {"token_embeddings": vectors, "attention_mask": features["mask"]}

    masks = [mask(QUERY_LENGTHS, Q), mask(DOCUMENT_LENGTHS[:N], T), mask(DOCUMENT_LENGTHS[-N:], T)]
    sides = [tokens(N, Q, 0), tokens(N, T, 1), tokens(N, T, 2)][: 3 if with_negatives else 2]
    columns = [{"tokens": side, "mask": flags} for side, flags in zip(sides, masks, strict=False)]
    theirs = package.MultiVectorMultipleNegativesRankingLoss(Encoder())(columns)
    loss = MaxSim(temperature=1.0, length_normalize=False)
    document_mask = torch.cat(masks[1 : len(sides)])
    ours = loss(sides[0], torch.cat(sides[1:]), query_mask=masks[0], document_mask=document_mask)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


def test_scores_of_fewer_documents_than_queries():
    queries, documents, query_mask, document_mask = batch()
    expected = Reference(queries, documents, normalization="cosine", temperature=1.0).logits[:, 1:3]
    scores = MaxSim().scores(queries, documents[1:3], query_mask=query_mask, document_mask=document_mask[1:3])
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-7)


PADDED = {"queries": tokens(N, Q, 0), "documents": tokens(M, T, 1)}
PACKED = {"queries": tokens(N, Q, 0), "documents": tokens(M, T, 1).flatten(0, 1)}
EMPTY_ROW = mask([*QUERY_LENGTHS[:3], 0, 1], Q)
MISTAKES = [
    (PADDED | {"queries": tokens(N, Q, 0)[0]}, r"queries: expected floating-point embeddings \[n, q, d\], a vector"),
    (PADDED | {"documents": tokens(M, T, 1)[:3]}, "documents: expected at least as many as queries, 5, got 3"),
    (PADDED | {"documents": tokens(M, T, 1)[..., :2]}, "documents: expected the d of queries, 5, got 2"),
    (PADDED | {"query_mask": torch.ones(N, Q)}, r"query_mask: expected booleans \[5, 4\], true where a token is, got"),
    (PADDED | {"query_mask": torch.full((N, Q), 2)}, "query_mask: expected 1 where a token is and else 0, got 2 to 2"),
    (PADDED | {"query_mask": EMPTY_ROW}, "query_mask: expected a token in every row, got none in row 3"),
    (PADDED | {"document_mask": mask([1] * N, T)}, r"document_mask: expected booleans \[7, 6\]"),
    (PADDED | {"document_lengths": torch.ones(M).long()}, "document_lengths: they are of packed documents"),
    (PADDED | {"document_ids": torch.arange(N)}, r"document_ids: expected whole numbers \[7\], got torch.int64 \[5\]"),
    (PACKED, "document_lengths: expected how many tokens each document has beside packed documents"),
    (PACKED | {"document_lengths": torch.tensor([M * T, 0])}, "document_lengths: expected numbers from 1 up with the"),
    (PACKED | {"document_lengths": torch.tensor([3] * M)}, "sum of 42 tokens, got .* with the sum of 21"),
    (
        PACKED | {"document_lengths": torch.rand(M)},
        r"document_lengths: expected whole numbers \[m\], got torch.float32",
    ),
    (PACKED | {"document_lengths": torch.tensor([T] * M), "document_mask": torch.ones(1)}, "document_mask: packed"),
    (PADDED | {"documents": torch.full((M, T, D), torch.nan)}, "documents: 42 of 42 embeddings are NaN or infinite"),
]


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES)
def test_what_does_not_fit_is_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        MaxSim()(**arguments)


def test_the_masks_of_the_reference_are_in_use():
    """Each length occurs, and some document is longer than another that it shares a chunk with."""
    assert {*QUERY_LENGTHS} == {1, 2, 3, 4}
    assert any(a != b for a, b in itertools.pairwise(sorted(DOCUMENT_LENGTHS)))
