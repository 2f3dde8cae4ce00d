"""The demo's findings as a table in the terminal."""

from __future__ import annotations

from rich.table import Table

from lightning_normdyn.cli.findings import Prediction

PUBLISHED_SLOPE = 0.88
PUBLISHED_PEARSON_R = 0.97


def prediction_table(predictions: list[Prediction]) -> Table:
    """Lays out predictions beside the published values (Su, Ren, Veitch 2026, Fig. 3a).

    Args:
        predictions: one per line.
    """
    table = Table(title="Predicted against observed norm, one point per word", title_justify="left")
    table.add_column("prediction")
    for heading in ("slope", "published", "Pearson r", "published", "median error", "if it stayed as it is", "skill"):
        table.add_column(heading, justify="right")
    for row in predictions:
        table.add_row(
            row.label,
            _number(row.slope, ".3f"),
            f"[dim]{PUBLISHED_SLOPE}[/dim]",
            _number(row.pearson_r, ".4f"),
            f"[dim]{PUBLISHED_PEARSON_R}[/dim]",
            _number(row.median_error, ".2%"),
            _number(row.persistence_error, ".1%"),
            _number(row.skill, ".2f"),
        )
    return table


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
