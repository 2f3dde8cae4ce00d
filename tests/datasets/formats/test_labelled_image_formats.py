"""Image folders, Omniglot and CIFAR-10H give the tensors that plain Pillow and Python loops give."""

from __future__ import annotations

import os
import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from small_files import png, rows, write

from lightning_normdyn.datasets import MalformedFileError
from lightning_normdyn.datasets.formats import read_cifar10, read_cifar10h, read_image_folder, read_omniglot


def noise(path, size, mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = random.Random(seed).randbytes(size[0] * size[1] * len(mode))
    Image.frombytes(mode, size, data).save(path)
    return path


def image_folder(folder):
    noise(folder / "b" / "deep" / "1.png", (9, 6), seed=1)
    noise(folder / "b" / "0.PNG", (4, 8), seed=2)
    noise(folder / "a" / "0.bmp", (5, 5), seed=3)
    return folder


def test_an_image_folder_is_stretched_to_one_size(tmp_path):
    write(image_folder(tmp_path) / "a" / ".DS_Store", "hidden")
    found = read_image_folder(tmp_path, height=4, width=6)
    assert (found.images.shape, found.images.dtype) == ((3, 3, 4, 6), torch.uint8)
    assert (list(found.classes), list(found.groups), found.labels.tolist()) == (["a", "b"], ["a", "b"], [0, 1, 1])
    for image, name in zip(found.images, ("a/0.bmp", "b/0.PNG", "b/deep/1.png"), strict=True):
        expected = Image.open(tmp_path / name).resize((6, 4), Image.Resampling.BILINEAR)
        pixels = [[[expected.getpixel((x, y))[c] for x in range(6)] for y in range(4)] for c in range(3)]
        assert image.tolist() == pixels
    assert read_image_folder(tmp_path, height=4, width=6, mode="L").images.shape == (3, 1, 4, 6)


def test_broken_images_other_files_and_empty_classes_are_reported(tmp_path):
    write(image_folder(tmp_path) / "a" / "broken.png", png()[:30])
    write(tmp_path / "b" / "notes.txt", "text")
    (tmp_path / "aa").mkdir()
    said = (
        r"1 broken images, .*broken\.png\); 1 classes without an image, .*aa\); 1 files that are no images.*notes\.txt"
    )
    with pytest.warns(UserWarning, match=said):
        found = read_image_folder(tmp_path, height=4, width=4)
    assert (list(found.classes), found.labels.tolist()) == (["a", "b"], [0, 1, 1])


def test_wrong_image_folders_are_refused(tmp_path):
    with pytest.raises(MalformedFileError, match="expected folders of images, one a class, got none"):
        read_image_folder(tmp_path, height=4, width=4)
    with pytest.raises(MalformedFileError, match="expected a folder, got nothing of that name"):
        read_image_folder(tmp_path / "no", height=4, width=4)
    with pytest.raises(ValueError, match="height: expected a whole number, 1 or more, got 0"):
        read_image_folder(tmp_path, height=0, width=4)


def test_omniglot_folders_have_ink_on_nothing(tmp_path):
    for alphabet, character in (("Greek", "character01"), ("Greek", "character02"), ("Latin", "character01")):
        image = Image.new("1", (12, 12), 1)
        image.paste(0, (0, 0, 3, 6))
        (tmp_path / "images_background" / alphabet / character).mkdir(parents=True)
        for drawer in range(2):
            image.save(tmp_path / "images_background" / alphabet / character / f"0001_{drawer:02}.png")
    found = read_omniglot(tmp_path, side=4)
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert list(found.classes) == ["Greek/character01", "Greek/character02", "Latin/character01"]
    assert list(found.groups) == ["Greek", "Greek", "Latin"]
    expected = [[255, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert found.images.tolist() == [[expected]] * 6
    assert read_omniglot(tmp_path / "images_background").images.shape == (6, 1, 28, 28)


@pytest.mark.parametrize("side", [5, 28, 105])
def test_packed_bits_are_read_row_by_row(tmp_path, side):
    drawn = [[random.Random(n).randrange(2) for _ in range(side * side)] for n in range(3)]
    packed = []
    for bits in drawn:
        padded = bits + [0] * (-len(bits) % 8)
        packed.append([int("".join(map(str, padded[at : at + 8])), 2) for at in range(0, len(padded), 8)])
    np.savez(tmp_path / "a.npz", bits=np.array(packed, np.uint8), label=np.array([1, 0, 1], np.int16))
    write(tmp_path / "classes.tsv", rows(("label", "alphabet", "character"), (0, "Greek", "01"), (1, "Greek", "02")))
    found = read_omniglot(tmp_path, side=None if side > 5 else side)
    assert found.images.flatten(1).tolist() == [[255 * bit for bit in bits] for bits in drawn]
    assert (found.labels.tolist(), list(found.classes)) == ([1, 0, 1], ["Greek/01", "Greek/02"])


def test_plain_arrays_without_names(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([2, 0]))
    found = read_omniglot(tmp_path / "a.npz")
    assert (found.images.tolist(), list(found.classes)) == ([[image] for image in images.tolist()], ["0", "1", "2"])


BITS, LABEL = np.zeros((2, 2), np.uint8), np.array([0, 1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"label": LABEL}, r"a\.npz: expected an array 'images' or 'bits', got the arrays \['label'\]"),
        ({"bits": BITS}, r"expected an array 'labels' or 'label', got"),
        ({"bits": BITS.astype(int), "label": LABEL}, r"expected 'bits' as uint8 \[n, bytes\], got int64 \[2, 2\]"),
        ({"images": BITS, "label": LABEL}, r"expected 'images' as uint8 \[n, height, width\], got uint8 \[2, 2\]"),
        ({"bits": BITS, "label": LABEL[:1]}, r"expected 2 labels, whole numbers from 0, got int64 \[1\]"),
        ({"bits": BITS, "label": -LABEL}, r"expected 2 labels, whole numbers from 0"),
        ({"bits": BITS, "label": 2 * LABEL}, r"expected labels below 2, as classes\.tsv has, got 2; add the class"),
        ({"bits": np.zeros((2, 3), np.uint8), "label": LABEL}, r"expected 2 bytes for 4 x 4 bits, got 3; pass side"),
        ({"bits": BITS, "label": np.array([{}, {}])}, r"expected a whole \.npz file of numbers, got 'Object arrays"),
    ],
)
def test_malformed_arrays_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    write(tmp_path / "classes.tsv", rows(("label", "alphabet", "character"), (0, "a", "1"), (1, "a", "2")))
    with pytest.raises(MalformedFileError, match=message):
        read_omniglot(tmp_path)


def test_broken_archives_and_names_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", bits=BITS, label=LABEL)
    write(tmp_path / "classes.tsv", rows(("label", "alphabet", "character"), (1, "a", "1")))
    with pytest.raises(MalformedFileError, match=r"classes\.tsv, line 2: expected label 0, got '1'; sort the rows"):
        read_omniglot(tmp_path)
    write(tmp_path / "b.npz", (tmp_path / "a.npz").read_bytes()[:-30])
    with pytest.raises(MalformedFileError, match=r"expected one \.npz file, got a\.npz, b\.npz; name it"):
        read_omniglot(tmp_path)
    with pytest.raises(MalformedFileError, match=r"b\.npz: expected a whole \.npz file of numbers"):
        read_omniglot(tmp_path / "b.npz")


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)


