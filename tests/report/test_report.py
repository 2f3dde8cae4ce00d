"""The report: what it draws is what the history says, and nothing in it reaches outside or escapes its place."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from synthetic_run import Setting, write_output, write_run

from lightning_normdyn.history import TargetHistory, read_run
from lightning_normdyn.report import write_report
from lightning_normdyn.report.bands import frequency_bands
from lightning_normdyn.report.budget import total
from lightning_normdyn.report.canvas import drawing_style, new_axes, to_svg
from lightning_normdyn.report.line_label import spread_apart
from lightning_normdyn.report.record import read_record
from lightning_normdyn.report.series import Series, read_series
from lightning_normdyn.report.trajectory import read_trajectory

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
    return Page(write_report(run, labels=labels))


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
    return [f"slope {slope:.3f}", f"r {r:.3f}", f"median error {as_percent(error)}"]


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
    used += [name for _, _, value in page.attributes for name in re.findall(r"url\(#([^)]*)\)", value)]
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
    history = TargetHistory(tmp_path / "normdyn" / "table")
    history.describe(
        {"target": "<b>t", "kind": "table", "optimizer": "<i>", "law": "a<b", "lr": "<u>", "version": "<s>"}
    )
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
    assert "log-log slope 0.99, r 0.991 (published: 0.88 and 0.97)" in lead
    assert "The forecast missed the final norms by 2.5%, against 42% for ‘stays as it is’." in lead
    shown = ("0.987", "0.711", "2.1%", "0.94", "3.00 × 10⁻⁸", "71.3 s", "SGD · 12,000 steps · torch 2.4.0")
    assert all(number in head for number in shown)
    assert "r of norm and frequency" not in head


def test_without_a_summary_the_last_logged_values_stand_there(run: Path, page: Page) -> None:
    quantities = read_run(run)["embedding.weight"].quantities().to_pylist()
    last = {line["quantity"]: line["value"] for line in quantities}
    assert f"log-log slope {last['transient_slope']:.2f}, " in page.text.replace("\n", "")
    assert f"{last['equilibrium_slope']:.3f}" in page.text


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
    TargetHistory(tmp_path / "normdyn" / "encoder").describe({"target": "encoder", "kind": "output"})
    assert "Nothing was recorded for it yet." in Page(write_report(tmp_path)).text


def test_values_that_are_not_finite_are_passed_over(tmp_path: Path) -> None:
    history, rows = TargetHistory(tmp_path / "normdyn" / "table"), np.arange(4)
    history.describe({"target": "table", "kind": "table", "rows": 4, "dim": 2, "total_steps": -1, "lr": float("nan")})
    odd = np.array([np.nan, np.inf, 0.0, 1.0], np.float32)
    nothing = np.full(4, np.nan, np.float32)
    names = ("second_moment", "update_probability", "mean_norm", "equilibrium_norm", "forecast_norm")
    for step in (0, 5):
        fit = {**dict.fromkeys(names, odd), "transient_norm": nothing}
        history.trajectory_log.append({"step": [step] * 4, "row": rows, "norm": odd, **fit})
        history.append_quantities(
            step, {"budget_growth": float("nan"), "radial_fraction": float("inf"), "norm_cv": 0.0}
        )
    history.flush()
    text = Page(write_report(tmp_path, labels=["a", "b", "c", "d"])).text
    assert "1 of" in text
    assert "The budget of the squared norm" not in text


def test_missing_history_and_wrong_labels_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="log_dir: no norm history under"):
        write_report(tmp_path)
    with pytest.raises(ValueError, match=r"labels: expected one name per row .* got 2 names .*embedding\.weight: 80"):
        write_report(run, labels=["a", "b"])


def test_of_what_was_written_twice_the_later_counts(tmp_path: Path) -> None:
    history = TargetHistory(tmp_path)
    for norm in (1.0, 2.0):
        history.trajectory_log.append({"step": [7, 7], "row": [4, 9], "norm": [norm, norm + 5]})
        history.append_quantities(7, {"norm_mean": norm})
    history.append_quantities(3, {"norm_mean": 9.0})
    history.flush()
    assert read_trajectory(history.trajectory()).norms.tolist() == [[2.0, 7.0]]
    series = read_series(history.quantities())["norm_mean"]
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
    assert [band.label for band in frequency_bands(np.full(5, np.nan))] == ["all rows"]


def test_labels_keep_their_order_and_distance() -> None:
    places = spread_apart([0.1, 0.11, 0.12, 0.9], 0.08)
    assert places == pytest.approx([0.03, 0.11, 0.19, 0.9])


def test_labels_name_the_rows_of_the_table_not_the_places_among_the_tracked(tmp_path: Path) -> None:
    history = TargetHistory(tmp_path / "normdyn" / "table")
    history.describe({"target": "table", "kind": "table", "rows": 6, "tracked_rows": 3, "row_stride": 2})
    fit = {"update_probability": [0.9, 0.5, 0.1], "mean_norm": [3.0, 2.0, 1.0]}
    history.trajectory_log.append({"step": [1] * 3, "row": [0, 2, 4], "norm": [3.0, 2.0, 1.0], **fit})
    history.flush()
    text = Page(write_report(tmp_path, labels=list("abcdef"))).text
    assert re.search(r"Longest\s+row\s+norm\s+of steps\s+a\s+3\.00\s+90%\s+c\s+2\.00\s+50%\s+e\s+1\.00\s+10%", text)


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
