"""Levers followed to the letter: a second run with the printed value has no such alert, and ends where it was said."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

_SOURCE = Path(__file__).parents[2] / "benchmarks" / "planted_runs.py"
_SPEC = importlib.util.spec_from_file_location("planted_runs", _SOURCE)
planted = sys.modules.setdefault("planted_runs", importlib.util.module_from_spec(_SPEC))
if not hasattr(planted, "FAULTS"):
    _SPEC.loader.exec_module(planted)

RUNS = {run.name: run.training for run in planted.FAULTS}
NUMBER = r"([0-9.,e+-]*[0-9])"


def number(text, after):
    """The number behind some words."""
    return float(re.search(re.escape(after) + NUMBER, text)[1].replace(",", ""))


def span(text):
    """The two norms between which rows are to settle; the same twice where they are to settle at one."""
    span = re.search(rf"settle at {NUMBER} \({NUMBER} to {NUMBER} as far", text)
    return (float(span[2]), float(span[3])) if span else (number(text, "settle at "),) * 2


def verdict_of(training, rule):
    """What the rule says at the end of a run."""
    (verdict,) = [verdict for verdict in training.run().verdicts if verdict.rule == rule]
    return verdict


def end_of(training):
    """The median norm at the end, and the rules that had spoken above a note."""
    models = []

    def prepare(model, optimizer):
        models.append(model)
        if training.prepare is not None:
            training.prepare(model, optimizer)

    alerts = replace(training, prepare=prepare).run().alerts
    norm = float(models[0].table.weight.detach().norm(dim=1).median())
    return norm, {verdict.rule for verdict in alerts if verdict.severity != "note"}


SETTLING = {
    "no decay, AdamW": (
        RUNS["no weight decay, AdamW"],
        "no_decay",
        lambda lever: planted.adamw(lr=0.03, weight_decay=number(lever, "weight_decay=")),
    ),
    "no decay, SGD": (
        RUNS["no weight decay, SGD"],
        "no_decay",
        lambda lever: planted.sgd(weight_decay=number(lever, "weight_decay=")),
    ),
    "slow relaxation, AdamW": (
        replace(RUNS["lr·λ far too small, AdamW"], optimizer=planted.adamw(weight_decay=0.05)),
        "slow_relaxation",
        lambda lever: planted.adamw(weight_decay=number(lever, "to ")),
    ),
    "slow relaxation, SGD": (
        replace(RUNS["lr·λ far too small, SGD"], optimizer=planted.sgd(weight_decay=2e-5)),
        "slow_relaxation",
        lambda lever: planted.sgd(weight_decay=number(lever, "to ")),
    ),
    "coupled decay": (
        RUNS["Adam's decay taken for AdamW's"],
        "coupled_decay",
        lambda lever: planted.adamw(weight_decay=number(lever, "weight_decay=")),
    ),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", SETTLING)
def test_norms_end_where_the_lever_has_them_on_real_gradients(name):
    training, rule, optimizer = SETTLING[name]
    lever = verdict_of(training, rule).lever
    low, high = span(lever)
    norm, alarms = end_of(replace(training, optimizer=optimizer(lever)))
    assert rule not in alarms
    assert 0.85 * low < norm < 1.15 * high


def without_decay(model):
    numbers, tables = [model.loss.logit_scale], [model.table.weight]
    groups = [{"params": tables}, {"params": numbers, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.2)


class WeighedLeak(planted.InfoNCE):
    """Cosine InfoNCE with a term that rewards length, so many times weaker than the planted one."""

    weakness = 1.0

    def forward(self, queries, documents, **options):
        lengths = (queries.norm(dim=-1) + documents.norm(dim=-1)).mean()
        return super().forward(queries, documents, **options) - 0.02 / self.weakness * lengths


def weighed_less(training, lever):
    def model():
        loss = WeighedLeak(normalization="cosine", temperature=0.1)
        loss.weakness = number(lever, "weigh it ")
        return planted.Pairs(loss)

    return replace(training, model=model)


RIDDING = {
    "lr·λ far too large, AdamW": (
        "fast_decay",
        lambda training, lever: replace(training, optimizer=planted.adamw(weight_decay=number(lever, " to "))),
    ),
    "init at 30 times the equilibrium, AdamW": (
        "far_start",
        lambda training, lever: replace(
            training, model=planted.cosine_table(18.0 * number(lever, "initial table by "))
        ),
    ),
    "a schedule that freezes": (
        "freezing_schedule",
        lambda training, lever: replace(
            training, scheduler=None, optimizer=planted.adamw(lr=number(lever, "to a mean of "))
        ),
    ),
    "huge lr without momentum": (
        "overshooting_steps",
        lambda training, lever: replace(
            training, optimizer=planted.sgd(lr=number(lever, " to "), momentum=0.0, weight_decay=1e-6)
        ),
    ),
    "a tiny init, AdamW": (
        "overshooting_steps",
        lambda training, lever: replace(training, model=planted.cosine_table(number(lever, "start rows at "))),
    ),
    "decay on a learnt temperature": (
        "decayed_scalar",
        lambda training, _: replace(training, optimizer=without_decay),
    ),
    "rows never met, half": (
        "untouched_rows",
        lambda training, lever: replace(
            training, optimizer=planted.sgd(weight_decay=number(lever, "at most weight_decay="))
        ),
    ),
    "a radial leak": ("radial_leak", weighed_less),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", RIDDING)
def test_a_followed_lever_rids_a_run_of_its_alert(name):
    rule, follow = RIDDING[name]
    _, alarms = end_of(follow(RUNS[name], verdict_of(RUNS[name], rule).lever))
    assert rule not in alarms


@pytest.mark.exhaustive
def test_a_leak_that_is_weighed_less_is_not_taken_for_half_precision():
    training = RUNS["a radial leak"]
    _, alarms = end_of(weighed_less(training, verdict_of(training, "radial_leak").lever))
    assert not alarms


@pytest.mark.slow
def test_the_decay_against_a_push_outwards_holds_rows():
    """AdamW's steps are of one length: what holds rows that are long by now would let short ones grow as long."""
    training = RUNS["exploding norms, AdamW"]
    lever = verdict_of(training, "exploding_norms").lever
    norm, alarms = end_of(
        replace(training, optimizer=planted.adamw(weight_decay=number(lever, "give it a weight_decay of ")))
    )
    assert "exploding_norms" not in alarms
    assert 0.15 < norm < 0.9  # from 0.3
