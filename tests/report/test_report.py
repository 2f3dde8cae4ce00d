"""The report: what it draws is what the history says, and nothing in it reaches outside or escapes its place."""

from __future__ import annotations

import base64
import contextlib
import io
import re
import subprocess
import sys
import threading
import time
import warnings
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pytest
import torch
from synthetic_run import Setting, write_output, write_run
from written_history import history_of

from lightning_normdyn.history import TargetHistory, read_run
from lightning_normdyn.instruments import NormObserver
from lightning_normdyn.report import write_report
from lightning_normdyn.report.kit.figure import drawing_style, new_axes, to_svg
from lightning_normdyn.report.kit.line_label import spread_apart
from lightning_normdyn.report.run.frequency_bands import frequency_bands
from lightning_normdyn.report.run.headline import headline
from lightning_normdyn.report.run.norm_budget import total
from lightning_normdyn.report.run.predicted_against_observed import Cloud, frames
from lightning_normdyn.report.run.target_record import Series, read_record, read_series
from lightning_normdyn.report.run.trajectory import read_trajectory

SMALL = Setting(rows=80, steps=600, weight_decay=0.01, snapshot_every=20, window=60)
HOSTILE = [
    "<script>alert(1)</script>",
    "$x_1$ & \"q\" 'a'",
    " \n\t",
    "\x00\ud800",
    "日本語 🙂",
    "",
    "]]>",
    "url(#x) id='y'",
]
FIGURES = (
    "Predicted against observed norm",
    "The course of the norms",
    "The budget of the squared norm",
    "Radial share of gradient and update",
    "Norm against frequency",
)


class Page(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    write_run(folder, SMALL)
    write_output(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    labels = [f"word{row}" for row in range(SMALL.rows)]
    # The extremes are the rows that the page names: put the hostile labels there.
    order = np.argsort(columns_at(run, SMALL.steps)["norm"])
    for label, row in zip(HOSTILE, [*order[:4], *order[-4:]], strict=True):
        labels[row] = label
    return Page(write_report(run, row_names=labels))


def columns_at(run: Path, step: int) -> dict[str, np.ndarray]:
    """The trajectory at one step, row by row, read with nothing of the report's own code."""
    lines = [line for line in read_run(run)["embedding.weight"].trajectory().to_pylist() if line["step"] == step]
    lines.sort(key=lambda line: line["row"])
    return {name: np.array([line[name] for line in lines], np.float64) for name in lines[0]}


def fit_by_numpy(predicted: np.ndarray, observed: np.ndarray) -> list[str]:
    usable = (predicted > 0) & (observed > 0)
    x, y = np.log(predicted[usable]), np.log(observed[usable])
    error = np.median(np.abs(predicted[usable] - observed[usable]) / observed[usable])
    slope, r = np.polyfit(x, y, 1)[0], np.corrcoef(x, y)[0, 1]
    return [f"least squares: slope {slope:.3f}", f"r {r:.3f}", f"median error {as_percent(error)}"]


def as_percent(share: float) -> str:
    return f"{float(f'{100 * share:.{2 if share < 0.1 else 3}g}'):g}%"


def test_panels_write_the_numbers_of_their_points(run: Path, page: Page) -> None:
    last = columns_at(run, SMALL.steps)
    equilibrium = fit_by_numpy(last["equilibrium_norm"], last["mean_norm"])
    transient = fit_by_numpy(last["transient_norm"], last["norm"])
    assert equilibrium != transient
    for words in (equilibrium, transient):
        start = page.text.index(words[0])
        assert all(word in page.text[start : start + 120] for word in words)
    # The same oracle on a wrong pairing must disagree, else it could not fail.
    wrong = fit_by_numpy(last["equilibrium_norm"], last["norm"])
    assert wrong[2] not in page.text


def test_forecast_is_held_against_the_end_and_against_no_forecast(run: Path, page: Page) -> None:
    early, last = columns_at(run, 240), columns_at(run, SMALL.steps)
    forecast = np.median(np.abs(early["forecast_norm"] / last["norm"] - 1))
    persistence = np.median(np.abs(early["norm"] / last["norm"] - 1))
    assert f"forecast: median error {as_percent(forecast)}" in page.text
    assert f"‘stays as it is’: median error {as_percent(persistence)}" in page.text
    assert "forecast made at step 240 (40% of the run)" in page.text


def test_bands_end_at_the_medians_of_their_rows(run: Path, page: Page) -> None:
    windows = [columns_at(run, step) for step in range(60, SMALL.steps + 1, 60)]
    frequency = np.mean([window["update_probability"] for window in windows], axis=0)
    rarest = frequency <= np.quantile(frequency, 0.2)
    start, end = (np.median(columns_at(run, step)["norm"][rarest]) for step in (0, SMALL.steps))
    described = next(label for label in page.values("aria-label") if "how often a row" in label)
    assert f"first to last. {as_percent(np.median(frequency[rarest]))} of steps: {start:.3g} to {end:.3g};" in described


def test_norm_and_frequency_correlate_as_numpy_says(run: Path, page: Page) -> None:
    windows = [columns_at(run, step) for step in range(60, SMALL.steps + 1, 60)]
    frequency = np.mean([window["update_probability"] for window in windows], axis=0)
    seen = frequency > 0
    r = np.corrcoef(np.log(frequency[seen]), np.log(windows[-1]["norm"][seen]))[0, 1]
    assert f"log-log, r {r:.3f}." in " ".join(page.values("aria-label"))


def test_every_figure_is_there_with_a_caption_and_a_description(page: Page) -> None:
    assert all(title in page.text for title in FIGURES)
    drawings, figures = page.tags.count("svg"), page.tags.count("figure")
    assert figures == page.tags.count("figcaption") == 7
    assert drawings == page.values("role").count("img") == len(page.values("aria-label")) - 1  # the nav has one too


def test_page_needs_nothing_from_outside(page: Page) -> None:
    assert not {"script", "link", "iframe", "object", "img", "base"} & set(page.tags)
    links = page.values("href") + page.values("src") + page.values("xlink:href")
    outside = {link for link in links if not link.startswith(("#", "data:image/png;base64,"))}
    assert outside == {"https://arxiv.org/abs/2606.30625"}
    assert set(re.findall(r"https?://[^\s\"<]+", page.source)) == outside
    assert "@import" not in page.source
    assert all(reference.startswith("#") for reference in re.findall(r"url\(([^)]*)\)", page.source.split("<body>")[0]))
    assert len(page.source) < 1_000_000


def test_ids_are_unique_and_references_meet_them(page: Page) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids)) > 100
    used = [link[1:] for link in page.values("href") if link.startswith("#")]
    styled = [value for _, name, value in page.attributes if name not in ("title", "aria-label")]  # these are text
    used += [name for value in styled for name in re.findall(r"url\(#([^)]*)\)", value)]
    assert used
    assert set(used) <= set(ids)


