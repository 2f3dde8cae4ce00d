"""Captioned images come back from tables and Parquet; broken ones go with their captions, and it is said."""

from __future__ import annotations

import io
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_files import json_lines, png, rows, write

from lightning_normdyn.datasets import MalformedFileError
from lightning_normdyn.datasets.formats import read_image_text
from lightning_normdyn.datasets.reading.arrow_column import ArrowColumn

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def table(folder, name="captions.tsv", by="\t"):
    for number, colour in enumerate(COLOURS):
        write(folder / "images" / f"{number}.png", png(colour))
    entries = [(f"images/{number}.png", f"caption {number}", f"g{number // 2}") for number in range(3)]
    return write(folder / name, rows(("image", "caption", "group"), *entries, by=by))


def parquet(folder, images=None, struct=False, **columns):
    images = [png(colour) for colour in COLOURS] if images is None else images
    if struct:
        images = [{"bytes": image, "path": None} for image in images]
    columns = {"caption": [f"caption {n}" for n in range(len(images))], "group": ["g0", "g0", "g1"]} | columns
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, **columns}), folder / "a.parquet")
    return folder / "a.parquet"


def colours(images):
    return [image.getpixel((2, 2)) for image in images]


def check(found):
    assert colours(found.images) == COLOURS
    assert (list(found.captions), list(found.groups)) == (["caption 0", "caption 1", "caption 2"], ["g0", "g0", "g1"])
    assert (len(found), len(found.images), found.images[-1].size) == (3, 3, (5, 4))
    assert colours(found.images[1:]) == COLOURS[1:]


@pytest.mark.parametrize(("name", "by"), [("captions.tsv", "\t"), ("metadata.csv", ","), ("captions.csv.gz", ",")])
def test_a_table_beside_images(tmp_path, name, by):
    file = table(tmp_path, name, by)
    check(read_image_text(file, group_column="group"))
    found = read_image_text(tmp_path)
    assert list(found.groups) == ["images/0.png", "images/1.png", "images/2.png"]


def test_metadata_of_an_image_folder(tmp_path):
    """Hugging Face's imagefolder: file_name and text, as CSV or JSON lines."""
    for number, colour in enumerate(COLOURS):
        write(tmp_path / "csv" / f"{number}.png", png(colour))
        write(tmp_path / "json" / "train" / f"{number}.png", png(colour))
    entries = [(f"{number}.png", f"caption {number}") for number in range(3)]
    write(tmp_path / "csv" / "metadata.csv", rows(("file_name", "text"), *entries, by=","))
    lines = [{"file_name": f"train/{name}", "text": text, "width": 5} for name, text in entries]
    write(tmp_path / "json" / "metadata.jsonl", json_lines(*lines))
    for folder in ("csv", "json"):
        found = read_image_text(tmp_path / folder)
        assert (colours(found.images), list(found.captions)) == (COLOURS, [text for _, text in entries])
    with pytest.raises(MalformedFileError, match=r"metadata\.jsonl, line 1: expected a field 'title'"):
        read_image_text(tmp_path / "json", caption_column="title")


def test_flickr30k_parted_by_pipes(tmp_path):
    for number, colour in enumerate(COLOURS):
        write(tmp_path / "flickr30k_images" / f"{number}.jpg", png(colour))
    lines = ["image_name| comment_number| comment"]
    lines += [f'{number}.jpg| {place}| A {number}, "{place}" .' for number in range(3) for place in range(2)]
    lines += ["2.jpg| 4   A dog runs .", "0.jpg| 5| one | two"]
    write(tmp_path / "results.csv", "\n".join(lines) + "\n")
    with pytest.warns(UserWarning, match=r"1 rows without all cells, left out \(first: .*results\.csv, line 8\)"):
        found = read_image_text(tmp_path)
    expected = [f'A {number}, "{place}" .' for number in range(3) for place in range(2)]
    assert list(found.captions) == [*expected, "one | two"]
    assert list(found.groups) == [f"{number}.jpg" for number in (0, 0, 1, 1, 2, 2, 0)]
    assert colours(found.images)[::2] == [COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[0]]
    with pytest.raises(
        MalformedFileError, match=r"results\.csv, line 1: expected a column named 'title', got image_name"
    ):
        read_image_text(tmp_path, caption_column="title")


@pytest.mark.parametrize("struct", [False, True])
def test_parquet_with_images_by_path(tmp_path, struct):
    names = [f"images/{number}.png" for number in range(3)]
    for name, colour in zip(names, COLOURS, strict=True):
        write(tmp_path / name, png(colour))
    images = [{"bytes": None, "path": name} for name in names] if struct else names
    check(read_image_text(parquet(tmp_path, images), group_column="group"))
    (tmp_path / names[1]).unlink()
    with pytest.warns(UserWarning, match=r"1 missing images, .*row 2\)"):
        assert colours(read_image_text(tmp_path).images) == COLOURS[::2]


