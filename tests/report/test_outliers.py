"""A few rows or steps far out do not flatten the figures of a report, and the captions count them."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from written_history import history_of

from lightning_normdyn.report import write_report
from lightning_normdyn.report.kit.axes import bulk_frame, positive_frame

ROWS, FAR = 1_000, 20


def write_table(folder: Path, norms: np.ndarray, *, spike: float = 1.0) -> str:
    """The page of a table whose rows are predicted as they are, and whose growth has one spike."""
    history = history_of(folder, "table")
    history.describe({"target": "table", "kind": "table", "rows": len(norms), "dim": 8, "total_steps": 400})
    columns = {
        "norm": norms,
        "mean_norm": norms,
        "equilibrium_norm": norms * 1.1,
        "transient_norm": norms,
        "forecast_norm": norms * 0.9,
        "update_probability": np.geomspace(1e-3, 1.0, len(norms)),
    }
    for step in (160, 400):
        history.append_rows({"step": [step] * len(norms), "row": np.arange(len(norms)), **columns})
    for step in range(10, 401, 10):
        growth = spike * 1e-3 if step == 200 else 1e-3
        history.append_quantities(step, {"budget_growth": growth, "budget_decay": -1e-3, "budget_drift": 1e-4})
    history.flush()
    return write_report(folder).read_text(encoding="utf-8")


def figure(page: str, description: str) -> ElementTree.Element:
    svg = next(svg for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if f'aria-label="{description}' in svg)
    return ElementTree.fromstring(svg)


def ticks(drawing: ElementTree.Element) -> list[float]:
    words = ("".join(element.itertext()).strip().replace(",", "") for element in drawing.iter())
    return [float(word) for word in words if re.fullmatch(r"\d+(\.\d+)?", word)]


def norms_with_outliers() -> np.ndarray:
    norms = np.random.default_rng(0).lognormal(1.0, 0.4, ROWS)
    norms[-FAR:] = np.geomspace(1e5, 1e6, FAR)
    return norms


@pytest.mark.parametrize("description", ["Equilibrium law", "Transient-corrected", "Norm at the end", "Norm against"])
def test_axes_show_the_bulk_of_the_rows(tmp_path: Path, description: str) -> None:
    page = write_table(tmp_path, norms_with_outliers())
    drawing = figure(page, description)
    norms = [tick for tick in ticks(drawing) if tick != ROWS]
    assert norms
    assert max(norms) <= 100


def test_captions_count_the_rows_outside(tmp_path: Path) -> None:
    page = write_table(tmp_path, norms_with_outliers())
    predictions, forecasts, frequencies = (
        next(caption for caption in re.findall(r"<figcaption>(.*?)</figcaption>", page, re.DOTALL) if start in caption)
        for start in ("Each point is one row", "blue points lie on", "Norm at the last snapshot")
    )
    assert f"{FAR} rows (equilibrium law) and {FAR} rows (transient-corrected)" in predictions
    assert f"{FAR} rows." in forecasts
    assert f"{FAR} rows." in frequencies


def test_without_outliers_axes_hold_every_row_and_captions_count_none(tmp_path: Path) -> None:
    norms = norms_with_outliers()[:-FAR]
    assert bulk_frame(norms) == positive_frame(norms)
    assert "The axes show the bulk" not in write_table(tmp_path, norms)


def test_a_spike_does_not_flatten_the_budget_and_is_counted(tmp_path: Path) -> None:
    norms = np.linspace(1.0, 2.0, ROWS)
    calm, wild = write_table(tmp_path / "calm", norms), write_table(tmp_path / "wild", norms, spike=1e4)
    drawings = [figure(page, "Budget of the squared norm") for page in (calm, wild)]
    assert "10⁻³ of it" in "".join(drawings[1].itertext())
    assert ticks(drawings[0]) == ticks(drawings[1])
    assert "The axis shows the bulk" not in calm
    growth = "growth in 1 of 40 readings, as far as 10 at step 200"
    assert f"outside of it lie total in 1 of 40 readings, as far as 10 at step 200; {growth}." in wild
