"""The kit of all pages: what is put in stays text, files are whole, themes and tables are where they should be."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from every_page import PAGES, Outline, make_page
from markupsafe import Markup
from matplotlib.colors import to_rgb

from lightning_normdyn.atomic_file import write_atomically, write_json
from lightning_normdyn.core import KernelVotes
from lightning_normdyn.report import DrawingError, Origin, write_report, write_votes
from lightning_normdyn.report.kit import figure
from lightning_normdyn.report.kit.card import Card, arrange
from lightning_normdyn.report.kit.page import Link, Page, write_page
from lightning_normdyn.report.kit.table import Cell, Column, Table
from lightning_normdyn.report.kit.theme import (
    DARK_PAPER,
    INK,
    LIGHT_PAPER,
    PAGE_COLOURS,
    colour_rules,
    contrast,
    dark_colour,
    with_variables,
)

HOSTILE = "<script>alert(\"1\")</script> & 'more'"


def test_everything_that_is_not_markup_is_escaped() -> None:
    table = Table(
        "t", HOSTILE, (Column(HOSTILE, HOSTILE, "word"), Column(HOSTILE)), [(Cell(HOSTILE, HOSTILE), HOSTILE)]
    )
    page = Page(
        title=HOSTILE,
        main=arrange([Card(HOSTILE, HOSTILE, ((HOSTILE, table.__html__()),))]),
        facts=[HOSTILE],
        lead=HOSTILE,
        notes=[HOSTILE],
        contents=[Link("t", HOSTILE), Link("t", HOSTILE)],
        contents_name=HOSTILE,
        origin=Origin(data=HOSTILE, command=HOSTILE),
    )
    source = page.__html__()
    assert "<script" not in source
    outline = Outline(source)
    hostile_texts = [text for text in outline.texts if "alert" in text]
    # title and h1, facts, lead, note, two links, card's title, panel's title and caption, data and command, and the
    # table's caption, two headings with one note, a cell with its note, and another cell.
    assert len(hostile_texts) == 19
    assert all(HOSTILE in text for text in hostile_texts)
    assert [value for value in outline.values("title") if value] == [HOSTILE]
    assert outline.values("aria-label") == [HOSTILE]


def test_escaping_can_fail() -> None:
    assert "<script" in Page(title="", main=Markup(HOSTILE)).__html__()


def test_a_table_has_a_caption_scopes_and_alignments() -> None:
    columns = (Column("name", kind="text"), Column("value", "unit"), Column("best", kind="main"))
    source = Table("t", "All", columns, [("a", Cell("1", "0.9"), "2")], note="A note.", style="laws").__html__()
    assert re.sub(r"\n", "", source) == (
        '<div class="table"><div class="scroll" role="group" tabindex="0" aria-labelledby="t"><table class="laws">'
        '<caption><span id="t">All</span></caption><thead><tr><th scope="col" class="text">name</th>'
        '<th scope="col">value<span class="how">unit</span></th><th scope="col" class="main">best</th></tr></thead>'
        '<tbody><tr><th scope="row" class="text">a</th><td>1<span class="how">0.9</span></td>'
        '<td class="main">2</td></tr></tbody></table></div><p class="how">A note.</p></div>'
    )
    without_head = Table("t", "All", (Column(""), Column("")), [("a", "1")]).__html__()
    assert "<thead" not in without_head
    with pytest.raises(ValueError, match="zip"):
        Table("t", "All", columns, [("a", "1")]).__html__()


KILLED = """
import os, pathlib, sys
from lightning_normdyn import atomic_file
def die(descriptor):
    print("writing", flush=True)
    sys.stdin.read()
