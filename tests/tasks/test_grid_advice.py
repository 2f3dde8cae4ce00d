"""Advice on one model follows from planted norms."""

import math

import pytest
import torch

from lightning_normdyn.datasets import Judgements
from lightning_normdyn.retrieval import AlphaSweep
from lightning_normdyn.retrieval.exponent.verdict import ScoringVerdict
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.grid.advice import Scoring, TrainedWith, advise_on
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


def sweep_of(cosine: torch.Tensor, dot: torch.Tensor) -> AlphaSweep:
    """Half of the way lies half of the gain."""
    return AlphaSweep(torch.tensor([0.0, 0.5, 1.0]), torch.stack([cosine, (cosine + dot) / 2, dot]), "mrr@10")


def alike(queries: int = PAIRS) -> AlphaSweep:
    values = torch.rand(queries, generator=torch.Generator().manual_seed(2))
    return sweep_of(values, values.clone())


def test_scoring_follows_the_measures() -> None:
    generator = torch.Generator().manual_seed(1)
    cosine = torch.rand(PAIRS, generator=generator)
    same = advise_on(a_model(), sweep_of(cosine, cosine.clone()))
    assert same.scoring.startswith("No gain: score by cosine")
    assert (same.verdict.kind, same.verdict.alpha) == ("no gain", 0.0)
    better = advise_on(a_model(), sweep_of(cosine, cosine + 0.05))
    assert better.scoring.startswith("Norms help: take exponent 1.00")
    assert better.comparison.scores["dot"].mean - better.comparison.scores["cosine"].mean == pytest.approx(0.05)
    worse = advise_on(a_model(), sweep_of(cosine, cosine - 0.05))
    assert worse.scoring.startswith("No gain: score by cosine")
    few = advise_on(a_model(), sweep_of(cosine[:4], cosine[:4] + 0.05))
    assert few.scoring == "Score by cosine: 4 judged queries are too few to choose an exponent of the norm."
    with pytest.raises(ValueError, match="sweep: expected exponents 0 and 1 among those tried"):
        advise_on(a_model(), AlphaSweep(torch.tensor([0.0, 0.5]), torch.ones(2, 9), "mrr@10"))


@pytest.mark.parametrize(
    ("length", "said"), [(2.0, "are clearly longer"), (1.0, "cannot be told from those of others")]
)
def test_length_that_carries_relevance_is_seen(length, said) -> None:
    encoded = a_model(relevant_length=length)
    if length == 1.0:  # a noisy copy of a query is longer than a fresh vector
        encoded = encoded._replace(documents=torch.nn.functional.normalize(encoded.documents, dim=1) + 0.02)
    assert said in advise_on(encoded, alike()).training


def test_an_effect_beyond_chance_is_never_said_to_be_untold() -> None:
    """The sentence that once stood beside d = -0.41 with an interval far from 0."""
    encoded = a_model(relevant_length=0.63, spread=0.2)
    advice = advise_on(encoded, alike())
    effect = advice.diagnosis.cohens_d
    assert -0.5 < effect.value < effect.high < 0
    assert "vectors of relevant documents are a little (less than 0.5) shorter" in advice.training
    assert "cannot be told" not in advice.training


def test_the_next_training_is_no_other_where_the_model_had_it() -> None:
    model = a_model(relevant_length=1.5)
    gain = sweep_of(torch.rand(PAIRS), torch.ones(PAIRS))
    for name, said in (("qnorm", "Stay with qnorm"), ("cosine", "Try qnorm next")):
        training = advise_on(model, gain, trained_with=TrainedWith(1.0, normalization=name)).training
        assert training.startswith(said), training


def test_training_never_contradicts_the_verdict_on_scoring() -> None:
    """Where the gain is that of length, or of a negative exponent, no loss is to keep norms for their relevance."""
    model = a_model(relevant_length=2.0)
    for verdict in (
        ScoringVerdict("length", 0.0, 0.3, "It is length.", ""),
        ScoringVerdict("norm", -0.2, 0.0, "Norms help.", ""),
    ):
        advice = advise_on(
            model, alike(), trained_with=TrainedWith(symmetric=True), scoring=Scoring(verdict, verdict.action)
        )
        assert advice.scoring == verdict.action
        assert advice.training.startswith("Try cosine next")


