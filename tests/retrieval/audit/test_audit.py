"""The whole audit: two passes, the same numbers as the functions it is made of, planted truths first."""

import math
import pickle
import weakref
from functools import partial

import pytest
import torch

from lightning_normdyn.datasets import Judgements
from lightning_normdyn.retrieval import sweep_alpha
from lightning_normdyn.retrieval.audit import JudgedQueries, advice, audit_norms, first_line
from lightning_normdyn.retrieval.exponent.calibration import calibrate
from lightning_normdyn.retrieval.exponent.confounds import confound_report
from lightning_normdyn.retrieval.uses.confidence import confidence_table, retrieval_confidences

ALPHAS = (-1.0, -0.5, 0.0, 0.5, 1.0)
DIM = 12


def unit(rows, generator):
    x = torch.randn(rows, DIM, generator=generator)
    return x / x.norm(dim=1, keepdim=True)


def planted(weights, norms, *, queries=120, seed=0):
    """Documents with these norms, and queries whose five best by ``cos · weight`` are relevant."""
    generator = torch.Generator().manual_seed(seed)
    documents, asked = unit(len(norms), generator), unit(queries, generator)
    best = (asked @ documents.T * weights.float()).topk(5, dim=1).indices
    pairs = [(query, int(document), 1.0) for query, row in enumerate(best) for document in row]
    return documents * norms.float().unsqueeze(1), JudgedQueries(asked, Judgements.of(pairs), alphas=ALPHAS)


