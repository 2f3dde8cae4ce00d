"""Hubs of judged rankings against loops over every pair, scipy's binomial and its percentiles."""

from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_normdyn.datasets import Judgements
from lightning_normdyn.report.audit.hub_table import hub_entries, hub_sentences, hub_table
from lightning_normdyn.report.audit.item import Item
from lightning_normdyn.retrieval.audit import JudgedQueries, audit_norms
from lightning_normdyn.retrieval.audit.hubs import RankedDocuments, find_hubs, least_hub_lists
from lightning_normdyn.retrieval.exponent.document_parts import DocumentParts

ROWS, ASKED, DIM, K = 400, 90, 7, 5


def collection(*, hub=True, seed=0):
    """Norms that are relevance, and one document in the middle of all queries that is short."""
    draws = np.random.default_rng(seed)
    queries = draws.normal(size=(ASKED, DIM)) + 0.8
    documents = draws.normal(size=(ROWS, DIM))
    if hub:
        documents[17] = queries.mean(0)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    norms = np.exp(0.5 * draws.normal(size=ROWS))
    norms[17] = norms.min() * 0.9 if hub else norms[17]
    documents *= norms[:, None]
    best = np.argsort(-(queries @ documents.T), axis=1)[:, :3]
    pairs = [(query, int(document), 1.0) for query, row in enumerate(best) for document in row]
    pairs += [(query, 17, 0.0) for query in range(5) if 17 not in best[query]]  # judged and found irrelevant
    return queries, documents, pairs


def lists(queries, documents, weights, k=K):
    """The k best documents of every query, a pair at a time."""
    ranked = []
    for query in queries:
        scores = [
            float(query @ document) / float(np.sqrt(document @ document)) * weight
            for document, weight in zip(documents, weights, strict=True)
        ]
        ranked.append(sorted(range(len(documents)), key=lambda row: -scores[row])[:k])
    return ranked


def audited(queries, documents, pairs, **given):
    judged = JudgedQueries(torch.as_tensor(queries), Judgements.of(pairs), measure=f"ndcg@{K}", alphas=(0.0, 0.5, 1.0))
    vectors = torch.as_tensor(documents)
    return audit_norms(
        lambda: vectors.split(64), len(documents), judged_queries=judged._replace(**given.pop("judged", {})), **given
    )


@cache
def planted_audit():
    return audited(*collection())


def test_hubs_are_those_of_a_loop_over_all_pairs():
    queries, documents, pairs = collection()
    audit = planted_audit()
    hubs, norms = audit.ranking.hubs, np.linalg.norm(documents, axis=1)
    assert audit.ranking.verdict.alpha == pytest.approx(1.0, abs=0.2)
    assert (hubs.k, hubs.queries, hubs.documents, hubs.score) == (K, ASKED, ROWS, "cos · norm^1.00")
    by_cosine, by_advice = (lists(queries, documents, weights) for weights in (np.ones(ROWS), norms))
    counts = [Counter(row for ranking in ranked for row in ranking) for ranked in (by_cosine, by_advice)]
    tails = stats.binom.sf(np.arange(ASKED) - 1, ASKED, K / ROWS) * ROWS
    least = int(np.argmax(tails <= 0.05))
    assert hubs.least == least
    most = {row: max(count[row] for count in counts) for row in range(ROWS)}
    expected = {row for row, count in most.items() if count >= least}
    assert hubs.hub_count == len(expected) > 3
    listed = sorted(expected, key=lambda row: (-most[row], -counts[0][row] - counts[1][row], row))[:12]
    assert [hub.document for hub in hubs.listed] == listed
    relevant = Counter(document for _, document, grade in pairs if grade > 0)
    for hub in hubs.listed:
        row = hub.document
        assert (hub.by_cosine, hub.by_advice, hub.relevant) == (counts[0][row], counts[1][row], relevant[row])
        assert hub.norm == pytest.approx(norms[row])
        assert hub.longer_than == pytest.approx(stats.percentileofscore(norms, norms[row], kind="mean") / 100)
    # The planted one is a hub by its direction alone, and its norm takes it away.
    planted = next(hub for hub in hubs.listed if hub.document == 17)
    assert planted.by_cosine > 2 * least
    assert planted.by_advice < least
    assert planted.longer_than < 0.01
    ranks = stats.rankdata(norms) / ROWS - 0.5 / ROWS
    for interval, ranked in ((hubs.norm_rank, by_cosine), (hubs.advised_norm_rank, by_advice)):
        means = ranks[np.array(ranked)].mean(1)
        assert interval.value == pytest.approx(means.mean())
        reach = 1.96 * means.std(ddof=1) / np.sqrt(ASKED)
        assert (interval.low, interval.high) == pytest.approx((means.mean() - reach, means.mean() + reach), abs=0.01)
    assert hubs.advised_norm_rank.low > 0.7


def test_hubs_by_an_advised_exponent_of_length():
    queries, documents, pairs = collection(hub=False)
    length = np.linalg.norm(documents, axis=1) ** 2 * 100
    audit = audited(queries, documents, pairs, length=torch.as_tensor(length))
    hubs, verdict = audit.ranking.hubs, audit.ranking.verdict
    assert verdict.kind == "length"
    exponents = np.array(audit.ranking.length_curve.exponents)
    exponent = exponents[np.abs(exponents - verdict.length_exponent).argmin()]
    assert hubs.score == f"cos · (1 + length)^{exponent:.3f}"
    tried = f"the exponent tried that is next to the advised {verdict.length_exponent:.3f}"
    assert hubs.score_note == ("" if f"{exponent:.3f}" == f"{verdict.length_exponent:.3f}" else tried)
    ranked = lists(queries, documents, (1 + length) ** exponent)
    counts = Counter(row for ranking in ranked for row in ranking)
    assert hubs.listed
    assert [hub.by_advice for hub in hubs.listed] == [counts[hub.document] for hub in hubs.listed]