def test_documents_of_all_lengths_speak_for_one_side() -> None:
    """As in the doctest of recommend_normalization: keeping lengths that vary wildly is badly conditioned."""
    advice = advise_on(a_model(spread=1.5), alike(), trained_with=TrainedWith(1.0))
    share = advice.diagnosis.kappa_qnorm_share
    assert share < 0.025
    assert advice.training.startswith(
        "Try cosine next, for no exponent of these norms gains; of other normalizations, dnorm"
    )
    assert "the Fisher information speaks for it" in advice.training
    assert "it ranks as cosine does" in advice.training
    trained = advise_on(a_model(spread=1.5), alike(), trained_with=TrainedWith(1.0, normalization="dnorm"))
    assert trained.training.startswith("Stay with dnorm: the Fisher information speaks for it")
    gain = sweep_of(torch.rand(PAIRS, generator=torch.Generator().manual_seed(5)), torch.ones(PAIRS))
    assert advise_on(a_model(spread=1.5), gain).training.startswith("Train qnorm and dnorm and let the measure decide")


def test_where_length_gains_cosine_comes_before_other_normalizations() -> None:
    verdict = ScoringVerdict("length", 0.0, 0.3, "It is length.", "")
    scoring = Scoring(verdict, verdict.action)
    advice = advise_on(a_model(spread=1.5), alike(), trained_with=TrainedWith(1.0), scoring=scoring)
    assert advice.training.startswith(
        "Try cosine next, for it is length that gains here; of other normalizations, dnorm"
    )


def test_symmetric_sides_are_treated_alike() -> None:
    long, plain = (
        advise_on(a_model(relevant_length=length), alike(), trained_with=TrainedWith(symmetric=True))
        for length in (3.0, 0.75)
    )
    assert long.training.startswith(
        "Try cosine next, for no exponent of these norms gains; of other normalizations, dot"
    )
    assert plain.training.startswith("Try cosine next") == (abs(plain.diagnosis.cohens_d.value) < 0.5)


def test_vectors_of_one_length_are_told_and_not_judged() -> None:
    """Rounding makes some lengths longer than others; that is no relevance."""
    encoded = a_model()
    unit = torch.nn.functional.normalize(encoded.documents, dim=1).half().float()
    advice = advise_on(encoded._replace(documents=unit), alike())
    assert advice.training.startswith("These documents have one length")
    assert math.isnan(advice.diagnosis.cohens_d.value)


def test_a_few_relevant_documents_prove_no_effect() -> None:
    """Cohen's d of three documents is wide; its interval is that of the textbook."""
    encoded = a_model(spread=0.5)
    few = Judgements.of((place, place, 1.0) for place in range(10))
    advice = advise_on(encoded._replace(judgements=few), alike(30))
    d, low, high = advice.diagnosis.cohens_d
    n, m = 10, 2 * PAIRS - 10
    error = 1.96 * math.sqrt((n + m) / (n * m) + d**2 / (2 * (n + m)))
    assert (low, high) == pytest.approx((d - error, d + error))
    assert "cannot be told from those of others" in advice.training


def test_few_pairs_are_too_few() -> None:
    encoded = a_model()
    few = encoded._replace(judgements=Judgements.of([(0, 0, 1.0), (1, 1, 1.0)]))
    advice = advise_on(few, alike())
    assert math.isnan(advice.diagnosis.kappa_qnorm)
    assert advice.training.startswith("Too few pairs")


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_diagnosis_knows_no_unit_of_length(scale) -> None:
    encoded = a_model(relevant_length=1.2)
    scaled = encoded._replace(queries=encoded.queries * scale, documents=encoded.documents * scale)
    plain, found = (diagnose(one, temperature=0.1) for one in (encoded, scaled))
    assert list(found.numbers().values())[:5] == pytest.approx(list(plain.numbers().values())[:5], rel=1e-5)
