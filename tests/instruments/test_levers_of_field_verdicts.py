"""Levers on mistakes that people report, followed to the letter: the second run reads healthy."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.optim import SGD, AdamW

from lightning_normdyn.levers import repair_rows

_BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
sys.path.insert(0, _BENCHMARKS)
import field_runs as field  # noqa: E402

sys.path.remove(_BENCHMARKS)

RUNS = {run.name: run.training for run in field.FIELD_FAULTS}
NUMBER = r"([0-9.,e+-]*[0-9])"


def number(text, after):
    """The number behind some words."""
    return float(re.search(re.escape(after) + NUMBER, text)[1].replace(",", ""))


def of(build, **options):
    return lambda model: build(model.parameters(), **options)


def repaired(training, rows=None):
    """The same run with rows repaired before it starts."""

    def prepare(model, optimizer):
        training.prepare(model, optimizer)
        repair_rows(model.tokens.weight, rows)

    return replace(training, prepare=prepare)


def ridge_divided(training, lever):
    factor = number(lever, "weigh it ")

    class Ridge(field.Retriever):
        def forward(self, pairs):
            return super().forward(pairs) + 1e-3 / factor * self.table.weight.square().sum()

    return replace(training, model=lambda: Ridge(field.infonce()))


def weaker_regulariser(training, lever):
    options = {"normalization": "dot", "temperature": 1.0, "regularizer": "n3"}
    weight = 5.0 / number(lever, "a regulariser, ")
    return replace(training, model=lambda: field.graph_task(**options, regularization=weight))


def larger_values(training, lever):
    value = 1e-5 * number(lever, "raise the clipping value to ")
    return replace(training, after_backward=lambda model, _: torch.nn.utils.clip_grad_value_(model.parameters(), value))


def rescaled_table(training, lever):
    norm = number(lever, "initial table by ")
    return replace(training, model=lambda: field.Retriever(training.model().loss, norm=norm))


def under(build, **fixed):
    """Follows a lever of weight decay, whatever it is behind."""

    def follow(training, lever):
        decay = number(lever, "weight_decay=" if "weight_decay=" in lever else " to ")
        return replace(training, optimizer=of(build, weight_decay=decay, **fixed))

    return follow


def both_rates(training, lever):
    lr, decay = number(lever, "mean learning rate of "), number(lever, "weight_decay=")
    return replace(training, optimizer=of(AdamW, lr=lr, weight_decay=decay), scheduler=None)


FOLLOWED = {
    "rows of a checkpoint that are nearly zero, fine-tuned": ("dead_rows", lambda run, _: repaired(run)),
    "tokens added at torch's own start to a trained table": (
        "outlying_rows",
        lambda run, _: repaired(run, torch.arange(256)[-16:]),
    ),
    "AdamW's decay copied to SGD": ("fast_decay", under(SGD, lr=0.5, momentum=0.9)),
    "SGD's decay copied to AdamW, torch's own start": ("slow_relaxation", both_rates),
    "LambdaLR given rates in place of factors": ("slow_relaxation", both_rates),
    "one cycle stepped by epoch": ("slow_relaxation", both_rates),
    "a plateau looked for in every batch": (
        "freezing_schedule",
        lambda run, lever: replace(
            run,
            prepare=None,
            before_backward=None,
            after_step=None,
            optimizer=of(SGD, lr=number(lever, "to a mean of "), momentum=0.9, weight_decay=1e-3),
        ),
    ),
    "zero_grad forgotten": ("radial_leak", lambda run, _: replace(run, prepare=None)),
    "a loss summed over the batch": (
        "overshooting_steps",
        lambda run, lever: replace(run, optimizer=of(SGD, lr=number(lever, " to "), momentum=0.9, weight_decay=1e-5)),
    ),
    "float16 weights under Adam's eps": (
        "nonfinite_gradients",
        lambda run, lever: replace(run, optimizer=of(AdamW, lr=1e-3, eps=number(lever, "eps="))),
    ),
    "steps below the rounding of bfloat16 weights": (
        "lost_steps",
        lambda run, lever: replace(run, optimizer=of(AdamW, lr=number(lever, " to "), weight_decay=0.1)),
    ),
    "an L2 penalty in the loss under Adam": ("radial_leak", ridge_divided),
    "scores multiplied by the temperature": ("far_start", rescaled_table),
    "places beyond the end of every text": ("untouched_rows", under(AdamW, lr=1e-2)),
    "a codebook of which few codes are chosen": ("untouched_rows", under(AdamW, lr=1e-2)),
    "recsys, items that are never offered": ("untouched_rows", under(AdamW, lr=5e-3)),
    "kg, a regulariser a thousand times too strong": ("collapsing_norms", weaker_regulariser),
    "kg, the weight of the loss by whole division": (
        "decay_alone",
        lambda run, _: replace(run, before_backward=None),
    ),
    "kg, RAdam whose decay is coupled": ("coupled_decay", under(AdamW, lr=1e-2)),
    "gradients clipped by value at 1e-5": ("clipping_sets_steps", larger_values),
    "a loss scale that nobody takes back, clipped": (
        "clipping_sets_steps",
        lambda run, lever: replace(
            run,
            clip=number(lever, "raise the clipping value to "),
            optimizer=of(SGD, lr=number(lever, "from 0.1 to "), momentum=0.9, weight_decay=1e-4),
        ),
    ),
    "gradients clipped before they are unscaled": (
        "clipping_sets_steps",
        lambda run, _: replace(run, after_backward=None, clip=1.0),
    ),
    "a zero row that is divided by its norm": (
        "nonfinite_gradients",
        lambda run, _: replace(run, model=lambda: field.Retriever(field.infonce())),
    ),
    "the root of a distance of nothing": (
        "nonfinite_gradients",
        lambda run, _: replace(run, model=lambda: field.Triplets(field.euclidean, is_normalized=False)),
    ),
    "decay on SigLIP's scale and bias": (
        "decayed_scalar",
        lambda run, _: replace(
            run, optimizer=field._tables_apart(AdamW, {"weight_decay": 0.2}, lr=1e-2, weight_decay=0.0)
        ),
    ),
    "an eps beside which gradients are small": (
        "swamped_gradients",
        lambda run, lever: replace(run, optimizer=of(AdamW, lr=1e-2, weight_decay=0.2, eps=number(lever, "set eps="))),
    ),
}


LEFT = {"an L2 penalty in the loss under Adam": {"no_decay"}}
"""Rules that speak of another fault, which the first one hid."""


def alarms_of_followed(name):
    """What is said above a note of the run that follows the lever."""
    rule, follow = FOLLOWED[name]
    levers = [verdict.lever for verdict in RUNS[name].run().verdicts if verdict.rule == rule]
    alerts = follow(RUNS[name], levers[0]).run().alerts
    return [verdict for verdict in alerts if verdict.severity != "note"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", FOLLOWED)
def test_a_run_that_follows_its_lever_reads_healthy(name):
    assert {verdict.rule for verdict in alarms_of_followed(name)} <= LEFT.get(name, set())
