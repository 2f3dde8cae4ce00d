"""What a grid concludes, of trainings whose truth is known."""

from dataclasses import replace

import pytest
import torch
from grid_runs import a_grid, a_run

from lightning_normdyn.core import cohens_d, fisher_condition_number, safe_norm
from lightning_normdyn.core.statistics.variant_comparison import compare_variants
from lightning_normdyn.datasets import Judgements
from lightning_normdyn.history.grid_findings import Trial, read_grid_run, write_grid_run
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.contrast.symmetry import FunctionalSymmetry
from lightning_normdyn.tasks.grid.answer import advise
from lightning_normdyn.tasks.grid.diagnosis import diagnose
from lightning_normdyn.tasks.grid.findings import find
from lightning_normdyn.tasks.grid.symmetry_check import check_symmetry
from lightning_normdyn.tasks.grid.tuning import Choice, beyond, choose, lead

ASYMMETRIC, SYMMETRIC = FunctionalSymmetry(False, "made up"), FunctionalSymmetry(True, "made up")
BETTER = {"cosine": 0.0, "dot": 0.0, "qnorm": 0.1, "dnorm": 0.02, "learnable": 0.05}


def test_each_variant_takes_the_rate_that_validation_likes() -> None:
    runs = [
        a_run("cosine", lr=1e-3, validation=0.4),
        a_run("cosine", lr=3e-3, validation=0.6),
        a_run("dot", lr=1e-3, validation=0.5),
        a_run("dot", lr=3e-3, validation=None),
    ]
    assert choose(runs) == {"cosine": Choice(3e-3), "dot": Choice(1e-3)}


def test_each_variant_takes_the_temperature_that_validation_likes_and_says_by_how_much() -> None:
    tried = {(1e-3, 1.0): 0.40, (3e-3, 1.0): 0.50, (9e-3, 1.0): None, (3e-3, 0.5): 0.44, (3e-3, 2.0): 0.57}
    runs = [
        a_run(
            "cosine",
            lr=lr,
            temperature_factor=temperature_factor,
            validation=value,
            temperature=0.05 * temperature_factor,
        )
        for (lr, temperature_factor), value in tried.items()
    ]
    repeat = a_run("cosine", lr=3e-3, temperature_factor=2.0, seed=1, validation=0.1, temperature=0.3)
    found = find([*runs, repeat], task="t", symmetry=ASYMMETRIC)
    assert found.comparison.seeds == 2
    settings = found.choices["cosine"]
    assert (settings.lr, settings.temperature_factor, settings.trials) == (3e-3, 2.0, 5)
    assert settings.temperature_lead == pytest.approx(0.57 - 0.50)
    assert settings.lr_lead == pytest.approx(0.50 - 0.40)  # where rates were tried
    assert settings.temperature == pytest.approx((0.1 + 0.3) / 2)
    assert [trial[:2] for trial in found.trials["cosine"]] == sorted(tried)


def test_a_rate_is_judged_among_trials_of_its_temperature() -> None:
    trials = [Trial(0.1, 1.0, None, 0.5), Trial(0.3, 1.0, None, 0.6), Trial(0.1, 2.0, None, 0.9)]
    assert lead(trials, Choice(0.3), "lr") == pytest.approx(0.1)
    assert lead(trials, Choice(0.1, 2.0), "temperature_factor") == pytest.approx(0.4)
    assert lead(trials, Choice(0.3), "temperature_factor") is None


@pytest.mark.parametrize(
    ("values", "value", "expected"),
    [([0.5, 1.0, 2.0], 0.5, 0.25), ([0.5, 1.0, 2.0], 1.0, None), ([0.5, 1, 3], 3, 9.0), ([1.0], 1.0, None)],
)
def test_a_list_goes_on_where_the_best_is_its_last(values, value, expected) -> None:
    assert beyond(values, value) == expected


def test_later_seeds_have_no_say_in_the_rate() -> None:
    """A lucky first seed is not taken back by the repeats: every seed of the rate it chose counts."""
    cosine = [a_run("cosine", seed=seed, validation=value) for seed, value in enumerate((0.50, 0.46, 0.47))]
    other = a_run("cosine", lr=3e-3, validation=0.49)
    qnorm = [a_run("qnorm", seed=seed) for seed in range(3)]
    found = find([*cosine, other, *qnorm], task="t", symmetry=ASYMMETRIC)
    assert found.lrs == {"cosine": 1e-3, "qnorm": 1e-3}
    assert found.comparison.seeds == 3


