"""One clear sentence for everything that does not fit."""

import functools
import warnings

import pytest
import torch
from torch import nn

from lightning_normdyn.losses import (
    ContrastiveMixin,
    FullSoftmax,
    InfoNCE,
    NormalizedSimilarity,
    SigmoidContrastive,
    cached_loss,
)

Q, C = torch.randn(4, 3), torch.randn(6, 3)
NAN, INF = Q.clone(), C.clone()
NAN[1, 0], INF[2] = torch.nan, torch.inf


@pytest.mark.parametrize("make", [InfoNCE, SigmoidContrastive])
@pytest.mark.parametrize(
    ("queries", "documents", "options", "sentence"),
    [
        (Q, torch.randn(6, 5), {}, "documents: expected the d of queries, 3, got 5"),
        (Q[:0], C[:0], {}, r"queries: expected at least one embedding, got \(0, 3\)"),
        (C, Q, {}, "documents: expected at least as many as queries, 6, got 4"),
        (Q[0], C, {}, r"queries: expected floating-point embeddings \[n, d\], got torch.float32 \(3,\)"),
        (Q.long(), C, {}, "queries: expected floating-point embeddings"),
        (Q, C.long(), {}, r"documents: .* embeddings, got torch.int64; write documents.float\(\)$"),
        (Q, [1.0], {}, "documents: expected floating-point embeddings .* got list"),
        (NAN, C, {}, "queries: 1 of 4 embeddings are NaN or infinite"),
        (Q, INF, {}, "documents: 1 of 6 embeddings are NaN or infinite"),
        (Q, C, {"hard_negatives": torch.full((4, 2, 3), torch.nan)}, "hard_negatives: 8 of 8 embeddings are NaN"),
        (Q, C, {"hard_negatives": torch.randn(4, 3)}, r"hard_negatives: expected \[4, h, 3\], got \(4, 3\)"),
        (Q, C, {"labels": torch.arange(4)}, "labels: expected one for each of the 6 documents, got 4"),
        (Q, C, {"labels": torch.arange(5)}, r"labels: expected \[4\] or \[6\], got \[5\]"),
        (Q, C, {"labels": torch.arange(6) - 1}, "labels: -1 is out of range"),
        (Q, C, {"labels": torch.arange(6.0)}, "labels: expected whole numbers, got torch.float32"),
        (Q, C, {"positives": torch.tensor([[6], [0], [0], [0]])}, "positives: 6 is out of range; there are 6"),
        (Q, C, {"positives": torch.tensor([[-2], [0], [0], [0]])}, "positives: -2 is out of range"),
        (Q, C, {"positives": torch.arange(4)}, r"positives: expected \[4, p\]"),
        (Q, C, {"positives": torch.zeros(4, 1).long(), "labels": torch.arange(6)}, "positives: came with labels"),
        (Q, C, {"query_ids": torch.arange(6)}, r"query_ids: expected \[4\], got \[6\]"),
        (Q, C, {"document_ids": torch.arange(4)}, r"document_ids: expected \[6\], got \[4\]"),
        (Q, C, {"document_ids": list("abcdef")}, "document_ids: expected a tensor, got list; number what has names"),
        (Q, C, {"positives": [[0], [1]]}, "positives: expected a tensor, got list"),
        (Q, C, {"hard_negative_ids": torch.arange(4)}, r"hard_negative_ids: expected \[4, 0\], got \[4\]"),
    ],
)
def test_a_batch_that_does_not_fit(make, queries, documents, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()(queries, documents, **options)


@pytest.mark.parametrize("make", [InfoNCE, SigmoidContrastive])
def test_an_option_that_does_not_exist(make):
    with pytest.raises(
        TypeError, match=r"lables: expected one of hard_negatives, labels, .*; did you mean 'labels'\?$"
    ):
        make()(Q, C, lables=torch.arange(6))


@pytest.mark.parametrize("make", [InfoNCE, SigmoidContrastive])
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"temperature": 0.0}, "temperature: expected a positive number, got 0.0"),
        ({"temperature": -1}, "temperature: expected a positive number, got -1"),
        ({"temperature": float("nan")}, "temperature: expected a positive number, got nan"),
        ({"temperature": 0.001, "learnable_temperature": True}, "temperature: 0.001 makes a scale of 1000, above"),
        ({"max_scale": 0}, "max_scale: expected a positive number, got 0"),
        ({"normalization": "cos"}, "normalization: expected one of cosine, dot, qnorm, dnorm, learnable, got 'cos'"),
        ({"normalization": "qnrom"}, r"learnable, got 'qnrom'; did you mean 'qnorm'\?$"),
        ({"chunk_size": 0}, "chunk_size: expected a whole number, 1 or more, got 0"),
        ({"chunk_size": 2.5}, "chunk_size: expected a whole number, 1 or more, got 2.5"),
    ],
)
def test_settings_that_make_no_loss(make, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"direction": "both"}, "direction: expected 'query_to_document' or 'document_to_query', got 'both'"),
        ({"same_side": "all"}, "same_side: expected 'none', 'queries', 'documents' or 'both', got 'all'"),
        ({"queue_size": -1}, "queue_size: expected a whole number, 0 or more, got -1"),
        ({"queue_size": 8, "direction": "document_to_query"}, "queue_size: past documents are negatives of queries"),
    ],
)
def test_settings_of_infonce(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        InfoNCE(**settings)


def test_one_sum_for_a_pair_knows_one_positive():
    with pytest.raises(ValueError, match="joint: one sum for a pair knows one positive"):
        InfoNCE(joint=True)(Q, C, labels=torch.arange(6))


def test_an_unknown_normalization_of_the_score():
    with pytest.raises(ValueError, match="normalization: expected one of"):
        NormalizedSimilarity("none")


def test_data_parallel_is_told_off():
    replica = InfoNCE()._replicate_for_data_parallel()
    with pytest.raises(ValueError, match=r"nn\.DataParallel cuts the batch .* use the trainer's strategy='ddp'"):
        replica(Q, C)


@pytest.mark.parametrize(
    ("inputs", "chunk_size", "sentence"),
    [
        (Q, 0, "chunk_size: expected a whole number, 1 or more, got 0"),
        (3.0, 2, "query_inputs: expected a tensor, a list, or a mapping or tuple"),
        (Q[:0], 2, "query_inputs: expected a tensor, a list, or a mapping or tuple"),
    ],
)
def test_inputs_that_cannot_be_cut(inputs, chunk_size, sentence):
    encoder = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=sentence):
        cached_loss(
            InfoNCE(), inputs, C, encode_query=encoder, encode_document=encoder, module=encoder, chunk_size=chunk_size
        )