def batch(folder, name="test_batch", protocol=2, **changed):
    content = {b"data": PIXELS, b"labels": [3, 0, 9], b"filenames": [b"a", b"b", b"c"]}
    content |= {key.encode(): value for key, value in changed.items()}
    return write(folder / name, pickle.dumps(content, protocol=protocol))


def shares(folder, values=None):
    np.save(folder / "cifar10h-probs.npy", np.eye(10)[[3, 1, 9]] if values is None else np.array(values))


def python_2(data):
    """The same pickle as Python 2 and numpy of that time wrote it: texts of bytes, numpy.core."""
    return data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_cifar10h_has_pixels_labels_and_shares(tmp_path, protocol):
    inside = tmp_path / "cifar-10-batches-py"
    file = batch(inside, protocol=protocol)
    if protocol < 4:
        write(file, python_2(file.read_bytes()))
    shares(tmp_path)
    found = read_cifar10h(tmp_path)
    assert found.images.tolist() == [
        [[[int(row[c * 1024 + y * 32 + x]) for x in range(32)] for y in range(32)] for c in range(3)] for row in PIXELS
    ]
    assert found.labels.tolist() == [3, 0, 9]
    assert [found.classes[label] for label in found.labels] == ["cat", "airplane", "truck"]
    assert found.soft_labels.argmax(1).tolist() == [3, 1, 9]
    (tmp_path / "cifar10h-probs.npy").rename(inside / "cifar10h-probs.npy")
    assert torch.equal(read_cifar10h(inside).soft_labels, found.soft_labels)


