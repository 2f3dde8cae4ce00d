"""Advice on one model follows from planted norms."""

import math

import pytest
import torch

from lightning_normdyn.datasets import Judgements
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.grid.advice import advise_on
from lightning_normdyn.tasks.grid.diagnosis import diagnose

PAIRS = 300


def a_model(*, relevant_length: float = 1.0, spread: float = 0.0) -> Encoded:
    """Queries near their documents, among as many that nobody wants."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(PAIRS, 16, generator=generator)
    wanted = (queries + torch.randn(PAIRS, 16, generator=generator)) * relevant_length
    others = torch.randn(PAIRS, 16, generator=generator)
    lengths = (spread * torch.randn(2 * PAIRS, 1, generator=generator)).exp()
    judgements = Judgements.of((place, place, 1.0) for place in range(PAIRS))
    return Encoded(queries, torch.cat([wanted, others]) * lengths, judgements)


def test_scoring_follows_the_measures() -> None:
    generator = torch.Generator().manual_seed(1)
    cosine = torch.rand(PAIRS, generator=generator)
    alike = advise_on(a_model(), cosine=cosine, dot=cosine.clone(), measure="mrr@10")
    assert alike.scoring.startswith(f"Score with cosine: {PAIRS} queries show no difference")
    better = advise_on(a_model(), cosine=cosine, dot=cosine + 0.05, measure="mrr@10")
    assert better.scoring.startswith("Score with the inner product (mrr@10: inner product 0.")
    worse = advise_on(a_model(), cosine=cosine, dot=cosine - 0.05, measure="mrr@10")
    assert worse.scoring.startswith("Score with cosine (")


@pytest.mark.parametrize(("length", "said"), [(2.0, "carries relevance"), (1.0, "cannot be told to carry relevance")])
def test_length_that_carries_relevance_is_seen(length, said) -> None:
    encoded = a_model(relevant_length=length)
    if length == 1.0:  # a noisy copy of a query is longer than a fresh vector
        encoded = encoded._replace(documents=torch.nn.functional.normalize(encoded.documents, dim=1) + 0.02)
    values = torch.rand(PAIRS, generator=torch.Generator().manual_seed(2))
    assert said in advise_on(encoded, cosine=values, dot=values, measure="mrr@10").training


def test_documents_of_all_lengths_speak_for_one_side() -> None:
    """As in the doctest of recommend_normalization: keeping lengths that vary wildly is badly conditioned."""
    values = torch.rand(PAIRS, generator=torch.Generator().manual_seed(2))
    advice = advise_on(a_model(spread=1.5), cosine=values, dot=values, measure="m", temperature=1.0)
    share = advice.diagnosis.kappa_qnorm_share
    assert share < 0.025
    assert advice.training.startswith("Try dnorm next: the Fisher information speaks for it")


def test_symmetric_sides_are_treated_alike() -> None:
    values = torch.rand(PAIRS, generator=torch.Generator().manual_seed(2))
    long, plain = (
        advise_on(a_model(relevant_length=length), cosine=values, dot=values, measure="m", symmetric=True)
        for length in (3.0, 0.75)
    )
    assert long.training.startswith("Train with dot")
    assert plain.training.startswith("Train with cosine") == (abs(plain.diagnosis.cohens_d.value) < 0.5)


def test_vectors_of_one_length_are_told_and_not_judged() -> None:
    """Rounding makes some lengths longer than others; that is no relevance."""
    encoded = a_model()
    unit = torch.nn.functional.normalize(encoded.documents, dim=1).half().float()
    values = torch.rand(PAIRS, generator=torch.Generator().manual_seed(2))
    advice = advise_on(encoded._replace(documents=unit), cosine=values, dot=values, measure="m")
    assert advice.training.startswith("These documents have one length")
    assert math.isnan(advice.diagnosis.cohens_d.value)


def test_a_few_relevant_documents_prove_no_effect() -> None:
    """Cohen's d of three documents is wide; its interval is that of the textbook."""
    encoded = a_model(spread=0.5)
    few = Judgements.of((place, place, 1.0) for place in range(10))
    advice = advise_on(encoded._replace(judgements=few), cosine=torch.rand(30), dot=torch.rand(30), measure="m")
    d, low, high = advice.diagnosis.cohens_d
    n, m = 10, 2 * PAIRS - 10
    error = 1.96 * math.sqrt((n + m) / (n * m) + d**2 / (2 * (n + m)))
    assert (low, high) == pytest.approx((d - error, d + error))
    assert "cannot be told to carry" in advice.training


def test_few_pairs_are_too_few() -> None:
    encoded = a_model()
    few = encoded._replace(judgements=Judgements.of([(0, 0, 1.0), (1, 1, 1.0)]))
    advice = advise_on(few, cosine=torch.rand(PAIRS), dot=torch.rand(PAIRS), measure="m")
    assert math.isnan(advice.diagnosis.kappa_qnorm)
    assert advice.training.startswith("Too few pairs")


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_diagnosis_knows_no_unit_of_length(scale) -> None:
    encoded = a_model(relevant_length=1.2)
    scaled = encoded._replace(queries=encoded.queries * scale, documents=encoded.documents * scale)
    plain, found = (diagnose(one, temperature=0.1) for one in (encoded, scaled))
    assert list(found.numbers().values())[:5] == pytest.approx(list(plain.numbers().values())[:5], rel=1e-5)
