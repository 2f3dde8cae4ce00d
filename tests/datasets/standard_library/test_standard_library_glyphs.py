"""Glyph sets: every picture shows its character, none is blank or there twice, and distortions are small."""

import importlib
import unicodedata
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from fontTools.ttLib import TTFont
from PIL import Image

from lightning_normdyn.datasets.standard_library import glyph_caption_splits, glyph_captions, glyph_classes
from lightning_normdyn.datasets.standard_library.glyphs import Glyphs, font_file

classes_module = importlib.import_module("lightning_normdyn.datasets.standard_library.glyph_classes")


@pytest.fixture(scope="module")
def captions():
    return glyph_captions()


@pytest.fixture(scope="module")
def classes():
    return glyph_classes()


def grey(image):
    return np.asarray(image.convert("L"))


def test_captions_are_the_names_of_the_groups_code_points(captions):
    assert len(captions) == len(captions.images) == len(captions.groups)
    assert len(captions) > 10_000
    for caption, group in zip(captions.captions, captions.groups, strict=True):
        assert caption == unicodedata.name(chr(int(group[2:], 16))).lower()
    shown = Counter(captions.groups)
    assert len(shown) > 5_000
    assert max(shown.values()) == 4
    assert shown["U+0041"] == 4  # A, in every font; alpha and the Cyrillic A look like it in most of them
    assert shown["U+0391"] < 4


def test_pictures_are_distinct_and_neither_blank_nor_cut(captions):
    pixels = np.stack([grey(image) for image in captions.images])
    assert pixels.shape[1:] == (32, 32)
    assert len({picture.tobytes() for picture in pixels}) == len(pixels)
    assert (pixels.reshape(len(pixels), -1).min(axis=1) < 250).all()
    assert all(captions.images[place].mode == "RGB" for place in (0, -1))
    one = grey(captions.images[captions.captions.index("digit one")])
    assert one[0].min() == one[-1].min() == one[:, 0].min() == one[:, -1].min() == 255


def test_a_slice_of_the_pictures_is_pictures_again(captions):
    part = captions.images[2:5]
    assert len(part) == 3
    assert part[0].tobytes() == captions.images[2].tobytes()
    with pytest.raises(IndexError):
        part[3]


def test_splits_keep_a_character_together_and_lose_nothing(captions):
    splits = glyph_caption_splits()
    groups = {name: set(split.groups) for name, split in splits.items()}
    assert not groups["train"] & groups["validation"] | groups["train"] & groups["test"]
    assert not groups["validation"] & groups["test"]
    assert sum(map(len, splits.values())) == len(captions)
    for name in ("validation", "test"):
        assert len(splits[name]) == pytest.approx(0.1 * len(captions), rel=0.02)
    picture_of = defaultdict(set)
    for image, group in zip(captions.images, captions.groups, strict=True):
        picture_of[group].add(image.tobytes())
    for image, group in list(zip(splits["test"].images, splits["test"].groups, strict=True))[::50]:
        assert image.tobytes() in picture_of[group]


def test_what_a_font_lacks_is_not_drawn():
    glyphs = Glyphs("STIXGeneral", height=20, side=32)
    assert "A" in glyphs
    assert glyphs.draw("A") is not None
    assert "\u4e00" not in glyphs  # a Chinese character
    assert glyphs.draw("\u4e00") is None
    assert glyphs.draw(" ") is None
    assert Glyphs("DejaVuSans", height=20, side=32).draw("\ufdfa") is None  # a whole sentence in one ligature
    assert glyphs.characters(["Nd"])[:10] == list("0123456789")


@pytest.mark.parametrize("letter", "AgjM%")
def test_ink_lies_where_the_fonts_outline_does(letter):
    with TTFont(font_file("DejaVuSans")) as font:
        name, pixel = font.getBestCmap()[ord(letter)], 20 / font["head"].unitsPerEm
        outline, advance = font["glyf"][name], font["hmtx"][name][0]
    left, baseline = 16 - advance * pixel / 2, 22
    rows, columns = np.nonzero(grey(Glyphs("DejaVuSans", height=20, side=32).draw(letter)) < 200)
    assert columns.min() == pytest.approx(left + outline.xMin * pixel, abs=1.5)  # hinting moves edges to pixels
    assert columns.max() + 1 == pytest.approx(left + outline.xMax * pixel, abs=1.5)
    assert rows.min() == pytest.approx(baseline - outline.yMax * pixel, abs=1.5)
    assert rows.max() + 1 == pytest.approx(baseline - outline.yMin * pixel, abs=1.5)