def test_hard_negatives_have_no_part_where_documents_pick_queries():
    with pytest.raises(ValueError, match="hard_negatives: where documents pick queries they have no part"):
        InfoNCE(direction="document_to_query")(Q, C, hard_negatives=torch.randn(4, 2, 3))


def test_a_queue_of_another_width():
    loss = InfoNCE(queue_size=4)
    loss(Q, C)
    with pytest.raises(ValueError, match=r"documents: the queue holds 4 of d = 3, got d = 5"):
        loss(torch.randn(4, 5), torch.randn(4, 5))


@pytest.mark.parametrize(("encode", "came"), [(lambda x: (x, x), "a tuple"), (lambda x: x[:, :, None], r"\(2, 3, 1\)")])
def test_an_encoder_that_returns_no_embeddings(encode, came):
    encoder = nn.Linear(3, 3)
    with pytest.raises(ValueError, match=f"encode_query: expected it to return embeddings .* got {came}; pool inside"):
        cached_loss(
            InfoNCE(),
            Q,
            Q,
            encode_query=lambda x: encode(encoder(x)),
            encode_document=encoder,
            module=encoder,
            chunk_size=2,
        )


def test_the_mixin_comes_first():
    with pytest.raises(
        TypeError, match=r"Late: expected ContrastiveMixin before .* write class Late\(ContrastiveMixin"
    ):

        class Late(nn.Module, ContrastiveMixin):
            pass


def test_scores_that_leave_the_precision_are_told_from_wrong_embeddings():
    with pytest.raises(
        ValueError, match=r"queries: scores leave torch\.float32, with entries up to .*; normalise a side"
    ):
        InfoNCE(normalization="dot")(1e30 * Q, 1e30 * C)


@pytest.mark.parametrize("make", [InfoNCE, functools.partial(SigmoidContrastive, bias=0.0)])
@pytest.mark.parametrize("name", ["query_ids", "document_ids"])
def test_minus_one_is_no_id(make, name):
    """Where some have one, the others still meet everybody."""
    queries, documents = torch.randn(8, 3), torch.randn(8, 3)
    loss, nobody = make(temperature=1.0), torch.full((8,), -1)
    torch.testing.assert_close(loss(queries, documents, **{name: nobody}), loss(queries, documents))
    some, others = nobody.clone(), torch.arange(8) + 10
    some[:2] = others[:2] = 7
    torch.testing.assert_close(loss(queries, documents, **{name: some}), loss(queries, documents, **{name: others}))
    assert not torch.isclose(loss(queries, documents, **{name: some}), loss(queries, documents))


def test_a_full_softmax_takes_minus_one_as_no_id():
    queries, documents, targets = torch.randn(4, 3), torch.randn(8, 3), torch.arange(4)
    loss = FullSoftmax()
    expected = loss(queries, documents, targets)
    torch.testing.assert_close(loss(queries, documents, targets, document_ids=torch.full((8,), -1)), expected)


@pytest.mark.parametrize(("share", "says"), [(8, True), (7, True), (5, False), (0, False)])
def test_ids_that_leave_little_are_warned_of_once(share, says):
    """Eight queries of which so many have the id 0, as in a column that was never set."""
    ids = torch.arange(8) + 1
    ids[:share] = 0
    loss, sides = InfoNCE(), torch.randn(2, 8, 3)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            loss(*sides, document_ids=ids)
    assert len(said) == says
    if says:
        expected = share * (share - 1) / (8 * 7)
        assert f"document_ids exclude {expected:.0%} of the negatives as duplicates" in str(said[0].message)
