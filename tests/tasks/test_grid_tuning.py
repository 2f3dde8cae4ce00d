"""The order of a grid's trainings, and what validation chooses among them, where the truth is made up."""

from unittest.mock import Mock

import pytest
from grid_runs import a_run

from lightning_normdyn.atomic_file import write_json
from lightning_normdyn.cli.grids.plan import Plan
from lightning_normdyn.cli.grids.trainings import Trainings, tune
from lightning_normdyn.history.grid_findings import write_grid_run
from lightning_normdyn.tasks.grid.tuning import Choice, choose


def made_up(plan: Plan, measure) -> Trainings:
    """Trainings whose validation is a function of variant, rate and temperature."""

    def run(jobs):
        for job in jobs:
            value = measure(job.variant, job.lr, job.warmth)
            if job.variant == "untrained":
                write_json(job.result, {})
            elif value is not None:
                settings = {"lr": job.lr, "warmth": job.warmth, "seed": job.seed, "temperature": 0.1 * job.warmth}
                write_grid_run(job.result, a_run(job.variant, validation=value, **settings))
        return {}

    return Trainings(run, Mock())


def test_a_list_that_ends_at_its_best_goes_on_once(tmp_path) -> None:
    plan = Plan((), ("cosine", "dot"), (0.1, 0.3), (0, 1), tmp_path, 1, (0.5, 1.0, 2.0))

    def measure(variant: str, lr: float, warmth: float) -> float:
        """Cosine likes 0.3 and 1, beyond no list; dot likes the highest of both."""
        lr_loss, warmth_loss = abs(lr - 0.3), abs(warmth - 1)
        return 0.5 - lr_loss - warmth_loss / 9 if variant == "cosine" else 0.1 + lr / 10 + warmth / 100

    trainings = made_up(plan, measure)
    tune(plan, trainings)
    assert choose(trainings.runs) == {"cosine": Choice(0.3, 1.0), "dot": Choice(0.9, 4.0)}
    tried = sorted((run.lr, run.warmth) for run in trainings.runs if run.variant == "dot")
    assert tried == [(0.1, 1.0), (0.3, 1.0), (0.9, 0.5), (0.9, 1.0), (0.9, 2.0), (0.9, 4.0)]
    assert trainings.notes == [
        "cosine did best at the edge of its list, learning rate 0.3; one beyond it was tried, and is no better.",
        "dot did best at the edge of its list, learning rate 0.3, and better yet at one beyond it, 0.9, which it "
        "takes: further ones may be better still; --lr-factors names them, in units of the config's.",
        "dot did best at the edge of its list, temperature 2 times auto, and better yet at one beyond it, 4 times "
        "auto, which it takes: further ones may be better still; --temperatures names them, in units of auto.",
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