def spread(rows, seed=1, scale=0.4):
    return (scale * torch.randn(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).exp()


def audited(documents, asked=None, *, chunk=37, **given):
    reads = []

    def read():
        reads.append(1)
        return iter(documents.split(chunk))

    found = audit_norms(read, len(documents), judged_queries=asked, **given)
    assert len(reads) <= 2
    return found


def test_a_ranking_is_measured_as_its_parts_measure_it():
    norms = spread(200)
    documents, asked = planted(norms, norms)
    asked = asked._replace(queries=asked.queries * spread(120, seed=5).float().unsqueeze(1))
    length = 20 * spread(200, seed=2)
    found = audited(documents, asked, length=length).ranking
    sweep_of = partial(sweep_alpha, asked.queries, judgements=asked.judgements, alphas=ALPHAS)
    swept = sweep_of(documents)
    apart = confound_report(sweep_of, documents, length)
    assert [one.value for one in found.curves["norm"]] == pytest.approx(swept.values.mean(1).tolist())
    assert found.calibration.alpha == pytest.approx(calibrate(swept).alpha)
    assert (found.confounds.verdict, found.confounds.lost_gain.value) == (
        apart.verdict,
        pytest.approx(apart.lost_gain.value),
    )
    table = confidence_table(retrieval_confidences(asked.queries, documents), 1 - swept.values[2], resamples=0)
    assert {name: one.aurc.value for name, one in found.confidence.items()} == {
        name: pytest.approx(one.aurc.value, abs=1e-3) for name, one in table.items()
    }


def in_parts(documents, size, *, chunk):
    """Passes in parts of so many rows, each of which sees what a pickle brings it, as another process would."""

    def passes(work, *, by_chunk=False):
        for start in range(0, len(documents), chunk if by_chunk else size):
            sent = pickle.loads(pickle.dumps(work))
            rows = range(start, min(start + (chunk if by_chunk else size), len(documents)))
            yield pickle.loads(pickle.dumps(sent(documents[rows.start : rows.stop].split(chunk), rows)))

    return passes


@pytest.mark.parametrize("size", [64, 192, 6400])
def test_passes_in_parts_give_the_same_numbers_to_the_bit(size, monkeypatch):
    monkeypatch.setattr("lightning_normdyn.retrieval.audit.scan._MOST_SAMPLED", 500)
    norms = spread(2000)
    documents, asked = planted(norms, norms)
    documents[::31] = documents[7]  # equal scores, of which the first row is the better
    documents[[3, 900, 1999]] = 0
    length = 20 * spread(2000, seed=2)
    alone = audited(documents, asked, chunk=64, length=length)
    apart = audit_norms(
        lambda: pytest.fail("read here"),
        2000,
        judged_queries=asked,
        length=length,
        spread=in_parts(documents, size, chunk=64),
    )
    assert torch.equal(alone.norms, apart.norms)
    assert repr(alone._replace(norms=None)) == repr(apart._replace(norms=None))


def test_what_is_not_finite_is_counted_over_all_parts():
    documents = unit(300, torch.Generator().manual_seed(0))
    documents[[100, 101, 250], 2] = math.nan
    with pytest.raises(ValueError, match="in 3 of 300 rows, the first being row 100"):
        audit_norms(list, 300, spread=in_parts(documents, 64, chunk=32))


def test_few_chunks_are_open_at_a_time(monkeypatch):
    monkeypatch.setattr("lightning_normdyn.retrieval.audit.ranking_audit._CHUNK_NUMBERS", 12 * 1_024)
    norms = spread(60_000)
    documents, asked = planted(norms, norms, queries=6)
    open_now = most = 0

    def closed():
        nonlocal open_now
        open_now -= 1

    def read():
        nonlocal open_now, most
        for part in documents.split(1_000):
            chunk = part.clone()
            weakref.finalize(chunk, closed)
            open_now += 1
            most = max(most, open_now)
            yield chunk

    found = audit_norms(read, 60_000, judged_queries=asked, length=20 * spread(60_000, seed=2))
    assert found.ranking.judged_count == 6
    assert most <= 20  # of 60


def test_norms_that_carry_relevance_are_found_and_folded():
    norms = spread(200)
    documents, asked = planted(norms.sqrt(), norms)
    found = audited(documents, asked, length=20 * spread(200, seed=2))
    assert found.ranking.confounds.verdict == "norm"
    assert found.ranking.calibration.alpha.value == pytest.approx(0.5, abs=0.1)
    assert found.ranking.relevance.low > 0
    assert first_line(found).startswith("Norms help: take exponent 0.")
    assert "Length does not explain the gain" in first_line(found)
    assert "Spearman of norm and length" in first_line(found)
    assert "export_vectors" in advice(found)


def test_the_first_line_says_that_length_explains_the_gain():
    length = (20 * spread(200, scale=0.7)).round() + 1
    documents, asked = planted((1 + length).sqrt(), length.sqrt() * spread(200, seed=3, scale=0.05))
    found = audited(documents, asked, length=length)
    assert first_line(found).startswith("Length explains the gain")
    assert "Spearman of norm and length +0.9" in first_line(found)
    assert "Correct scores by length openly" in advice(found)
    without = audited(documents, asked)
    assert without.ranking.confounds is None
    assert "Lengths of the documents were not at hand" in first_line(without)


def test_zero_queries_are_in_no_ranking():
    norms = spread(200)
    documents, asked = planted(norms, norms)
    asked.queries[[3, 50]] = 0
    found = audited(documents, asked).ranking
    values = sweep_alpha(asked.queries, documents, asked.judgements, alphas=ALPHAS).values
    others = [query for query in range(120) if query not in (3, 50)]
    assert (found.queries, found.judged_count) == (120, 118)
    assert [one.value for one in found.curves["norm"]] == pytest.approx(values[:, others].mean(1).tolist())
    asked.queries[4:] = 0
    with pytest.raises(ValueError, match=r"5 or more queries with a relevant document.* got 3"):
        audited(documents, asked)


def test_no_gain_looks_like_none():
    documents, asked = planted(torch.ones(200), spread(200))
    found = audited(documents, asked)
    assert first_line(found).startswith("No gain")
    assert "query_norm" not in found.ranking.confidence  # queries of length one
    assert advice(found).startswith("Score by cosine")


def test_unit_vectors_are_said_first_and_nothing_else_is_looked_for():
    documents, asked = planted(torch.ones(60), torch.ones(60, dtype=torch.float64))
    documents[5] = 0
    for vectors in (documents, documents.half()):
        found = audited(vectors, asked, length=torch.arange(60.0))
        assert found.says_nothing
        assert first_line(found).startswith("The vectors are already of length one: there is nothing to find")
        assert (found.ranking, found.correlations, found.longest) == (None, {}, ())
        assert found.zeros == (5,)


def test_covariates_groups_extremes_and_zeros():
    norms = spread(400)
    documents, _ = planted(norms, norms)
    documents[7] = 0
    depth = norms + 0.01 * torch.arange(400)
    depth[3] = math.nan
    long = norms > norms.median()
    found = audited(
        documents,
        length=torch.arange(400.0),
        covariates={"depth": norms},
        groups={"kind": ["long" if one else "short" for one in long.tolist()]},
        extremes=3,
    )
    kept = [place for place in norms.argsort().tolist() if place != 7]
    assert list(found.shortest) == kept[:3]
    assert list(found.longest) == kept[::-1][:3]
    assert found.zeros == (7,)
    assert found.correlations["depth"].r == pytest.approx(1.0)
    assert list(found.correlations) == ["depth", "length"]
    assert found.groups[0].differs
    assert found.groups[0].beyond_length is not None
    assert "Norms differ between groups" in advice(found)
    assert "1 vector is zero" in advice(found)


def test_what_does_not_fit_is_refused_before_a_ranking():
    norms = spread(50)
    documents, asked = planted(norms, norms, queries=10)
    with pytest.raises(ValueError, match=r"^queries: expected vectors of the documents' length, 12, got 3"):
        audited(documents, asked._replace(queries=torch.ones(10, 3)))
    few = Judgements.of([(0, 1, 1.0), (1, 1, 0.0), (2, 1, 1.0)])
    with pytest.raises(ValueError, match=r"expected 5 or more queries with a relevant document, .* got 2"):
        audited(documents, asked._replace(judgements=few))
    with pytest.raises(ValueError, match=r"^depth: expected one number for each of 50 vectors, got \(3,\)"):
        audited(documents, covariates={"depth": torch.ones(3)})
    with pytest.raises(ValueError, match="'length' beside known lengths"):
        audited(documents, length=norms, covariates={"length": norms})