def test_an_unknown_font_and_a_missing_matplotlib_are_told(monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"^font: expected 'Papyrus' among the fonts of matplotlib"):
        font_file("Papyrus")
    monkeypatch.setattr("lightning_normdyn.datasets.standard_library.glyphs.find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lightning-normdyn\[report\]'"):
        glyph_captions()


def test_classes_are_letters_of_many_scripts_with_twenty_pictures_each(classes):
    count = len(classes.classes)
    assert count > 500
    assert classes.images.shape == (20 * count, 1, 28, 28)
    assert classes.images.dtype == torch.uint8
    assert torch.equal(classes.labels.bincount(), torch.full((count,), 20))
    assert len(set(classes.classes)) == len(classes.groups) == count
    letters = [unicodedata.lookup(name) for name in classes.classes]
    assert all(unicodedata.category(letter).startswith("L") for letter in letters)
    scripts = Counter(classes.groups)
    assert {"latin", "greek", "cyrillic", "hebrew", "arabic", "armenian", "georgian", "ogham"} <= scripts.keys()
    assert 20 <= min(scripts.values()) <= max(scripts.values()) == 60
    assert all(name.startswith(group) for name, group in zip(classes.classes, classes.groups, strict=True))


def test_pictures_of_classes_are_distinct_and_not_blank(classes):
    flat = classes.images.flatten(1)
    assert (flat.amin(dim=1) < 200).all()
    assert (flat.amax(dim=1) == 255).all()
    ink = (255 - flat.double()).mean(dim=1)
    assert 0.5 < ink.min() < ink.max() < 128
    assert len({row.numpy().tobytes() for row in flat}) == len(flat)


def test_pictures_of_one_letter_are_nearer_to_each_other_than_to_other_letters(classes):
    """A nearest-mean classifier of blurred pixels, without training: far above chance, far below perfect."""
    places = torch.arange(len(classes.labels)).view(-1, 20)[::7]
    pictures = torch.nn.functional.avg_pool2d(255.0 - classes.images[places.flatten()].float(), 2).flatten(1)
    pictures = torch.nn.functional.normalize(pictures, dim=1).view(*places.shape, -1)
    means = torch.nn.functional.normalize(pictures[:, :10].mean(dim=1), dim=1)
    found = (pictures[:, 10:].flatten(0, 1) @ means.T).argmax(dim=1)
    right = (found == torch.arange(len(means)).repeat_interleave(10)).double().mean()
    assert 20 / len(means) < right < 0.98


def test_distortions_stay_within_what_they_promise(monkeypatch):
    """Of a square, in moments: its middle moves by the shift, its spread changes by the scale."""

    class Always:
        def __init__(self, share):
            self.share = share

        def uniform(self, low, high):
            return low + (high - low) * self.share

    square = Image.new("L", (56, 56), 255)
    square.paste(0, (18, 18, 38, 38))
    for share, scale in ((0.0, 1 / 1.15), (0.5, 1.0), (1.0, 1.15)):
        ink = 255.0 - grey(classes_module._distorted(square, Always(share)))
        at = np.arange(28) + 0.5
        middle = (ink.sum(axis=0) @ at / ink.sum(), ink.sum(axis=1) @ at / ink.sum())
        assert middle == pytest.approx((14 + 4 * share - 2, 14 + 4 * share - 2), abs=0.1)
        assert ink.sum() / 255 == pytest.approx(100 * scale**2, rel=0.03)
        if share != 0.5:  # turned: the corners stick out by cos + sin
            rows = np.nonzero(ink.max(axis=1) > 60)[0]
            assert len(rows) == pytest.approx(10 * scale * 1.158, abs=1.2)


def test_another_seed_distorts_otherwise_and_keeps_the_classes(classes, monkeypatch):
    monkeypatch.setattr(classes_module, "IMAGES_PER_CLASS", 2)
    other, again, first = glyph_classes(seed=1), glyph_classes(seed=1), glyph_classes()
    assert other.classes == classes.classes
    assert torch.equal(other.images, again.images)
    assert not torch.equal(other.images, first.images)
    assert torch.equal(first.images.view(-1, 2, 784), classes.images.view(-1, 20, 784)[:, :2])
