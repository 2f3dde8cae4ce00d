"""The grid's page, table and figure show the numbers of the findings, and nothing from outside."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

from lightning_normdyn.cli.grids.summary import print_findings
from lightning_normdyn.core.statistics.variant_comparison import compare_variants
from lightning_normdyn.history.grid_findings import ChosenSettings, GridFindings, GridRun
from lightning_normdyn.report import Origin
from lightning_normdyn.report.grid import write_grid
from lightning_normdyn.report.grid.figures import norm_ratios, norms_figure, scores_figure
from lightning_normdyn.report.grid.rows import grid_tables
from lightning_normdyn.report.kit.figure import drawing_style

SCORES = {"cosine": [0.2, 0.4, 0.6], "qnorm": [0.5, 0.7, 0.9]}


def findings() -> GridFindings:
    import torch

    comparison = compare_variants({name: torch.tensor([values]) for name, values in SCORES.items()}, resamples=50)
    diagnosis = dict.fromkeys(("query_cv", "document_cv", "kappa_qnorm", "kappa_dnorm", "kappa_qnorm_share"), 0.25)
    runs = [
        GridRun(
            variant=name,
            lr=0.001,
            seed=0,
            headline="mrr",
            validation=0.5,
            measures={"mrr": sum(values) / 3},
            values={"trained": values},
            diagnosis={},
            learnt={},
            course={
                "step": [1.0, 2.0],
                "headline": [0.1, 0.2],
                "relevant_norm": [1.0, 3.0],
                "irrelevant_norm": [1.0, 2.0],
            },
            dynamics={"normdyn/queries/norm_mean": 1.25},
            seconds=1.0,
        )
        for name, values in SCORES.items()
    ]
    return GridFindings(
        task="Retrieval",
        headline="mrr",
        comparison=comparison,
        lrs=dict.fromkeys(SCORES, 0.001),
        cross={name: {"cosine": 0.3, "dot": None} for name in SCORES},
        diagnosis={name: {"cohens_d": None, **diagnosis} for name in SCORES},
        learnt={"qnorm": {"gamma_query": 0.125}},
        kappa_verdict="agreed: a & b",
        symmetry=("asymmetric (<tags> are escaped)", "agreed", "qnorm − cosine = +0.3"),
        floors={"BM25": 0.1875},
        advice="Take qnorm.",
        runs=runs,
        notes=["One seed."],
        query_kinds={"documents training wants": comparison, "other documents": comparison},
        out_of_domain={"a <set>": {"trained": comparison, "cosine": comparison}},
        choices={name: ChosenSettings(0.001, 0.0123, 2.0, None, 0.0875, 5) for name in SCORES},
    )


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag, attributes) -> None:
        self.links += [value for name, value in attributes if name in ("src", "href") and value]


def test_the_page_holds_every_number_and_loads_nothing(tmp_path) -> None:
    page = write_grid(tmp_path, findings()).read_text(encoding="utf-8")
    for number in ("0.4000", "0.7000", "+0.3000", "0.1875", "0.250", "0.125", "1.25"):
        assert number in page
    assert "Take qnorm." in page
    assert "One seed." in page
    assert "&lt;tags&gt; are escaped" in page
    tags = Tags()
    tags.feed(page)
    assert all(link.startswith(("#", "data:", "https://arxiv.org/")) for link in tags.links)


def test_the_markdown_table_is_rectangular(tmp_path) -> None:
    write_grid(tmp_path, findings())
    text = (tmp_path / "grid.md").read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\|\n)+", text + "\n", re.MULTILINE)
    assert len(tables) == 8
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "| qnorm | 0.7000 (" in text


def test_variants_whose_norms_were_not_measured_are_left_out_of_the_figure(tmp_path) -> None:
    found = findings()
    without = replace(found, runs=[replace(run, course={name: [] for name in run.course}) for run in found.runs])
    page = write_grid(tmp_path, without).read_text(encoding="utf-8")
    assert "Does relevance get into the length?" not in page


def test_a_single_validation_is_a_point(tmp_path) -> None:
    course = {"step": [40.0], "headline": [0.1], "relevant_norm": [3.0], "irrelevant_norm": [2.0]}
    once = replace(findings(), runs=[replace(run, course=course) for run in findings().runs])
    lines = norms_figure(norm_ratios(once)).get_lines()
    assert [tuple(line.get_xydata()[0]) for line in lines if line.get_marker() == "o"] == [(40.0, 1.5)] * 2
    assert all(line.get_marker() != "o" for line in norms_figure(norm_ratios(findings())).get_lines())
    page = write_grid(tmp_path, once).read_text(encoding="utf-8")
    assert "others while training: cosine 1.500 at step 40, qnorm 1.500 at step 40." in page


def test_the_page_names_data_command_date_and_version(tmp_path) -> None:
    origin = Origin(data="a <set>", command="normdyn grid --config 'a b.yaml'", date="2026-11-29", version="9.9")
    page = write_grid(tmp_path, replace(findings(), origin=origin)).read_text(encoding="utf-8")
    text = re.sub(r"<[^>]*>", "", page)
    assert "data: a &lt;set&gt;" in text
    assert "Made on 2026-11-29 with lightning_normdyn 9.9, from a &lt;set&gt;, by normdyn grid --config" in text
    assert "&#39;a b.yaml&#39;." in text
    norms = page[page.index('aria-label="Norm of relevant') :]
    assert "2026-11-29 · a &lt;set&gt;</text>" in norms[: norms.index("</svg>")]
    figure = (tmp_path / "grid.svg").read_text(encoding="utf-8")
    assert "2026-11-29 · a &lt;set&gt;</text>" in figure
    assert "Made on 2026-11-29 with lightning_normdyn 9.9, from a &lt;set&gt;, by normdyn grid" in figure
    assert (tmp_path / "grid.md").read_text(encoding="utf-8").endswith(f"{origin.sentence}\n")


def test_sets_out_of_domain_and_kinds_of_queries_have_tables_of_their_own(tmp_path) -> None:
    tables = {table.name: table for table in grid_tables(findings())}
    gain = findings().comparison.scores["qnorm"].gain_interval
    cell = f"{gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
    for name in ("parts", "also-0"):
        assert tables[name].text().rows == [
            ("cosine", "0.4000", "–", "0.4000", "–"),
            ("qnorm", "0.7000", cell, "0.7000", cell),
        ]
    page = write_grid(tmp_path, findings()).read_text(encoding="utf-8")
    assert "Out of domain: a &lt;set&gt;, test items: 3" in page


def test_long_names_stay_within_the_figure() -> None:
    floors = dict.fromkeys(("untrained encoder", "bm25 + training documents", "bm25 + training queries"), 0.5)
    with drawing_style():
        axes = scores_figure(replace(findings(), floors=floors))
        renderer = FigureCanvasAgg(axes.figure).get_renderer()
        assert all(label.get_window_extent(renderer).x0 >= 0 for label in axes.get_yticklabels())


def test_no_number_is_cut_on_a_terminal_of_eighty_columns() -> None:
    out = StringIO()
    print_findings(Console(file=out, width=80), findings())
    assert "Test items by whether training wants a document" in out.getvalue()
    assert "…" not in out.getvalue()


def test_the_page_says_what_was_chosen_and_how_flat_that_was(tmp_path) -> None:
    choices = {table.name: table for table in grid_tables(findings())}["choices"]
    assert choices.text().rows[0] == ("cosine", "0.001", "+0.0123", "0.0875", "2", "–", "5")
    assert "a choice that leads by little is flat" in choices.note


def test_page_and_terminal_write_the_same_numbers() -> None:
    tables = {table.name: table for table in grid_tables(findings())}
    assert list(tables) == ["scores", "choices", "parts", "also-0", "floors", "cross", "diagnosis", "dynamics"]
    wide, short = tables["scores"].text(), tables["scores"].short_text()
    assert wide.head == ["variant", "mrr, 95%", "gain on cosine, 95% for all at once", "best in draws"]
    assert short.head == ["variant", "mrr", "95%\ninterval", "gain on\ncosine", "95%,\nall at once", "best"]
    for page_row, terminal_row in zip(wide.rows, short.rows, strict=True):
        numbers = re.findall(r"[+\d.]+%?|–$", " ".join(page_row[1:]))
        assert numbers == re.findall(r"[+\d.]+%?", " ".join(terminal_row[1:]))
    assert short.rows[0][3:5] == ("–", "–")
    assert tables["cross"].short_text() == tables["cross"].text()


@pytest.mark.parametrize("cross", [{"cosine": {"cosine": None}}, {"cosine": {"cosine": 0.5}}])
def test_a_table_of_one_cell_or_of_none_is_drawn(tmp_path, cross) -> None:
    assert write_grid(tmp_path, replace(findings(), cross=cross)).is_file()
