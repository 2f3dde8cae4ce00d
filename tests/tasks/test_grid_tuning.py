"""The order of a grid's trainings, and what validation chooses among them, where the truth is made up."""

import io
import os
from dataclasses import replace
from itertools import pairwise
from unittest.mock import Mock

import pytest
import torch
from grid_runs import a_run
from rich.console import Console

from lightning_normdyn.atomic_file import write_json
from lightning_normdyn.cli.grids.pilot import PilotRecord, pilot_jobs, power_of
from lightning_normdyn.cli.grids.plan import Plan, fix_looks
from lightning_normdyn.cli.grids.settings import GridSettings, planned
from lightning_normdyn.cli.grids.trainings import Budget, Trainings, train_all, tune
from lightning_normdyn.core.statistics.variance_components import VarianceComponents
from lightning_normdyn.history.grid_findings import read_grid_run, write_grid_run
from lightning_normdyn.tasks.grid.tuning import Choice, choose


def made_up(plan: Plan, measure) -> Trainings:
    """Trainings whose validation is a function of variant, rate and temperature."""

    def run(jobs):
        for job in jobs:
            value = measure(job.variant, job.lr, job.temperature_factor)
            if job.variant == "untrained":
                write_json(job.result, {})
            elif value is not None:
                settings = {
                    "lr": job.lr,
                    "temperature_factor": job.temperature_factor,
                    "seed": job.seed,
                    "temperature": 0.1 * job.temperature_factor,
                }
                write_grid_run(job.result, a_run(job.variant, validation=value, **settings))
        return {}

    return Trainings(run, Mock())


def test_a_list_that_ends_at_its_best_goes_on_once(tmp_path) -> None:
    plan = Plan((), ("cosine", "dot"), (0.1, 0.3), (0, 1), tmp_path, 1, (0.5, 1.0, 2.0))

    def measure(variant: str, lr: float, temperature_factor: float) -> float:
        """Cosine likes 0.3 and 1, beyond no list; dot likes the highest of both."""
        lr_loss, factor_loss = abs(lr - 0.3), abs(temperature_factor - 1)
        return 0.5 - lr_loss - factor_loss / 9 if variant == "cosine" else 0.1 + lr / 10 + temperature_factor / 100

    trainings = made_up(plan, measure)
    tune(plan, trainings)
    assert choose(trainings.runs) == {"cosine": Choice(0.3, 1.0), "dot": Choice(0.9, 4.0)}
    tried = sorted((run.lr, run.temperature_factor) for run in trainings.runs if run.variant == "dot")
    assert tried == [(0.1, 1.0), (0.3, 1.0), (0.9, 0.5), (0.9, 1.0), (0.9, 2.0), (0.9, 4.0)]
    assert trainings.notes == [
        "Best at an edge of their lists: cosine and dot (learning rate 0.3), dot (temperature 2 times auto); one value "
        "beyond each was tried, and is taken by dot (learning rate 0.9), dot (temperature 4 times auto), where further "
        "ones may be better still: --lr-factors names them, in units of the config's, --temperatures names them, in "
        "units of auto."
    ]
    again = made_up(plan, lambda *_: pytest.fail("all of it is there"))
    again._run = lambda jobs: pytest.fail("all of it is there") if jobs else {}
    tune(plan, again)
    assert again.runs == trainings.runs


def test_a_rate_that_failed_is_not_tried_again_beside_itself(tmp_path) -> None:
    plan = Plan((), ("cosine",), (0.1, 0.3, 1.0), (0,), tmp_path, 1)
    trainings = made_up(plan, lambda _, lr, __: None if lr == 1.0 else lr)
    tune(plan, trainings)
    assert [run.lr for run in trainings.runs] == [0.1, 0.3]


def a_sequential_plan(folder) -> Plan:
    return Plan((), ("cosine", "dot"), (0.1,), (0, 1), folder, 1, most_seeds=5)


@pytest.mark.parametrize(
    ("decided_at", "said"),
    [
        (2, "Looked after 2 of at most 5 seeds: the answer was clear."),
        (4, "Looked after 2 to 4 of at most 5 seeds: the answer was clear."),
        (9, "Looked after 2 to 5 of at most 5 seeds: the answer is open, and --max-seeds is reached."),
    ],
)
def test_seeds_are_added_until_the_answer_is_clear(tmp_path, decided_at, said) -> None:
    trainings, looked = made_up(a_sequential_plan(tmp_path), lambda *_: 0.5), []

    def is_decided(runs) -> bool:
        looked.append(sorted((run.variant, run.seed) for run in runs))
        return len(runs) >= 2 * decided_at

    train_all(a_sequential_plan(tmp_path), trainings, is_decided=is_decided, budget=Budget(None, 1))
    last = min(decided_at, 5)
    assert [len(runs) for runs in looked] == [2 * seeds for seeds in range(2, last + 1)]
    assert looked[-1] == sorted((variant, seed) for variant in ("cosine", "dot") for seed in range(last))
    assert trainings.notes == [said]