def test_hostile_labels_stay_text(page: Page) -> None:
    assert "<script" not in page.source
    assert "&lt;script&gt;alert(1)" in page.source
    assert page.text.count("$x_1$ & \"q\" 'a'") == 2  # in the list, and as it is in the drawing: no formula
    assert "␣␣␣" in page.text
    assert "��" in page.text
    assert "日本語 🙂" in page.text


def test_names_descriptions_and_summary_are_escaped(tmp_path: Path) -> None:
    history = history_of(tmp_path, "<b>t")
    history.describe({"kind": "table", "optimizer": "<i>", "law": "a<b", "lr": "<u>", "version": "<s>"})
    history.append_quantities(3, {"<img src=x>": 1.0})
    history.flush()
    page = Page(write_report(tmp_path, summary={"optimizer": "<em>", "versions": {"<tt>": "<q>"}, "slope": "<h6>"}))
    assert not {"b", "i", "u", "s", "img", "em", "tt", "q", "h6"} & set(page.tags)
    assert "<img src=x>" in page.text


def test_summary_makes_the_headline(run: Path, tmp_path: Path) -> None:
    summary = {
        "slope": 0.9871,
        "pearson_r": 0.9912,
        "median_relative_error": 0.0213,
        "equilibrium_slope": 0.711,
        "equilibrium_pearson_r": 0.9312,
        "equilibrium_median_error": 0.114,
        "transient_persistence_error": 0.131,
        "transient_skill": 0.8374,
        "forecast_skill": 0.941,
        "forecast_median_error": 0.0251,
        "persistence_median_error": 0.42,
        "log_frequency_correlation": float("nan"),
        "budget_residual": 3e-8,
        "seconds": 71.26,
        "steps": 12_000,
        "optimizer": "SGD",
        "versions": {"torch": "2.4.0"},
    }
    head = Page(write_report(run, out=tmp_path / "deep" / "page.html", summary=summary)).text.partition("[1] Su")[0]
    lead = head.replace("\n", "")
    equilibrium = (
        "The equilibrium law predicts the norms with least-squares slope 0.71, r 0.931 (published for a language model "
        "[1]: 0.88 and 0.97), 11.4% off"
    )
    transient = "the last window’s start, they are predicted to within 2.1%, against 13.1% for ‘stays as it is’."
    forecast = "The forecast for the end missed the final norms by 2.5%, against 42% for ‘stays as it is’."
    assert 0 < lead.index(equilibrium) < lead.index(transient) < lead.index(forecast)
    assert "0.99, r 0.991" not in lead  # the transient's slope is not held against the published one in the lead
    shown = ("0.987", "0.711", "2.1%", "0.941", "0.837", "3.00 × 10⁻⁸", "71.3 s", "SGD · 12,000 steps · torch 2.4.0")
    assert all(number in head for number in shown)
    assert "r of norm and word frequency" not in head


