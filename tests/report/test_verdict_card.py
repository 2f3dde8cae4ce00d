"""The first card of a report: what the rules say of the run."""

from __future__ import annotations

import re

from written_history import history_of, writer_of

from lightning_normdyn.history.alert_log import AlertLog
from lightning_normdyn.report import write_report
from lightning_normdyn.report.run.headline import verdict_card


def verdict(severity, rule="slow_relaxation", target="table.weight"):
    return {
        "target": target,
        "rule": rule,
        "severity": severity,
        "step": 12_000,
        "sentence": f"a sentence of {rule} <5%",
        "cause": "a cause",
        "lever": "call `equilibrium_init(table, rule)`",
    }


def test_the_worst_stands_first_and_notes_are_folded_away():
    html = str(
        verdict_card(
            [verdict("note", "equal_norms"), verdict("warning"), verdict("critical", "no_gradient")], last_step=12_000
        )
    )
    assert "Verdict: 1 critical finding and 1 warning" in html
    assert html.index("no_gradient &lt;5%") < html.index("slow_relaxation &lt;5%") < html.index("<details>")
    assert html.index("<details>") < html.index("equal_norms &lt;5%")
    assert "<code>equilibrium_init(table, rule)</code>" in html
    assert "at step 12,000" in html


def test_a_run_that_was_judged_well_says_so_and_one_that_was_not_says_nothing():
    assert "Verdict: no warnings" in verdict_card([], last_step=100)
    assert "Verdict: none, since a run of fewer than 100 steps says too little" in verdict_card([], last_step=99)
    assert verdict_card(None, last_step=100) == ""


def test_names_are_escaped():
    assert "<b>" not in verdict_card([verdict("warning", target="<b>x</b>")], last_step=100).replace(
        "<b>Lever:</b>", ""
    )


def test_the_report_of_a_run_opens_with_it(tmp_path):
    history = history_of(tmp_path, "table.weight")
    history.describe({"target": "table.weight", "kind": "table", "rows": 2, "dim": 2})
    history.append_quantities(1, {"norm_mean": 1.0})
    history.flush()
    AlertLog(writer_of(tmp_path)).stand([verdict("warning")])
    page = write_report(tmp_path).read_text(encoding="utf-8")
    main = page[page.index("<main>") :]
    assert re.match(r"<main>\s*<section class=\"verdicts card\"", main)
    assert main.index("slow_relaxation &lt;5%") < main.index('<section id="target-1">')
