"""What the report calls logged quantities stands in their registry, and every one that it asks for is logged."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from synthetic_run import Setting, write_run
from written_history import history_of

from lightning_normdyn.history import read_run
from lightning_normdyn.instruments import QUANTITIES
from lightning_normdyn.report import write_report
from lightning_normdyn.report.kit.figure import drawing_style
from lightning_normdyn.report.run import headline, norm_budget, norms_over_time, radial_share, target_section
from lightning_normdyn.report.run.target_record import Series, TargetRecord, read_record

SMALL = Setting(rows=80, steps=600, weight_decay=0.01, snapshot_every=20, window=60)
OF_SUMMARIES = {"log_frequency_correlation", "seconds"}
"""What a demo counts itself and no run logs."""


class Asked(defaultdict[str, float]):
    """A number for every quantity, and a list of those that were asked for."""

    def __init__(self) -> None:
        super().__init__(float, dict.fromkeys(QUANTITIES, 0.25))
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> float:
        self.names.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: float | None = None) -> float | None:
        self.names.add(name)
        return super().get(name, default)


@pytest.fixture
def record(tmp_path: Path) -> TargetRecord:
    write_run(tmp_path, SMALL)
    return read_record("table", read_run(tmp_path)["embedding.weight"], anchor="target-1", labels=None)


def test_every_quantity_that_the_report_asks_for_is_registered(
    record: TargetRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = Asked()
    headline.headline(numbers)
    numbers.pop("forecast_median_error")
    headline.headline(numbers)
    assert {"stationarity", "transient_slope", "balance_pearson_r", "window_forecast_skill"} <= numbers.names
    drawn: set[str] = set()

    def values(_: TargetRecord, name: str) -> Series:
        drawn.add(name)
        return Series(np.arange(5), np.linspace(0.5, 1.0, 5))

    monkeypatch.setattr(TargetRecord, "values", values)
    with drawing_style():
        target_section.section(record, with_headline=True)
        norms_over_time.fan_card(record)
    assert {"budget_drift", "update_radial_fraction", "norm_p05"} <= drawn
    # What the balance is not compared with is asked for by its pattern alone.
    patterns = {"equilibrium_persistence_error", "equilibrium_skill", "balance_persistence_error", "balance_skill"}
    patterns |= {"balance_least_squares_slope"}
    assert (numbers.names | drawn) - patterns - OF_SUMMARIES <= QUANTITIES.keys()


def test_words_come_from_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path, SMALL)
    words = {
        name: quantity._replace(label=f"LABEL {name}", reading=f"READING {name}")
        for name, quantity in QUANTITIES.items()
    }
    for module in (norm_budget, norms_over_time, radial_share, target_section, headline):
        monkeypatch.setattr(module, "QUANTITIES", words)
    numbers = Asked()
    monkeypatch.setattr(headline, "_LINES", tuple(headline.Line.of(line.key) for line in headline._LINES[1:-1]))
    head = headline.headline(numbers)
    for name in ("transient_slope", "transient_skill", "growth_share", "relaxation_steps"):
        assert f"LABEL {name}" in head
    assert "READING stationarity" in head
    page = write_report(tmp_path).read_text(encoding="utf-8")
    for name in ("budget_drift", "radial_fraction"):
        assert f"LABEL {name}" in page
    logged = read_run(tmp_path)["embedding.weight"].quantities().column("quantity").unique().to_pylist()
    last_values = page.partition("Last values</span>")[2].partition("</table>")[0]
    finite = [name for name in logged if name != "effective_lr"]
    assert [name for name in finite if f"READING {name}<" not in last_values] == []


def test_a_quantity_of_the_users_own_is_shown_without_words(tmp_path: Path) -> None:
    write_run(tmp_path, SMALL)
    history = history_of(tmp_path, "embedding.weight")
    history.append_quantities(600, {"effective_rank": 7.0})
    history.flush()
    last_values = write_report(tmp_path).read_text(encoding="utf-8").partition("Last values</span>")[2]
    assert ">effective_rank</th><td>7" in last_values


@pytest.mark.parametrize(
    ("name", "label"),
    [("stationarity", "Stationarity"), ("norm_p95", "95%"), ("budget_growth", "growth"), ("transient_pearson_r", "r")],
)
def test_labels_are_what_pages_showed_when_they_held_them(name: str, label: str) -> None:
    assert QUANTITIES[name].label == label