def test_without_a_summary_the_last_logged_values_stand_there(run: Path, page: Page) -> None:
    quantities = read_run(run)["embedding.weight"].quantities().to_pylist()
    last = {line["quantity"]: line["value"] for line in quantities}
    assert f"predicts the norms with least-squares slope {last['equilibrium_slope']:.2f}, " in page.text.replace(
        "\n", ""
    )
    assert f"{last['transient_slope']:.3f}" in page.text.partition("Further numbers")[0]


@pytest.mark.parametrize("until", [1, 50], ids=["one step", "no fit yet"])
def test_a_run_without_fits_is_shown_as_far_as_it_is(tmp_path: Path, until: int) -> None:
    write_run(tmp_path, SMALL, until=until)
    page = Page(write_report(tmp_path))
    assert "No fit window has closed yet" in page.text
    assert "The course of the norms" in page.text
    assert "Predicted against observed norm" not in page.text


def test_an_unfinished_run_shows_its_forecast_and_no_outcome(tmp_path: Path) -> None:
    write_run(tmp_path, SMALL, until=310)
    page = Page(write_report(tmp_path))
    assert "forecast made at step 240" in page.text
    assert "against the norm at the end" not in page.text


def test_nothing_but_a_description_makes_a_page(tmp_path: Path) -> None:
    history_of(tmp_path, "encoder").describe({"target": "encoder", "kind": "output"})
    assert "Nothing was recorded for it yet." in Page(write_report(tmp_path)).text


def test_values_that_are_not_finite_are_passed_over(tmp_path: Path) -> None:
    history, rows = history_of(tmp_path, "table"), np.arange(4)
    history.describe({"target": "table", "kind": "table", "rows": 4, "dim": 2, "total_steps": -1, "lr": float("nan")})
    odd = np.array([np.nan, np.inf, 0.0, 1.0], np.float32)
    nothing = np.full(4, np.nan, np.float32)
    names = ("second_moment", "update_probability", "mean_norm", "equilibrium_norm", "forecast_norm")
    for step in (0, 5):
        fit = {**dict.fromkeys(names, odd), "transient_norm": nothing}
        history.append_rows({"step": [step] * 4, "row": rows, "norm": odd, **fit})
        history.append_quantities(
            step, {"budget_growth": float("nan"), "radial_fraction": float("inf"), "norm_cv": 0.0}
        )
    history.flush()
    text = Page(write_report(tmp_path, row_names=["a", "b", "c", "d"])).text
    assert "1 of" in text
    assert "The budget of the squared norm" not in text


def test_missing_history_and_wrong_labels_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="log_dir: no norm history under"):
        write_report(tmp_path)
    with pytest.raises(
        ValueError, match=r"row_names: expected one name per row .* got 2 names .*embedding\.weight: 80"
    ):
        write_report(run, row_names=["a", "b"])


def test_of_what_was_written_twice_the_later_counts(tmp_path: Path) -> None:
    history = history_of(tmp_path, "table")
    for norm in (1.0, 2.0):
        history.append_rows({"step": [7, 7], "row": [4, 9], "norm": [norm, norm + 5]})
        history.append_quantities(7, {"norm_mean": norm})
    history.append_quantities(3, {"norm_mean": 9.0})
    history.flush()
    written = read_run(tmp_path)["table"]
    assert read_trajectory(written.trajectory()).norms.tolist() == [[2.0, 7.0]]
    series = read_series(written.quantities())["norm_mean"]
    assert (series.steps.tolist(), series.values.tolist()) == ([3, 7], [9.0, 2.0])


