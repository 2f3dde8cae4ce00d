"""The figure of who pushes whom shows the votes that it was given, each under its own names."""

from __future__ import annotations

import re
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
import torch

from lightning_normdyn.core import KernelVotes
from lightning_normdyn.report import draw_votes, write_votes

PROBES, ITEMS = [f"probe {n}" for n in range(5)], [f"item {n}" for n in range(7)]


def sample(probes=5, items=7, seed=0):
    votes = torch.randn(probes, items, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return KernelVotes(votes, torch.zeros_like(votes), torch.zeros_like(votes), votes.sum(1))


def drawn(figure):
    """Names of rows and columns, the votes in the cells and the bars, as they stand in the figure."""
    cells, bars, _ = figure.axes
    rows = [label.get_text() for label in cells.get_yticklabels()]
    columns = [label.get_text() for label in cells.get_xticklabels()]
    (mesh,) = cells.collections
    assert list(cells.get_ylim()) == [len(rows), 0]  # the first row on top
    return rows, columns, np.asarray(mesh.get_array()), [bar.get_width() for bar in bars.patches]


def test_cells_and_bars_hold_the_votes_of_their_names():
    votes = sample()
    rows, columns, values, totals = drawn(draw_votes(votes, probes=PROBES, items=ITEMS))
    assert sorted(rows) == PROBES
    assert sorted(columns) == ITEMS
    for row, total, line in zip(rows, totals, values, strict=True):
        own = votes.votes[PROBES.index(row)]
        assert total == pytest.approx(float(own.sum()))
        assert line.tolist() == [float(own[ITEMS.index(column)]) for column in columns]


def test_rows_and_columns_go_from_outward_to_inward():
    _, _, values, totals = drawn(draw_votes(sample(), probes=PROBES, items=ITEMS))
    assert totals == sorted(totals, reverse=True)
    assert values.sum(0).tolist() == sorted(values.sum(0).tolist(), reverse=True)


def test_colours_are_white_at_zero_and_alike_on_both_sides():
    (mesh,) = draw_votes(sample(), probes=PROBES, items=ITEMS).axes[0].collections
    low, high = mesh.get_clim()
    assert low == -high
    sizes = np.abs(np.asarray(mesh.get_array()))
    assert np.median(sizes) < high < sizes.max()
    assert mesh.cmap(0.5)[:3] == pytest.approx((1, 1, 1), abs=0.02)


def test_the_largest_are_drawn_where_there_are_too_many():
    votes = sample(60, 80)
    votes.votes[17], votes.votes[:, 5] = 9, -7
    figure = draw_votes(votes, probes=[str(n) for n in range(60)], items=[str(n) for n in range(80)], limit=10)
    rows, columns, _, totals = drawn(figure)
    assert (len(rows), len(columns)) == (10, 10)
    assert rows[0] == "17"
    assert columns[-1] == "5"
    assert totals[0] == pytest.approx(float(votes.votes[17].sum()))  # of all items, not of those drawn
    assert any("10 of 60 probes and 10 of 80 items" in text.get_text() for text in figure.texts)


def test_an_item_that_votes_on_itself_is_framed():
    figure = draw_votes(sample(), probes=["a", "b", "c", "d", "e"], items=["c", "x", "y", "a", "z", "v", "w"])
    rows, columns, _, _ = drawn(figure)
    frames = {(rows[round(p.get_y())], columns[round(p.get_x())]) for p in figure.axes[0].patches}
    assert frames == {("a", "a"), ("c", "c")}
    assert not draw_votes(sample(), probes=PROBES, items=ITEMS).axes[0].patches


@pytest.mark.parametrize(("probes", "items"), [(1, 1), (1, 40), (40, 1), (5, 7)])
def test_names_and_notes_stay_inside_and_apart(probes, items):
    figure = draw_votes(sample(probes, items), probes=["W" * 24] * probes, items=["M" * 24] * items)
    figure.draw_without_rendering()
    whole = figure.bbox
    cells, bars, colours = figure.axes
    texts = [*figure.texts, *cells.get_xticklabels(), *cells.get_yticklabels(), *bars.texts, *colours.texts]
    for text in texts:
        box = text.get_window_extent()
        if text.get_text()[:1] not in "WM":  # the widest letters of all may reach over
            assert box.x0 >= whole.x0 - 1
            assert box.x1 <= whole.x1 + 1
        assert box.y1 <= whole.y1 + 1
    heads = [text.get_window_extent() for text in (*figure.texts, bars.texts[-1])]
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(heads))


def test_nothing_to_show_is_drawn_too():
    nothing = KernelVotes(*[torch.zeros(2, 3)] * 3, torch.zeros(2))
    assert drawn(draw_votes(nothing, probes=["a", "b"], items=["c", "d", "e"]))[3] == [0, 0]


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_figure_is_written_and_repeats(ending, tmp_path):
    names = {"probes": ["$x_1$ & <b>", "日本語", "", "d", "e"], "items": ITEMS}
    settings = dict(matplotlib.rcParams)
    first, second = (write_votes(tmp_path / where / f"votes.{ending}", sample(), **names) for where in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert dict(matplotlib.rcParams) == settings
    if ending == "svg":
        text = first.read_text(encoding="utf-8")
        assert "$x_1$ &amp; &lt;b&gt;" in text
        assert all(re.search(f">{name}<", text) for name in ITEMS)
    if ending == "png":
        image = matplotlib.image.imread(first)
        assert image.shape[0] > 400
        assert image[0, 0].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"probes": PROBES[1:]}, "probes: expected 5 names, got 4"),
        ({"items": ITEMS[1:]}, "items: expected 7 names, got 6"),
        ({"path": "votes.txt"}, "path: expected a name that ends in .png, .svg or .pdf, got 'votes.txt'"),
    ],
)
def test_what_does_not_fit_is_named(options, sentence, tmp_path):
    given = {"path": "votes.png", "probes": PROBES, "items": ITEMS, **options}
    with pytest.raises(ValueError, match=sentence):
        write_votes(tmp_path / given.pop("path"), sample(), **given)
