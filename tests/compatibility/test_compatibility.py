"""Every setup of the table: the numbers of an outside tally, the same weights, and the same again from a checkpoint."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata

import pytest
import torch
from compatibility_page import HEAD, renewed
from loop_setups import LOOP_SETUPS
from setups import SETUPS
from tally import Tally
from trainer_setups import TRAINER_SETUPS
from trainings import HALF, STEPS, Run

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of the libraries; ours count as elsewhere
    pytest.mark.filterwarnings("error:Norm(Dynamics|Observer)"),
]
DISTRIBUTIONS = {
    "sentence_transformers": "sentence-transformers",
    "pytorch_metric_learning": "pytorch-metric-learning",
    "fbgemm_gpu": "fbgemm-gpu-cpu",
    "open_clip": "open_clip_torch",
}


ROWS = [*SETUPS, *TRAINER_SETUPS, *LOOP_SETUPS]


def version(package):
    return torch.__version__ if package == "torch" else importlib.metadata.version(DISTRIBUTIONS.get(package, package))


def row_of(setup):
    library = DISTRIBUTIONS.get(setup.library, setup.library)
    versions = [f"{DISTRIBUTIONS.get(name, name)} {version(name)}" for name in (setup.library, *setup.others)]
    name = f"{library} {version(setup.library).split('.')[0]}: {setup.kind}"
    return [name, ", ".join(dict.fromkeys([*versions, f"torch {torch.__version__}"]))]


@pytest.mark.parametrize(
    "setup", [pytest.param(setup, marks=setup.marks, id=f"{setup.library}: {setup.kind}") for setup in ROWS]
)
def test_numbers_weights_and_resumption(tmp_path, setup, record_property):
    for package in (setup.library, *setup.others):
        pytest.importorskip(package, exc_type=ImportError)
    alone = Run(tmp_path / "alone", tally=setup.tally(), tapped=setup.tapped)
    whole = Run(tmp_path / "whole", target=setup.target)
    resumed = Run(tmp_path / "whole", target=setup.target, resumes=True)
    for run in (alone, whole, resumed):
        run.folder.mkdir(exist_ok=True)
        warns = setup.warning and run is whole
        with pytest.warns(UserWarning, match=setup.warning) if warns else contextlib.nullcontext():
            setup.train(run)
    error = largest_error(whole.scalars, alone.tally.steps)
    is_same = alone.weights.keys() == whole.weights.keys() and all(
        torch.equal(value, whole.weights[name]) for name, value in alone.weights.items()
    )
    resumes = whole.scalars[HALF:] == resumed.scalars[HALF:] and len(resumed.scalars) == len(whole.scalars)
    words = ["yes" if is_true else "no" for is_true in (error < 1e-5, is_same, resumes)]
    record_property("compatibility", [*row_of(setup), f"{words[0]}, {error:.0e}", *words[1:]])
    assert error < 1e-5
    assert is_same
    assert resumes


def largest_error(scalars, expected):
    """Largest relative difference; of shares of the gradient, the largest absolute one."""
    assert len(expected) == STEPS
    assert len(scalars) >= STEPS
    errors = []
    for logged, tally in zip(scalars, expected, strict=False):
        for name, value in tally.items():
            errors.append(abs(logged[name] - value) / (1 if name == "radial_fraction" else value))
    return max(errors)


def test_an_error_in_the_numbers_would_show():
    """Of a tensor that is twice as long, or a step out of place."""
    layer, tallies = torch.nn.Linear(3, 2), [Tally(), Tally(lambda output: (output * 2, None))]
    for tally in tallies:
        tally.attach(layer)
    for number in range(STEPS):
        layer((number + 1) * torch.ones(4, 3)).square().sum().backward()
        tallies[0].end_step()
    steps = tallies[0].steps
    assert largest_error(steps, steps) == 0
    assert largest_error(steps[1:] + steps[:1], steps) > 0.1
    tallies[1]._gradients = [values + 1 for values in tallies[1]._gradients]
    tallies[1].end_step()
    assert tallies[1].steps[0]["norm_mean"] > 1.5 * steps[0]["norm_mean"]


def test_rows_that_were_not_run_stay_on_the_page():
    date = datetime.date(2026, 11, 30)
    first = renewed("", [["b 1: x", "b 1.0", "yes", "yes", "yes"], ["a 1: x", "a 1.0", "yes", "yes", "no"]], date)
    second = renewed(first, [["a 1: x", "a 1.1", "yes", "yes", "yes"]], date)
    rows = second.split(HEAD)[1].splitlines()[2:]
    assert rows == ["| a 1: x | a 1.1 | yes | yes | yes |", "| b 1: x | b 1.0 | yes | yes | yes |"]
