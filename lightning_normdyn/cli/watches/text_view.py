"""The text view of a run, for a terminal without a browser: verdicts, where norms are, and how they went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_normdyn.cli.terminal import terminal
from lightning_normdyn.cli.watches.run_view import RunView
from lightning_normdyn.history.alert_log import read_verdicts
from lightning_normdyn.instruments.verdicts.verdict import amount
from lightning_normdyn.report.run.headline import no_warnings
from lightning_normdyn.report.run.page import run_name
from lightning_normdyn.report.run.target_record import Series, TargetRecord, latest_step

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 16
"""Bars of a course: with the other columns they fit into 80."""
_MOST_VERDICTS = 5
_STYLES = {"critical": "bold red", "warning": "yellow", "note": "dim"}
_COLUMNS = {
    "norm": "norm_p50",
    "settles at": "equilibrium_norm_p50",
    "relaxation": "relaxation_steps",
    "slope": "equilibrium_slope",
    "r": "equilibrium_pearson_r",
}
"""Head of a column to the quantity that it shows the latest value of."""


class TextView(RunView):
    """A run as text in the terminal, in place of the text before it where the terminal can clear itself.

    It reads the same history as the page and writes nothing to disk.
    """

    _content: RenderableType = ""

    def show(self, status: str, *, reload_seconds: float | None = None) -> None:
        """Prints what was drawn last.

        Args:
            status: what is said of the run.
            reload_seconds: not heeded; the text is printed again when the history has grown.
        """
        del reload_seconds
        console = terminal()
        if console.is_terminal:
            console.clear()
        console.print(f"{status} Read {self.draw_time} at {self.progress}." if self.redraws else status)
        for note in self._notes():
            console.print(note)
        console.print(self._content)

    def _draw(self, records: Sequence[TargetRecord]) -> None:
        verdicts = self._reader.checked(read_verdicts) or []
        self._content = Group(
            Text(run_name(self.run.resolve()), style="bold"),
            *_verdict_lines(verdicts, latest_step(records)),
            _target_table(records),
        )


def _verdict_lines(verdicts: Sequence[Mapping[str, Any]], last_step: int) -> list[Text]:
    """The worst verdicts, a line each."""
    grave = [verdict for verdict in verdicts if verdict.get("severity") != "note"]
    listed_verdicts = (grave or verdicts)[:_MOST_VERDICTS]
    lines = [
        Text.assemble(
            (f"{verdict['severity']} ({verdict['rule']}) ", _STYLES.get(str(verdict["severity"]), "")),
            f"{visible(str(verdict['target']))}: {verdict['sentence']}. Lever: {verdict['lever']}.",
        )
        for verdict in listed_verdicts
    ]
    if not verdicts:
        return [Text(f"Verdict: {no_warnings(last_step)}.", style="dim")]
    further_count = len(verdicts) - len(listed_verdicts)
    further = f"{further_count} verdict{'s' * (further_count > 1)} more, in the report."
    return [*lines, Text(further, style="dim")] if further_count else lines


def _target_table(records: Sequence[TargetRecord]) -> Table:
    """A line a target: the latest of its quantities, and the course of its median norm."""
    table = Table(box=None, pad_edge=False)
    table.add_column("target", overflow="fold")
    for head in _COLUMNS:
        table.add_column(head, justify="right")
    table.add_column("median norm so far", no_wrap=True)
    for record in records:
        cells = (_latest(record.values(quantity)) for quantity in _COLUMNS.values())
        table.add_row(visible(record.name), *cells, sparkline(record.values("norm_p50")))
    return table


def visible(name: str) -> str:
    """A name of any letters on one line, without those that a terminal would obey.

    Example:
        >>> visible("line" + chr(10) + "break " + chr(27) + "[31mred")
        'line�break �[31mred'
    """
    return "".join(letter if letter.isprintable() else "�" for letter in name)


def _latest(series: Series) -> str:
    return amount(float(series.values[-1])) if len(series.values) else "–"


def sparkline(series: Series, width: int = _WIDTH) -> str:
    """The course of a quantity as bars, each the latest value in its share of the steps.

    Args:
        series: the quantity.
        width: most bars.

    Example:
        >>> import numpy as np
        >>> sparkline(Series(np.arange(4), np.array([1.0, 2.0, 3.0, 8.0])))
        '▁▂▃█'
    """
    values = [float(value) for value in series.values]
    places = range(1, min(width, len(values)) + 1)
    samples = [values[place * len(values) // len(places) - 1] for place in places]
    low, high = min(samples, default=0.0), max(samples, default=0.0)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in samples)