def test_total_adds_up_where_all_terms_are_known() -> None:
    decay = Series(np.array([0, 1, 2]), np.array([-1.0, -2.0, -3.0]))
    growth = Series(np.array([1, 2, 3]), np.array([4.0, 4.5, 5.0]))
    both = total([decay, growth])
    assert (both.steps.tolist(), both.values.tolist()) == ([1, 2], [2.0, 1.5])


def test_thinning_keeps_the_mean_and_smoothing_a_constant() -> None:
    series = Series(np.arange(1000), np.random.default_rng(0).normal(size=1000))
    assert np.average(series.thinned(100).values) == pytest.approx(series.values.mean())
    assert np.allclose(Series(series.steps, np.full(1000, 3.0)).smoothed().values, 3.0)


def test_bands_part_the_rows_and_keep_ties_together() -> None:
    frequency = np.r_[np.zeros(30), np.linspace(0.01, 1.0, 70), np.nan]
    bands = frequency_bands(frequency)
    assert np.sum([band.members for band in bands], axis=0).tolist() == [1] * 100 + [0]
    assert (bands[0].label, np.flatnonzero(bands[0].members).tolist()) == ("no step", list(range(30)))
    assert [band.label for band in frequency_bands(np.ones(5))] == ["every step"]
    assert [band.label for band in frequency_bands(np.full(5, np.nan))] == ["all"]


def test_labels_keep_their_order_and_distance() -> None:
    places = spread_apart([0.1, 0.11, 0.12, 0.9], 0.08)
    assert places == pytest.approx([0.03, 0.11, 0.19, 0.9])


def test_labels_name_the_rows_of_the_table_not_the_places_among_the_tracked(tmp_path: Path) -> None:
    history = history_of(tmp_path, "table")
    history.describe({"target": "table", "kind": "table", "rows": 6, "tracked_rows": 3, "row_stride": 2})
    fit = {"update_probability": [0.9, 0.5, 0.1], "mean_norm": [3.0, 2.0, 1.0]}
    history.append_rows({"step": [1] * 3, "row": [0, 2, 4], "norm": [3.0, 2.0, 1.0], **fit})
    history.flush()
    text = Page(write_report(tmp_path, row_names=list("abcdef"))).text
    assert re.search(r"Longest\s+row\s+norm\s+share\s+a\s+3\.00\s+90%\s+c\s+2\.00\s+50%\s+e\s+1\.00\s+10%", text)


def two_tables(folder: Path) -> None:
    fit = {"update_probability": [0.9, 0.5], "mean_norm": [3.0, 2.0]}
    for name in ("users", "items"):
        history = history_of(folder, f"{name}.weight")
        history.describe({"kind": "table", "rows": 2})
        history.append_rows({"step": [1] * 2, "row": [0, 1], "norm": [3.0, 2.0], **fit})
        history.flush()


def test_each_table_may_have_names_of_its_own(tmp_path: Path) -> None:
    two_tables(tmp_path)
    labels = {"users.weight": ["Ann", "Bob"], "items.weight": ["Alien", "Heat"]}
    _, items, users = Page(write_report(tmp_path, row_names=labels)).source.split("<section")
    assert ("Alien" in items, "Ann" in items) == (True, False)
    assert ("Alien" in users, "Ann" in users) == (False, True)
    one_named = Page(write_report(tmp_path, row_names={"users.weight": ["Ann", "Bob"]})).text
    assert ("Ann" in one_named, "row 1" in one_named) == (True, True)
    with pytest.raises(
        ValueError, match=r"row_names: expected names for targets among items\.weight, users\.weight, got 'x'"
    ):
        write_report(tmp_path, row_names={"x": ["Ann", "Bob"]})
    with pytest.raises(
        ValueError, match=r"row_names: expected one name per row of a table, got 1 names .*users\.weight: 2"
    ):
        write_report(tmp_path, row_names={"users.weight": ["Ann"]})


