"""The page of an encoder: its items, the terms of their balance, and what is an identity."""

from __future__ import annotations

import numpy as np
import pytest
from written_history import history_of

from lightning_normdyn.report import write_report

ITEMS = 40


@pytest.fixture
def page(tmp_path):
    """The page of a run whose items settle from a norm of 2 at one of 1 to 1.5."""
    history = history_of(tmp_path, "encoder")
    history.describe({"target": "encoder", "kind": "output", "optimizer": "SGD", "lr": 0.1, "total_steps": 1000})
    end = np.linspace(1, 1.5, ITEMS)
    for step in range(100, 1001, 100):
        norm = end + np.exp(-step / 200)
        columns = {"norm": norm}
        if step % 200 == 0:
            columns |= {
                "mean_norm": norm * 1.1,
                "equilibrium_norm": end,
                "balance_norm": norm * 1.1,
                "second_moment": end**4,
                "radial_decay": np.full(ITEMS, 0.02),
                "drift": end - 1.2,
                "forecast_norm": end,
            }
        rows = {"step": np.full(ITEMS, step), "row": np.arange(ITEMS)}
        history.append_rows(rows | {name: values.astype(np.float32) for name, values in columns.items()})
    found = {"stationarity": 0.9, "radial_decay_ratio": 2.0, "growth_share": 0.4, "drift_share": 0.6}
    history.append_quantities(1000, found | {"balance_slope": 1.0, "balance_median_error": 0.001})
    history.flush()
    return write_report(tmp_path).read_text(encoding="utf-8")


def test_it_speaks_of_items(page):
    assert f"{ITEMS} items" in page
    assert "Median norm of the items" in page
    assert "rows that get a gradient" not in page


def test_it_draws_the_terms_and_says_what_is_an_identity(page):
    assert "The terms of the balance" in page
    assert "radial decay λ_rad 0.0200 in the median" in page
    assert "an identity" in page
    assert "Radial decay over weight decay" in page
    assert "slope 1.000" in page  # of the panel that is corrected for the change


def test_the_forecast_is_held_against_the_end(page):
    assert "Forecast of step 400 against the norm at the end" in page
