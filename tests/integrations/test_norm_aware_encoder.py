"""The encoder that folds exponents into vectors, around stand-ins for a model: no MTEB is needed."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lightning_normdyn.integrations.mteb import NormAwareEncoder
from lightning_normdyn.integrations.sentence_transformers import judgements_by_id, say_same_norms, without_normalize
from lightning_normdyn.retrieval import NormAwareScore


class Normalize(nn.Module):
    """As that of sentence-transformers: replaces the vectors among the features."""

    def forward(self, features):
        features["sentence_embedding"] = nn.functional.normalize(features["sentence_embedding"], dim=-1)
        return features


class StandIn:
    """Gives the vectors that it is asked for, in some kind of array."""

    mteb_model_meta = None

    def __init__(self, kind=np.float32):
        self.kind = kind

    def encode(self, inputs, *, prompt_type=None, **options):
        del prompt_type, options
        return np.array(inputs, dtype=self.kind) if isinstance(self.kind, type) else torch.tensor(inputs).to(self.kind)


def rows(count, width=5, seed=0):
    vectors = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return (vectors * torch.rand(count, 1, generator=torch.Generator().manual_seed(seed + 1)) * 3).tolist()


@pytest.mark.parametrize("kind", [np.float32, np.float64, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("score", "powers"),
    [
        (NormAwareScore(), (0, 0)),
        (NormAwareScore(alpha=0.7, alpha_query=-0.3), (-0.3, 0.7)),
        (NormAwareScore("qnorm", alpha=-0.5), (0, 0.5)),
        (NormAwareScore("learnable", gamma_query=0.2, gamma_document=0.9), (0.8, 0.1)),
    ],
)
def test_scores_are_those_of_a_loop(kind, score, powers):
    encoder = NormAwareEncoder(StandIn(kind), score)
    queries, documents = rows(4), rows(6, seed=7)
    vectors = encoder.encode(queries, prompt_type="query"), encoder.encode(documents, prompt_type="document")
    scores = encoder.similarity(*vectors)
    assert isinstance(vectors[0], np.ndarray if isinstance(kind, type) else torch.Tensor)
    for i, query in enumerate(queries):
        for j, document in enumerate(documents):
            q, d = math.hypot(*query), math.hypot(*document)
            product = sum(a * b for a, b in zip(query, document, strict=True))
            assert float(scores[i, j]) == pytest.approx(product / q / d * q ** powers[0] * d ** powers[1], abs=2e-6)
    pairs = encoder.similarity_pairwise(vectors[0], vectors[1][:4])
    torch.testing.assert_close(pairs, scores.diagonal())


def test_texts_without_a_side_have_the_exponent_of_documents():
    encoder = NormAwareEncoder(StandIn(), NormAwareScore(alpha=2.0, alpha_query=-1.0))
    np.testing.assert_array_equal(encoder.encode(rows(5)), encoder.encode(rows(5), prompt_type="document"))


@pytest.mark.parametrize("kind", [np.float16, torch.float16, torch.bfloat16])
def test_half_precision_is_folded_in_float32(kind):
    texts = rows(8)
    vectors = torch.as_tensor(NormAwareEncoder(StandIn(kind), NormAwareScore(alpha=0.5)).encode(texts))
    exact = torch.as_tensor(StandIn(kind).encode(texts)).double()
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.double(), exact * exact.norm(dim=1, keepdim=True) ** -0.5, atol=1e-6, rtol=1e-6)


def test_one_vector_alone_may_be_compared_and_zero_vectors_score_zero():
    encoder = NormAwareEncoder(StandIn(), NormAwareScore(alpha=-2.0))
    documents = encoder.encode([[0.0, 0.0], [3.0, 4.0]])
    assert encoder.similarity(documents[1], documents).tolist() == [[0.0, pytest.approx(1 / 625)]]
    assert encoder.encode(np.zeros((0, 2))).shape == (0, 2)


@pytest.mark.parametrize(
    ("texts", "kind", "message"),
    [
        ([[1.0, float("nan")]], np.float32, "model: expected finite vectors, got NaN or infinity in row 0 of 1"),
        ([[[1.0, 2.0]]], np.float32, r"model: expected dense vectors \[n, d\], one a text, got \(1, 1, 2\)"),
        ([[1, 2]], torch.int8, "model: expected floating-point vectors, got torch.int8"),
        ([[1e-30, 0.0]], np.float32, "documents: expected norms whose power"),
    ],
)
def test_what_has_no_norm_to_count_is_refused(texts, kind, message):
    with pytest.raises(ValueError, match=message):
        NormAwareEncoder(StandIn(kind), NormAwareScore(alpha=-2.0)).encode(texts)


@pytest.mark.parametrize("model", [None, "all-MiniLM-L6-v2", SimpleNamespace(encode=len), SimpleNamespace(predict=len)])
def test_models_that_are_no_encoders_are_refused(model):
    with pytest.raises(ValueError, match=r"model: expected a SentenceTransformer or an encoder of MTEB"):
        NormAwareEncoder(model)


def test_a_number_for_the_score_is_answered_with_the_score():
    with pytest.raises(ValueError, match=r"score: expected a NormAwareScore, got 0.5; NormAwareScore\(alpha=0.5\)"):
        NormAwareEncoder(StandIn(), 0.5)


def test_norms_that_are_all_one_are_said_once_and_not_of_the_cosine():
    unit = [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]
    NormAwareEncoder(StandIn()).encode(unit)  # says nothing: warnings are errors here
    encoder = NormAwareEncoder(StandIn(), NormAwareScore(alpha=1.0))
    with pytest.warns(UserWarning, match="norms of the documents are all between 1 and 1") as record:
        encoder.encode(unit)
    assert len(record) == 1
    encoder.encode(unit)  # said already
    assert not say_same_norms(torch.tensor([[1.0]]), subject="documents")


def test_the_last_normalize_is_passed_by_and_put_back():
    layer = nn.Linear(3, 2)

    class Body(nn.Module):
        def forward(self, x):
            return {"sentence_embedding": layer(x)}

    model, x = nn.Sequential(Body(), Normalize()), torch.randn(4, 3)
    wrapper = SimpleNamespace(_model=SimpleNamespace(model=model))
    with without_normalize(wrapper) as ends_in_normalize, torch.no_grad():
        torch.testing.assert_close(model(x)["sentence_embedding"], layer(x))
    assert ends_in_normalize
    torch.testing.assert_close(model(x)["sentence_embedding"].norm(dim=1), torch.ones(4))
    with pytest.raises(RuntimeError), without_normalize(model):
        raise RuntimeError
    torch.testing.assert_close(model(x)["sentence_embedding"].norm(dim=1), torch.ones(4))


def test_judgements_of_documents_that_the_corpus_lacks_are_said():
    relevant = {"q0": {"a": 1.0, "zz": 1.0}, "q1": {"b": 2.0}, "unasked": {"a": 1.0}}
    with pytest.warns(UserWarning, match="1 of 3 judgements are of documents that the corpus lacks"):
        judgements = judgements_by_id(["q0", "q1"], ["a", "b"], relevant)
    assert [column.tolist() for column in judgements] == [[0, 1], [0, 1], [1.0, 2.0]]