def test_names_recorded_with_a_run_are_shown_unless_others_are_passed(tmp_path: Path, monkeypatch) -> None:
    two_tables(tmp_path)
    monkeypatch.setattr(TargetHistory, "row_names", lambda _: {1: "<i>stored"})
    text = Page(write_report(tmp_path)).text
    assert "<i>stored" in text
    assert "row 0" in text
    text = Page(write_report(tmp_path, row_names={"users.weight": ["Ann", "Bob"]})).text
    assert all(name in text for name in ("<i>stored", "row 0", "Ann", "Bob"))


def test_slope_and_r_of_the_forecast_are_those_of_the_summary(run: Path, tmp_path: Path) -> None:
    summary = {"forecast_median_error": 0.02, "persistence_median_error": 0.3, "forecast_skill": 0.9}
    row = r"Forecast for the end\s+%s\s+%s\s+2%%\s+30%%\s+0\.900"
    assert re.search(row % ("–", "–"), Page(write_report(run, out=tmp_path / "a.html", summary=summary)).text)
    summary |= {"forecast_slope": 0.8767, "forecast_pearson_r": 0.4321}
    page = Page(write_report(run, out=tmp_path / "b.html", summary=summary))
    assert re.search(row % (r"least-squares fit\s+0\.877", r"0\.432"), page.text)


def test_labels_are_kept_for_the_table_they_fit(run: Path) -> None:
    labels = ["x"] * SMALL.rows
    records = {name: read_record(name, history, anchor="a", labels=labels) for name, history in read_run(run).items()}
    assert records["embedding.weight"].labels == labels
    assert records["encoder"].labels is None


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    with drawing_style():
        svg = to_svg(new_axes(), name="n", description='a "quoted" <description>')
    assert dict(matplotlib.rcParams) == before
    assert 'aria-label="a &quot;quoted&quot; &lt;description' in svg


def test_report_needs_neither_lightning_nor_pyplot() -> None:
    code = "import sys, lightning_normdyn.report; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "lightning_normdyn.report" in loaded
    assert not {"pytorch_lightning", "lightning", "matplotlib.pyplot"} & set(loaded)


def write_table(folder: Path, columns: dict[str, np.ndarray], *, step: int = 10, **described: object) -> None:
    """A table's history with one fit."""
    history, rows = history_of(folder, "table"), len(columns["norm"])
    history.describe({"target": "table", "kind": "table", "rows": rows, "dim": 4, **described})
    history.append_rows({"step": np.full(rows, step), "row": np.arange(rows), **columns})
    history.flush()


def fitted_columns(rows: int = 60, *, spread: float = 0.5) -> dict[str, np.ndarray]:
    """A fit whose log predictions have a standard deviation (n - 1) of exactly ``spread``; the last third never hit."""
    rng, hit = np.random.default_rng(4), rows * 2 // 3
    logs = rng.normal(size=hit)
    logs = spread * (logs - logs.mean()) / logs.std(ddof=1)
    predicted = np.exp(np.r_[logs, rng.normal(0, 2, rows - hit)])
    observed = predicted * rng.lognormal(0, 0.1, rows)
    probability = np.r_[np.linspace(0.1, 1.0, hit), np.zeros(rows - hit)]
    norms = {"norm": observed, "mean_norm": 1.1 * observed}
    return {**norms, "equilibrium_norm": predicted, "transient_norm": predicted, "update_probability": probability}


def test_rows_without_a_gradient_are_in_neither_cloud_nor_numbers(tmp_path: Path) -> None:
    columns = fitted_columns()
    write_table(tmp_path, columns)
    text = Page(write_report(tmp_path)).text
    hit = columns["update_probability"] > 0
    for law, seen in (("equilibrium_norm", "mean_norm"), ("transient_norm", "norm")):
        right, wrong = fit_by_numpy(columns[law][hit], columns[seen][hit]), fit_by_numpy(columns[law], columns[seen])
        assert all(words in text for words in right)
        assert right[0] != wrong[0]
        assert wrong[0] not in text
    assert text.count("40 of 60 rows") == 2


def test_outcome_goes_over_the_rows_that_were_forecast(tmp_path: Path) -> None:
    columns = fitted_columns()
    columns["forecast_norm"] = 1.3 * columns["norm"]
    write_table(tmp_path, columns, total_steps=25)
    end = columns["norm"] * np.r_[np.linspace(1.0, 1.2, 40), np.full(20, 9.0)]
    history = history_of(tmp_path, "table")
    history.append_rows({"step": np.full(60, 25), "row": np.arange(60), "norm": end})
    history.flush()
    text = Page(write_report(tmp_path)).text
    forecast, stays = (np.median(np.abs(told[:40] / end[:40] - 1)) for told in (1.3 * columns["norm"], columns["norm"]))
    assert f"forecast: median error {as_percent(forecast)}" in text
    assert f"‘stays as it is’: median error {as_percent(stays)}" in text


