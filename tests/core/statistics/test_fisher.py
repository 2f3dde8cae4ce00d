"""Fisher condition numbers against autograd, pair by pair, and the advice that follows from them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core import NORMALIZATIONS, fisher_condition_number, recommend_normalization
from lightning_normdyn.core.statistics.fisher import pair_gradients
from lightning_normdyn.core.statistics.interval import resample_counts

PROPERTY = settings(derandomize=True, max_examples=30)
CELLS = {**NORMALIZATIONS, "between": (0.3, 0.8)}
FORMS = ("eigenvalues", "diagonal", "polar")
D = 4


def sample(seed=0, n=12, m=15, d=D):
    draw = torch.Generator().manual_seed(seed)
    queries, documents = (torch.randn(k, d, generator=draw, dtype=torch.float64) for k in (n, m))
    return queries * torch.rand(n, 1, generator=draw).add(0.5), documents * torch.rand(m, 1, generator=draw).add(0.2)


def log_likelihood(pair, documents, place, exponents, temperature):
    """Of one pair, from the two raw vectors joined; the other candidates are constants."""
    query, own = pair.chunk(2)
    candidates = [own if j == place else document for j, document in enumerate(documents)]
    scores = torch.stack(
        [query @ c / (query.norm() ** exponents[0] * c.norm() ** exponents[1] * temperature) for c in candidates]
    )
    return scores[place] - scores.exp().sum().log()


def one_direction(queries, documents, exponents, temperature):
    rows = []
    for place, query in enumerate(queries):
        pair = torch.cat((query, documents[place])).requires_grad_()
        rows.append(torch.autograd.grad(log_likelihood(pair, documents, place, exponents, temperature), pair)[0])
    return torch.stack(rows)


def by_autograd(queries, documents, exponents, temperature, *, symmetric=True):
    rows = one_direction(queries, documents, exponents, temperature)
    if not symmetric:
        return rows
    back = one_direction(documents[: len(queries)], queries, exponents[::-1], temperature)
    return torch.cat((rows, torch.cat((back[:, D:], back[:, :D]), dim=1)))


def polar_by_autograd(queries, documents, exponents):
    rows = []
    for query, document in zip(queries, documents, strict=False):
        angle = torch.arccos(query @ document / (query.norm() * document.norm()))
        at = torch.stack((query.norm(), document.norm(), angle)).requires_grad_()
        score = at[0] ** (1 - exponents[0]) * at[1] ** (1 - exponents[1]) * at[2].cos()
        rows.append(torch.autograd.grad(score, at)[0])
    return torch.stack(rows)


def kappas(gradients, polar):
    """log10 of largest over smallest non-zero, in numpy."""
    g, p = gradients.numpy(), polar.numpy()
    spectra = {
        "eigenvalues": np.linalg.svd(g, compute_uv=False) ** 2,
        "diagonal": (g**2).mean(0),
        "polar": (p**2).mean(0),
    }
    kept = {form: values[values > 1e-12 * values.max()] for form, values in spectra.items()}
    return {form: math.log10(values.max() / values.min()) for form, values in kept.items()}


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_gradients_equal_autograd_pair_by_pair(symmetric, cell, temperature):
    queries, documents = sample()
    options = {"temperature": temperature, "symmetric": symmetric}
    found = pair_gradients(queries, documents, *CELLS[cell], **options, pairs=1_000)
    oracle = by_autograd(queries, documents, CELLS[cell], **options)
    torch.testing.assert_close(found.embeddings, oracle, rtol=1e-9, atol=1e-12 * float(oracle.abs().max()))
    torch.testing.assert_close(found.polar, polar_by_autograd(queries, documents, CELLS[cell]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_condition_numbers_equal_numpy(cell):
    queries, documents = sample()
    found = fisher_condition_number(queries, documents, *CELLS[cell], temperature=0.7)
    oracle = kappas(
        by_autograd(queries, documents, CELLS[cell], 0.7), polar_by_autograd(queries, documents, CELLS[cell])
    )
    assert found.n == 12
    for form in FORMS:
        assert getattr(found, form) == pytest.approx(oracle[form], abs=1e-8), form


def test_fewer_pairs_than_dimensions_leave_zero_eigenvalues_out():
    queries, documents = sample(n=5, m=9)
    found = fisher_condition_number(queries, documents, 1, 0, symmetric=False)
    rows = by_autograd(queries, documents, (1, 0), 0.05, symmetric=False)
    singular = np.linalg.svd(rows.numpy(), compute_uv=False)
    assert len(singular) == 5
    assert found.eigenvalues == pytest.approx(2 * math.log10(singular[0] / singular[-1]), abs=1e-6)


@PROPERTY
@given(st.integers(0, 2**32))
def test_a_rotation_changes_the_diagonal_alone(seed):
    queries, documents = sample(seed)
    turn, _ = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    before = fisher_condition_number(queries, documents, 1, 0, temperature=1.0)
    after = fisher_condition_number(queries @ turn, documents @ turn, 1, 0, temperature=1.0)
    assert after.eigenvalues == pytest.approx(before.eigenvalues, abs=1e-6)
    assert after.polar == pytest.approx(before.polar, abs=1e-9)
    assert after.diagonal != pytest.approx(before.diagonal, abs=1e-6)


@PROPERTY
@given(st.integers(0, 2**32))
def test_sides_exchanged_exchange_qnorm_and_dnorm(seed):
    queries, documents = sample(seed, m=12)
    qnorm = fisher_condition_number(queries, documents, *NORMALIZATIONS["qnorm"])
    dnorm = fisher_condition_number(documents, queries, *NORMALIZATIONS["dnorm"])
    assert list(qnorm) == pytest.approx(list(dnorm), abs=1e-6)


def test_cosine_has_nothing_but_an_angle():
    assert fisher_condition_number(*sample(), 1, 1).polar == 0


def test_polar_is_free_of_the_temperature():
    found = {tau: fisher_condition_number(*sample(), 1, 0, temperature=tau) for tau in (0.05, 1.0)}
    assert found[0.05].polar == found[1.0].polar
    assert found[0.05].diagonal != found[1.0].diagonal


def test_many_pairs_are_looked_at_in_parts_and_evenly_spaced():
    queries, documents = sample(n=700, m=720)
    whole = pair_gradients(queries, documents, 1, 0, temperature=0.5, symmetric=True, pairs=1_000)
    assert len(whole.polar) == 700
    some = pair_gradients(queries, documents, 1, 0, temperature=0.5, symmetric=True, pairs=8)
    places = np.round(np.linspace(0, 699, 8)).astype(int)
    both = np.concatenate((places, 700 + places))
    torch.testing.assert_close(some.embeddings, whole.embeddings[both])
    torch.testing.assert_close(some.polar, whole.polar[places])
    assert fisher_condition_number(queries, documents, 1, 0, pairs=8).n == 8


def test_half_precision_is_widened_and_zero_vectors_give_no_nan():
    queries, documents = (side.to(torch.bfloat16) for side in sample(n=30, m=30))
    found = fisher_condition_number(queries, documents, 1, 0)
    assert found == fisher_condition_number(queries.double(), documents.double(), 1, 0)
    queries[3], documents[4] = 0, 0
    for exponents in NORMALIZATIONS.values():
        assert all(math.isfinite(value) for value in fisher_condition_number(queries, documents, *exponents))


def test_no_signal_has_no_condition_number():
    found = fisher_condition_number(torch.zeros(3, 2), torch.zeros(3, 2), 0, 0)
    assert all(math.isnan(getattr(found, form)) for form in FORMS)
    advice = recommend_normalization(torch.zeros(3, 2), torch.zeros(3, 2))
    assert (advice.normalization, advice.confidence) == ("no difference", 0.5)


@pytest.mark.parametrize("form", FORMS)
def test_confidence_equals_a_loop_over_drawn_pairs(form):
    """Resampled pairs as rows, repeated as often as they were drawn, with the candidates as they are."""
    queries, documents = sample(5, n=20, m=20)
    rows = {
        name: (by_autograd(queries, documents, cell, 0.5), polar_by_autograd(queries, documents, cell))
        for name, cell in NORMALIZATIONS.items()
    }
    (counts,) = resample_counts(20, 60)
    wins = 0
    for row in counts:
        drawn = np.repeat(np.arange(20), row.long().numpy())
        qnorm, dnorm = (
            kappas(g[np.concatenate((drawn, 20 + drawn))], p[drawn])[form] for g, p in (rows["qnorm"], rows["dnorm"])
        )
        wins += qnorm < dnorm
    advice = recommend_normalization(queries, documents, form=form, temperature=0.5, resamples=60)
    smaller = "qnorm" if getattr(advice.qnorm, form) < getattr(advice.dnorm, form) else "dnorm"
    assert advice.confidence == pytest.approx(wins / 60 if smaller == "qnorm" else 1 - wins / 60, abs=1e-12)
    assert advice.normalization == (smaller if advice.confidence >= 0.975 else "no difference")
    assert advice.qnorm == fisher_condition_number(queries, documents, 1, 0, temperature=0.5)


@pytest.mark.parametrize("form", ["diagonal", "polar"])
def test_sides_that_are_alike_get_no_recommendation(form):
    """A side is named by chance now and then, and neither more often than the other."""
    named = {"qnorm": 0, "dnorm": 0, "no difference": 0}
    for seed in range(60):
        draw = torch.Generator().manual_seed(seed)
        both = torch.randn(100, 8, generator=draw)
        queries, documents = both + 0.5 * torch.randn(2, 100, 8, generator=draw)
        named[recommend_normalization(queries, documents, form=form, temperature=1.0, resamples=100).normalization] += 1
    assert named["no difference"] >= 48
    assert max(named["qnorm"], named["dnorm"]) <= 9


def test_one_direction_alone_speaks_for_dnorm_where_sides_are_alike():
    """Why the default looks at both."""
    draw = torch.Generator().manual_seed(0)
    both = torch.randn(200, 8, generator=draw)
    sides = both + 0.5 * torch.randn(2, 200, 8, generator=draw)
    for queries, documents in (sides, sides.flip(0)):
        assert recommend_normalization(queries, documents, temperature=1.0, symmetric=False).normalization == "dnorm"


@pytest.mark.parametrize("long_side", ["queries", "documents"])
def test_a_clear_difference_is_found(long_side):
    """In polar form a norm near one keeps derivatives alike; a norm of thirty sets angle and length apart."""
    draw = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(2, 200, 16, generator=draw)
    queries, documents = (7 * queries, documents / 4) if long_side == "queries" else (queries / 4, 7 * documents)
    advice = recommend_normalization(queries, documents, form="polar", temperature=1.0)
    assert advice.normalization == {"queries": "qnorm", "documents": "dnorm"}[long_side]
    assert advice.confidence == 1


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        ((torch.ones(3, 2), torch.ones(3, 4)), {}, r"documents: expected \[m, d\] with the d of queries, \(3, 2\)"),
        ((torch.ones(3, 2), torch.ones(2, 2)), {}, "documents: expected one for each .* got 2 for 3"),
        ((torch.ones(1, 2), torch.ones(3, 2)), {}, "at least two queries, got 3 for 1"),
        (
            (torch.ones(3, 2), torch.ones(3, 2)),
            {"temperature": 0.0},
            "temperature: expected a positive number, got 0.0",
        ),
        ((torch.ones(3, 2), torch.ones(3, 2)), {"form": "trace"}, "form: expected one of .* got 'trace'"),
    ],
)
def test_what_does_not_fit_is_named(arguments, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        recommend_normalization(*arguments, **options)