def test_a_variant_that_never_trained_is_left_out_and_named() -> None:
    runs = a_grid({"cosine": 0.0, "qnorm": 0.1})
    found = find([*runs, a_run("dot", validation=None)], task="t", symmetry=ASYMMETRIC)
    assert list(found.comparison.scores) == ["cosine", "qnorm"]
    assert found.notes[0].startswith("dot is left out")
    with pytest.raises(ValueError, match="expected trainings of cosine with a finite measure"):
        find([a_run("qnorm")], task="t", symmetry=ASYMMETRIC)


def test_a_repeat_that_collapsed_is_left_out_and_said() -> None:
    runs = a_grid({"cosine": 0.0, "qnorm": 0.1})
    collapsed = a_run("qnorm", seed=2)
    collapsed.values["trained"][:] = [None] * 80
    found = find([*runs[:-1], collapsed], task="t", symmetry=ASYMMETRIC)
    assert found.comparison.seeds == 2
    assert found.notes == [
        "qnorm ended 2 trainings with a finite measure, fewer than the others; 1 training of those is not used."
    ]


def test_one_seed_decides_nothing() -> None:
    advice = find(a_grid(BETTER, seeds=1), task="t", symmetry=ASYMMETRIC).advice
    assert advice.startswith("One seed cannot decide: with it qnorm leads with ndcg@10 0.")
    assert "Take" not in advice


def test_a_planted_winner_is_taken_and_said() -> None:
    found = find(a_grid(BETTER), task="Retrieval", symmetry=ASYMMETRIC, floors={"BM25": 0.2})
    assert found.advice.startswith("Take qnorm: ndcg@10 0.")
    assert "+0.1" in found.advice
    assert found.symmetry[1] == "agreed"
    assert found.kappa_verdict.startswith("agreed: kappa spoke for qnorm")
    assert found.cross["qnorm"]["dot"] == pytest.approx(found.comparison.scores["qnorm"].mean)
    assert found.learnt == {"learnable": {"gamma_query": pytest.approx(0.4), "gamma_document": pytest.approx(0.6)}}
    assert found.floors == {"BM25": 0.2}


def test_runs_at_other_rates_do_not_enter() -> None:
    stray = a_run("qnorm", lr=9.0, gain=-0.4, validation=0.0)
    runs = a_grid(BETTER)
    with_stray = find([*runs, stray], task="t", symmetry=ASYMMETRIC)
    assert with_stray.comparison == find(runs, task="t", symmetry=ASYMMETRIC).comparison


def test_no_difference_is_an_answer() -> None:
    alike = dict.fromkeys(BETTER, 0.0)
    found = find(a_grid(alike), task="t", symmetry=ASYMMETRIC)
    assert found.comparison.answer == "undecided"
    assert found.advice.startswith("Too small to see with 3 seeds and 80 test items (ndcg@10: cosine 0.")
    assert found.advice.endswith(
        f"The smallest gain that would have been seen four times in five is {found.comparison.visible_gain:.3g}."
    )
    assert found.symmetry[1] == "undecided"
    scores = {name: score._replace(visible_gain=0.03) for name, score in found.comparison.scores.items()}
    scores = {**scores, "cosine": scores["cosine"]._replace(visible_gain=None)}
    scores["qnorm"] = scores["qnorm"]._replace(visible_gain=0.012)
    sentence = advise(found.comparison._replace(scores=scores), "ndcg@10")
    assert sentence.endswith("seen four times in five is 0.012 of qnorm, 0.03 of dot.")
    coarse = find(a_grid(alike), task="t", symmetry=ASYMMETRIC, margin=0.05)
    assert coarse.comparison.answer == "no gain"
    assert coarse.advice.startswith("No gain that matters: no variant gains 0.05 or more over cosine, at most +0.0")
    assert f"{coarse.comparison.largest_gain:+.4f} (ndcg@10 0." in coarse.advice
    looked = find(a_grid(alike), task="t", symmetry=ASYMMETRIC, margin=0.05, looks=(3, 4, 5))
    assert "; 95% over all looks): stay with cosine" in looked.advice
    one_seed = find(a_grid(alike, seeds=1), task="t", symmetry=ASYMMETRIC)
    assert one_seed.notes[0].startswith("One seed")