atomic_file.os.fsync = die
atomic_file.write_atomically(pathlib.Path(sys.argv[1]), b"new" * 100_000)
"""


def test_a_kill_while_writing_leaves_the_old_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(page)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    (temporary,) = (file for file in tmp_path.iterdir() if file != page)
    assert temporary.stat().st_size == 300_000
    writer.kill()
    writer.communicate()
    assert page.read_text() == "old"
    write_atomically(page, b"newer")
    assert page.read_text() == "newer"


def test_an_error_while_writing_leaves_the_old_page_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*page\.html'"):
        write_page(page, Page(title="new", main=Markup()))
    assert page.read_text() == "old"
    assert list(tmp_path.iterdir()) == [page]


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need no rights there")
def test_a_link_planted_under_the_temporary_name_is_not_followed(tmp_path: Path, monkeypatch) -> None:
    victim, page = tmp_path / "victim", tmp_path / "page.html"
    victim.write_text("precious")
    monkeypatch.setattr("secrets.token_hex", lambda size: "00" * size)
    planted = tmp_path / f".page.html.{'00' * 8}.tmp"
    planted.symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_atomically(page, b"page")
    assert victim.read_text() == "precious"
    assert planted.is_symlink()  # it is not ours to remove
    planted.unlink()
    write_atomically(page, b"page")
    assert page.read_text() == "page"


@pytest.mark.skipif(os.name != "posix", reason="modes and links are those of POSIX")
def test_a_page_can_be_read_by_others_and_replaces_a_link(tmp_path: Path) -> None:
    victim, page = tmp_path / "victim", tmp_path / "page.html"
    victim.write_text("precious")
    page.symlink_to(victim)
    mask = os.umask(0o022)
    try:
        write_atomically(page, b"page")
    finally:
        os.umask(mask)
    assert page.stat().st_mode & 0o777 == 0o644
    assert not page.is_symlink()
    assert victim.read_text() == "precious"
    write_atomically(Path(os.devnull), b"page")
    assert not Path(os.devnull).is_file()


def test_json_goes_the_same_way(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "numbers.json", {"name": "Ä"}, indent=1)
    assert (tmp_path / "deep" / "numbers.json").read_bytes() == '{\n "name": "Ä"\n}\n'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "numbers.json", float("nan"))
    assert not (tmp_path / "numbers.json").exists()


def test_a_page_says_where_it_comes_from(tmp_path: Path) -> None:
    origin = Origin(data="a set", command="normdyn grid --config x.yaml", date="2026-11-29", version="9.9")
    page = write_page(tmp_path / "page.html", Page(title="\ud800", main=Markup(), origin=origin))
    text = Outline(page.read_text(encoding="utf-8")).text
    assert "Made on 2026-11-29 with lightning_normdyn 9.9, from a set, by normdyn grid --config x.yaml." in text
    assert time.strftime("Made on %Y-%m-") in Page(title="", main=Markup()).__html__()


def test_dark_colours_are_those_of_the_filter_and_legible() -> None:
    """The filter as the CSS specification has it: invert, then rotate the hue by 180 degrees."""
    red, green, blue = 1 - np.array(to_rgb("#d55e00"))
    luma = 0.213 * red + 0.715 * green + 0.072 * blue
    rotated = [2 * luma - channel for channel in (red, green, blue)]
    assert np.allclose(to_rgb(dark_colour("#d55e00")), np.clip(rotated, 0, 1), atol=2 / 255)
    style = with_variables("fill: #440154; stroke: #ffffff", is_text=True)
    rules = colour_rules(style)
    (shade,) = re.findall(r"--text-440154: (#[0-9a-f]{6});", rules)
    assert contrast(shade, DARK_PAPER) >= 4.5
    assert f"--text-ffffff: {DARK_PAPER};" in rules
    assert rules.startswith("@media screen and (prefers-color-scheme: dark)")
    assert colour_rules("no figure") == ""


def test_the_style_sheet_holds_no_colour_and_the_theme_gives_all_that_it_uses() -> None:
    sheet = resources.files("lightning_normdyn.report.kit").joinpath("templates/page.css").read_text(encoding="utf-8")
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b|\b(?:rgb|hsl)a?\(", sheet) == []
    assert set(re.findall(r"var\(--(\w+)", sheet)) == PAGE_COLOURS.keys() | {"surface"}
    document = Page(title="", main=Markup()).__html__()
    light, _, dark = document.partition(":root { --ink: ")[2].partition(
        "@media screen and (prefers-color-scheme: dark)"
    )
    assert light.startswith(f"{INK};")
    assert f"--ink: {dark_colour(INK)};" in dark
    assert f"--card: {DARK_PAPER};" in dark
    for ink in ("ink", "faint", "link"):
        for place, shade in enumerate(PAGE_COLOURS[ink]):
            assert min(contrast(shade, PAGE_COLOURS[paper][place]) for paper in ("paper", "card")) >= 4.5


def test_what_goes_wrong_while_drawing_is_said_in_one_sentence(tmp_path: Path, monkeypatch) -> None:
    from synthetic_run import Setting, write_run

    write_run(tmp_path, Setting(rows=20, steps=60, snapshot_every=20, window=60))

    def broken(axes: object) -> object:
        raise AttributeError("get_figure() got an unexpected keyword")

    monkeypatch.setattr(figure, "sheet", broken)
    with pytest.raises(DrawingError) as caught:
        write_report(tmp_path)
    assert str(caught.value) == "drawing failed (AttributeError: get_figure() got an unexpected keyword)"
    assert isinstance(caught.value.__cause__, AttributeError)
    assert not (tmp_path / "report.html").exists()


def test_a_file_that_cannot_be_written_is_no_error_of_drawing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    votes = KernelVotes(*[torch.ones(1, 1)] * 3, torch.ones(1))
    with pytest.raises(OSError, match=r"votes\.svg"):
        write_votes(tmp_path / "file" / "votes.svg", votes, probes=["a"], items=["b"])


@pytest.mark.parametrize(
    "module",
    ["report", "report.run.target_record", "report.grid", "report.grid.rows", "report.audit", "report.experiments"],
)
def test_reading_records_loads_neither_matplotlib_nor_tasks(module: str) -> None:
    code = f"import sys, lightning_normdyn.{module}; print(*sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert f"lightning_normdyn.{module}" in modules
    assert not {"matplotlib", "pytorch_lightning", "lightning", "lightning_normdyn.tasks"} & set(modules)


@pytest.fixture(scope="module", params=PAGES)
def outline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outline:
    return Outline(make_page(request.param, tmp_path_factory.mktemp(request.param)).read_text(encoding="utf-8"))


def test_headings_are_in_order(outline: Outline) -> None:
    levels = [int(tag[1]) for tag in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_figure_says_what_it_shows_with_numbers(outline: Outline) -> None:
    drawings = [attributes for tag, attributes in outline.elements if tag == "svg"]
    assert drawings
    for attributes in drawings:
        assert attributes["role"] == "img"
        assert len(attributes["aria-label"]) > 40
        assert re.search(r"\d|–", attributes["aria-label"])
    assert all(attributes.get("alt") for tag, attributes in outline.elements if tag == "img")


def test_every_table_has_a_caption_and_no_empty_heading(outline: Outline) -> None:
    assert outline.tags.count("table") == outline.tags.count("caption")
    assert outline.empty_headings == 0
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in outline.elements if tag == "th")
    frames = [attributes for tag, attributes in outline.elements if attributes.get("class") == "scroll"]
    assert len(frames) == outline.tags.count("table")
    assert {frame["aria-labelledby"] for frame in frames} <= set(outline.values("id"))


def test_ids_are_unique(outline: Outline) -> None:
    ids = outline.values("id")
    assert len(ids) == len(set(ids))


def test_pages_follow_a_dark_reader_and_a_printer(outline: Outline) -> None:
    style = outline.source.partition("<style>")[2].partition("</style>")[0]
    assert "@media print" in style
    dark = "".join(re.findall(r"@media screen and \(prefers-color-scheme: dark\) \{(.*?)\n?\} ?\}", style, re.S))
    assert "--paper:" in dark
    used = set(re.findall(r"var\((--(?:shape|text)-[0-9a-f]{6}),", outline.source))
    assert used
    assert used == set(re.findall(r"(--(?:shape|text)-[0-9a-f]{6}): #", dark))
    # Nothing of a figure is left in a colour that dark paper does not know.
    body = outline.source.partition("<body>")[2]
    assert not re.findall(r'style="[^"]*: #[0-9a-f]{6}', body)


def test_pages_name_their_language_and_load_nothing(outline: Outline) -> None:
    assert ("html", {"lang": "en"}) in outline.elements
    assert "default-src 'none'" in outline.source
    assert not {"script", "link", "iframe", "object", "base"} & set(outline.tags)


def test_lines_break_at_joints_of_names_and_not_within_options_or_intervals() -> None:
    table = Table("t", "", (Column("way"), Column("gain")), [("a_name", "0.1 (0.0 to 0.2)")], style="wide")
    page = Page(
        title="KnowledgeGraphCompletion: 0.1.0",
        main=table.__html__(),
        notes=["pass --sample 3"],
        origin=Origin(command="normdyn grid --data.source.folder=a/b --out 'x y'"),
    ).__html__()
    assert "<h1>Knowledge<wbr>Graph<wbr>Completion: 0.1.0</h1>" in page
    assert "a_<wbr>name" in page
    assert '0.1 <span class="interval">(0.0 to 0.2)</span>' in page
    assert '<p class="note">pass <span class="option">--sample</span> 3</p>' in page
    assert '<span class="option">--data.source.folder=</span>a/b <span class="option">--out</span> ' in page


def test_colours_of_frequencies_stand_out_on_light_and_on_dark_paper() -> None:
    from matplotlib.colors import to_hex

    from lightning_normdyn.report.kit.scatter import FREQUENCY_COLOURS

    for share in np.linspace(0, 1, 33):
        colour = to_hex(FREQUENCY_COLOURS(share))
        assert contrast(colour, LIGHT_PAPER) > 2.3
        assert contrast(dark_colour(colour), DARK_PAPER) > 2.3
