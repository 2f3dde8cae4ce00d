"""Nested prefixes against the float64 loop of each, in one sweep or one after the other."""

from __future__ import annotations

import contrast_oracle as oracle
import pytest
import torch
from test_infonce import DIRECTIONS, EXTRAS, assert_close, batch, leaves, served
from test_softmax_terms import check

from lightning_normdyn.core.contrast import prefix_log_sum_exp
from lightning_normdyn.core.contrast.prefix_log_sum_exp import prefix_norms
from lightning_normdyn.losses import FullSoftmax, InfoNCE
from lightning_normdyn.losses.euclidean import SquaredEuclidean

WIDTHS, WEIGHTS = (2, 3, 5), (0.5, 2.0, 1.0)
RAW = ((0.4, -0.7), (-1.0, 0.2), (0.3, 0.9))


def expected_loss(sides, scores_of, direction, options, same_side=()):
    """The weighed sum over prefixes of the loop's loss, and the leaves behind it."""
    total = 0.0
    for number, (width, weight) in enumerate(zip(WIDTHS, WEIGHTS, strict=True)):
        scores = scores_of(*sides, number)
        scores.queries, scores.documents = sides[0][:, :width], sides[1][:, :width]
        scores.hard = None if sides[2] is None else sides[2][..., :width]
        total = total + weight * oracle.infonce(scores, direction=direction, same_side=same_side, **options)
    return total


def compare(normalization, direction, options, hard, queries, documents, *, same_side=(), **more):
    theirs = [None if x is None else x.double().requires_grad_() for x in (queries, documents, hard)]
    ours = leaves(queries, documents, hard)
    learnt = torch.tensor(RAW, dtype=torch.float64, requires_grad=True)
    log_scale = torch.tensor(1 / 0.4).double().log().requires_grad_()

    def scores_of(queries, documents, hard, number):
        scores = oracle.Scores(queries, documents, hard, normalization=normalization, temperature=0.4)
        scores.log_scale = log_scale
        scores.gammas = learnt[number].sigmoid() if normalization == "learnable" else scores.gammas
        return scores

    expected = expected_loss(theirs, scores_of, direction, options, same_side)
    loss = InfoNCE(
        normalization=normalization,
        temperature=0.4,
        learnable_temperature=True,
        prefixes=list(WIDTHS),
        prefix_weights=list(WEIGHTS),
        same_side="both" if same_side else "none",
        **DIRECTIONS[direction],
        **more,
    )
    got, references = [*ours, loss.scaling.log_scale], [*theirs, log_scale]
    if normalization == "learnable":
        similarities = [*loss.prefixes.similarities, loss.similarity]
        with torch.no_grad():
            for similarity, raw in zip(similarities, RAW, strict=True):
                similarity.raw_gammas.copy_(torch.tensor(raw))
    value = loss(ours[0], ours[1], **options, **({} if hard is None else {"hard_negatives": ours[2]}))
    pairs = [pair for pair in zip(got, references, strict=True) if pair[0] is not None]
    check(value, expected, *zip(*pairs, strict=True))
    if normalization == "learnable":
        gradients = torch.stack([similarity.raw_gammas.grad for similarity in similarities])
        assert_close(gradients, learnt.grad)
    assert not ours[0].grad[:, WIDTHS[-1] :].any()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("normalization", oracle.GRID)
def test_prefixes_are_those_of_the_loop(normalization, direction):
    """In one sweep from queries to documents with one positive; the others one after the other."""
    for number, extra in enumerate(EXTRAS):
        queries, documents, hard, options = batch(served(EXTRAS[extra], direction), seed=number, spread=0.3)
        chunk_size = (None, 1, 4)[number % 3]
        compare(normalization, direction, options, hard, queries, documents, chunk_size=chunk_size)


def test_prefixes_with_negatives_of_the_same_side():
    queries, documents, _, options = batch(EXTRAS["ids"], spread=0.3)
    compare("learnable", "qd", options, None, queries, documents, same_side="qd")