@pytest.mark.parametrize(("spread", "has_slope"), [(0.0199, False), (0.0201, True)])
def test_nearly_equal_predictions_have_no_slope(tmp_path: Path, spread: float, has_slope: bool) -> None:
    write_table(tmp_path, fitted_columns(spread=spread))
    page = Page(write_report(tmp_path))
    assert page.text.count("predictions nearly equal: no slope") == (0 if has_slope else 2)
    assert bool(re.search(r"\bslope [\d−]", page.text.partition("[1] Su")[0])) == has_slope
    assert bool(re.search(r"\bslope [\d−]", " ".join(page.values("aria-label")))) == has_slope
    assert page.text.count("median error ") >= 2


def lead_of(**numbers: float) -> str:
    return re.sub(r"<[^>]*>", "", str(headline(numbers)).partition("</p>")[0])


def test_lead_says_only_what_was_logged() -> None:
    assert lead_of(equilibrium_median_error=0.2) == "The equilibrium law predicts the norms 20% off in the median."
    assert lead_of(transient_median_error=0.01).endswith("start, the norms are predicted to within 1%.")
    assert 'class="lead"' not in headline({"transient_slope": 0.99, "transient_pearson_r": 0.99})
    assert "end" not in lead_of(equilibrium_median_error=0.2, forecast_median_error=0.03)
    assert headline({}) == ""


@pytest.mark.parametrize(
    ("stationarity", "error", "far"),
    [(0.49, 0.1, True), (0.5, 0.9, False), (None, 0.51, True), (None, 0.5, False), (0.1, None, False)],
)
def test_verdict_stands_first_where_norms_are_far_from_settled(
    stationarity: float | None, error: float | None, far: bool
) -> None:
    given = {"stationarity": stationarity, "equilibrium_median_error": error, "transient_slope": 1.0}
    lead = lead_of(**{key: value for key, value in given.items() if value is not None}, transient_median_error=0.01)
    verdict = (
        "The norms are still far from where they would settle: slope and r of the transient then mostly repeat where "
        "they started."
    )
    assert lead.startswith(verdict) == far
    assert ("far from" in lead) == far


def test_table_holds_each_way_to_predict_against_stays_as_it_is() -> None:
    numbers = {
        "equilibrium_slope": 0.711,
        "equilibrium_pearson_r": 0.912,
        "equilibrium_median_error": 0.21,
        "transient_slope": 0.987,
        "transient_pearson_r": 0.991,
        "transient_median_error": 0.021,
        "transient_persistence_error": 0.131,
        "transient_skill": 0.84,
    }
    rows = re.findall(r"<tr><th scope.*?</tr>", headline(numbers))
    cells = [[cell.split() for cell in re.sub(r"<[^>]*>", " ", row.replace("</td>", "|")).split("|")] for row in rows]
    assert cells[0][:-1] == [
        ["Equilibrium", "law", "least-squares", "fit", "0.711", "0.88"],
        ["0.912", "0.97"],
        ["21%"],
        ["–"],
        ["–"],
    ]
    assert cells[1][:-1] == [
        ["Transient-corrected", "least-squares", "fit", "0.987", "0.88"],
        ["0.991", "0.97"],
        ["2.1%"],
        ["13.1%"],
        ["0.840"],
    ]
    assert len(cells) == 2


def test_forecasts_of_the_next_window_are_not_called_final() -> None:
    ahead = {"window_forecast_median_error": 0.043, "window_forecast_skill": 0.61}
    said = re.sub(r"<[^>]*>", " ", headline(ahead))
    assert re.search(r"Forecasts one window ahead missed by .*skill 0\.610\s+4\.3%", said)
    assert not re.search("final|the end", said)
    due = {"forecast_median_error": 0.02, "persistence_median_error": 0.3}
    assert "one window ahead" not in headline({**ahead, **due})


def test_both_correlations_with_frequency_are_told_apart(run: Path, tmp_path: Path) -> None:
    page = Page(write_report(run, out=tmp_path / "page.html", summary={"log_frequency_correlation": 0.4321}))
    assert re.search(r"r of norm and word frequency\s[^.]*0\.432", page.text)
    assert re.search(r"r 0\.\d{3} with how often a row got a gradient", page.text)


