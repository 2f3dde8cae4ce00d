"""The page of the compatibility table: rows of the setups that were run now go in the place of what stood there."""

from __future__ import annotations

HEAD = "| setup | versions | numbers equal the outside tally | weights bit-identical | resumes |"
RULE = "| --- | --- | --- | --- | --- |"
INTRODUCTION = """# Compatibility

Each row is a training of {steps} steps of a small model with random weights, in the library's own loop, run three
times: unobserved under a tally in float64 that hooks of its own make (norms and their spread, the gradient and its
radial part, in every step), observed, and observed again from the checkpoint halfway. The third column is the largest
relative difference between what was logged and the tally; the fourth says whether the weights are those of the
unobserved training bit for bit; the fifth whether the resumed run logged what the unbroken one did. Made by
`make compatibility`, which runs what is installed and leaves the other rows as they are; last run on {date}.
"""


def table_text(rows):
    return "\n".join([HEAD, RULE, *(_line(row) for row in rows)])


def _line(row):
    return f"| {' | '.join(row)} |"


def renewed(text, rows, date, steps=10):
    """The page with new rows, the others as they stood; sorted by setup."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and line not in (HEAD, RULE)]
    by_setup = {line.split(" | ")[0].removeprefix("| "): line for line in lines}
    by_setup |= {row[0]: _line(row) for row in rows}
    table = [by_setup[setup] for setup in sorted(by_setup)]
    return "\n".join([INTRODUCTION.format(steps=steps, date=date), HEAD, RULE, *table]) + "\n"
