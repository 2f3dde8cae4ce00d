"""Shards stream once over ranks and workers, and end where they say."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import pytest
import torch
from small_files import png, tar, write
from torch.utils.data import DataLoader

from lightning_normdyn.datasets import MalformedFileError
from lightning_normdyn.datasets.formats import CaptionedImage, WebDataset, read_web_dataset
from lightning_normdyn.datasets.formats.web_dataset import expand_shards


def sample(key, number=0, ending="png"):
    return [(f"{key}.{ending}", png((number, 0, 0))), (f"{key}.txt", f"caption {key}\n".encode())]


def shards(folder, count=4, each=3):
    for shard in range(count):
        members = [one for n in range(each) for one in sample(f"{shard}{n}", n)]
        tar(folder / f"shard-{shard:03}.tar", members)
    return str(folder / f"shard-{{000..{count - 1:03}}}.tar")


def keys(stream):
    return [one.key for one in stream]


def test_samples_come_in_order_with_image_and_caption(tmp_path):
    found = list(WebDataset(shards(tmp_path, count=2)))
    assert keys(found) == ["00", "01", "02", "10", "11", "12"]
    assert [one.caption for one in found] == [f"caption {key}" for key in keys(found)]
    assert [one.image.getpixel((1, 1))[0] for one in found] == [0, 1, 2, 0, 1, 2]


def test_each_sample_is_read_once_by_all_ranks_and_workers(tmp_path):
    pattern, read = shards(tmp_path, count=5), []
    for rank in range(2):
        loader = DataLoader(
            WebDataset(pattern, rank=rank, ranks=2, seed=3),
            batch_size=1,
            num_workers=2,
            collate_fn=lambda one: one[0].key,
        )
        read.append(list(loader))
    assert all(read)
    assert Counter(read[0] + read[1]) == Counter(f"{shard}{n}" for shard in range(5) for n in range(3))


def test_a_seed_gives_another_order_in_each_pass_and_the_same_in_each_run(tmp_path):
    pattern = shards(tmp_path, count=6, each=1)
    streams = [WebDataset(pattern, seed=1) for _ in range(2)]
    first, second = [[keys(stream) for _ in range(3)] for stream in streams]
    assert first == second
    assert len({tuple(order) for order in first}) > 1
    assert all(sorted(order) == sorted(first[0]) for order in first)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_take_another_order_in_each_pass_together(tmp_path, persistent):
    loader = DataLoader(
        WebDataset(shards(tmp_path, count=8, each=1), seed=1),
        batch_size=None,
        num_workers=2,
        persistent_workers=persistent,
        generator=torch.Generator().manual_seed(0),
    )
    passes = [keys(CaptionedImage(*one) for one in loader) for _ in range(3)]
    assert len({tuple(order) for order in passes}) == 3
    assert all(sorted(order) == [f"{shard}0" for shard in range(8)] for order in passes)


def test_other_spellings(tmp_path):
    members = [
        ("x/a.b.jpg", b"not the image"),
        *sample("x/a", 1, "PNG"),
        ("x/a.cls", b"7"),
        ("x/b.json", json.dumps({"said": " seen "}).encode()),
        ("x/b.webp", png((5, 0, 0))),
        (".hidden", b""),
    ]
    plain = tar(tmp_path / "a.tar", members).read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(plain))
    for name in ("a.tar", "b.tar.gz"):
        found = list(WebDataset([str(tmp_path / name)], json_field="said"))
        assert [(one.key, one.caption, one.image.getpixel((0, 0))[0]) for one in found] == [
            ("x/a", "caption x/a", 1),
            ("x/b", "seen", 5),
        ]


def test_names_may_have_periods(tmp_path):
    members = [one for number in range(3) for one in sample(f"x/photo.v2.{number}", number)]
    found = list(WebDataset(str(tar(tmp_path / "a.tar", members))))
    assert [(one.key, one.caption, one.image.getpixel((0, 0))[0]) for one in found] == [
        (f"x/photo.v2.{number}", f"caption x/photo.v2.{number}", number) for number in range(3)
    ]


@pytest.mark.parametrize("endings", [("0.png", "1.png"), ("png", "webp"), ("png", "1.png")])
def test_of_several_images_the_first_is_taken(tmp_path, endings):
    images = [(f"a.{ending}", png((number, 0, 0))) for number, ending in enumerate(endings)]
    stream = WebDataset(str(tar(tmp_path / "a.tar", [*images, ("a.txt", b"both"), *sample("b", 7)])))
    if endings == ("png", "1.png"):  # only one of them is an image by its ending
        found = list(stream)
    else:
        with pytest.warns(
            UserWarning, match=r"1 samples with several images, of which the first is taken .*sample a\)"
        ):
            found = list(stream)
    assert [(one.key, one.caption, one.image.getpixel((0, 0))[0]) for one in found] == [
        ("a", "both", 0),
        ("b", "caption b", 7),
    ]


def test_files_of_a_sample_may_lie_apart(tmp_path):
    members = [one for number in range(4) for one in sample(str(number), number)]
    apart = [*members[::2], *members[1::2]]
    found = list(WebDataset(str(tar(tmp_path / "a.tar", apart))))
    assert [(one.key, one.caption, one.image.getpixel((0, 0))[0]) for one in found] == [
        (str(number), f"caption {number}", number) for number in range(4)
    ]
    with pytest.raises(MalformedFileError, match=r"expected each file of a sample once, got a\.png again"):
        keys(WebDataset(str(tar(tmp_path / "b.tar", [("a.png", png()), ("b.png", png()), ("a.png", png())]))))


def test_a_caption_that_is_null_is_none(tmp_path):
    members = [("a.png", png()), ("a.json", b'{"caption": null, "url": "x"}'), *sample("b")]
    with pytest.warns(UserWarning, match=r"1 samples without a caption, left out \(first: .*sample a\)"):
        assert keys(WebDataset(str(tar(tmp_path / "a.tar", members)))) == ["b"]


def test_patterns(tmp_path):
    for name in ("a-08", "a-09", "a-10", "b-08", "b-09", "b-10"):
        write(tmp_path / f"{name}.tar", b"")
    found = expand_shards([str(tmp_path / "{a,b}-{08..10}.tar")])
    assert sorted(file.stem for file in found) == ["a-08", "a-09", "a-10", "b-08", "b-09", "b-10"]
    with pytest.raises(MalformedFileError, match=r"a-11\.tar: expected a shard, got nothing of that name"):
        expand_shards(str(tmp_path / "a-{10..11}.tar"))


DEFECTS = [
    *sample("whole"),
    ("broken.png", png()[:30]),
    ("broken.txt", b"x"),
    ("blind.txt", b"x"),
    ("dumb.png", png()),
    ("quiet.png", png()),
    ("quiet.txt", b" \n"),
]
SAID = (
    r"1 empty captions, kept .*sample quiet\).*1 samples without an image, left out .*sample blind\); "
    r"1 samples without a caption, .*sample dumb\)"
)


def test_defects_are_counted_in_a_stream(tmp_path):
    stream = WebDataset(str(tar(tmp_path / "a.tar", DEFECTS)))
    for _ in range(2):
        with pytest.warns(UserWarning, match=rf"1 broken images, .*sample broken\); {SAID}"):
            assert keys(stream) == ["whole", "quiet"]


def test_a_bounded_read_stays_in_memory_and_says_so_if_there_is_more(tmp_path):
    pattern = shards(tmp_path, count=2)
    with pytest.warns(UserWarning, match="limit: there are more than 4 samples; use WebDataset"):
        found = read_web_dataset(pattern, limit=4)
    assert (list(found.captions), list(found.groups)) == (
        [f"caption {k}" for k in ("00", "01", "02", "10")],
        ["00", "01", "02", "10"],
    )
    assert [image.getpixel((0, 0))[0] for image in found.images] == [0, 1, 2, 0]
    assert len(read_web_dataset(pattern, limit=6)) == 6
    with pytest.raises(ValueError, match="limit: expected a whole number, 1 or more, got 0"):
        read_web_dataset(pattern, limit=0)


def test_defects_are_counted_in_a_bounded_read(tmp_path):
    file = str(tar(tmp_path / "a.tar", DEFECTS))
    with pytest.warns(UserWarning, match=rf"1 broken images, .*sample broken\); {SAID}"):
        assert list(read_web_dataset(file).groups) == ["whole", "quiet"]
    with pytest.warns(UserWarning, match=SAID):
        unchecked = read_web_dataset(file, check_images=False)
    with pytest.raises(MalformedFileError, match=r"a\.tar, sample broken: expected an image that Pillow opens"):
        unchecked.images[1]


def whole():
    return [one for n in range(3) for one in sample(str(n), n)]


@pytest.mark.parametrize("cut", [1, 100, 512, 700, 1024, 1536, 2048, 2 * 1536, 3 * 2048 - 1])
def test_a_shard_that_ends_early_is_refused_wherever_it_ends(tmp_path, cut):
    file = tar(tmp_path / "a.tar", whole())
    content = file.read_bytes()
    assert keys(WebDataset(str(file))) == ["0", "1", "2"]
    write(file, content[:cut])
    with pytest.raises(MalformedFileError, match=r"a\.tar: expected a whole tar archive, got '.*' after .*; fetch"):
        keys(WebDataset(str(file)))


def test_joined_archives_are_refused(tmp_path):
    file = tar(tmp_path / "a.tar", whole())
    write(file, 2 * file.read_bytes())
    with pytest.raises(MalformedFileError, match=r"got 'more content behind the end mark' after 2\.txt"):
        keys(WebDataset(str(file)))


def test_a_header_broken_in_the_middle_is_refused(tmp_path):
    file = tar(tmp_path / "a.tar", whole())
    content = bytearray(file.read_bytes())
    content[1024:1034] = b"\xff" * 10
    write(file, bytes(content))
    with pytest.raises(MalformedFileError, match=r"expected a whole tar archive, got '.*' after 0\.png"):
        keys(WebDataset(str(file)))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([*sample("a"), ("a.txt", b"again")], r"expected each file of a sample once, got a\.txt again"),
        ([("a.png", png()), ("a.txt", b"\xff")], r"expected UTF-8 text in the caption of a"),
        ([("a.png", png()), ("a.json", b"{")], r"expected JSON in a\.json"),
        (
            [("a.png", png()), ("a.json", b'{"text": "x"}')],
            r"expected a text in field 'caption' of a\.json, got \{'text",
        ),
    ],
)
def test_malformed_samples_are_refused(tmp_path, members, message):
    with pytest.raises(MalformedFileError, match=message):
        keys(WebDataset(str(tar(tmp_path / "a.tar", members))))


def test_wrong_arguments_are_refused(tmp_path):
    pattern = shards(tmp_path, count=2)
    with pytest.raises(ValueError, match="shards: expected at least one for each of 3 ranks, got 2"):
        WebDataset(pattern, rank=0, ranks=3)
    with pytest.raises(ValueError, match="rank: expected one of 0 to ranks - 1"):
        WebDataset(pattern, rank=-1, ranks=2)
    with pytest.raises(ValueError, match="shards: expected at least one file"):
        WebDataset([])
    empty = str(tar(tmp_path / "empty.tar", []))
    assert keys(WebDataset(empty)) == []
    with pytest.raises(MalformedFileError, match=r"empty\.tar: expected images with captions, got none"):
        read_web_dataset(empty)