@pytest.mark.parametrize("struct", [False, True])
def test_parquet_in_memory_and_on_disk(tmp_path, struct):
    file = parquet(tmp_path / "set", struct=struct)
    check(read_image_text(file, group_column="group"))
    for _ in range(2):
        found = read_image_text(file.parent, group_column="group", cache=tmp_path / "cache")
        assert isinstance(found.images.encoded, ArrowColumn)
        check(found)
        assert colours(pickle.loads(pickle.dumps(found.images))) == COLOURS
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert len(set(read_image_text(file).groups)) == 3


def test_images_are_opened_as_they_are_looked_at(tmp_path):
    stream = io.BytesIO()
    image = Image.new("RGB", (6, 2))
    image.paste((255, 255, 255), (0, 0, 3, 2))
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was turned: rotate by 90 degrees to the right
    image.save(stream, format="PNG", exif=turned)
    clear = png((9, 9, 9, 0), mode="RGBA")
    half = png((255, 0, 0, 128), mode="RGBA")
    found = read_image_text(parquet(tmp_path, [stream.getvalue(), clear, half])).images
    assert (found[0].size, found[0].getpixel((0, 0)), found[0].getpixel((0, 5))) == ((2, 6), (255,) * 3, (0,) * 3)
    assert found[1].getpixel((0, 0)) == (255, 255, 255)
    assert found[2].getpixel((0, 0)) == (255, 127, 127)


BROKEN = png()[:40]


def test_broken_and_missing_files_are_left_out_with_captions_and_groups(tmp_path):
    file = table(tmp_path)
    write(tmp_path / "images/0.png", BROKEN)
    write(file, file.read_text() + rows(("images/9.png", "gone", "g9"), ("images/1.png", "", "g1")))
    said = (
        r"1 broken images.*captions\.tsv, line 2\); 1 missing images.*line 5\); 1 empty captions, kept \(first: image 3"
    )
    with pytest.warns(UserWarning, match=said):
        found = read_image_text(file, group_column="group")
    assert colours(found.images) == [*COLOURS[1:], COLOURS[1]]
    assert (found.captions, found.groups) == (["caption 1", "caption 2", ""], ["g0", "g1", "g1"])


@pytest.mark.parametrize("cached", [False, True])
def test_broken_images_of_parquet_are_reported_each_time(tmp_path, cached):
    file = parquet(tmp_path / "set", [png(COLOURS[0]), BROKEN, None, png(COLOURS[1])], group=list("abcd"))
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"1 broken images, .*row 2\); 1 missing images, .*row 3\)"):
            found = read_image_text(file, group_column="group", cache=tmp_path / "cache" if cached else None)
        assert colours(found.images) == COLOURS[:2]
        assert (found.captions, found.groups) == (["caption 0", "caption 3"], ["a", "d"])


def test_a_broken_image_that_was_not_checked_raises_when_taken(tmp_path):
    found = read_image_text(parquet(tmp_path, [png(), BROKEN, png()]), check_images=False)
    assert len(found) == 3
    with pytest.raises(MalformedFileError, match=r"a\.parquet, row 2: expected an image that Pillow opens"):
        found.images[1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"images": [1, 2, 3]}, r"line 1: expected encoded images or names of files in column 'image', got 1"),
        ({"images": ["a", "b", "c"]}, r"expected images that can be opened, got \{'missing images"),
        ({"caption": [1.5, 2.5, 3.5]}, r"line 1: expected a text in column 'caption', got 1\.5"),
        ({"caption": ["a", None, "c"]}, r"line 2: expected a text in column 'caption', got None"),
        ({"images": [BROKEN] * 3}, r"expected images that can be opened, got \{'broken images"),
    ],
)
def test_malformed_parquet_is_refused(tmp_path, columns, message):
    with pytest.raises(MalformedFileError, match=message):
        read_image_text(parquet(tmp_path, **columns))


def test_wrong_names_and_places_are_refused(tmp_path):
    file = parquet(tmp_path / "set")
    with pytest.raises(MalformedFileError, match="expected a column 'png' and 'name', got the columns 'image'"):
        read_image_text(file, image_column="png", caption_column="name")
    with pytest.raises(MalformedFileError, match=r"captions\.tsv, line 1: expected a column named 'picture'"):
        read_image_text(table(tmp_path / "table"), image_column="picture")
    with pytest.raises(MalformedFileError, match=r"line 2: expected a file name in column 'image', got an empty cell"):
        read_image_text(write(tmp_path / "a.tsv", "image\tcaption\n\tx\n"))
    with pytest.raises(MalformedFileError, match=r"expected one of metadata\.csv, .* or Parquet files, got none"):
        read_image_text(tmp_path / "table" / "images")
    with pytest.raises(MalformedFileError, match="expected a whole Parquet file"):
        read_image_text(write(tmp_path / "b.parquet", file.read_bytes()[:-20]))
