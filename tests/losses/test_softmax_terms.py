"""Reductions, weights, temperatures of queries, smoothing, margins and decoupling against the float64 loop."""

from __future__ import annotations

import contrast_oracle as oracle
import pytest
import torch
from pair_oracle import pair_losses
from test_infonce import DIRECTIONS, EXTRAS, assert_close, batch, leaves, served

from lightning_normdyn.core.contrast.exclusion import Exclusion
from lightning_normdyn.core.contrast.weighted_sums import score_sums
from lightning_normdyn.losses import FullSoftmax, InfoNCE, SigmoidContrastive, cached_loss

TERMS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.2},
    "margin": {"margin": 0.3},
    "relative margin": {"relative_margin": 0.4},
    "decoupled": {"decoupled": True},
    "margins and smoothing": {"label_smoothing": 0.1, "margin": 0.2, "relative_margin": 0.1},
    "margin, decoupled": {"margin": 0.2, "decoupled": True},
}
SEVERAL = ("labels", "positives")
COUNT = 9


def per_query(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(COUNT, generator=generator), 0.2 + torch.rand(COUNT, generator=generator)


def check(value, expected, ours, references, *, tolerance=1e-5):
    """Values, and the gradient of every leaf."""
    assert_close(value.detach(), expected.detach(), tolerance=tolerance)
    weights = torch.linspace(0.5, 1.5, value.numel()).view_as(value)
    (value * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    for got, reference in zip(ours, references, strict=True):
        if got is not None:
            assert_close(got.grad, reference.grad, tolerance=tolerance)


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("normalization", oracle.GRID)
def test_terms_are_those_of_the_loop(normalization, direction, chunk_size):
    """Losses of single pairs, for every kind of further pairs, with a temperature learnt or one for each query."""
    cases = [(extra, terms) for extra in EXTRAS for terms in TERMS]
    cases = [case for case in cases if not ("margin" in case[1] and any(word in case[0] for word in SEVERAL))]
    for number, (extra, name) in enumerate(cases[chunk_size is None :: 2]):
        queries, documents, hard, options = batch(served(EXTRAS[extra], direction), seed=number, spread=0.3)
        ours, terms = leaves(queries, documents, hard), TERMS[name]
        temperatures = per_query(number)[1].requires_grad_() if number % 2 else None
        scores = oracle.Scores(queries, documents, hard, normalization=normalization, temperature=0.4)
        loss = InfoNCE(
            normalization=normalization,
            temperature=0.4,
            learnable_temperature=temperatures is None,
            chunk_size=chunk_size,
            reduction="none",
            **DIRECTIONS[direction],
            **terms,
        )
        theirs = None
        if temperatures is not None:
            theirs = temperatures.detach().double().requires_grad_()
            options = options | {"temperatures": temperatures}
            scores.log_scale = torch.zeros((), dtype=torch.float64)
        known = options | ({} if theirs is None else {"temperatures": theirs})
        expected = pair_losses(scores, direction, terms=terms, **known)
        hard_option = {} if hard is None else {"hard_negatives": ours[2]}
        leaf_pairs = [(ours[0], scores.queries), (ours[1], scores.documents), (ours[2], scores.hard)]
        if temperatures is None:
            leaf_pairs.append((loss.scaling.log_scale, scores.log_scale))
        else:
            leaf_pairs.append((temperatures, theirs))
        if normalization == "learnable":
            leaf_pairs.append((loss.similarity.raw_gammas, scores.raw_gammas))
        got, references = zip(*leaf_pairs, strict=True)
        check(loss(ours[0], ours[1], **options, **hard_option), expected, got, references)


@pytest.mark.parametrize("name", ["plain", "smoothing", "margin", "decoupled"])
def test_terms_with_negatives_of_the_same_side(name):
    for number, extra in enumerate(("plain", "ids", "labels") if name != "margin" else ("plain", "ids")):
        queries, documents, _, options = batch(EXTRAS[extra], seed=number, spread=0.3)
        ours = leaves(queries, documents)
        scores = oracle.Scores(queries, documents, normalization="qnorm", temperature=0.4)
        loss = InfoNCE(
            normalization="qnorm", temperature=0.4, symmetric=True, same_side="both", reduction="none", **TERMS[name]
        )
        expected = pair_losses(scores, "qd", terms=TERMS[name], same_side="qd", **options)
        check(loss(*ours, **options), expected, ours, (scores.queries, scores.documents))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_weights_and_reductions(reduction, direction):
    weights, temperatures = per_query()
    for weighted in (False, True):
        queries, documents, _, _ = batch({}, spread=0.3)
        ours = [*leaves(queries, documents), weights.clone().requires_grad_()]
        scores = oracle.Scores(queries, documents, normalization="learnable", temperature=1.0)
        theirs = weights.double().requires_grad_()
        losses = pair_losses(scores, direction, temperatures=temperatures)
        counted = theirs if weighted else torch.ones(COUNT, dtype=torch.float64)
        expected = (losses * counted).sum() / (counted.sum() if reduction == "mean" else 1)
        loss = InfoNCE(normalization="learnable", reduction=reduction, **DIRECTIONS[direction])
        value = loss(*ours[:2], temperatures=temperatures, **({"weights": ours[2]} if weighted else {}))
        check(
            value, expected, ours if weighted else ours[:2], (scores.queries, scores.documents, theirs)[: 2 + weighted]
        )


def sigmoid_losses(scores, temperatures):
    s = scores.of(scores.queries, scores.documents, 0, 1) / temperatures.double()[:, None] - 1.5
    signs = 2 * torch.eye(*s.shape, dtype=torch.float64) - 1
    return -torch.nn.functional.logsigmoid(signs * s).sum(1)


def full_softmax_losses(scores, temperatures):
    s = scores.of(scores.queries, scores.documents, 0, 1) / temperatures.double()[:, None]
    return s.logsumexp(1) - s.diagonal()


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("make", [SigmoidContrastive, FullSoftmax])
def test_the_other_losses_reduce_and_weigh_likewise(make, chunk_size):
    weights, temperatures = per_query()
    for reduction in ("none", "mean", "sum"):
        queries, documents, _, _ = batch({}, spread=0.3)
        ours = leaves(queries, documents)
        options = {"bias": -1.5, "learnable_temperature": False} if make is SigmoidContrastive else {}
        loss = make(normalization="qnorm", reduction=reduction, chunk_size=chunk_size, **options)
        scores = oracle.Scores(queries, documents, normalization="qnorm", temperature=1.0)
        reference = sigmoid_losses if make is SigmoidContrastive else full_softmax_losses
        expected = reference(scores, temperatures)
        given = {"temperatures": temperatures} | ({} if reduction == "none" else {"weights": weights})
        if reduction != "none":
            expected = (expected * weights.double()).sum() / (weights.double().sum() if reduction == "mean" else 1)
        targets = (torch.arange(COUNT),) if make is FullSoftmax else ()
        check(loss(*ours, *targets, **given), expected, ours, (scores.queries, scores.documents))


def test_bfloat16_embeddings_are_within_the_rounding_of_the_result():
    weights, temperatures = per_query()
    terms = {"label_smoothing": 0.1, "margin": 0.2}
    queries, documents, _, _ = batch({}, d=64, spread=0.3)
    ours = leaves(queries.bfloat16(), documents.bfloat16())
    loss = InfoNCE(symmetric=True, **terms)
    value = loss(*ours, weights=weights, temperatures=temperatures)
    value.backward()
    scores = oracle.Scores(*(x.detach().float() for x in ours), normalization="cosine", temperature=1.0)
    expected = pair_losses(scores, "qd", temperatures=temperatures, terms=terms)
    expected = (expected * weights.double()).sum() / weights.double().sum()
    expected.backward()
    assert value.dtype == torch.float32
    assert_close(value.detach(), expected.detach())
    for got, reference in zip(ours, (scores.queries, scores.documents), strict=True):
        assert_close(got.grad, reference.grad, tolerance=2e-3)


def test_score_sums_with_and_without_exclusion_agree_with_the_matrix():
    a, b = (torch.randn(size, 3, generator=torch.Generator().manual_seed(size)) for size in (5, 7))
    ids = torch.tensor([0, 1, 0, 2, 3]), torch.tensor([0, 1, 2, 3, 4, 0, 1])
    for exclusion in (None, Exclusion((ids[0],), (ids[1],))):
        mask = torch.zeros(5, 7, dtype=bool) if exclusion is None else ids[0][:, None] == ids[1]
        s = (a @ b.T).masked_fill(mask, 0.0)
        rows, columns, counts, column_counts = score_sums(a, b, columns=4, exclusion=exclusion, chunk_size=2)
        torch.testing.assert_close(rows, s.sum(1))
        torch.testing.assert_close(columns, s.sum(0)[:4])
        assert counts.tolist() == (~mask).sum(1).tolist()
        assert column_counts.tolist() == (~mask).sum(0)[:4].tolist()


def test_a_query_without_negatives_loses_nothing_where_it_is_decoupled():
    queries, documents = torch.randn(2, 3, 4).unbind(0)
    ours = leaves(queries, documents)
    value = InfoNCE(decoupled=True, negative_margin=1e9, reduction="none")(*ours)
    assert value.tolist() == [0, 0, 0]
    value.sum().backward()
    assert not ours[0].grad.any()


@pytest.mark.parametrize("name", ["margin", "relative_margin"])
@pytest.mark.parametrize("several", [{"labels": torch.arange(4)}, {"positives": torch.zeros(4, 1).long()}])
def test_a_margin_wants_one_positive(name, several):
    with pytest.raises(ValueError, match=f"^{name}: "):
        InfoNCE(**{name: 0.1})(torch.randn(4, 3), torch.randn(4, 3), **several)


def test_what_makes_no_sense_together_is_refused():
    queries = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"^label_smoothing: the decoupled"):
        InfoNCE(label_smoothing=0.1, decoupled=True)
    with pytest.raises(ValueError, match=r"^label_smoothing: a joint"):
        InfoNCE(label_smoothing=0.1, joint=True)
    with pytest.raises(ValueError, match=r"^weights: reduction='none'"):
        InfoNCE(reduction="none")(queries, queries, weights=torch.ones(4))
    with pytest.raises(ValueError, match=r"^weights: all of them are 0"):
        InfoNCE()(queries, queries, weights=torch.zeros(4))
    with pytest.raises(ValueError, match=r"^temperatures: they stand in"):
        InfoNCE(learnable_temperature=True)(queries, queries, temperatures=torch.ones(4))
    with pytest.raises(ValueError, match=r"^contrast: .*decoupled"):
        FullSoftmax.sharing(InfoNCE(decoupled=True))
    linear = torch.nn.Linear(3, 2)
    encoders = {"encode_query": linear, "encode_document": linear, "module": linear, "chunk_size": 2}
    with pytest.raises(ValueError, match=r"^temperatures: .*detach"):
        cached_loss(InfoNCE(), queries, queries, **encoders, temperatures=torch.ones(4, requires_grad=True))
    with pytest.raises(ValueError, match=r"^loss: .*reduction='none'"):
        cached_loss(InfoNCE(reduction="none"), queries, queries, **encoders)
