"""Rules find planted faults and leave healthy runs alone, and their advice does what it says."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from planted_evidence import evidence_of, rules_that_speak, severities, verdicts_of

from lightning_normdyn.core.dynamics.optimizers import equilibrium_rule
from lightning_normdyn.instruments import QUANTITIES, RULES
from lightning_normdyn.instruments.verdicts.evidence import TypicalRow
from lightning_normdyn.instruments.verdicts.rules import judge
from lightning_normdyn.levers import equilibrium_init
from lightning_normdyn.losses import InfoNCE

_SOURCE = Path(__file__).parents[2] / "benchmarks" / "planted_runs.py"
_SPEC = importlib.util.spec_from_file_location("planted_runs", _SOURCE)
planted = sys.modules.setdefault("planted_runs", importlib.util.module_from_spec(_SPEC))
_SPEC.loader.exec_module(planted)

RUNS = {run.name: run for run in (*planted.FAULTS, *planted.HEALTHY)}
QUICK = (
    "no weight decay, AdamW",
    "decay on a learnt temperature",
    "clipping that sets the step",
    "a dead loss",
    "a table with two optimizers",
    "SGD with momentum",
    "AdamW",
)


def is_judged_right(run, training):
    """Whether a fault is found by one of its rules, or nothing above a note is said of a healthy run."""
    alarms = {verdict.rule for verdict in training.run().alerts if verdict.severity != "note"}
    return bool(alarms & set(run.rules)) if run.rules else not alarms


@pytest.mark.parametrize("name", QUICK)
def test_quick_runs_are_judged_right(name):
    assert is_judged_right(RUNS[name], replace(RUNS[name].training, steps=300))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNS if name not in QUICK][::8])  # benchmarks/verdicts.py has all
def test_some_runs_are_judged_right(name):
    assert is_judged_right(RUNS[name], RUNS[name].training)


def test_the_library_is_large_enough():
    assert len(planted.FAULTS) >= 20
    assert len(planted.HEALTHY) >= 20
    assert len(RUNS) == len(planted.FAULTS) + len(planted.HEALTHY)
    assert {rule for run in planted.FAULTS for rule in run.rules} <= RULES.keys()


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"dead_rows": 3.0, "norm_p50": 1.0}, "dead_rows"),
        ({"untouched_rows": 3.0}, "untouched_rows"),
        ({"clip_share": 0.95, "clip_ratio": 0.8}, "clip_share"),
        ({"equilibrium_excess": 5.0, "equilibrium_coverage": 0.4, "stationarity": 0.99}, "unexplained_scatter"),
        ({"equilibrium_slope_stderr": 0.2, "equilibrium_slope": 1.1}, "uncertain_slope"),
        ({"common_direction": 0.95}, "collapsed_directions"),
        ({"temperature": 0.01}, "temperature_at_bound"),
        ({"gamma_query": 0.999, "gamma_document": 0.001}, "undecided_exponent"),
        ({"budget_residual": 0.1}, "open_budget"),
        ({"balance_median_error": 0.3, "stationarity": 0.99}, "open_balance"),
        ({"radial_decay_ratio": 0.01}, "undecayed_output"),
        ({"growth_share": 1.4, "drift_share": 0.3, "relaxation_steps": 500.0}, "moving_output"),
        ({"growth_share": 1.0, "growth_share_stderr": 0.5}, "few_samples"),
        (
            {"transient_median_error": 0.2, "transient_skill": 0.1, "transient_persistence_error": 0.3},
            "missed_transient",
        ),
        ({"forecast_skill": -0.5, "persistence_median_error": 0.2, "forecast_median_error": 0.3}, "missed_forecast"),
        (
            {"window_forecast_skill": -0.5, "window_forecast_median_error": 0.3, "transient_persistence_error": 0.2},
            "missed_window",
        ),
    ],
)
def test_rules_of_single_quantities(values, rule):
    assert rule in rules_that_speak(values)
    assert rule not in rules_that_speak({})


def test_rows_that_may_still_be_met_are_not_said_to_die():
    foreseen = {"dead_at_step": 900.0, "untouched_rows": 1.0}
    assert "dying_rows" in rules_that_speak(foreseen, steps=300, total_steps=1000)
    assert "dying_rows" not in rules_that_speak(foreseen, steps=200, total_steps=1000)
    assert "dying_rows" not in rules_that_speak(foreseen | {"untouched_rows": 0.0}, steps=300, total_steps=1000)
    assert "dying_rows" not in rules_that_speak(foreseen, steps=950, total_steps=1000)  # what has come to pass


MANY_VALUES = {
    "norm_p50": 3.0,
    "norm_mean": 3.0,
    "gradient_norm": 0.1,
    "relaxation_steps": 400.0,
    "equilibrium_norm_p50": 0.1,
    "untouched_rows": 2.0,
    "clip_ratio": 0.1,
    "budget_growth": 2.0,
    "budget_drift": 0.1,
    "budget_decay": -0.1,
}
OPTIMIZERS = {
    "SGD": lambda row, decay: torch.optim.SGD([row], lr=0.1, weight_decay=decay),
    "AdamW": lambda row, decay: torch.optim.AdamW([row], weight_decay=decay),
    "Adam": lambda row, decay: torch.optim.Adam([row], weight_decay=decay),
    "Adagrad": lambda row, decay: torch.optim.Adagrad([row], weight_decay=decay),
    "Adafactor": lambda row, decay: torch.optim.Adafactor([row], weight_decay=decay),
    "Adadelta": lambda row, decay: torch.optim.Adadelta([row], weight_decay=decay),
    "Lion": lambda row, decay: planted.Lion([row], lr=1e-3, weight_decay=decay),
}


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizer_ends_a_run_by_what_is_said_of_it(name, decay):
    optimizer = OPTIMIZERS[name](torch.ones(4, 16, requires_grad=True), decay)
    verdicts = rules_that_speak(MANY_VALUES, optimizer=optimizer)
    assert not [verdict.text for verdict in verdicts.values() if "nan" in verdict.text]


def grown(radial_fraction):
    """Evidence of a table without decay whose norms doubled."""
    evidence = evidence_of(
        {"gradient_norm": 0.1, "radial_fraction": radial_fraction},
        optimizer=torch.optim.AdamW([torch.ones(1)], weight_decay=0.0),
    )
    for step, norm in ((100, 1.0), (1000, 2.0)):
        evidence.courses.note(step, {"norm_p50": norm})
    return {verdict.rule: verdict.severity for verdict in judge(evidence)}


def test_growth_without_decay_is_no_fault_where_the_loss_holds_lengths():
    assert grown(1e-7)["no_decay"] == "warning"
    assert grown(0.6)["no_decay"] == "note"


@pytest.mark.parametrize(("norm", "severity"), [(8.0, "warning"), (0.125, "note")])
def test_rows_that_start_too_short_grow_by_themselves(norm, severity):
    values = {"norm_p50": norm, "equilibrium_norm_p50": 1.0, "relaxation_steps": 300.0}
    assert severities(values)["far_start"] == severity
    slow = severities(values | {"relaxation_steps": 5000.0}, optimizer=torch.optim.AdamW([torch.ones(1)], lr=1e-4))
    assert slow["slow_relaxation"] == severity


def test_clipping_leaves_the_size_of_adams_steps_alone():
    values = {"clip_ratio": 0.2}
    courses = {"optimizer": torch.optim.SGD([torch.ones(1)], lr=0.1, weight_decay=1e-3)}
    pair = evidence_of(values, **courses), evidence_of(values)
    for evidence in pair:
        for step in range(10):
            evidence.courses.note(step, values)
    under_sgd, under_adamw = ({verdict.rule: verdict.severity for verdict in judge(evidence)} for evidence in pair)
    assert (under_sgd["clipping_sets_steps"], under_adamw["clipping_sets_steps"]) == ("warning", "note")


def course_of_growth(first, later, **values):
    """Evidence of a table whose first step grew R² by one share and whose later ones by another."""
    evidence = evidence_of({})
    for step, growth in ((1, first), *((step, later) for step in range(50, 1001, 50))):
        evidence.courses.note(step, {"budget_growth": growth, **values})
    return {verdict.rule for verdict in judge(evidence)}


def direction_left(growth, steps):
    """Squared cosine between rows before and after steps at random across them, each of growth·R², in float64."""
    generator = torch.Generator().manual_seed(0)
    start = rows = torch.nn.functional.normalize(torch.randn(2000, 400, generator=generator, dtype=torch.float64))
    for _ in range(steps):
        step = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
        step -= rows * (step * rows).sum(1, keepdim=True) / rows.square().sum(1, keepdim=True)
        rows = rows + math.sqrt(growth) * rows.norm(dim=1, keepdim=True) * torch.nn.functional.normalize(step)
    return float(torch.cosine_similarity(start, rows).square().mean())


@pytest.mark.parametrize(("growth", "is_said"), [(0.2, False), (0.3, True)])
def test_steps_overshoot_where_ten_of_them_leave_a_tenth_of_a_direction(growth, is_said):
    assert ("overshooting_steps" in course_of_growth(0.01, growth)) == is_said
    assert (direction_left(growth, 10) < 0.1) == is_said


@pytest.mark.parametrize(("growth", "is_said"), [(1.28, False), (7.0, False), (12.0, True)])
def test_a_first_step_overshoots_where_it_alone_leaves_a_tenth_of_a_direction(growth, is_said):
    """Adagrad's first is its longest, lr·√d: 1.13 for lr 0.1 and 128 dimensions, on rows of norm 1."""
    assert ("overshooting_steps" in course_of_growth(growth, 0.01)) == is_said
    assert (direction_left(growth, 1) < 0.1) == is_said


