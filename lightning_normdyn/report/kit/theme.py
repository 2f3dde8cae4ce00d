"""Colours of figures and pages on light and on dark paper."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

INK, FAINT, RULE = "#1f2933", "#616e7c", "#cbd2d9"
BLUE, VERMILION, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#8a939c"
"""Okabe and Ito's palette, which stays apart for every kind of colour vision."""
PURPLE, OCHRE = "#cc79a7", "#b58900"
"""For what has neighbours in all of those."""

LIGHT_PAPER, DARK_PAPER = "#ffffff", "#1a2027"
_DARK = {INK: "#e3e9ef", FAINT: "#a3afbb", RULE: "#4a5663", LIGHT_PAPER: DARK_PAPER}
PAGE_COLOURS = {
    "ink": (INK, _DARK[INK]),
    "faint": (FAINT, _DARK[FAINT]),
    "rule": ("#dde2e7", "#333d47"),
    "paper": ("#f6f7f9", "#11161c"),
    "card": (LIGHT_PAPER, DARK_PAPER),
    "sheet": (LIGHT_PAPER, LIGHT_PAPER),
    "link": ("#0b5c8e", "#7cc0f5"),
    "warning": ("#9a5b00", "#e8b04a"),
    "critical": ("#b3261e", "#ff8a7a"),
    "shade": (f"{INK}47", "#a3b9cd6b"),
}
"""Colours of the style sheet ``page.css``, by the names of its variables, on light and on dark paper."""

_CONTRAST = 4.5
# What the CSS filter `hue-rotate(180deg)` multiplies red, green and blue by.
_TURN = np.array([[-0.574, 1.430, 0.144], [0.426, 0.430, 0.144], [0.426, 1.430, -0.856]])
_IN_STYLE = re.compile(r"(?<=: )#([0-9a-f]{6})(?=;|$)")
_VARIABLE = re.compile(r"var\(--(shape|text)-([0-9a-f]{6}),")


def dark_colour(colour: str) -> str:
    """The same hue with light and dark exchanged.

    It is what ``filter: invert(1) hue-rotate(180deg)`` makes of a picture in the same figure, so that points in a
    picture and lines around it keep one colour. Ink, rules and paper have dark colours of their own.

    Args:
        colour: as ``#rrggbb``.

    Example:
        >>> dark_colour("#0072b2"), dark_colour("#ffffff")
        ('#42b4f4', '#1a2027')
    """
    return _DARK.get(colour) or _to_hex((_TURN @ (1.0 - _to_rgb(colour))).clip(0, 1))


def legible(colour: str) -> str:
    """The colour, darkened as far as small text on white needs (a contrast of 4.5 to 1).

    Example:
        >>> legible("#0072b2"), legible("#ffff00")
        ('#0072b2', '#7b7b00')
    """
    shade = _to_rgb(colour)
    while _ratio(shade, _to_rgb(LIGHT_PAPER)) < _CONTRAST:
        shade = shade * 0.97
    return _to_hex(shade)


def contrast(colour: str, paper: str) -> float:
    """How well one colour stands out from another, from 1 to 21, as WCAG defines it.

    Example:
        >>> contrast("#000000", "#ffffff")
        21.0
    """
    return _ratio(_to_rgb(colour), _to_rgb(paper))


def with_variables(style: str, *, is_text: bool) -> str:
    """A style of an SVG element whose colours are variables, which :func:`colour_rules` defines.

    Args:
        style: as the ``style`` attribute has it.
        is_text: whether it is of text, which needs more contrast than a line.

    Example:
        >>> with_variables("fill: #0072b2; stroke: none", is_text=False)
        'fill: var(--shape-0072b2, #0072b2); stroke: none'
    """
    kind = "text" if is_text else "shape"
    return _IN_STYLE.sub(rf"var(--{kind}-\1, #\1)", style)


def page_rules() -> str:
    """A style sheet that gives the variables of ``page.css`` their colours; print is light."""
    light, dark = (
        " ".join(f"--{name}: {colours[place]};" for name, colours in PAGE_COLOURS.items()) for place in (0, 1)
    )
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"


def colour_rules(html: str) -> str:
    """A style sheet that gives every variable of a page's figures its colour on dark paper.

    Args:
        html: the page's body. Without a rule, as on light paper and in print, a variable has its light colour.
    """
    variables = sorted(set(_VARIABLE.findall(html)))
    rules = "".join(f" --{kind}-{colour}: {_dark(f'#{colour}', kind)};" for kind, colour in variables)
    return f"@media screen and (prefers-color-scheme: dark) {{ :root {{{rules} }} }}" if rules else ""


def _dark(colour: str, kind: str) -> str:
    return _lightened(dark_colour(colour)) if kind == "text" and colour != LIGHT_PAPER else dark_colour(colour)


def _lightened(colour: str) -> str:
    shade = _to_rgb(colour)
    while _ratio(shade, _to_rgb(DARK_PAPER)) < _CONTRAST:
        shade = 1 - (1 - shade) * 0.97
    return _to_hex(shade)


def _ratio(rgb: NDArray[np.float64], paper: NDArray[np.float64]) -> float:
    low, high = sorted((_luminance(rgb), _luminance(paper)))
    return (high + 0.05) / (low + 0.05)


def _to_rgb(colour: str) -> NDArray[np.float64]:
    return np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])


def _to_hex(rgb: NDArray[np.float64]) -> str:
    return "#" + "".join(f"{round(float(channel) * 255):02x}" for channel in rgb)


def _luminance(rgb: NDArray[np.float64]) -> float:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
