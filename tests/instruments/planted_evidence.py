"""Evidence of a table with values of the test's own, and what rules say of it."""

from __future__ import annotations

import torch

from lightning_normdyn.core.dynamics.optimizers import equilibrium_rule
from lightning_normdyn.instruments import NormObserver
from lightning_normdyn.instruments.verdicts.evidence import Courses, Evidence, Facts, TypicalRow
from lightning_normdyn.instruments.verdicts.rules import judge


def evidence_of(values, *, steps=1000, optimizer=None, **facts):
    """What rules see of a table with these values, each of them read three times."""
    optimizer = optimizer or torch.optim.AdamW([torch.ones(1)], lr=1e-2, weight_decay=0.1)
    rule = equilibrium_rule(optimizer)
    group = optimizer.param_groups[0]
    courses = Courses()
    for step in (steps - 2, steps - 1, steps):
        courses.note(step, {**values, "lr": group["lr"]})
    common = {
        "target": "table",
        "kind": "table",
        "rule": rule,
        "lr": group["lr"],
        "weight_decay": group["weight_decay"],
    }
    typical = TypicalRow(0.02, 0.5)
    settings = {"step": steps, "total_steps": steps, "dim": 16, "tracked_rows": 100, "typical_row": typical} | facts
    return Evidence(Facts(**common, **settings), courses)


def rules_that_speak(values, **options):
    """Rule to verdict."""
    return {verdict.rule: verdict for verdict in judge(evidence_of(values, **options))}


def severities(values, **facts):
    """Rule to severity."""
    return {rule: verdict.severity for rule, verdict in rules_that_speak(values, **facts).items()}


def verdicts_of(model, batch, optimizer, *, steps=120, **options):
    """What stands after a plain loop, by rule; the batch may be drawn anew in each step."""
    with NormObserver(model, optimizer, total_steps=steps, every_n_steps=10, **options) as observer:
        for _ in range(steps):
            optimizer.zero_grad()
            model(batch() if callable(batch) else batch).backward()
            optimizer.step()
    return {verdict.rule: verdict for verdict in observer.verdicts}
