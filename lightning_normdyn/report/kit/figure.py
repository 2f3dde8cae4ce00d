"""Figures by matplotlib: their look, their axes, and their way into a page or a file."""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lightning_normdyn.atomic_file import write_atomically
from lightning_normdyn.report.kit.page import DrawingError
from lightning_normdyn.report.kit.theme import INK, RULE, with_variables

try:
    import matplotlib
except ImportError as error:
    raise ImportError(
        "lightning_normdyn.report draws with matplotlib, which is not installed: "
        "pip install 'lightning-normdyn[report]'"
    ) from error
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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


_DRAWING = threading.RLock()


@contextmanager
def drawing_style() -> Iterator[None]:
    """Sets fonts and colours while figures are drawn, and puts matplotlib's own settings back.

    One thread draws at a time: matplotlib's settings and Python's warning filters are those of the whole process, and
    two that changed and restored them in turns would leave the style of the one to the other, or to the caller.

    Raises:
        DrawingError: instead of whatever goes wrong while drawing, but for a file that cannot be written.
    """
    with _DRAWING, matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        # The reader's browser sets the text and has more glyphs than the font that only measures it here.
        warnings.filterwarnings("ignore", message=r".*Glyph .* missing from font.*")
        warnings.filterwarnings("ignore", message=r".*Matplotlib currently does not support .* natively.*")
        try:
            yield
        except (DrawingError, OSError):
            raise
        except Exception as error:
            raise DrawingError(f"drawing failed ({type(error).__name__}: {error})") from error


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


def to_svg(axes: Axes, *, name: str, description: str) -> Markup:
    """The figure of ``axes`` as an SVG element to be placed in a page, whose colours follow the page's theme.

    Args:
        axes: axes made by :func:`new_axes`.
        name: put before every id of the SVG, so that it must be unique in the page.
        description: what a reader who does not see the figure should know: what it shows, with its numbers.
    """
    buffer = io.StringIO()
    sheet(axes).savefig(buffer, format="svg", dpi=220, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _strip(root)
    for element in root.iter():
        _localise(element, name)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": description}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def sheet(axes: Axes) -> Figure:
    """The figure that axes made by :func:`new_axes` lie on."""
    figure = axes.figure  # get_figure(root=True) came with matplotlib 3.10
    assert isinstance(figure, Figure)
    return figure


def write_figure(path: Path, figure: Figure, *, description: str) -> None:
    """Writes a figure on white paper as a file of its own, whole or not at all.

    Args:
        path: ends in ``.png``, ``.svg`` or ``.pdf``.
        figure: what it shows.
        description: goes into the file as its title, which SVG viewers read out.

    Raises:
        OSError: if the file cannot be written.
    """
    ending = path.suffix.lower()[1:]
    no_date: dict[str, Any] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[ending]
    buffer = io.BytesIO()
    figure.savefig(buffer, format=ending, dpi=200, facecolor="white", metadata={"Title": description} | no_date)
    write_atomically(path, buffer.getvalue())


def _strip(root: ElementTree.Element) -> None:
    """Drops metadata (it names outside addresses) and the style sheet, which would reach the whole page."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)


def _localise(element: ElementTree.Element, name: str) -> None:
    """Drops namespaces, which HTML knows by itself, puts ``name`` before ids, and turns colours into variables."""
    element.tag = element.tag.rpartition("}")[2]
    is_text = element.tag in ("text", "tspan")
    attributes = {}
    for key, value in element.attrib.items():
        key = key.rpartition("}")[2]
        if key == "id":
            value = f"{name}-{value}"
        elif (key == "href" and value.startswith("#")) or "url(#" in value:
            value = _REFERENCE.sub(rf"\1#{name}-\2", value)
        attributes[key] = with_variables(value, is_text=is_text) if key == "style" else value
    element.attrib = attributes
