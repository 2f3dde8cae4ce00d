"""Residual norms against a spline in truncated powers by numpy; the report's verdicts and its three sweeps."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from planted_relevance import ALPHAS, brute_sweep, directions, draw_relevance

from lightning_normdyn.datasets import Judgements
from lightning_normdyn.retrieval.exponent.confounds import confound_report, explain_gain
from lightning_normdyn.retrieval.exponent.held_out_gain import best_exponent
from lightning_normdyn.retrieval.exponent.residual_norms import (
    length_exponents,
    length_norms,
    predicted_norms,
    rescaled,
    residual_norms,
)
from lightning_normdyn.retrieval.exponent.sweep import AlphaSweep, sweep_alpha


def spline_columns(x):
    """A line, and cubes whose second and third powers cancel beyond the last knot."""
    k = np.quantile(x, [0.05, 0.275, 0.5, 0.725, 0.95])
    cubes = np.maximum(x[:, None] - k, 0) ** 3
    bends = [
        cubes[:, j] - cubes[:, 3] * (k[4] - k[j]) / (k[4] - k[3]) + cubes[:, 4] * (k[3] - k[j]) / (k[4] - k[3])
        for j in range(3)
    ]
    return [x, *bends]


def predicted_by_numpy(norms, length, *controls):
    """Least squares of log norms on the splines of all controls."""
    columns = [column for x in (np.log1p(length), *controls) for column in spline_columns(x)]
    design = np.column_stack([np.ones_like(length), *columns])
    return np.exp(design @ np.linalg.lstsq(design, np.log(norms), rcond=None)[0])


def by_numpy(norms, length, *controls):
    return norms / predicted_by_numpy(norms, length, *controls) * np.exp(np.log(norms).mean())


def test_residual_norms_are_those_of_a_restricted_cubic_spline():
    draw = np.random.default_rng(0)
    length = np.round(np.exp(draw.normal(3, 1, 300)))
    norms = np.sqrt(1 + length) * np.exp(0.3 * np.sin(np.log1p(length)) + 0.1 * draw.normal(size=300))
    found = residual_norms(torch.tensor(norms), torch.tensor(length))
    assert found.numpy() == pytest.approx(by_numpy(norms, length), rel=1e-5)
    assert float(found.log().mean()) == pytest.approx(np.log(norms).mean())


def test_what_length_and_a_second_control_predict_is_a_sum_of_two_splines():
    draw = np.random.default_rng(1)
    length, age = np.round(np.exp(draw.normal(3, 1, 400))), draw.normal(size=400) ** 3
    norms = np.sqrt(1 + length) * np.exp(0.3 * np.sin(age) + 0.1 * draw.normal(size=400))
    columns = (torch.tensor(norms), torch.tensor(length))
    controls = {"age": torch.tensor(age)}
    found = residual_norms(*columns, controls=controls)
    np.testing.assert_allclose(found.numpy(), by_numpy(norms, length, age), rtol=1e-5)
    predicted = predicted_norms(*columns, controls=controls)
    np.testing.assert_allclose(predicted.numpy(), predicted_by_numpy(norms, length, age), rtol=1e-5)
    geometric_mean = math.exp(np.log(norms).mean())
    np.testing.assert_allclose((found * predicted).numpy(), norms * geometric_mean, rtol=1e-9)
    unknown = controls["age"].clone()
    unknown[::7] = math.nan
    filled = unknown.where(unknown.isfinite(), unknown[unknown.isfinite()].median())
    twice = [residual_norms(*columns, controls={"age": column}) for column in (unknown, filled)]
    torch.testing.assert_close(*twice)


@pytest.mark.parametrize("unit", [1e-300, 1e-9, 1.0, 1e12, 1e300])
def test_a_control_knows_no_unit(unit):
    draw = torch.Generator().manual_seed(3)
    length, age = 100 * torch.rand(80, generator=draw, dtype=torch.float64), torch.rand(80, generator=draw).double()
    norms = (age + 0.1 * torch.rand(80, generator=draw)).exp()
    plain, scaled = (residual_norms(norms, length, controls={"age": column}) for column in (age, unit * (age - 0.5)))
    torch.testing.assert_close(scaled, plain, rtol=1e-6, atol=0)


def test_rows_that_are_left_out_of_the_fit_bend_nothing():
    length = torch.arange(1.0, 101.0, dtype=torch.float64)
    norms = (1 + length).sqrt()
    norms[[10, 60]] = 6e-18
    living = norms > 1e-9
    found = predicted_norms(norms, length, fitted_rows=living)
    torch.testing.assert_close(found, (1 + length).sqrt(), rtol=1e-4, atol=0)
    assert float(residual_norms(norms, length, fitted_rows=living)[10]) < 1e-15


def test_exponents_of_length_grow_by_a_ratio_and_know_no_unit():
    draw = torch.Generator().manual_seed(0)
    lengths = (4 + 0.6 * torch.randn(500, generator=draw, dtype=torch.float64)).exp()
    exponents = length_exponents(lengths, ALPHAS)
    above = exponents[exponents > 0]
    deviation = np.log1p(lengths.numpy()).std()
    assert exponents.tolist() == pytest.approx((-exponents.flip(0)).tolist())
    assert float(above[0]) * deviation == pytest.approx(0.02)
    assert 2.6 < float(above[-1]) * deviation < 3.001
    ratios = (above[1:] / above[:-1])[above[:-1] * deviation > 0.15]
    assert 1.149 < float(ratios.min()) < float(ratios.max()) < 1.45
    nearly = ALPHAS + 1e-17 * torch.randn(21, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(length_exponents(lengths, nearly), exponents)
    assert length_exponents(torch.full((9,), 3.0), ALPHAS).isfinite().all()


@pytest.mark.parametrize("peak", [0.013, 0.07, 0.5, 1.7])
def test_a_peak_between_uneven_exponents_is_found(peak):
    lengths = torch.tensor([0.0, math.e - 1], dtype=torch.float64)
    exponents = length_exponents(lengths, ALPHAS)
    curve = 0.5 - 0.1 * ((exponents - peak) / (0.1 + peak)).square().clamp(max=4)
    assert best_exponent(exponents, curve.unsqueeze(1), resamples=5).alpha.value == pytest.approx(peak, rel=0.1)


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
    assert ("neither beyond chance once corrected" in found.sentence) == (verdict == "unclear")
    assert not found.sentence.endswith("neither beyond chance.")  # that is no word on the correlation before it
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
    with pytest.raises(ValueError, match=r"controls: expected names of covariates \(depth\), got 'age'"):
        confound_report(
            lambda _: peaked(0, 0.1),
            torch.ones(2, 2),
            torch.ones(2),
            covariates={"depth": torch.ones(2)},
            controls=["age"],
        )
    with pytest.raises(ValueError, match="norms: expected one"):
        rescaled(torch.ones(2, 2), torch.ones(3))