def test_without_gain_the_cosine_is_what_is_advised():
    queries, documents, _ = collection()
    draws = np.random.default_rng(3)
    pairs = [(query, int(draws.integers(ROWS)), 1.0) for query in range(ASKED)]
    hubs = audited(queries, documents, pairs).ranking.hubs
    assert (hubs.score, hubs.advised_norm_rank) == ("", None)
    assert all(hub.by_advice == hub.by_cosine for hub in hubs.listed)
    assert hubs.listed[0].document == 17


def test_hubs_of_several_vectors_are_documents():
    queries, documents, pairs = collection()
    halves = np.concatenate((documents, 0.5 * documents))
    owners = torch.arange(ROWS).repeat(2)
    plain = planted_audit().ranking.hubs
    parted = audited(queries, halves, pairs, judged={"parts": DocumentParts.of(owners)}).ranking.hubs
    assert [(hub.document, *hub[3:]) for hub in parted.listed] == [(hub.document, *hub[3:]) for hub in plain.listed]
    assert [hub.norm for hub in parted.listed] == pytest.approx([0.75 * hub.norm for hub in plain.listed])


@pytest.mark.parametrize(("queries", "k", "documents"), [(300, 10, 5_183), (5, 1, 2), (1_000, 100, 1_000_000)])
def test_the_least_count_is_scipys(queries, k, documents):
    least = least_hub_lists(queries, k, documents)
    tail = documents * stats.binom.sf(np.array([least - 1, least - 2]), queries, k / documents)
    assert tail[0] <= 0.05 < tail[1]


def test_lists_that_are_drawn_at_random_have_a_hub_once_in_twenty():
    draws = np.random.default_rng(0)
    documents = RankedDocuments(torch.ones(200), torch.ones(200, dtype=torch.bool))
    empty = Judgements.of([])
    rankings = (
        torch.as_tensor(np.stack([draws.choice(200, 10, replace=False) for _ in range(100)])) for _ in range(50)
    )
    assert sum(find_hubs(ranking, documents, empty).hub_count > 0 for ranking in rankings) <= 6


def test_near_dead_vectors_leave_no_cliff_in_the_places_of_rankings():
    """At exponents below 0 they take every place: those places are told apart from the others."""
    queries, documents, pairs = collection(hub=False)
    documents[:30] *= 1e-18
    judged = {"alphas": (-1.0, -0.5, 0.0, 0.5, 1.0)}
    audit = audited(queries, documents, [pair for pair in pairs if pair[1] >= 30], judged=judged)
    assert audit.ranking.near_dead_share[:2] == (1.0, 1.0)
    assert 0 < audit.ranking.near_dead_share[2] < 0.2
    assert audit.ranking.near_dead_share[3:] == (0.0, 0.0)
    shares = [popularity.held_out.value for popularity in audit.ranking.popularity]
    assert np.isnan(shares[0])
    assert np.isnan(shares[1])
    ranked = lists(queries, documents, np.ones(ROWS))
    taken = [row for ranking in ranked for row in ranking if row >= 30]
    top = [row for row, _ in Counter(sorted(taken)).most_common(4)]
    assert audit.ranking.popularity[2].share == pytest.approx(sum(row in top for row in taken) / len(taken))
    assert audit.ranking.has_popularity


def test_hubs_are_named_in_words_and_in_a_table():
    hubs = planted_audit().ranking.hubs
    items = {hub.document: Item(f"d{hub.document}", "a text") for hub in hubs.listed[1:]}
    first, second = hubs.listed[:2]
    sentence = " ".join(hub_sentences(hubs, items))
    assert f"row {first.document} in {first.by_cosine} by cosine and {first.by_advice} by cos · norm^1.00" in sentence
    assert f"d{second.document} in {second.by_cosine} by cosine" in sentence
    assert f"or more of {hubs.queries} queries by one score or the other, which" in sentence
    assert "by one score or the other" not in " ".join(hub_sentences(hubs._replace(score=""), items))
    rows = hub_table(hubs, items).rows
    assert rows[1][0] == (f"d{second.document}", "a text")
    assert rows[1][3:] == [str(second.by_cosine), str(second.by_advice), str(second.relevant)]
    assert hub_entries(hubs, items)[1]["text"] == "a text"
    everything = find_hubs(
        torch.arange(3).expand(8, 3), RankedDocuments(torch.ones(3), torch.ones(3).bool()), Judgements.of([])
    )
    assert hub_sentences(everything, {}) == ["No hubs: all 3 documents are in the top 3 of every query."]
    single = everything._replace(documents=1)
    assert hub_sentences(single, {}) == ["No hubs: the only document is in the top 3 of every query."]
    even = find_hubs(
        torch.arange(90).view(30, 3), RankedDocuments(torch.ones(90), torch.ones(90).bool()), Judgements.of([])
    )
    assert hub_sentences(even, {})[0].startswith(
        "No hubs: none of 90 documents is in the top 3 of 6 or more of 30 queries"
    )
