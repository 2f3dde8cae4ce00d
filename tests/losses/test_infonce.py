"""Losses and every gradient against the float64 loop."""

import itertools

import contrast_oracle as oracle
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core.contrast import log_sum_exp, score_tiles
from lightning_normdyn.losses import InfoNCE, SigmoidContrastive

N, M, D, H = 9, 13, 6, 2
DIRECTIONS = {"q": {}, "d": {"direction": "document_to_query"}, "qd": {"symmetric": True}}
EXTRAS = {
    "plain": {},
    "hard": {"hard": True},
    "ids": {"query_ids": True, "document_ids": True},
    "document ids and hard ids": {"hard": True, "document_ids": True, "hard_negative_ids": True},
    "labels": {"labels": True},
    "labels and ids": {"labels": True, "query_ids": True, "document_ids": True},
    "positives": {"positives": True, "document_ids": True, "hard": True},
}


def served(extra, direction):
    """Without hard negatives where documents pick queries, which refuses them."""
    return extra | ({"hard": False, "hard_negative_ids": False} if direction == "d" else {})


def batch(wanted, *, n=N, m=M, d=D, seed=0, spread=1.0):
    """Random embeddings of uneven lengths, and the options asked for."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        lengths = (spread * torch.randn(*shape[:-1], 1, generator=generator)).exp()
        return torch.randn(*shape, generator=generator) * lengths

    def integers(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    made = {
        "labels": integers(0, 4, m),
        "positives": integers(-1, m, n, 3),
        "query_ids": integers(0, max(1, n - 2), n),
        "document_ids": integers(0, max(1, m - 3), m),
        "hard_negative_ids": integers(0, max(1, m - 3), n, H),
    }
    options = {name: made[name] for name in made if wanted.get(name)}
    return normal(n, d), normal(m, d), normal(n, H, d) if wanted.get("hard") else None, options


def leaves(*tensors):
    return [None if x is None else x.clone().requires_grad_() for x in tensors]


def assert_close(ours, expected, *, tolerance=1e-5):
    """Relative to the length of what is expected; both nothing is fine."""
    if expected is None or ours is None:
        assert expected is None or float(expected.norm()) == 0
        assert ours is None or float(ours.norm()) == 0
        return
    gap = float((ours.double() - expected).norm())
    assert gap <= tolerance * float(expected.norm()) + 1e-12, (gap, float(expected.norm()))


def compare(loss, expected, ours, scores, *, tolerance=1e-5):
    """Loss and gradients of embeddings, temperature and exponents."""
    value = loss(ours[0], ours[1], **ours[3], **({} if ours[2] is None else {"hard_negatives": ours[2]}))
    assert_close(value.detach(), expected.detach(), tolerance=tolerance)
    value.backward(retain_graph=True)
    expected.backward()
    first = [None if x is None or x.grad is None else x.grad.clone() for x in ours[:3]]
    for got, reference in zip(first, (scores.queries, scores.documents, scores.hard), strict=True):
        assert_close(got, None if reference is None else reference.grad, tolerance=tolerance)
    if loss.scaling.learnable:
        assert_close(loss.scaling.log_scale.grad, scores.log_scale.grad, tolerance=tolerance)
    if loss.similarity.normalization == "learnable":
        assert_close(loss.similarity.raw_gammas.grad, scores.raw_gammas.grad, tolerance=tolerance)
    value.backward()  # the graph serves a second time
    for got, x in zip(first, ours[:3], strict=True):
        if got is not None:
            torch.testing.assert_close(x.grad, 2 * got, rtol=1e-6, atol=0)


@pytest.mark.parametrize("chunk_size", [None, 1, 5, 100])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("normalization", oracle.GRID)
def test_loss_and_gradients_are_those_of_the_loop(normalization, direction, chunk_size):
    for number, (extra, temperature) in enumerate(itertools.product(EXTRAS.values(), (0.05, 1.0))):
        queries, documents, hard, options = batch(served(extra, direction), seed=number, spread=0.3)
        scores = oracle.Scores(queries, documents, hard, normalization=normalization, temperature=temperature)
        expected = oracle.infonce(scores, direction=direction, **options)
        loss = InfoNCE(
            normalization=normalization,
            temperature=temperature,
            learnable_temperature=True,
            chunk_size=chunk_size,
            **DIRECTIONS[direction],
        )
        compare(loss, expected, [*leaves(queries, documents, hard), options], scores)


@pytest.mark.parametrize("joint", [False, True, "sentence_transformers"])
@pytest.mark.parametrize("same_side", ["queries", "documents", "both"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_negatives_of_the_same_side(direction, same_side, joint):
    sides = {"queries": "q", "documents": "d", "both": "qd"}[same_side]
    if not joint and set(sides) - set(direction):
        with pytest.raises(ValueError, match="same_side: negatives among"):
            InfoNCE(same_side=same_side, **DIRECTIONS[direction])
        return
    extras = ["hard", "document ids and hard ids"] if joint == "sentence_transformers" else ["plain", "ids", "hard"]
    for number, name in enumerate(extras + ([] if joint else ["labels", "positives"])):
        queries, documents, hard, options = batch(served(EXTRAS[name], direction), seed=number, spread=0.3)
        scores = oracle.Scores(queries, documents, hard, normalization="learnable", temperature=0.3)
        expected = oracle.infonce(scores, direction=direction, same_side=sides, joint=joint, **options)
        loss = InfoNCE(
            normalization="learnable",
            temperature=0.3,
            learnable_temperature=True,
            same_side=same_side,
            joint=joint,
            **DIRECTIONS[direction],
        )
        compare(loss, expected, [*leaves(queries, documents, hard), options], scores)


@pytest.mark.parametrize("chunk_size", [None, 1, 5, 100])
@pytest.mark.parametrize("normalization", oracle.GRID)
def test_sigmoid_loss_is_that_of_the_loop(normalization, chunk_size):
    for number, extra in enumerate(EXTRAS.values()):
        queries, documents, hard, options = batch(extra, seed=number, spread=0.3)
        scores = oracle.Scores(queries, documents, hard, normalization=normalization, temperature=0.5)
        bias = torch.tensor(-1.5, dtype=torch.float64, requires_grad=True)
        expected = oracle.sigmoid(scores, bias, **options)
        loss = SigmoidContrastive(normalization=normalization, temperature=0.5, bias=-1.5, chunk_size=chunk_size)
        compare(loss, expected, [*leaves(queries, documents, hard), options], scores)
        assert_close(loss.bias.grad / 2, bias.grad)


@pytest.mark.parametrize("shared", [False, True])
def test_a_shared_exponent_gets_the_gradient_of_both_sides(shared):
    queries, documents, _, _ = batch({}, spread=0.3)
    loss = InfoNCE(normalization="learnable", shared_gamma=shared)
    loss(queries, documents).backward()
    scores = oracle.Scores(queries, documents, normalization="learnable", temperature=0.05)
    oracle.infonce(scores, direction="q").backward()
    expected = scores.raw_gammas.grad.sum(0, keepdim=True) if shared else scores.raw_gammas.grad
    assert_close(loss.similarity.raw_gammas.grad, expected)


@pytest.mark.parametrize("chunk_size", [None, 7, 1_000, 5_000])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("size", [257, 1_500])
def test_large_batches(size, symmetric, chunk_size):
    """Against autograd on the whole matrix in float64, at scale 100: tiles, strips and kept tiles all take part."""
    queries, documents, _, _ = batch({}, n=size, m=size + 11, d=24)
    ids = torch.randint(0, size // 3, (size,), generator=torch.Generator().manual_seed(1))
    ours = leaves(queries, documents)
    loss = InfoNCE(temperature=0.01, learnable_temperature=True, symmetric=symmetric, chunk_size=chunk_size)
    loss(*ours, query_ids=ids).backward()
    scores = oracle.Scores(queries, documents, normalization="cosine", temperature=0.01)
    s = scores.of(scores.queries, scores.documents, 0, 1)
    same = ids[:, None] == torch.cat((ids, torch.full((11,), -1)))
    s = s.masked_fill(same & ~torch.eye(size, size + 11, dtype=torch.bool), -torch.inf)
    expected = (s.logsumexp(1) - s.diagonal()).mean()
    if symmetric:
        expected = (expected + (s[:, :size].logsumexp(0) - s.diagonal()).mean()) / 2
    expected.backward()
    assert_close(ours[0].grad, scores.queries.grad)
    assert_close(ours[1].grad, scores.documents.grad)
    assert_close(loss.scaling.log_scale.grad, scores.log_scale.grad)


def large_batches():
    """Every normalization in one direction and in both; ``make test`` has these by turns."""
    for place, normalization in enumerate(oracle.GRID):
        for symmetric in (False, True):
            is_its_turn = symmetric == bool(place % 2)
            yield pytest.param(normalization, symmetric, marks=[] if is_its_turn else [pytest.mark.exhaustive])


@pytest.mark.slow
@pytest.mark.parametrize(("normalization", "symmetric"), list(large_batches()))
def test_a_batch_of_4096(normalization, symmetric):
    queries, documents, _, _ = batch({}, n=4_096, m=4_096, d=32, spread=0.2)
    ours = leaves(queries, documents)
    loss = InfoNCE(normalization=normalization, temperature=0.5, learnable_temperature=True, symmetric=symmetric)
    value = loss(*ours)
    value.backward()
    scores = oracle.Scores(queries, documents, normalization=normalization, temperature=0.5)
    s = scores.of(scores.queries, scores.documents, 0, 1)
    expected = (s.logsumexp(1) - s.diagonal()).mean()
    if symmetric:
        expected = (expected + (s.logsumexp(0) - s.diagonal()).mean()) / 2
    expected.backward()
    assert_close(value.detach(), expected.detach())
    for got, reference in zip(ours, (scores.queries, scores.documents), strict=True):
        assert_close(got.grad, reference.grad)
    assert_close(loss.scaling.log_scale.grad, scores.log_scale.grad)
    if normalization == "learnable":
        assert_close(loss.similarity.raw_gammas.grad, scores.raw_gammas.grad)


@pytest.mark.parametrize("kind", ["q", "qd", "joint", "sigmoid"])
def test_gradients_by_finite_differences(kind):
    queries, documents, hard, _ = batch({"hard": True}, n=4, m=6, d=3, spread=0.3)
    options = {"query_ids": torch.tensor([0, 1, 0, 2]), "document_ids": torch.tensor([5, 6, 7, 6, 5, 9])}
    settings_of = {
        "q": {},
        "qd": {"symmetric": True, "same_side": "both", "chunk_size": 2},
        "joint": {"symmetric": True, "joint": True, "same_side": "both"},
    }
    make = SigmoidContrastive if kind == "sigmoid" else InfoNCE
    loss = make(normalization="learnable", temperature=0.7, learnable_temperature=True, **settings_of.get(kind, {}))
    loss.double()

    def of(queries, documents, hard, raw_gammas, log_scale):
        parameters = {"similarity.raw_gammas": raw_gammas, "scaling.log_scale": log_scale}
        return torch.func.functional_call(loss, parameters, (queries, documents), {"hard_negatives": hard, **options})

    inputs = [x.double().requires_grad_() for x in (queries, documents, hard)]
    inputs += [loss.similarity.raw_gammas.detach().clone().requires_grad_()]
    inputs += [loss.scaling.log_scale.detach().clone().requires_grad_()]
    assert torch.autograd.gradcheck(of, inputs)


@settings(derandomize=True, max_examples=60)
@given(
    n=st.integers(1, 12),
    more=st.integers(0, 6),
    d=st.integers(1, 5),
    seed=st.integers(0, 10**6),
    temperature=st.sampled_from([0.01, 0.07, 1.0, 30.0]),
    chunk_size=st.sampled_from([None, 1, 3, 50]),
    symmetric=st.booleans(),
    normalization=st.sampled_from(["cosine", "qnorm", "learnable"]),
)
@pytest.mark.filterwarnings("ignore:documents. expected two candidates or more")
def test_properties(n, more, d, seed, temperature, chunk_size, symmetric, normalization):
    """Not negative; log of the candidates where all are alike; blind to lengths and to order where it says so."""
    queries, documents, _, _ = batch({}, n=n, m=n + more, d=d, seed=seed)
    loss = InfoNCE(normalization=normalization, temperature=temperature, symmetric=symmetric, chunk_size=chunk_size)
    value = loss(queries, documents)
    # A difference of a log-sum-exp and a score of size 1, each rounded to float32: below 0 by a rounding at most.
    assert value >= -torch.finfo(torch.float32).eps
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    everything = torch.cat((order, torch.arange(n, n + more)))
    torch.testing.assert_close(loss(queries[order], documents[everything]), value, rtol=1e-4, atol=1e-5)
    alike = loss(queries[:1].expand(n, d), documents[:1].expand(n + more, d))
    expected = torch.tensor(float(n + more)).log()
    expected = (expected + torch.tensor(float(n)).log()) / 2 if symmetric else expected
    torch.testing.assert_close(alike, expected, rtol=1e-4, atol=1e-4)
    if normalization == "cosine":
        torch.testing.assert_close(loss(3 * queries, 0.2 * documents), value, rtol=1e-3, atol=1e-4)
    if normalization == "qnorm":
        torch.testing.assert_close(loss(3 * queries, documents), value, rtol=1e-3, atol=1e-4)


def test_evaluation_is_the_same_number_without_a_graph():
    queries, documents, _, _ = batch({})
    for symmetric in (False, True):
        loss = InfoNCE(symmetric=symmetric)
        with torch.no_grad():
            alone = loss(queries, documents)
        assert not alone.requires_grad
        torch.testing.assert_close(alone, loss(*leaves(queries, documents)).detach())


def test_scores_so_far_apart_that_one_exponential_cannot_serve_both_directions():
    queries = torch.tensor([[300.0, 0.0], [0.0, 1.0], [0.0, -200.0]])
    documents = torch.tensor([[1.0, 0.1], [0.2, 1.0], [0.5, 2.0]])
    ours = leaves(queries, documents)
    InfoNCE(normalization="dot", temperature=1.0, symmetric=True)(*ours).backward()
    scores = oracle.Scores(queries, documents, normalization="dot", temperature=1.0)
    oracle.infonce(scores, direction="qd").backward()
    assert_close(ours[0].grad, scores.queries.grad)
    assert_close(ours[1].grad, scores.documents.grad)


def test_sides_may_come_in_different_precisions_and_ids_in_any_whole_numbers():
    queries, documents, hard, options = batch(EXTRAS["labels and ids"] | {"hard": True})
    expected = InfoNCE()(queries.half().double(), documents.double(), hard_negatives=hard.double(), **options)
    narrow = {name: ids.to(torch.int16) for name, ids in options.items()}
    found = InfoNCE()(queries.half(), documents.double(), hard_negatives=hard, **narrow)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kept", [0, 500, 3_000, 10**6])
@pytest.mark.parametrize(("n", "m"), [(65, 130), (64, 129), (33, 300), (70, 70)])
def test_tiles_of_unequal_size_are_kept_in_order(monkeypatch, n, m, kept):
    """Edge tiles are smaller: one may fit where the full one before it did not."""
    monkeypatch.setattr(score_tiles, "_TILE_ROWS", 32)
    monkeypatch.setattr(score_tiles, "_TILE_SCORES", 1_024)
    monkeypatch.setattr(log_sum_exp, "STORED_SCORES", kept)
    queries, documents, _, _ = batch({}, n=n, m=m)
    scores = oracle.Scores(queries, documents, normalization="cosine", temperature=0.05)
    expected = scores.of(scores.queries, scores.documents, 0, 1)
    expected = (expected.logsumexp(1) + expected[:, :n].logsumexp(0) - 2 * expected.diagonal()).mean() / 2
    compare(InfoNCE(symmetric=True), expected, [*leaves(queries, documents), None, {}], scores)


@pytest.mark.parametrize("size", [1e-30, 1e-22, 1e19, 1e25])
@pytest.mark.parametrize("make", [InfoNCE, SigmoidContrastive])
def test_cosine_is_blind_to_lengths_whose_squares_leave_float32(make, size):
    queries, documents, _, _ = batch({})
    expected = make()(queries, documents)
    torch.testing.assert_close(make()(size * queries, size * documents), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_second_derivative_is_refused(symmetric):
    queries, documents = leaves(*batch({})[:2])
    value = InfoNCE(symmetric=symmetric)(queries, documents)
    with pytest.raises(RuntimeError, match="the streamed losses have no second derivative"):
        torch.autograd.grad(value, queries, create_graph=True)


@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"direction": "document_to_query"}])
def test_one_candidate_says_that_nothing_is_learnt(options):
    queries = torch.randn(1, 3, requires_grad=True)
    with pytest.warns(UserWarning, match="documents: expected two candidates or more, got one"):
        loss = InfoNCE(**options)(queries, torch.randn(1, 3))
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert queries.grad.abs().max() < 1e-5
    InfoNCE(queue_size=3, **{k: v for k, v in options.items() if k != "direction"})(queries, torch.randn(1, 3))
    InfoNCE()(queries, torch.randn(2, 3))
