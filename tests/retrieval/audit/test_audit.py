"""The whole audit: two passes, the same numbers as the functions it is made of, planted truths first."""

import math
import pickle
import re
import weakref
from functools import partial

import pytest
import torch

from lightning_normdyn import retrieval
from lightning_normdyn.core.statistics.correlation import correlate
from lightning_normdyn.datasets import Judgements
from lightning_normdyn.retrieval import sweep_alpha
from lightning_normdyn.retrieval.audit import JudgedQueries, advice, audit_norms, first_line
from lightning_normdyn.retrieval.audit.advice import followed_covariate
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
    # What is advised, to the letter: length's exponent in the stored vectors, searched by inner product.
    code = re.search(r"store (rescaled\(.*?\)) of lightning_normdyn\.retrieval in the index", advice(found))[1]
    stored = eval(code, {"vectors": documents, "length": length, **vars(retrieval)})
    by_product = sweep_alpha(asked.queries, stored, asked.judgements, alphas=(0.0, 1.0)).values[1].mean()
    by_length = found.ranking.confounds.length
    assert float(by_product) >= by_length.baseline + by_length.gain.low
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


def test_near_dead_rows_are_named_and_counted_apart():
    """40 of 1,000 rows at 6e-18, as a table that decay alone has acted on."""
    norms = spread(1_000, scale=0.1)
    documents = unit(1_000, torch.Generator().manual_seed(2)) * norms.float().unsqueeze(1)
    dead = torch.randperm(1_000, generator=torch.Generator().manual_seed(3))[:40]
    documents[dead] *= 6e-18
    documents[dead[0]] = 0
    found = audited(documents, chunk=300, length=50 * norms, covariates={"half": (norms > 1).double()})
    living = torch.ones(1_000, dtype=torch.bool)
    living[dead] = False
    distribution = found.distribution
    assert (distribution.zeros, distribution.near_dead, sum(distribution.counts)) == (1, 39, 960)
    assert set(found.near_dead) <= set(dead[1:].tolist())
    assert found.shortest[0] == int(norms.where(living, torch.inf).argmin())
    assert found.zeros == (int(dead[0]),)
    assert distribution.cv == pytest.approx(float(norms[living].std(correction=0) / norms[living].mean()), rel=1e-4)
    assert first_line(found).startswith("39 of 1,000 vectors are near dead (norm below ")
    assert "safe" not in advice(found)
    assert found.correlations["length"].n == found.correlated_rows == 960
    without = audited(documents[living], length=50 * norms[living], covariates={"half": (norms[living] > 1).double()})
    assert found.saturation._replace(off_ellipsoid=0.0) == without.saturation._replace(off_ellipsoid=0.0)
    assert "near dead" not in first_line(without)


def test_unit_vectors_beside_near_dead_ones_are_both_said():
    documents = unit(200, torch.Generator().manual_seed(0))
    documents[:3] *= 1e-12
    line = first_line(audited(documents))
    assert line.startswith("The vectors are already of length one")
    assert "3 of 200 vectors are near dead" in line


def test_near_dead_rows_bend_no_prediction_by_length():
    length = (20 * spread(300, scale=0.7)).round() + 1
    documents, asked = planted((1 + length).sqrt(), length.sqrt() * spread(300, seed=3, scale=0.05))
    documents[[5, 9, 200]] *= 1e-17
    found = audited(documents, asked, length=length)
    assert found.ranking.confounds.verdict == "length"
    assert "3 of 300 vectors are near dead" in first_line(found)


def correlated(columns, items, rank=None, seed=0):
    """Norms of so many items with noise, the first of which they follow by a rank correlation."""
    draw = torch.Generator().manual_seed(seed)
    norms = torch.randn(items, generator=draw, dtype=torch.float64)
    noise = {f"c{number}": torch.randn(items, generator=draw, dtype=torch.float64) for number in range(columns)}
    if rank is not None:
        noise["c0"] = rank * norms + math.sqrt(1 - rank**2) * noise["c0"]
    return {name: correlate(norms, column, resamples=300) for name, column in noise.items()}


@pytest.mark.parametrize("columns", [1, 5])
def test_pure_noise_is_followed_by_no_norms(columns):
    """At most one file in twenty, whatever the number of columns; 9 of 30 were said to be followed once."""
    alarms = sum(followed_covariate(correlated(columns, 40, seed=seed)) is not None for seed in range(60))
    assert alarms <= 7  # of 3 expected; 8 or more come once in 60 times


def test_what_norms_do_follow_is_named():
    hits = [followed_covariate(correlated(3, 200, rank=0.5, seed=seed)) for seed in range(20)]
    assert hits.count("c0") >= 19


@pytest.mark.parametrize("items", [2, 9])
def test_a_few_items_follow_nothing(items):
    norms = torch.arange(1.0, items + 1.0)
    documents = unit(items, torch.Generator().manual_seed(0)) * norms.unsqueeze(1)
    line = first_line(audited(documents, covariates={"age": norms}))
    assert line == f"{items} items are too few to say what norms follow: 10 are the least."


def test_a_second_control_is_held_fixed():
    """Norms follow the position, which goes along with a depth that has nothing to do with them."""
    draw = torch.Generator().manual_seed(0)
    position = torch.randn(600, generator=draw, dtype=torch.float64)
    depth = position + 0.5 * torch.randn(600, generator=draw, dtype=torch.float64)
    norms = (0.3 * position + 0.1 * torch.randn(600, generator=draw, dtype=torch.float64)).exp()
    documents = unit(600, draw) * norms.float().unsqueeze(1)
    length = torch.rand(600, generator=draw, dtype=torch.float64)
    columns = {"depth": depth, "position": position}
    one = audited(documents, length=length, covariates=columns).correlations["depth"]
    both = audited(documents, length=length, covariates=columns, controls=["position"])
    assert one.partial_interval.low > 0.5
    assert not both.correlations["depth"].partial_interval.excludes_zero
    expected = correlate(norms, depth, torch.stack([length, position], 1), resamples=0)
    assert both.correlations["depth"].partial_r == pytest.approx(expected.partial_r, abs=1e-6)
    assert both.controls == ("length", "position")
    assert first_line(both).startswith("Norms follow position (Spearman +0.9")
    with pytest.raises(ValueError, match="controls: expected columns of numbers among the covariates"):
        audited(documents, length=length, covariates=columns, controls=["age"])
    with pytest.raises(ValueError, match="controls: expected lengths beside 'depth'"):
        audited(documents, covariates=columns, controls=["depth"])


def test_a_gain_of_two_controls_is_called_theirs():
    """Half of the norm follows length and half position, and so does relevance: neither alone explains it."""
    length = (20 * spread(400, scale=0.7)).round() + 1
    position = spread(400, seed=9, scale=0.4)
    norms = (1 + length).pow(0.3) * position
    documents, asked = planted(norms, norms)
    columns = {"position": position.log()}
    alone = audited(documents, asked, length=length, covariates=columns).ranking.confounds
    both = audited(documents, asked, length=length, covariates=columns, controls=["position"]).ranking
    assert alone.verdict == "partly length"
    assert both.confounds.verdict == "length"
    assert both.verdict.sentence.startswith("Length and position explain the gain")


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