def test_gains_are_told_apart_by_whether_training_wants_the_documents() -> None:
    """A gain of 0.2 on the first thirty of eighty queries alone, those whose documents training wants."""
    in_training = [place < 30 for place in range(80)]
    runs = [
        replace(run, in_training=in_training, values={**run.values, "trained": raised(run)})
        for run in a_grid({"cosine": 0.0, "qnorm": 0.0})
    ]
    found = find(runs, task="t", symmetry=ASYMMETRIC)
    seen, new = found.query_kinds.values()
    assert (seen.queries, new.queries) == (30, 50)
    assert seen.scores["qnorm"].gain == pytest.approx(0.2, abs=0.01)
    assert not new.scores["qnorm"].gain_interval.excludes_zero
    (note,) = (note for note in found.notes if note.startswith("Of qnorm's gain"))
    total = found.comparison.scores["qnorm"].gain
    parts = [30 / 80 * seen.scores["qnorm"].gain, 50 / 80 * new.scores["qnorm"].gain]
    assert total == pytest.approx(sum(parts))
    assert f"{total:+.4f} over cosine come {parts[0]:+.4f} from the 30 items whose documents training wants" in note
    assert f"and {parts[1]:+.4f} from the 50 others" in note
    assert find(a_grid({"cosine": 0.0}), task="t", symmetry=ASYMMETRIC).query_kinds == {}


def raised(run) -> list[float]:
    gain = 0.2 if run.variant == "qnorm" else 0.0
    return [value + gain * (place < 30) for place, value in enumerate(run.values["trained"])]


def test_sets_out_of_domain_are_compared_by_both_scores() -> None:
    runs = [
        replace(run, out_of_domain={"fiqa": {"trained": run.values["trained"][:40], "cosine": [0.5, None] * 20}})
        for run in a_grid({"cosine": 0.0, "qnorm": 0.1})
    ]
    found = find(runs, task="t", symmetry=ASYMMETRIC).out_of_domain["fiqa"]
    assert found["trained"].scores["qnorm"].gain == pytest.approx(0.1, abs=0.02)
    assert (found["trained"].queries, found["cosine"].queries) == (40, 20)
    assert found["cosine"].scores["qnorm"].gain == 0


def test_the_rule_of_symmetry_can_be_contradicted() -> None:
    runs = a_grid(BETTER)
    assert find(runs, task="t", symmetry=SYMMETRIC).symmetry[1] == "contradicted"
    worse = find(a_grid({"cosine": 0.1, "dot": 0.1, "qnorm": 0.0, "dnorm": 0.0}), task="t", symmetry=SYMMETRIC)
    assert worse.symmetry[1] == "agreed"
    assert worse.comparison.answer == "undecided"  # dot is as good as cosine
    assert worse.advice.startswith("Too small to see")
    with pytest.raises(ValueError, match="expected cosine as the reference"):
        check_symmetry(SYMMETRIC, compare_variants({"dot": torch.rand(1, 5)}, reference="dot"))
    without = find(a_grid({"cosine": 0.0, "dot": 0.1}), task="t", symmetry=SYMMETRIC)
    assert without.symmetry[1:] == ("undecided", "neither qnorm nor dnorm trained")
    alone = find(a_grid({"cosine": 0.0}), task="t", symmetry=SYMMETRIC, variants=["cosine", "dot"], caveat="Mind.")
    assert alone.advice.startswith("Nothing to compare: cosine alone ended")
    assert alone.notes[0].startswith("dot is left out")
    assert alone.notes[-1] == "Mind."


def test_a_wrong_prediction_of_kappa_is_called_wrong() -> None:
    runs = a_grid({"cosine": 0.0, "qnorm": 0.0, "dnorm": 0.1})
    assert find(runs, task="t", symmetry=ASYMMETRIC).kappa_verdict.startswith("wrong: kappa spoke for qnorm")


def test_a_diagnosis_is_that_of_the_functions_it_names() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(60, 8, generator=generator)
    documents = torch.cat([queries * torch.rand(60, 1, generator=generator).mul(2).exp(), torch.randn(40, 8)])
    judgements = Judgements.of([(place, place, 1.0) for place in range(60)] + [(0, 70, 0.0)])
    found = diagnose(Encoded(queries, documents, judgements), temperature=0.1)
    norms = safe_norm(documents)
    assert found.cohens_d.value == pytest.approx(float(cohens_d(norms[:60], norms[60:])))
    expected = fisher_condition_number(queries, documents[:60], 1, 0, temperature=0.1)
    assert found.kappa_qnorm == pytest.approx(expected.diagonal)


def test_a_run_survives_the_disk(tmp_path) -> None:
    run = a_run("qnorm", validation=None, temperature_factor=2.0)
    write_grid_run(tmp_path / "a" / "result.json", run)
    assert read_grid_run(tmp_path / "a" / "result.json") == run
    with_former_name = (tmp_path / "a" / "result.json").read_text().replace("temperature_factor", "warmth")
    (tmp_path / "former.json").write_text(with_former_name)
    assert read_grid_run(tmp_path / "former.json") == run
    (tmp_path / "a" / "result.json").write_text('{"variant": ')
    with pytest.raises(ValueError, match="is damaged"):
        read_grid_run(tmp_path / "a" / "result.json")