def test_batches_are_read_one_after_the_other(tmp_path):
    found = read_cifar10([batch(tmp_path, "data_batch_1"), batch(tmp_path, "data_batch_2", labels=[1, 2, 3])])
    assert (found.images.shape, found.labels.tolist()) == ((6, 3, 32, 32), [3, 0, 9, 1, 2, 3])
    assert found.soft_labels is None
    with pytest.raises(ValueError, match="batches: expected at least one file"):
        read_cifar10([])


class Malicious:
    def __reduce__(self):
        return os.mkdir, (self.target,)

    def __init__(self, target):
        self.target = target


def test_a_pickle_runs_no_code(tmp_path):
    file = batch(tmp_path, labels=Malicious(str(tmp_path / "made")))
    with pytest.raises(
        MalformedFileError, match=r"expected a batch of CIFAR-10, got '\w+\.mkdir is no part of an array'"
    ):
        read_cifar10([file])
    assert not (tmp_path / "made").exists()
    pickle.loads(file.read_bytes())
    assert (tmp_path / "made").exists(), "the pickle would not have done anything"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": PIXELS.astype(int)}, r"expected 'data' as uint8 \[n, 3072\], got int64 \[3, 3072\]"),
        ({"data": [1]}, r"expected 'data' as uint8 \[n, 3072\], got list"),
        ({"labels": [1, 2, 10]}, r"expected 'labels' from 0 to 9, got \[1, 2, 10\]"),
        ({"labels": [1, 2]}, r"expected a label for each image, got 2 for 3"),
    ],
)
def test_malformed_batches_are_refused(tmp_path, changed, message):
    with pytest.raises(MalformedFileError, match=message):
        read_cifar10([batch(tmp_path, **changed)])


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1]), pickle.dumps({b"data": PIXELS})[:-40]])
def test_what_is_no_batch_is_refused(tmp_path, content):
    with pytest.raises(MalformedFileError, match=r"test_batch: expected a batch"):
        read_cifar10([write(tmp_path / "test_batch", content)])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.eye(10)[:2], r"probs\.npy: expected shares \[3, 10\], got float64 \[2, 10\]"),
        (2 * np.eye(10)[:3], r"probs\.npy, line 1: expected shares that add up to 1, got \[2\.0, 0\.0"),
        (np.full((3, 10), np.nan), r"line 1: expected shares that add up to 1"),
    ],
)
def test_malformed_shares_are_refused(tmp_path, values, message):
    batch(tmp_path)
    shares(tmp_path, values)
    with pytest.raises(MalformedFileError, match=message):
        read_cifar10h(tmp_path)


def test_missing_and_cut_shares_are_refused(tmp_path):
    batch(tmp_path)
    with pytest.raises(MalformedFileError, match=r"expected a file cifar10h-probs\.npy"):
        read_cifar10h(tmp_path)
    shares(tmp_path)
    file = tmp_path / "cifar10h-probs.npy"
    whole = file.read_bytes()
    for cut in (whole[:-8], whole.replace(b"(3, 10)", b"(L, 10 "), b"text"):
        with pytest.raises(MalformedFileError, match=r"expected a whole \.npy file of numbers"):
            read_cifar10h(tmp_path, soft_labels=write(file, cut))
