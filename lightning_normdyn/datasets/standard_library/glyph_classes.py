"""Few-shot classes: letters of many scripts, drawn in several fonts with small distortions."""

from __future__ import annotations

import math
import random
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from lightning_normdyn.datasets.records import LabelledImages
from lightning_normdyn.datasets.standard_library.glyphs import PAPER, Glyphs

if TYPE_CHECKING:
    from PIL.Image import Image

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSansMono",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
)
SIDE = 28
IMAGES_PER_CLASS = 20
LETTERS_PER_SCRIPT = 60
MIN_LETTERS = 20
"""A script with fewer letters is left out."""
ROTATION = 10.0
"""Degrees to either side, at most."""
SHIFT = 2.0
"""Pixels in either direction, at most."""
SCALE = 1.15
"""Times larger or smaller, at most."""
_OVERSAMPLING = 2
_HEIGHT = 36
_LETTERS = ("Lu", "Ll", "Lt", "Lo")


def glyph_classes(*, seed: int = 0) -> LabelledImages:
    """Draws letters as classes of twenty pictures each, 28x28, black on white, one channel.

    A class is a letter, by its Unicode name in small letters; its group is the script, the name's first word
    (``greek``, ``canadian`` for the Canadian syllabics). Each script gives its first 60 letters by code point, fewer
    where it has fewer, and scripts with fewer than 20 are left out; so are letters that DejaVu Sans draws exactly like
    an earlier one. The pictures of a letter go round the fonts that have it (up to ten: upright, bold and slanted),
    each rotated by up to 10 degrees, shifted by up to 2 pixels and scaled by up to 1.15 either way.

    Splits are the task's, over groups: scripts never seen in training. Support and query pictures are of one kind and
    may be exchanged: the task is functionally symmetric. No class is more specific than another.

    On CPython 3.11, matplotlib 3.11, Pillow 13: 13,980 pictures of 699 letters of 14 scripts (latin, greek, cyrillic,
    armenian, hebrew, arabic, georgian and canadian 60 each, mathematical 47, tifinagh 46, lao 39, old 31, nko 30,
    ogham 26).

    Args:
        seed: of the distortions.

    Raises:
        ModuleNotFoundError: if matplotlib, whose fonts are drawn, is not installed.
        FileNotFoundError: if it does not ship a font.
    """
    fonts = [Glyphs(font, height=_HEIGHT, side=SIDE * _OVERSAMPLING) for font in FONTS]
    letters = [(script, letter) for script, script_letters in _scripts(fonts[0]).items() for letter in script_letters]
    pixels = bytearray()
    for _, letter in letters:
        for image in _variants(fonts, letter, random.Random(f"{seed} {ord(letter)}")):
            pixels += image.tobytes()
    return LabelledImages(
        images=torch.frombuffer(pixels, dtype=torch.uint8).view(-1, 1, SIDE, SIDE),
        labels=torch.arange(len(letters)).repeat_interleave(IMAGES_PER_CLASS),
        classes=[unicodedata.name(letter).lower() for _, letter in letters],
        groups=[script for script, _ in letters],
    )


def _scripts(font: Glyphs) -> dict[str, list[str]]:
    """Script to its letters, in the order of code points, no two drawn alike."""
    earlier_images: set[bytes] = set()
    scripts: defaultdict[str, list[str]] = defaultdict(list)
    for letter in font.characters(_LETTERS):
        script = unicodedata.name(letter).split()[0].lower()
        image = font.draw(letter) if len(scripts[script]) < LETTERS_PER_SCRIPT else None
        if image is not None and image.tobytes() not in earlier_images:
            earlier_images.add(image.tobytes())
            scripts[script].append(letter)
    return {script: letters for script, letters in scripts.items() if len(letters) >= MIN_LETTERS}


def _variants(fonts: list[Glyphs], letter: str, generator: random.Random) -> Iterator[Image]:
    images = [image for font in fonts if letter in font and (image := font.draw(letter)) is not None]
    for number in range(IMAGES_PER_CLASS):
        yield _distorted(images[number % len(images)], generator)


def _distorted(image: Image, generator: random.Random) -> Image:
    """Rotates about the middle, scales and shifts, on the way down from the size that was drawn."""
    from PIL.Image import Resampling, Transform

    angle = math.radians(generator.uniform(-ROTATION, ROTATION))
    step = _OVERSAMPLING / SCALE ** generator.uniform(-1, 1)
    right, down = generator.uniform(-SHIFT, SHIFT), generator.uniform(-SHIFT, SHIFT)
    cosine, sine = step * math.cos(angle), step * math.sin(angle)
    middle, drawn_middle = SIDE / 2, SIDE * _OVERSAMPLING / 2
    x, y = middle + right, middle + down
    backwards = (
        *(cosine, sine, drawn_middle - cosine * x - sine * y),
        *(-sine, cosine, drawn_middle + sine * x - cosine * y),
    )
    return image.transform((SIDE, SIDE), Transform.AFFINE, backwards, Resampling.BILINEAR, fillcolor=PAPER)
