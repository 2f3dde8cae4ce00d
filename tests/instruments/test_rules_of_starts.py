"""Rules on how rows start: too long for the run, trained before, nearly zero, or unlike the others."""

from __future__ import annotations

import pytest
import torch
from planted_evidence import evidence_of, rules_that_speak, verdicts_of
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from lightning_normdyn.instruments.verdicts.rules import judge

SGD = {"optimizer": torch.optim.SGD([torch.ones(1)], lr=0.1, weight_decay=1e-3)}
ADAMW = {"optimizer": torch.optim.AdamW([torch.ones(1)], lr=1e-3, weight_decay=0.1)}


def course_of(values, *, steps=1000, **facts):
    """Evidence of a table whose quantities went through some values, evenly over the run."""
    evidence = evidence_of({}, steps=steps, **facts)
    for name, numbers in values.items():
        for place, number in enumerate(numbers, start=1):
            evidence.courses.note(steps * place // len(numbers), {name: number})
    return {verdict.rule: verdict for verdict in judge(evidence)}


@pytest.mark.parametrize(("start", "is_far"), [(1.0, False), (3.0, False), (20.0, True)])
def test_a_start_between_the_places_where_rows_would_settle_is_not_far(start, is_far):
    """They fall from 2 to 0.2, since gradients die; only what lies beyond all of them started far."""
    values = {"norm_p50": [start, 1.0, 0.9], "equilibrium_norm_p50": [2.0, 0.7, 0.2], "relaxation_steps": [400.0] * 3}
    assert ("far_start" in course_of(values, **ADAMW)) == is_far


def turn(build, norm):
    """Squared angle by which the steps of a real optimizer turn a row of a norm, under a loss of directions."""
    generator = torch.Generator().manual_seed(0)
    row = nn.Parameter(norm * normalize(torch.randn(1, 64, generator=generator, dtype=torch.float64)))
    optimizer, start = build([row]), row.detach().clone()
    direction = torch.randn(64, generator=generator, dtype=torch.float64)
    for _ in range(3):
        optimizer.zero_grad()
        (normalize(row) @ direction).sum().backward()
        optimizer.step()
    return float(torch.cosine_similarity(start, row.detach()).acos().square())


@pytest.mark.parametrize(
    ("build", "options", "ratio"),
    [
        (lambda rows: torch.optim.SGD(rows, lr=1e-4), SGD, 2.0),
        (lambda rows: torch.optim.AdamW(rows, lr=1e-5, weight_decay=0.0), ADAMW, 4.0),
    ],
)
def test_a_start_is_far_where_rows_turn_sixteen_times_more_slowly(build, options, ratio):
    assert turn(build, 1.0) / turn(build, ratio) == pytest.approx(16, rel=0.05)
    for start, is_far in ((0.9 * ratio, False), (1.2 * ratio, True)):
        values = {"norm_p50": [start], "equilibrium_norm_p50": [1.0], "relaxation_steps": [900.0]}
        verdict = course_of(values, **options).get("far_start")
        assert (verdict and verdict.severity) == ("warning" if is_far else None)


def steps_of_slow_turning(ratio, lr, weight_decay):
    """Steps in which a row under SGD turns at less than a quarter of its angle at the end, by a loop of its norm."""
    squared_source = 2 * weight_decay / lr  # V² for which rows settle at 1
    squared_norm, angles = ratio**2, []
    for _ in range(round(5 / (lr * weight_decay))):
        angles.append(lr * squared_source**0.5 / squared_norm)
        squared_norm = (1 - lr * weight_decay) ** 2 * squared_norm + lr**2 * squared_source / squared_norm
    return sum(angle < 0.25 * angles[-1] for angle in angles)


@pytest.mark.parametrize("ratio", [2.3, 3.0, 7.6])
def test_a_long_start_is_warned_of_where_rows_turn_much_more_slowly_for_a_fifth_of_the_run(ratio):
    slow_steps = steps_of_slow_turning(ratio, lr=0.1, weight_decay=1e-3)
    relaxation = 1 / (4 * 0.1 * 1e-3)
    values = {"norm_p50": [ratio], "equilibrium_norm_p50": [1.0], "relaxation_steps": [relaxation]}
    for share, is_harmful in ((0.21, True), (0.19, False)):
        run = course_of(values, steps=round(slow_steps / share), **SGD)
        assert ("far_start" in run) == is_harmful


def test_a_start_that_slows_rows_for_a_moment_is_no_fault():
    """Of a healthy run: rows start at 2.09 times where they settle, and turn much more slowly in 3% of its steps."""
    values = {"norm_p50": [1.0], "equilibrium_norm_p50": [0.479], "relaxation_steps": [251.0]}
    assert "far_start" not in course_of(values, steps=1500, **SGD)


def slow(norm, turn, cv=0.01):
    """What is said of rows that would settle at 1 and do not relax, of which each turns by so much in the run."""
    values = {"norm_p50": norm, "equilibrium_norm_p50": 1.0, "relaxation_steps": 5e5, "norm_cv": cv}
    return rules_that_speak(values | {"angular_update": turn / 1000}, **ADAMW)["slow_relaxation"]


@pytest.mark.parametrize(
    ("norm", "turn", "cv", "severity"),
    [
        (1.6, 0.05, 0.01, "warning"),  # too long, and standing still
        (1.6, 0.5, 0.01, "note"),
        (0.6, 0.05, 0.01, "note"),  # too short
        (3.0, 0.5, 0.01, "warning"),
        (3.0, 0.05, 0.4, "note"),  # norms unlike those of a fresh draw: a checkpoint
    ],
)
def test_slow_relaxation_is_grave_for_fresh_rows_that_are_long_or_stand_still(norm, turn, cv, severity):
    assert slow(norm, turn, cv).severity == severity


def test_rows_that_stand_still_are_not_told_to_start_shorter():
    assert "equilibrium_init" not in slow(1.6, 0.05).lever
    assert "equilibrium_init" in slow(1.6, 0.5).lever
    assert slow(3.0, 0.05, 0.4).lever.startswith("leave it")


def spread_of(weight):
    norms = weight.norm(dim=1)
    return float(norms.std() / norms.mean())


@pytest.mark.parametrize("dim", [32, 512])
def test_a_fresh_draw_is_not_taken_for_trained(dim):
    generator = torch.Generator().manual_seed(0)
    fresh = torch.randn(4000, dim, generator=generator)
    uniform = torch.rand(4000, dim, generator=generator) - 0.5
    trained = fresh * torch.arange(1, 4001)[:, None] ** -0.25  # under SGD, frequencies by Zipf's law
    for weight, expected in ((fresh, False), (uniform, False), (trained, True)):
        evidence = evidence_of({"norm_cv": spread_of(weight)}, dim=dim)
        assert evidence.was_trained_before == expected


class Scored(nn.Module):
    """Rows that are looked up, brought to one length and scored by all rows."""

    def __init__(self, rows=60, dim=16):
        super().__init__()
        self.table = nn.Embedding(rows, dim)
        self.shift = 1

    def forward(self, ids):
        vectors = self.table(ids)
        vectors = vectors * (vectors.square().mean(-1, keepdim=True) + 1e-12).rsqrt()
        return cross_entropy(vectors @ self.table.weight.T, (ids + self.shift) % 60)


@pytest.mark.parametrize("shrinks", [1.0, 1e-9])
def test_rows_that_start_nearly_at_zero_are_seen_though_the_first_step_lifts_them(shrinks):
    torch.manual_seed(0)
    model = Scored()
    with torch.no_grad():
        model.table.weight[-6:] *= shrinks
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rules = verdicts_of(model, lambda: torch.randint(60, (64,)), optimizer)
    assert ("dead_rows" in rules) == (shrinks < 1)
    if shrinks < 1:
        assert "repair_rows" in rules["dead_rows"].lever


def test_a_step_that_throws_all_rows_out_is_not_taken_for_rows_of_nearly_no_length():
    """Then norms of after the step, and 1/R² of before it, are of other rows altogether."""
    values = {"effective_lr": 1.0, "lr": 1e-2, "norm_p50": 50.0, "norm_mean": 50.0, "gradient_norm": 1.0}
    assert "dead_rows" in rules_that_speak(values | {"norm_min": 1.0})
    assert "dead_rows" in rules_that_speak({**values, "norm_min": 1.0, "gradient_norm": float("nan")})
    assert "dead_rows" not in rules_that_speak(values | {"norm_min": 45.0})


def test_rows_that_were_added_at_another_scale_are_outliers_from_the_first_reading_on():
    values = {"norm_cv": [2.0, 1.8, 1.5], "norm_p50": [0.3] * 3, "norm_p95": [4.7] * 3}
    assert "norm of the others, 0.3" in course_of(values)["outlying_rows"].lever
    assert "outlying_rows" not in course_of(values | {"norm_cv": [0.2, 1.8, 1.5]})  # grown apart


def test_norms_that_fall_without_decay_are_taken_by_the_loss():
    values = {"norm_p50": [1.0, 0.3, 0.05], "norm_mean": [1.0, 0.3, 0.05]}
    bare = {"optimizer": torch.optim.AdamW([torch.ones(1)], weight_decay=0.0)}
    assert "a regulariser, 400 times less" in course_of(values, **bare)["collapsing_norms"].lever
    assert "collapsing_norms" not in course_of(values)  # decay takes a table so far by itself
    assert "collapsing_norms" not in course_of(values | {"norm_p50": [1.0, 0.3, 0.2]}, **bare)


def test_both_rates_of_the_lever_hold_rows_at_their_start():
    """On noise, as the law has it: rows of norm 2 that would settle at 0.4 and need 80 runs to get there."""
    torch.manual_seed(0)

    def norms(lr, decay, steps):
        table = nn.Embedding(80, 16)
        with torch.no_grad():
            table.weight.copy_(2 * normalize(table.weight, dim=-1))
        optimizer = torch.optim.AdamW(table.parameters(), lr=lr, weight_decay=decay)
        model = nn.Sequential(table)
        model.forward = lambda ids: (normalize(table(ids), dim=-1) * torch.randn(40, 16)).sum()
        rules = verdicts_of(model, lambda: torch.randint(80, (40,)), optimizer, steps=steps)
        return float(table.weight.detach().norm(dim=1).median()), rules

    _, rules = norms(1e-4, 0.01, 200)
    words = rules["slow_relaxation"].lever
    lr, decay = (float(words.partition(word)[2].split()[0]) for word in ("mean learning rate of ", "weight_decay="))
    norm, rules = norms(lr, decay, 200)
    assert "slow_relaxation" not in rules
    assert norm == pytest.approx(2.0, rel=0.15)
    assert 2 * lr * decay * 200 == pytest.approx(3, rel=0.05)