def test_extremes_are_listed_without_labels(tmp_path: Path) -> None:
    columns = fitted_columns(30)
    write_table(tmp_path, columns)
    text = Page(write_report(tmp_path)).text
    order = np.argsort(columns["norm"][:20])  # the others never got a gradient
    for title, row in (("Longest", order[-1]), ("Shortest", order[0])):
        norm = f"{columns['norm'][row]:.4f}"[:3]
        assert re.search(rf"{title}\s+row\s+norm\s+share\s+row {row}\s+{re.escape(norm)}", text)


@pytest.mark.parametrize(
    ("optimizer", "said", "dotted"),
    [("SGD", "fourth root", True), ("AdamW", "1 − β₂", False), ("Adam", "row got a gradient.", False)],
)
def test_fourth_root_is_for_sgd_alone(tmp_path: Path, optimizer: str, said: str, dotted: bool) -> None:
    write_table(tmp_path, fitted_columns(), optimizer=optimizer)
    page = Page(write_report(tmp_path))
    card = page.source.partition("<h3>Norm against frequency</h3>")[2].partition("</figure>")[0]
    caption = card.partition("<figcaption>")[2]
    assert said in caption
    assert [("fourth root" in caption), ("1 − β₂" in caption)] == [optimizer == "SGD", optimizer == "AdamW"]
    assert ("stroke-dasharray" in card) == dotted


def test_facts_of_a_warm_up_name_the_rate_that_it_leads_to(tmp_path: Path) -> None:
    """A schedule that starts from zero is none that trains at zero."""
    model = torch.nn.Embedding(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 4))
    with NormObserver(model, optimizer, scheduler=scheduler, total_steps=8, log_dir=tmp_path):
        for _ in range(8):
            model(torch.arange(6)).square().sum().backward()
            optimizer.step()
            scheduler.step()
    assert "lr 0.25, 0 at the start" in Page(write_report(tmp_path)).text


def test_facts_name_the_first_rate_and_set_the_law_in_greek(tmp_path: Path) -> None:
    law = "R² = lr·d / (2·lambda_rad) · p / (p + 1 - beta2)"
    for name, kind in (("table", "table"), ("encoder", "output")):
        described = {"target": name, "kind": kind, "lr": 0.5, "law": law, "optimizer": "AdamW"}
        history_of(tmp_path, name).describe(described)
    page = Page(write_report(tmp_path))
    assert page.text.count("lr 0.5 at the start") == 2
    assert page.text.count("R² = e·d / (2·λ) · p / (p + 1 − β₂), e the lr after momentum") == 1
    assert not re.search("lambda|beta2", page.source)


def test_budget_caption_gives_drift_to_momentum_too(page: Page) -> None:
    caption = page.source.partition("<h3>The budget of the squared norm</h3>")[2].partition("<figcaption>")[2]
    assert "momentum or Adam" in caption.partition("</figcaption>")[0]
    assert "decay, drift and growth sum to zero" in caption.partition("</figcaption>")[0]


def test_clouds_share_a_frame_unless_it_squeezes_one() -> None:
    def cloud(low: float, high: float) -> Cloud:
        side = np.array([low, high])
        return Cloud("law", 1, side, side, side, 2)

    near, far = frames([cloud(1.0, 10.0), cloud(4.0, 20.0)]), frames([cloud(1.0, 1.5), cloud(10.0, 100.0)])
    assert near[0] == near[1]
    assert near[0][0] < 1.0
    assert near[0][1] > 20.0
    assert far[0] != far[1]
    assert far[0][1] < 2.0
    assert far[1][0] > 8.0


def test_norms_that_stayed_show_grey_beneath_an_equal_forecast(tmp_path: Path) -> None:
    columns = fitted_columns()
    columns["forecast_norm"] = columns["norm"]
    write_table(tmp_path, columns, total_steps=25)
    history = history_of(tmp_path, "table")
    history.append_rows({"step": np.full(60, 25), "row": np.arange(60), "norm": columns["norm"]})
    history.flush()
    source = write_report(tmp_path).read_text(encoding="utf-8").partition("against the norm at the end</h4>")[2]
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", source.partition("</svg>")[0])
    found = [matplotlib.image.imread(io.BytesIO(base64.b64decode("".join(one.split())))) for one in pictures]
    solid = np.concatenate([one[one[..., 3] > 0.4][:, :3] for one in found])
    grey = np.array([0x8A, 0x93, 0x9C]) / 255
    assert np.mean(np.abs(solid - grey).max(axis=1) < 0.03) > 0.2


