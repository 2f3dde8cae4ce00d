"""Image-text pairs: pictures of characters and their Unicode names."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from lightning_normdyn.datasets.records import CaptionedImages
from lightning_normdyn.datasets.standard_library.glyphs import Glyphs
from lightning_normdyn.datasets.standard_library.splits import SPLITS, split_groups

if TYPE_CHECKING:
    from PIL.Image import Image

FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral")
SIDE = 32
_HEIGHT = 20
_CATEGORIES = ("L", "N", "P", "S")


class _Drawings(Sequence["Image"]):
    """Grey squares kept as bytes, coloured when taken."""

    def __init__(self, pixels: Sequence[bytes]) -> None:
        self._pixels = pixels

    @overload
    def __getitem__(self, place: int) -> Image: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Image]: ...
    def __getitem__(self, place: int | slice) -> Image | Sequence[Image]:
        if isinstance(place, slice):
            return _Drawings(self._pixels[place])

        from PIL import Image

        return Image.frombytes("L", (SIDE, SIDE), self._pixels[place]).convert("RGB")

    def __len__(self) -> int:
        return len(self._pixels)


def glyph_captions() -> CaptionedImages:
    """Draws letters, digits, punctuation and symbols, each with its Unicode name in small letters as the caption.

    Images are 32x32, black on white, in up to four fonts: DejaVu Sans, Serif and Sans Mono, and STIX. Left out are
    characters that a font lacks or draws as nothing, as its box for missing glyphs, or larger than the square, and
    pictures that came before: a capital alpha that looks like the Latin A is not shown, as no encoder could tell it.
    A character's pictures form a group, ``U+0041``, which splits must not part.

    Captions are composed (``latin small letter a with acute``), so that characters never seen can be told by their
    parts. A picture and its caption play different parts, but one-to-one: the task is close to functionally symmetric
    within a font, and a caption serves up to four pictures. Specific are names of many words.

    On CPython 3.11, matplotlib 3.11, Pillow 13: 13,832 pictures of 6,829 characters.

    Raises:
        ModuleNotFoundError: if matplotlib, whose fonts are drawn, is not installed.
        FileNotFoundError: if it does not ship a font.
    """
    return _captioned(_drawings())


def glyph_caption_splits() -> dict[str, CaptionedImages]:
    """Parts `glyph_captions` into ``train``, ``validation`` and ``test``, 10% of the pictures in each of the latter.

    A character's pictures are all in one split, chosen by a digest of it.

    On CPython 3.11, matplotlib 3.11, Pillow 13: 11,066 / 1,383 / 1,383 pictures of 5,458 / 680 / 691 characters.

    Raises:
        ModuleNotFoundError: if matplotlib, whose fonts are drawn, is not installed.
        FileNotFoundError: if it does not ship a font.
    """
    drawings = _drawings()
    splits = split_groups(Counter(drawings.values()))
    return {
        split: _captioned({pixels: character for pixels, character in drawings.items() if splits[character] == split})
        for split in SPLITS
    }


def _drawings() -> dict[bytes, str]:
    """Pictures, each once, to the character that they show, by code point and font."""
    fonts = [Glyphs(font, height=_HEIGHT, side=SIDE) for font in FONTS]
    holders: defaultdict[str, list[Glyphs]] = defaultdict(list)
    for font in fonts:
        for character in font.characters(_CATEGORIES):
            holders[character].append(font)
    drawings: dict[bytes, str] = {}
    for character in sorted(holders):
        for font in holders[character]:
            image = font.draw(character)
            if image is not None:
                drawings.setdefault(image.tobytes(), character)
    return drawings


def _captioned(drawings: dict[bytes, str]) -> CaptionedImages:
    return CaptionedImages(
        images=_Drawings(list(drawings)),
        captions=[unicodedata.name(character).lower() for character in drawings.values()],
        groups=[f"U+{ord(character):04X}" for character in drawings.values()],
    )
