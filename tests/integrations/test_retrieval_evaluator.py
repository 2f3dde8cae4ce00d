"""Exponents in sentence-transformers' InformationRetrievalEvaluator: scores by exponent, and the one to take."""

from __future__ import annotations

import pytest
import torch

st = pytest.importorskip("sentence_transformers", exc_type=ImportError)
pytest.importorskip("datasets")

from code_blocks import block_under  # noqa: E402
from planted_retrieval import QUERIES, planted_world  # noqa: E402
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator  # noqa: E402

from lightning_normdyn.integrations.sentence_transformers import (  # noqa: E402
    calibrate_evaluator,
    score_functions,
    without_normalize,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of the libraries
    pytest.mark.filterwarnings("error:norms of the"),
]


def evaluator_of(world, alphas=(0.0, 1.0, -0.5), **options):
    relevant = {query: set(grades) for query, grades in world.judged.items()}
    functions = None if alphas is None else score_functions(alphas)
    return InformationRetrievalEvaluator(
        world.query_texts, world.document_texts, relevant, score_functions=functions, write_csv=False, **options
    )


def ndcg_at_10(world, alpha):
    """Of judgements that count alike, by float64 scores."""
    queries, documents = world.queries.double(), world.documents.double()
    norms = documents.norm(dim=1)
    ranks = ((queries @ documents.T) * norms ** (alpha - 1)).argsort(dim=1, descending=True)[:, :10]
    total = 0.0
    for row in range(QUERIES):
        right = [place in (row, row + QUERIES) for place in ranks[row].tolist()]
        total += sum(hit / torch.tensor(2.0 + rank).log2().item() for rank, hit in enumerate(right))
    return total / QUERIES / (1 + 1 / torch.tensor(3.0).log2().item())


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("corpus_chunk_size", [50_000, 33])
def test_the_evaluator_ranks_by_each_exponent(normalize, corpus_chunk_size):
    world = planted_world()
    model = world.model(normalize)
    with without_normalize(model):
        metrics = evaluator_of(world, corpus_chunk_size=corpus_chunk_size)(model)
    for alpha in (0.0, 1.0, -0.5):
        assert metrics[f"alpha={alpha:g}_ndcg@10"] == pytest.approx(ndcg_at_10(world, alpha), abs=1e-6)
    shipped = evaluator_of(world, None)(world.model())
    assert metrics["alpha=0_ndcg@10"] == pytest.approx(shipped["cosine_ndcg@10"], abs=1e-6)


def test_calibration_starts_from_the_cosine_and_finds_the_exponent():
    world = planted_world()
    calibration = calibrate_evaluator(world.model(normalize=True), evaluator_of(world))
    assert calibration.baseline == pytest.approx(ndcg_at_10(world, 0.0), abs=1e-6)
    assert calibration.queries == QUERIES
    assert calibration.significant
    assert calibration.advice > 0
    assert calibration.gain.low > 0


def test_no_exponent_is_advised_where_norms_are_noise():
    world = planted_world(long_answers=False, seed=3)
    calibration = calibrate_evaluator(world.model(), evaluator_of(world, None))
    assert calibration.advice == 0
    assert not calibration.significant


def test_prompts_of_the_evaluator_are_used():
    world = planted_world()
    model = world.model()
    plain = calibrate_evaluator(model, evaluator_of(world))
    prompted = calibrate_evaluator(model, evaluator_of(world, query_prompt="q1 ", corpus_prompt="d5 "))
    assert prompted.baseline < plain.baseline - 0.01
    with without_normalize(model):
        metrics = evaluator_of(world, query_prompt="q1 ", corpus_prompt="d5 ")(model)
    assert prompted.baseline == pytest.approx(metrics["alpha=0_ndcg@10"], abs=1e-6)


def test_what_is_no_evaluator_or_no_exponent_is_named():
    with pytest.raises(ValueError, match="evaluator: expected an InformationRetrievalEvaluator, got int"):
        calibrate_evaluator(planted_world().model(), 3)
    with pytest.raises(ValueError, match="alphas: expected one exponent at least, got none"):
        score_functions([])
    with pytest.raises(ValueError, match="alpha: expected a finite exponent"):
        score_functions([float("nan")])


def test_the_page_runs_as_it_stands(capsys):
    world = planted_world()
    names = {
        "model": world.model(normalize=True),
        "queries": world.query_texts,
        "corpus": world.document_texts,
        "relevant_docs": {query: set(grades) for query, grades in world.judged.items()},
    }
    page, heading = "docs/howto/sentence_transformers.md", "Exponents in its retrieval evaluator"
    exec(block_under(page, heading, "text"), names)
    assert names["metrics"]["alpha=0_ndcg@10"] == pytest.approx(ndcg_at_10(world, 0.0), abs=1e-6)
    assert capsys.readouterr().out.splitlines()[-1] == names["calibration"].sentence
