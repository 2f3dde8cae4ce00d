"""Glyphs of the fonts that matplotlib ships, drawn without importing matplotlib."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

PAPER = 255
INK = 0
_UNMAPPED = "\U0010ffff"  # no font has this noncharacter, so it shows what a font draws for what it lacks
_BASELINE = 0.7
"""Where letters stand, as a share of the height: room for what hangs below and what is stacked above."""


class Glyphs:
    """The glyphs of one font, black on white, each on its baseline in the middle of a square.

    Args:
        font: name of a font of matplotlib's, such as ``DejaVuSans``.
        height: of the letters, in pixels (the font's size).
        side: of the square, in pixels.

    Raises:
        ModuleNotFoundError: if matplotlib, which brings Pillow and fontTools too, is not installed.
        FileNotFoundError: if it does not ship the font.
    """

    def __init__(self, font: str, *, height: int, side: int) -> None:
        file = font_file(font)

        from PIL import ImageFont

        self._file = file
        self._side = side
        # BASIC: the shaper of complex scripts is there on some machines only.
        self._font = ImageFont.truetype(str(file), height, layout_engine=ImageFont.Layout.BASIC)
        self._missing = self._draw(_UNMAPPED).tobytes()

    def __contains__(self, character: str) -> bool:
        return character in _mapped(self._file)

    def characters(self, categories: Sequence[str]) -> list[str]:
        """Characters of the font, by code point, whose Unicode category starts with one of those given.

        Left out are characters without a name in the running Python's `unicodedata`.
        """
        candidates = (character for character in _mapped(self._file) if unicodedata.name(character, ""))
        return [character for character in candidates if unicodedata.category(character).startswith(tuple(categories))]

    def draw(self, character: str) -> Image | None:
        """Draws a character in shades of grey.

        Returns:
            The image; None where the font would draw nothing, the box for missing glyphs, or over the square's edge.
        """
        if not self._fits(character):
            return None
        image = self._draw(character)
        pixels = image.tobytes()
        return None if pixels == self._missing or pixels.count(PAPER) == len(pixels) else image

    def _draw(self, character: str) -> Image:
        from PIL import Image, ImageDraw

        image = Image.new("L", (self._side, self._side), PAPER)
        ImageDraw.Draw(image).text(self._place, character, INK, self._font, anchor="ms")
        return image

    def _fits(self, character: str) -> bool:
        left, top, right, bottom = self._font.getbbox(character, anchor="ms")
        x, y = self._place
        return left + x >= 0 and top + y >= 0 and right + x <= self._side and bottom + y <= self._side

    @property
    def _place(self) -> tuple[int, int]:
        return self._side // 2, round(self._side * _BASELINE)


def font_file(font: str) -> Path:
    """Finds a font of matplotlib's by name.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        FileNotFoundError: if it does not ship the font.
    """
    spec = find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "glyph sets are drawn with the fonts that matplotlib ships, and matplotlib is not installed; install with: "
            "pip install 'lightning-normdyn[report]'"
        )
    file = Path(next(iter(spec.submodule_search_locations)), "mpl-data", "fonts", "ttf", f"{font}.ttf")
    if not file.is_file():
        raise FileNotFoundError(
            f"font: expected '{font}' among the fonts of matplotlib, found no file '{file}'; distributions that part "
            "fonts from matplotlib do not serve here, so install matplotlib with pip"
        )
    return file


@cache
def _mapped(file: Path) -> dict[str, str]:
    from fontTools.ttLib import TTFont

    with TTFont(file, lazy=True) as font:
        glyph_names: dict[int, str] = font.getBestCmap()
    return {chr(code): name for code, name in sorted(glyph_names.items()) if name != ".notdef"}