@pytest.mark.parametrize("temperature", [0.05, 0.002])
def test_large_scores_are_shifted(temperature, monkeypatch):
    """One sweep and one prefix after the other agree where exponentials of the scores themselves would overflow."""
    monkeypatch.setattr(prefix_log_sum_exp, "_STRIP", 40)
    queries, documents, _, _ = batch({}, n=20, m=25, d=12, spread=0.5)
    ids = torch.randint(0, 12, (20,), generator=torch.Generator().manual_seed(0))
    results = []
    for options in ({}, {"reduction": "none"}):
        ours = leaves(queries, documents)
        loss = InfoNCE(normalization="qnorm", temperature=temperature, prefixes=[3, 4, 12], **options)
        loss(*ours, query_ids=ids).mean().backward()
        results.append([x.grad for x in ours])
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected.double())


def test_temperatures_and_bfloat16_in_one_sweep():
    queries, documents, _, _ = batch({}, d=64, spread=0.3)
    temperatures = 0.2 + torch.rand(len(queries), generator=torch.Generator().manual_seed(0))
    ours = leaves(queries.bfloat16(), documents.bfloat16())
    value = InfoNCE(prefixes=[16, 64])(*ours, temperatures=temperatures)
    value.backward()
    theirs = [x.detach().double().requires_grad_() for x in ours]
    expected = 0.0
    for width in (16, 64):
        s = oracle.Scores(*(x[:, :width] for x in theirs), normalization="cosine", temperature=1.0)
        s.queries, s.documents = (x[:, :width] for x in theirs)
        matrix = s.of(s.queries, s.documents, 0, 1) / temperatures.double()[:, None]
        expected = expected + (matrix.logsumexp(1) - matrix.diagonal()).mean()
    expected.backward()
    assert_close(value.detach(), expected.detach())
    for got, reference in zip(ours, theirs, strict=True):
        assert_close(got.grad, reference.grad, tolerance=2e-3)


def test_norms_of_prefixes_have_no_gradient_where_they_are_zero():
    x = torch.tensor([[0.0, 0.0, 3.0], [3.0, 4.0, 0.0]], requires_grad=True)
    norms = prefix_norms(x, (2, 3))
    assert norms.tolist() == [[1, 5], [3, 5]]
    norms.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[0.0, 0.0, 1.0], [1.2, 1.6, 0.0]]))
    ours = leaves(x.detach(), torch.ones(2, 3))
    InfoNCE(prefixes=[2, 3])(*ours).backward()
    assert ours[0].grad.isfinite().all()


def test_every_prefix_learns_exponents_and_the_longest_are_those_of_the_loss():
    loss = InfoNCE(normalization="learnable", prefixes=[2, 4], queue_size=8, with_metrics=True)
    names = set(dict(loss.named_parameters()))
    assert names == {"similarity.raw_gammas", "prefixes.similarities.0.raw_gammas"}
    queries, documents = torch.randn(2, 5, 6).unbind(0)
    for _ in range(2):  # the second time against the queue
        loss(queries, documents).backward()
    assert all(parameter.grad.any() for parameter in loss.parameters())
    widest = InfoNCE(normalization="learnable", with_metrics=True)
    widest(queries[:, :4], torch.cat((documents, documents))[:, :4])
    assert loss.metrics().keys() == widest.metrics().keys()


def test_what_makes_no_sense_is_refused():
    x = torch.randn(4, 3)
    for prefixes in ([], "64", [2, 1], [2, 2], [0, 2], [1.5]):
        with pytest.raises(ValueError, match=r"^prefixes: "):
            InfoNCE(prefixes=prefixes)
    for weights in ([1.0], [1.0, -1.0], [0.0, 0.0], 3):
        with pytest.raises(ValueError, match=r"^prefix_weights: "):
            InfoNCE(prefixes=[1, 2], prefix_weights=weights)
    with pytest.raises(ValueError, match=r"^prefix_weights: there are no prefixes"):
        InfoNCE(prefix_weights=[1.0])
    with pytest.raises(ValueError, match=r"^prefixes: 5 is more than the embeddings' d = 3"):
        InfoNCE(prefixes=[2, 5])(x, x)
    with pytest.raises(ValueError, match=r"^contrast: .*prefixes"):
        FullSoftmax.sharing(InfoNCE(prefixes=[2]))
    loss = InfoNCE(prefixes=[2])
    loss.similarity = SquaredEuclidean()
    with pytest.raises(ValueError, match=r"^prefixes: a SquaredEuclidean has none"):
        loss(x, x)