def test_lists_align_and_cut_long_words_at_the_end(page: Page) -> None:
    rules = dict(re.findall(r"^([^@{}\n]+) \{([^}]*)\}", page.source.partition("</style>")[0], re.M))
    assert "align-items: start" in rules[".words"]
    assert "text-overflow: ellipsis" in rules["th.word"]
    assert "anywhere" not in rules["th.word"]
    assert "of steps</th>" not in page.source


@pytest.mark.parametrize(
    ("folder", "title"),
    [
        ("words/version_3", "words/version_3"),
        ("words/best", "best"),
        ("towers/lightning_logs/version_0", "towers/lightning_logs/version_0"),
    ],
)
def test_title_names_the_experiment_of_a_version(tmp_path: Path, folder: str, title: str) -> None:
    history_of(tmp_path / folder, "t").describe({"target": "t", "kind": "table"})
    assert f"<title>Norm report: {title}</title>" in Page(write_report(tmp_path / folder)).source


ODD = {
    "row_names": [3, "abc", b"x", iter(["a"]), {"table.weight": 3}, {"table.weight": None}, {"table.weight": "abc"}],
    "summary": [[], 3, "x"],
    "out": ["", 3],
    "log_dir": [None, 3, ""],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ODD.items() for value in values])
def test_an_odd_argument_is_named(run: Path, tmp_path: Path, name: str, value: object) -> None:
    arguments = {"log_dir": run, "out": tmp_path / "page.html", name: value}
    with pytest.raises(ValueError, match=rf"^{name}: expected "):
        write_report(arguments.pop("log_dir"), **arguments)


def test_no_labels_at_all_name_nothing(run: Path, tmp_path: Path) -> None:
    pages = [write_report(run, out=tmp_path / f"{n}.html", row_names=labels) for n, labels in enumerate(({}, None))]
    assert len({page.read_text(encoding="utf-8").count("<svg") for page in pages}) == 1


def test_threads_that_draw_at_once_leave_matplotlib_as_it_was(run: Path, tmp_path: Path) -> None:
    """Each draws what one alone does, whatever order they begin and end in; the caller's settings and dice stay."""
    before, state, filters = dict(matplotlib.rcParams), np.random.get_state()[1].tolist(), list(warnings.filters)
    inside, entered = [], threading.Barrier(2, timeout=2)

    def draw(order: int) -> None:
        with drawing_style():
            with contextlib.suppress(threading.BrokenBarrierError):
                entered.wait()  # passes where two are inside at once
            time.sleep(0.2 * order)
            inside.append(matplotlib.rcParams["svg.hashsalt"])

    threads = [threading.Thread(target=draw, args=(order,)) for order in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == ["normdyn", "normdyn"]
    assert dict(matplotlib.rcParams) == before
    assert np.random.get_state()[1].tolist() == state
    assert warnings.filters == filters


def test_a_slope_says_which_fit_it_is_of() -> None:
    numbers = {"equilibrium_slope": 0.99, "equilibrium_pearson_r": 0.99, "equilibrium_median_error": 0.1}
    plain = {"equilibrium_least_squares_slope": 0.8, "equilibrium_least_squares_pearson_r": 0.9}
    assert "with least-squares slope <b>0.99</b>" in headline(numbers)
    both = headline(numbers | plain)
    assert "with weighted slope <b>0.99</b>" in both
    assert "Plain least squares, as published, finds slope 0.80" in both
    assert "weighted fit" in both


@pytest.mark.parametrize(
    ("coverage", "sentence"),
    [
        (0.91, "91% lie inside their own 90% interval (90% are expected)."),
        (0.12, "with nothing wrong; followed through them, 88% do)."),
    ],
)
def test_what_coverage_is_expected_is_said_beside_it(coverage: float, sentence: str) -> None:
    numbers = {
        "equilibrium_slope": 0.99,
        "equilibrium_pearson_r": 0.99,
        "equilibrium_coverage": coverage,
        "equilibrium_judged_rows": 300.0,
        "transient_coverage": 0.88,
    }
    assert sentence in headline(numbers)