def test_a_budget_that_is_spent_begins_no_other_seed(tmp_path) -> None:
    """Trainings of twelve seconds, two after another: one more seed takes 24, which 0.3 minutes do not hold."""
    plan = a_sequential_plan(tmp_path)
    trainings = made_up(plan, lambda *_: 0.5)
    train_all(plan, trainings, is_decided=lambda _: False, budget=Budget(0.3, 1))
    assert max(run.seed for run in trainings.runs) == 1
    assert trainings.notes == [
        "Looked after 2 of at most 5 seeds: the budget of 0.3 minutes leaves no time for another. The same command "
        f"with --out {tmp_path} goes on."
    ]
    goes_on = made_up(plan, lambda *_: 0.5)
    goes_on.finish(plan.repeats(choose(trainings.runs), [2]))
    again = made_up(plan, lambda *_: 0.5)
    train_all(plan, again, is_decided=lambda _: False, budget=Budget(0.3, 1))
    assert max(run.seed for run in again.runs) == 2  # what is there costs no time
    both_at_once = made_up(plan, lambda *_: 0.5)
    train_all(plan, both_at_once, is_decided=lambda _: False, budget=Budget(0.3, 2))
    assert max(run.seed for run in both_at_once.runs) == 4


def test_looks_are_settled_before_the_first(tmp_path) -> None:
    fix_looks(tmp_path, (2, 3, 4))
    fix_looks(tmp_path, (2, 3, 4))
    with pytest.raises(
        ValueError, match="max_seeds: expected looks at 2 to 4 seeds, as this grid began with, got 2 to 5"
    ):
        fix_looks(tmp_path, (2, 3, 4, 5))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_seeds": 5}, "max_seeds: expected --sequential, which adds seeds until the answer is clear, got 5"),
        ({"budget": 5.0}, "budget: expected --sequential"),
        ({"sequential": True, "seeds": 1}, "seeds: expected 2 or more at the first look"),
        ({"sequential": True, "seeds": 4, "max_seeds": 3}, "max_seeds: expected at least the 4 of --seeds"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(tmp_path, settings, said, monkeypatch) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    with pytest.raises(ValueError, match=said):
        planned(GridSettings(["sts.yaml"], **settings), str(tmp_path / "out"))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system tells no affinity")
def test_trainings_share_the_cores_that_the_process_may_run_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)))
    for jobs, threads in ((None, 7), (3, 2), (8, 1)):
        _, plan = planned(GridSettings(["sts.yaml"], jobs=jobs), str(tmp_path / f"{jobs}"))
        assert plan.threads == threads


def a_pilot(folder) -> PilotRecord:
    """Runs of 80 queries; what is a variant's own is their noise of 0.02, under one seed."""
    plan = Plan((), ("cosine", "dot", "qnorm"), (0.1, 0.3), (0, 1, 2), folder, 1, (0.5, 1.0))
    jobs = pilot_jobs(plan)
    for job in jobs:
        write_grid_run(
            job.result,
            a_run(job.variant, lr=job.lr, seed=job.seed, temperature_factor=job.temperature_factor, seconds=60.0),
        )
    assert [job.name for job in jobs] == [f"{v}-lr0.3-t1-seed{seed}" for v in ("cosine", "qnorm") for seed in (0, 1)]
    return power_of(plan, [read_grid_run(job.result) for job in jobs], {}, at_once=2)


def test_a_pilot_says_which_gain_could_be_seen_in_what_time(tmp_path) -> None:
    record = a_pilot(tmp_path)
    assert (record.exit_code, record.queries, record.variants) == (0, 80, ("cosine", "qnorm"))
    assert [row.seeds for row in record.rows] == [2, 3, 5, 10]
    # Three variants try two rates and another temperature, and repeat; two at a time, a minute each.
    assert [row.trainings for row in record.rows] == [3 * (3 + seeds - 1) for seeds in (2, 3, 5, 10)]
    assert record.rows[1].minutes == pytest.approx(15 / 2)
    gains = [row.gains for row in record.rows]
    assert all(first[80] > second[80] for first, second in pairwise(gains))
    assert all(gain[320] < gain[80] for gain in gains)
    assert all(row.likely_gain > row.gains[80] for row in record.rows)
    values = [[a_run(name, seed=seed).values["trained"] for seed in (0, 1)] for name in ("cosine", "qnorm")]
    components = VarianceComponents.of(torch.tensor(values, dtype=torch.float64))
    assert gains[1] == {n: components.visible_gain(variants=3, seeds=3, queries=n) for n in (80, 320)}
    output = io.StringIO()
    record.print_to(Console(file=output, width=100))
    for row in record.rows:
        assert f"{row.gains[80]:.4f}" in output.getvalue()
        assert f"{row.likely_gain:.4f}" in output.getvalue()
    printed = " ".join(output.getvalue().split())
    assert "two seeds each at learning rate 0.3 and temperature 1 times auto." in printed
    assert f"--out {tmp_path}" in printed


def test_a_pilot_that_failed_plans_nothing(tmp_path) -> None:
    plan = Plan((), ("cosine", "dot"), (0.1,), (0, 1), tmp_path, 1)
    record = power_of(plan, [a_run("cosine")], {"dot-lr0.1-t1-seed0": "ValueError: no"}, at_once=1)
    assert record.exit_code == 1
    output = io.StringIO()
    record.print_to(Console(file=output, width=100))
    assert "dot-lr0.1-t1-seed0 failed: ValueError: no" in output.getvalue()
    with pytest.raises(ValueError, match="variants: expected one beside cosine for the pilot"):
        pilot_jobs(replace(plan, variants=("cosine",)))
