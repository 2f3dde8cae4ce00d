"""Health of directions in an audit: the same numbers as the plain functions, in any parts, and what the page says."""

import math

import numpy as np
import pytest
import torch

from lightning_normdyn.core import alignment, common_direction, effective_rank, uniformity
from lightning_normdyn.datasets import Judgements
from lightning_normdyn.report.audit.direction_card import direction_card, popularity_sentence
from lightning_normdyn.report.kit.figure import drawing_style
from lightning_normdyn.retrieval import hubness, norm_aware_top_k, popularity_share
from lightning_normdyn.retrieval.audit import JudgedQueries, audit_norms, direction_health
from lightning_normdyn.retrieval.audit.directions import _sampled
from lightning_normdyn.retrieval.audit.judged_pairs import JudgedPairs
from lightning_normdyn.retrieval.exponent.document_parts import DocumentParts

ALPHAS = (-1.0, 0.0, 0.5, 1.0)


def drawn(rows, dim, seed=0, mean=0.3):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean


def collection(rows=400, dim=10, queries=50):
    """Documents of different norms, queries near to some, and judgements of several documents a query."""
    generator = torch.Generator().manual_seed(1)
    scales = torch.randn(rows, 1, generator=generator, dtype=torch.float64).mul(0.5).exp()
    documents = drawn(rows, dim) * scales
    asked = documents[:queries] / scales[:queries] + 0.3 * drawn(queries, dim, seed=2, mean=0.0)
    pairs = [(query, (query + step * 7) % rows, float(step < 3)) for query in range(queries) for step in range(4)]
    return documents, JudgedQueries(asked, Judgements.of(pairs), alphas=ALPHAS)


def test_an_audit_measures_what_the_plain_functions_measure():
    documents, judged_queries = collection()
    documents[[3, 77]] = 0
    documents[5] *= 1e-20  # near dead
    audit = audit_norms(lambda: documents.split(90), 400, judged_queries=judged_queries)
    living = documents[torch.tensor([row for row in range(400) if row not in (3, 5, 77)])]
    health = audit.directions
    assert (health.sampled_rows, health.rows, health.sample_note) == (397, 397, "")
    assert health.effective_rank.interval == pytest.approx(effective_rank(living).interval)
    assert health.common_direction == pytest.approx(common_direction(living))
    assert health.uniformity == pytest.approx(uniformity(living))
    assert health.hubness == hubness(living)
    judgements = judged_queries.judgements.relevant()
    has_direction = (documents[judgements.documents] != 0).any(1)
    sides = judged_queries.queries[judgements.queries], documents[judgements.documents]
    expected = alignment(*(side[has_direction] for side in sides), groups=judgements.queries[has_direction])
    assert audit.ranking.alignment == pytest.approx(expected)
    for alpha, popularity in zip(ALPHAS, audit.ranking.popularity, strict=True):
        ranking = norm_aware_top_k(judged_queries.queries, documents, 10, alpha=alpha).indices
        ranking[torch.isin(ranking, torch.tensor([3, 5, 77]))] = -1
        assert popularity == popularity_share(ranking, 400)


def test_alignment_of_chunks_is_that_of_the_best_one():
    documents, judged_queries = collection(rows=90, queries=20)
    owners = torch.arange(90) // 3
    owners = owners[torch.randperm(90, generator=torch.Generator().manual_seed(3))]
    pairs = [(query, (query * 3 + step) % 30, 1.0) for query in range(20) for step in range(2)]
    judgements = Judgements.of(pairs)
    parts = DocumentParts.of(owners)
    judged = JudgedPairs.of(judged_queries.queries, judgements, parts)
    cosines = [judged.cosines(documents[:40].split(7), range(40)), judged.cosines([documents[40:]], range(40, 90))]
    distances = []
    for query, document, _ in pairs:
        x = judged_queries.queries[query].numpy()
        rows = documents[owners == document].numpy()
        distances.append(min(np.sum((x / np.linalg.norm(x) - row / np.linalg.norm(row)) ** 2) for row in rows))
    assert judged.alignment(cosines).value == pytest.approx(np.mean(distances))
    audit = audit_norms(
        lambda: [documents],
        90,
        judged_queries=judged_queries._replace(judgements=judgements, parts=parts, measure="ndcg@3"),
    )
    assert audit.ranking.alignment.value == pytest.approx(np.mean(distances))
    assert audit.ranking.popularity[0].documents == 1  # 1% of 30 documents, and not of 90 vectors


