"""Residual norms against a spline in truncated powers by numpy; the report's verdicts and its three sweeps."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from planted_relevance import ALPHAS, brute_sweep, directions, draw_relevance

from lightning_normdyn.datasets import Judgements
from lightning_normdyn.retrieval.exponent.confounds import confound_report, explain_gain
from lightning_normdyn.retrieval.exponent.residual_norms import length_norms, rescaled, residual_norms
from lightning_normdyn.retrieval.exponent.sweep import AlphaSweep, sweep_alpha


def by_numpy(norms, length):
    """Least squares on a line and on cubes whose second and third powers cancel beyond the last knot."""
    x, y = np.log1p(length), np.log(norms)
    k = np.quantile(x, [0.05, 0.275, 0.5, 0.725, 0.95])
    cubes = np.maximum(x[:, None] - k, 0) ** 3
    bends = [
        cubes[:, j] - cubes[:, 3] * (k[4] - k[j]) / (k[4] - k[3]) + cubes[:, 4] * (k[3] - k[j]) / (k[4] - k[3])
        for j in range(3)
    ]
    design = np.column_stack([np.ones_like(x), x, *bends])
    return np.exp(y - design @ np.linalg.lstsq(design, y, rcond=None)[0] + y.mean())


def test_residual_norms_are_those_of_a_restricted_cubic_spline():
    draw = np.random.default_rng(0)
    length = np.round(np.exp(draw.normal(3, 1, 300)))
    norms = np.sqrt(1 + length) * np.exp(0.3 * np.sin(np.log1p(length)) + 0.1 * draw.normal(size=300))
    found = residual_norms(torch.tensor(norms), torch.tensor(length))
    assert found.numpy() == pytest.approx(by_numpy(norms, length), rel=1e-5)
    assert float(found.log().mean()) == pytest.approx(np.log(norms).mean())


@pytest.mark.parametrize("length", [torch.full((6,), 4.0), torch.tensor([1.0, 1, 1, 5, 5, 5])])
def test_few_different_lengths_are_no_trouble(length):
    norms = torch.tensor([1.0, 2, 4, 2, 4, 8])
    log_left = residual_norms(norms, length).log2()
    groups = [log_left[length == one].mean() for one in length.unique()]
    assert all(float(group) == pytest.approx(1.5) for group in groups)
    if len(groups) == 1:
        assert log_left.exp2().tolist() == pytest.approx(norms.tolist())


def test_zero_norms_stay_zero():
    found = residual_norms(torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([9.0, 1.0, 2.0, 3.0]))
    assert found[0] == 0
    assert (found[1:] > 0).all()
    assert residual_norms(torch.zeros(2), torch.ones(2)).tolist() == [0, 0]


def test_rescaled_vectors_have_the_norms_and_keep_their_directions():
    vectors = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    norms = torch.tensor([1.0, 2.0, 0.0, 4.0, 5.0])
    found = rescaled(vectors.half(), norms)
    assert found.dtype == torch.float32
    assert found.norm(dim=1).tolist() == pytest.approx(norms.tolist(), rel=1e-6)
    assert float(torch.cosine_similarity(found[0], vectors[0], dim=0)) == pytest.approx(1, abs=1e-5)


def world(exponent):
    """Documents whose norms follow their lengths, and the sweep of any others in their place."""
    draw = torch.Generator().manual_seed(3)
    queries, documents = directions(120, 12, draw), directions(100, 12, draw)
    lengths = (3 + torch.randn(100, generator=draw, dtype=torch.float64)).exp().round()
    relevance = draw_relevance((1 + lengths).pow(exponent) / 5, queries @ documents.T, 4, 0.05, draw)

    def sweep_of(vectors):
        norms = vectors.norm(dim=1)
        return brute_sweep(queries @ (vectors / norms.unsqueeze(1)).T, norms, relevance)

    return sweep_of, documents * (1 + lengths).sqrt().unsqueeze(1), lengths


def test_the_report_says_in_its_first_line_that_it_is_length():
    sweep_of, documents, lengths = world(0.5)
    found = confound_report(sweep_of, documents, lengths, covariates={"position": -lengths}, resamples=200)
    assert found.verdict == "length"
    assert found.sentence.startswith("Length explains the gain")
    assert found.correlations["length"].r > 0.99
    assert set(found.correlations) == {"length", "position"}
    assert found.lost_gain.low > 0
    assert found.norm.alpha.value == pytest.approx(1, abs=0.15)
    assert found.length.alpha.value == pytest.approx(0.5, abs=0.1)


def test_the_sweep_of_the_library_gives_what_brute_force_gives():
    draw = torch.Generator().manual_seed(4)
    queries, documents = torch.randn(40, 8, generator=draw), torch.randn(60, 8, generator=draw)
    relevance = (torch.rand(40, 60, generator=draw) < 0.1).double()
    relevance[:, 0] = 1
    judgements = Judgements.of([(q, d, 1.0) for q, d in relevance.nonzero().tolist()])
    lengths = documents.norm(dim=1).double().square()

    def brute(vectors):
        cosines = torch.cosine_similarity(queries.double().unsqueeze(1), vectors.double(), dim=2)
        return brute_sweep(cosines, vectors.double().norm(dim=1), relevance)

    found = confound_report(partial(sweep_alpha, queries, judgements=judgements), documents, lengths, resamples=50)
    expected = confound_report(brute, documents, lengths, resamples=50)
    assert found.sentence == expected.sentence
    assert found.lost_gain == pytest.approx(expected.lost_gain)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_report_knows_no_unit_of_length(scale):
    draw = torch.Generator().manual_seed(4)
    queries, documents = torch.randn(20, 8, generator=draw), torch.randn(30, 8, generator=draw)
    judgements = Judgements.of([(query, query, 1.0) for query in range(20)])
    lengths = documents.norm(dim=1).square()
    sweep_of = partial(sweep_alpha, queries, judgements=judgements)
    plain = confound_report(sweep_of, documents, lengths, resamples=20)
    scaled = confound_report(sweep_of, documents * scale, lengths, resamples=20)
    assert scaled.sentence == plain.sentence
    assert scaled.correlations["length"].r == pytest.approx(plain.correlations["length"].r)
    given = rescaled(documents * scale, torch.full((30,), 2.0))
    torch.testing.assert_close(given.norm(dim=1), torch.full((30,), 2.0))


def test_without_a_gain_there_is_nothing_to_explain():
    sweep_of, documents, lengths = world(0.0)
    found = confound_report(sweep_of, documents, lengths, resamples=200)
    assert found.verdict == "no gain"
    assert found.sentence.startswith("No gain: score by cosine")
    assert "Nor does any exponent of length" in found.sentence


def peaked(best, height, seed=0):
    noise = torch.randn(len(ALPHAS), 80, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    curve = 0.5 + height * torch.exp(-(ALPHAS - best).square()) - height * math.exp(-(best**2))
    return AlphaSweep(ALPHAS, curve.unsqueeze(1) + 0.02 * noise, "ndcg@10")


@pytest.mark.parametrize(
    ("residual", "length", "verdict"),
    [
        (peaked(1, 0.2, 1), peaked(0, 0.2, 2), "norm"),
        (peaked(1, 0.1, 1), peaked(1, 0.15, 2), "partly length"),
        (peaked(0, 0.2, 1), peaked(1, 0.2, 2), "length"),
        (peaked(0, 0.2, 1), peaked(0, 0.2, 2), "unclear"),
    ],
)
def test_verdicts(residual, length, verdict):
    found = explain_gain(peaked(1, 0.2), residual, length, resamples=300)
    assert found.verdict == verdict
    best = [float(one.values.mean(1).max()) for one in (peaked(1, 0.2), residual, length)]
    assert found.lost_gain.value == pytest.approx(best[0] - best[1])
    assert found.over_length.value == pytest.approx(best[0] - best[2])


def test_sweeps_of_other_queries_are_refused():
    with pytest.raises(ValueError, match="sweeps of the queries and measure of norm"):
        explain_gain(peaked(0, 0.1), peaked(0, 0.1), AlphaSweep(ALPHAS, torch.ones(21, 3), "ndcg@10"))


def test_lengths_and_norms_are_refused_where_they_are_none():
    with pytest.raises(ValueError, match="length: expected one number"):
        residual_norms(torch.ones(3), torch.ones(2))
    with pytest.raises(ValueError, match="length: expected finite"):
        length_norms(torch.tensor([-1.0]))
    with pytest.raises(ValueError, match="covariates: expected one number for each of 2 documents as 'depth'"):
        confound_report(lambda _: peaked(0, 0.1), torch.ones(2, 2), torch.ones(2), covariates={"depth": torch.ones(3)})
    with pytest.raises(ValueError, match="norms: expected one"):
        rescaled(torch.ones(2, 2), torch.ones(3))