def test_a_start_near_nothing_is_no_fault_of_a_loss_that_sees_lengths():
    """As factorisations of knowledge graphs are trained: rows of 1e-3 under Adagrad at 0.1."""
    assert "overshooting_steps" not in course_of_growth(1e4, 0.01, radial_fraction=0.4)
    assert "overshooting_steps" in course_of_growth(1e4, 0.01, radial_fraction=1e-6)
    assert "overshooting_steps" in course_of_growth(1e4, 0.3, radial_fraction=0.4)


def test_a_reset_to_where_rows_settle_anyway_is_seen():
    evidence = evidence_of({"norm_mean": 1.0, "budget_decay": -2e-3, "budget_drift": 1e-3, "budget_growth": 1e-3})
    for step in range(6):
        evidence.courses.note(step, {"norm_mean": 1.0})
    named = evidence._replace(facts=replace(evidence.facts, resets_norms=True))
    assert "reset_norms" not in {verdict.rule for verdict in judge(evidence)}
    assert "reset_norms" in {verdict.rule for verdict in judge(named)}


@pytest.mark.parametrize("max_scale", [12.5, 100.0])
def test_a_temperature_is_judged_by_the_bound_of_its_own_loss(max_scale):
    model = planted.Pairs(InfoNCE(temperature=1 / max_scale, learnable_temperature=True, max_scale=max_scale))
    groups = [{"params": [model.table.weight]}, {"params": list(model.loss.parameters()), "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1)
    pairs = torch.arange(40).repeat(2, 1).T
    verdict = verdicts_of(model, pairs, optimizer, targets=["table.weight"])["temperature_at_bound"]
    assert verdict.target == "loss"
    assert f"temperature={max(0.05, 2 / max_scale):.3g}" in verdict.lever
    assert verdict.severity == ("warning" if max_scale < 50 else "note")  # CLIP's own bound is reached as a rule


class Constant(torch.nn.Module):
    """An encoder whose output does not depend on its input."""

    def __init__(self, *, collapses):
        super().__init__()
        self.layer = torch.nn.Linear(4, 8)
        self.collapses = collapses

    def forward(self, inputs):
        return self.layer(0 * inputs if self.collapses else inputs).sum()


@pytest.mark.parametrize("collapses", [True, False])
def test_an_encoder_whose_vectors_point_one_way_has_collapsed(collapses):
    model = Constant(collapses=collapses)
    with torch.no_grad():
        model.layer.weight.mul_(10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    rules = verdicts_of(model, torch.randn(30, 4), optimizer, targets=["layer"])
    assert ("collapsed_directions" in rules) == collapses


class Backbone(torch.nn.Module):
    """Vectors that pass through ReLU, behind a bias that holds them in a cone, and a loss on their pairs."""

    def __init__(self, bias, *, attraction):
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU())
        self.attraction = attraction
        torch.nn.init.constant_(self.encoder[0].bias, bias)

    def forward(self, inputs):
        cosines = torch.nn.functional.cosine_similarity(*self.encoder(inputs).chunk(2))
        return -self.attraction * cosines.sum()


def length_of_mean_direction(vectors):
    directions = [[x / math.hypot(*row) for x in row] for row in vectors.detach().double().tolist()]
    return math.sqrt(sum((sum(column) / len(directions)) ** 2 for column in zip(*directions, strict=True)))


@pytest.mark.parametrize(
    ("bias", "attraction", "at_start", "at_end", "severity"),
    [
        (4.0, 1e-6, (0.985, 0.995), (0.985, 0.995), None),  # a cone by nature
        (4.0, 6.0, (0.985, 0.995), (0.995, 0.998), "warning"),  # that training draws together
        (12.0, 1e-6, (0.998, 0.9995), (0.998, 0.9995), "critical"),  # too narrow for anything
        (20.0, -90.0, (0.9995, 0.9999), (0.998, 0.999), None),  # likewise, and spreading out
    ],
)
def test_a_cone_by_nature_is_no_collapse(bias, attraction, at_start, at_end, severity):
    torch.manual_seed(0)
    model, inputs = Backbone(bias, attraction=attraction), torch.randn(40, 8)
    assert at_start[0] < length_of_mean_direction(model.encoder(inputs)) < at_start[1]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    verdict = verdicts_of(model, inputs, optimizer, targets=["encoder"], steps=300).get("collapsed_directions")
    assert at_end[0] < length_of_mean_direction(model.encoder(inputs)) < at_end[1]
    assert (verdict and verdict.severity) == severity


@pytest.mark.parametrize("rows", [1, 2])
def test_one_row_has_not_collapsed(rows):
    """One that is trained: alone, or beside padding."""
    table = torch.nn.Embedding(rows, 8, padding_idx=0 if rows > 1 else None)
    loss = torch.nn.Sequential(table, torch.nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(table.parameters(), lr=1e-2, weight_decay=0.1)
    loss.forward = lambda ids: loss[1](table(ids)).square().mean()
    rules = verdicts_of(loss, torch.full((4,), rows - 1), optimizer, targets=["0.weight"])
    assert "collapsed_directions" not in rules


def test_every_quantity_that_is_judged_is_logged():
    quantities = {quantity for rule in RULES.values() for quantity in rule.quantities}
    assert quantities <= QUANTITIES.keys()


def test_nothing_is_said_of_a_run_of_a_few_steps():
    assert not rules_that_speak({"common_direction": 1.0}, steps=60)
    assert rules_that_speak({"common_direction": 1.0}, steps=100)


def noise(queries, documents):
    """A loss of cosines whose gradient is white noise, as the laws take it to be."""
    cosines = torch.nn.functional.cosine_similarity(queries, documents)
    return (cosines * torch.randn(len(cosines))).mean()


def norms_under(optimizer, steps, *, scale=None, seed=1):
    """Median norm of a table before and after training on noise, by its own weights, and what was said."""
    torch.manual_seed(seed)
    model = planted.Pairs(noise, scale=scale or 1.0)
    optimizer = optimizer(model)
    if scale is None:
        equilibrium_init(model.table.weight, equilibrium_rule(optimizer))
    start = float(model.table.weight.detach().norm(dim=1).median())
    training = planted.Training(lambda: model, lambda _: optimizer, steps)
    verdicts = training.run(seed).verdicts
    return start, float(model.table.weight.detach().norm(dim=1).median()), verdicts


def lever_value(verdicts, rule, word):
    """The number behind a word of a rule's lever."""
    (lever,) = [verdict.lever for verdict in verdicts if verdict.rule == rule]
    return float(lever.partition(word)[2].split()[0].rstrip(":,)").replace(",", ""))


def test_the_decay_for_a_run_without_any_keeps_the_norm_of_the_start():
    start, grown, verdicts = norms_under(planted.adamw(lr=0.03, weight_decay=0.0), 600, scale=1.0)
    decay = lever_value(verdicts, "no_decay", "weight_decay=")
    _, norm, _ = norms_under(planted.adamw(lr=0.03, weight_decay=decay), 600, scale=1.0)
    assert grown > 1.3 * start
    assert norm == pytest.approx(start, rel=0.1)


@pytest.mark.slow
def test_a_raised_decay_settles_norms_where_it_says():
    optimizer = planted.adamw(lr=1e-2, weight_decay=0.05)
    _, _, verdicts = norms_under(optimizer, 600, scale=4.0)
    decay = lever_value(verdicts, "slow_relaxation", "to ")
    target = lever_value(verdicts, "slow_relaxation", "settle at ")
    _, norm, verdicts = norms_under(planted.adamw(lr=1e-2, weight_decay=decay), 2400, scale=4.0)
    assert norm == pytest.approx(target, rel=0.1)
    assert "slow_relaxation" not in {verdict.rule for verdict in verdicts}


def test_rows_that_start_at_their_equilibrium_need_no_verdict():
    start, norm, verdicts = norms_under(planted.adamw(lr=1e-3, weight_decay=0.2), 400)
    assert norm == pytest.approx(start, rel=0.1)
    assert not [verdict for verdict in verdicts if verdict.severity != "note"]


def test_the_clipping_value_leaves_usual_steps_alone():
    clip = replace(RUNS["clipping that sets the step"].training, steps=300)
    factor = lever_value(clip.run().verdicts, "clipping_sets_steps", "to ")
    assert not [
        verdict
        for verdict in replace(clip, clip=clip.clip * factor).run().alerts
        if verdict.rule == "clipping_sets_steps"
    ]


def test_the_decay_of_adamw_in_place_of_adams_keeps_the_norm():
    _, _, verdicts = norms_under(
        lambda model: torch.optim.Adam(model.parameters(), 1e-2, weight_decay=0.1), 400, scale=1.0
    )
    decay = lever_value(verdicts, "coupled_decay", "weight_decay=")
    start, norm, _ = norms_under(planted.adamw(weight_decay=decay), 800, scale=1.0)
    assert norm == pytest.approx(start, rel=0.1)


def test_the_decay_that_leaves_rows_alone_does():
    facts = {"optimizer": torch.optim.AdamW([torch.ones(1)], lr=1e-2, weight_decay=0.5)}
    verdict = rules_that_speak({"untouched_rows": 3.0}, **facts)["untouched_rows"]
    decay = float(verdict.lever.partition("at most weight_decay=")[2].split(",")[0])
    row = torch.ones(1)
    optimizer = torch.optim.AdamW([row.requires_grad_()], lr=1e-2, weight_decay=decay)
    for _ in range(1000):
        row.grad = torch.zeros(1)
        optimizer.step()
    assert float(row.detach()) == pytest.approx(0.9, abs=0.005)
    assert f"{math.exp(-5):.1%}" in verdict.sentence
    followed = {"optimizer": torch.optim.AdamW([torch.ones(1)], lr=1e-2, weight_decay=decay)}
    again = rules_that_speak({"untouched_rows": 3.0}, **followed)["untouched_rows"]
    assert again.severity == "note"
    assert "weight_decay" not in again.lever  # nothing is left to lower


def test_a_slope_that_no_window_can_tell_is_not_promised_one():
    """Errors fall as the root of the readings: from 0.16 to 0.05 it takes ten times as many."""
    values = {"equilibrium_slope": 1.0, "equilibrium_slope_stderr": 0.16}
    evidence = evidence_of({}, steps=2000)
    for step in range(100, 2001, 100):
        evidence.courses.note(step, values)
    lever = {verdict.rule: verdict.lever for verdict in judge(evidence)}["uncertain_slope"]
    assert "a window 10.2 times as long" in lever
    evidence.courses.note(2100, values | {"equilibrium_slope_stderr": 8.0})
    lever = {verdict.rule: verdict.lever for verdict in judge(evidence)}["uncertain_slope"]
    assert lever.startswith("go by equilibrium_median_error")


@pytest.mark.parametrize(
    ("probability", "cure"),
    [(1.0, "window=0.05"), (0.2, "window=250,"), (0.01, "train longer")],
)
def test_a_missed_transient_is_cured_by_windows_of_enough_gradients(probability, cure):
    """Of 100 steps each, in a run of 2,000."""
    values = {"transient_median_error": 0.2, "transient_skill": 0.1, "transient_persistence_error": 0.3}
    evidence = evidence_of({}, steps=2000, typical_row=TypicalRow(0.01, probability))
    for step in range(100, 2001, 100):
        evidence.courses.note(step, values)
    levers = {verdict.rule: verdict.lever for verdict in judge(evidence)}
    assert cure in levers["missed_transient"]
    for step in range(3):
        evidence.courses.note(2000 + step, {"radial_fraction": 0.3})
    levers = {verdict.rule: verdict.lever for verdict in judge(evidence)}
    assert levers["missed_transient"].startswith("read budget_drift")
