"""The sheet that figures are drawn on, and its way into an HTML page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT, RULE = "#1f2933", "#616e7c", "#cbd2d9"
BLUE, VERMILION, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#8a939c"
"""Okabe and Ito's palette, which stays apart for every kind of colour vision."""

WIDTH = 4.75
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "normdyn",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.solid_capstyle": "round",
    "lines.dash_capstyle": "butt",
    "savefig.facecolor": "none",
    "savefig.edgecolor": "none",
}
_REFERENCE = re.compile(r"(url\()?#([\w.-]+)")


@contextmanager
def drawing_style() -> Iterator[None]:
    """Sets fonts and colours while figures are drawn, and puts matplotlib's own settings back."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        # The reader's browser sets the text and has more glyphs than the font that only measures it here.
        warnings.filterwarnings("ignore", message=r".*Glyph .* missing from font.*")
        warnings.filterwarnings("ignore", message=r".*Matplotlib currently does not support .* natively.*")
        yield


def new_axes(
    *, left: float = 0.12, right: float = 0.97, bottom: float = 0.14, top: float = 0.96, height: float = 3.55
) -> Axes:
    """A new figure of the report's width with one pair of axes.

    Args:
        left: where the axes begin, as a share of the figure's width.
        right: where they end.
        bottom: where they begin, as a share of its height.
        top: where they end.
        height: the figure's height in inches.
    """
    figure = Figure(figsize=(WIDTH, height), dpi=72)
    axes: Axes = figure.add_axes((left, bottom, right - left, top - bottom))
    axes.tick_params(length=3, pad=3)
    return axes


def to_svg(axes: Axes, *, name: str, description: str) -> str:
    """The figure of ``axes`` as an SVG element to be placed in a page.

    Args:
        axes: axes made by :func:`new_axes`.
        name: put before every id of the SVG, so that it must be unique in the page.
        description: what a reader who does not see the figure should know.
    """
    buffer = io.StringIO()
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.savefig(buffer, format="svg", dpi=220, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _strip(root)
    for element in root.iter():
        _localise(element, name)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": description}
    return ElementTree.tostring(root, encoding="unicode")


def _strip(root: ElementTree.Element) -> None:
    """Drops metadata (it names outside addresses) and the style sheet, which would reach the whole page."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)


def _localise(element: ElementTree.Element, name: str) -> None:
    """Drops namespaces, which HTML knows by itself, and puts ``name`` before ids and references to them."""
    element.tag = element.tag.rpartition("}")[2]
    attributes = {}
    for key, value in element.attrib.items():
        key = key.rpartition("}")[2]
        if key == "id":
            value = f"{name}-{value}"
        elif (key == "href" and value.startswith("#")) or "url(#" in value:
            value = _REFERENCE.sub(rf"\1#{name}-\2", value)
        attributes[key] = value
    element.attrib = attributes