@pytest.mark.parametrize("size", [7, 64, 500])
def test_a_stream_is_measured_as_a_tensor_is(size):
    documents = drawn(300, 12)
    documents[10] = 0
    assert direction_health(iter(documents.split(size))) == direction_health(documents)
    assert direction_health(documents.numpy()).rows == 299


def test_of_many_rows_a_random_sample_is_looked_at(monkeypatch):
    documents = drawn(2_000, 4, mean=0.0)
    documents[:1_000] = documents[:1_000].abs() + 1  # one direction in the first half alone
    exact = direction_health(documents).common_direction
    for module in ("core.statistics.directions", "retrieval.audit.directions"):
        monkeypatch.setattr(f"lightning_normdyn.{module}.MOST_PAIRED", 400)
    sample = direction_health(documents.split(333))
    assert (sample.sampled_rows, sample.rows) == (400, 2_000)
    assert len(_sampled(documents.split(333))[0]) == 400  # no more is held
    assert sample.sentence.endswith(", of a random sample of 400 of 2,000 vectors.")
    assert sample.common_direction.value == pytest.approx(exact.value, abs=0.1)
    assert sample.common_direction.value != exact.value


def test_bad_streams_are_refused_by_row():
    documents = drawn(60, 4)
    documents[41, 2] = math.inf
    with pytest.raises(ValueError, match=r"^documents: expected finite numbers, got NaN or infinite ones in row 41; "):
        direction_health(documents.split(25))
    with pytest.raises(
        ValueError, match=r"^documents: expected chunks \[some, 4\] as the first, got \[5, 3\] at row 20"
    ):
        direction_health([drawn(20, 4), drawn(5, 3)])
    with pytest.raises(ValueError, match=r"^documents: expected \[m, d\], got \[4\]"):
        direction_health(torch.ones(4))
    assert direction_health(drawn(19, 4)) is None
    assert direction_health([]) is None


def test_unit_vectors_have_directions_too():
    documents = torch.nn.functional.normalize(drawn(200, 8).float(), dim=1)
    audit = audit_norms(lambda: [documents], 200)
    assert audit.says_nothing
    assert audit.directions.effective_rank.interval == pytest.approx(effective_rank(documents).interval)
    same = audit_norms(lambda: [torch.ones(30, 8) * torch.linspace(1, 2, 30).unsqueeze(1)], 30)
    assert same.directions.sentence == "All vectors have one direction: cosines tell none of them from another."


def test_popular_documents_are_said_beside_the_exponent():
    """Norms that are relevance: the exponent is found, and gives the places of rankings to few documents."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(300, 6, generator=generator), dim=1)
    norms = torch.randn(300, generator=generator).mul(0.6).exp()
    queries = torch.randn(120, 6, generator=generator)
    best = (queries @ directions.T * norms).topk(3, dim=1).indices
    pairs = [(query, int(document), 1.0) for query, row in enumerate(best) for document in row]
    documents = directions * norms.unsqueeze(1)
    judged_queries = JudgedQueries(queries, Judgements.of(pairs), alphas=(0.0, 0.5, 1.0))
    audit = audit_norms(lambda: [documents], 300, judged_queries=judged_queries)
    zero, *_, one = audit.ranking.popularity
    assert one.held_out.low > zero.held_out.high
    sentence = popularity_sentence(audit.ranking)
    assert sentence.startswith("By cosine the 1% of documents that other queries are answered with most (3) take ")
    assert "; at exponent 1.00 it is " in sentence
    with drawing_style():
        card = direction_card(audit)
        alone = direction_card(audit._replace(ranking=None))
        nothing = direction_card(audit._replace(directions=None))
    assert card.caption == f"{audit.directions.sentence} Dashed: neighbours drawn at random. {sentence}"
    assert (len(card.panels), len(alone.panels), nothing) == (2, 1, None)
