"""The demo's findings as a table that fits a terminal of 80 columns."""

from __future__ import annotations

from rich import box
from rich.table import Table

from lightning_normdyn.cli.findings import Prediction
from lightning_normdyn.history.number import show_number

PUBLISHED_SLOPE = 0.88
PUBLISHED_PEARSON_R = 0.97
CAPTION = "In brackets: the published values, Su, Ren, Veitch 2026 (arXiv 2606.30625), Fig. 3a."


def prediction_table(predictions: list[Prediction]) -> Table:
    """Lays out predictions, each beside the published values.

    Args:
        predictions: one per line.
    """
    table = Table(
        title="Predicted against observed norm",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("prediction", no_wrap=True)
    for heading in ("slope", "Pearson r", "median\nerror", "'stays\nas it is'", "skill"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in predictions:
        table.add_row(
            row.label,
            f"{show_number(row.slope, '.3f')} ({PUBLISHED_SLOPE})",
            f"{show_number(row.pearson_r, '.4f')} ({PUBLISHED_PEARSON_R})",
            show_number(row.median_error, ".2%"),
            show_number(row.persistence_error, ".1%"),
            show_number(row.skill, ".2f"),
        )
    return table
