"""Omniglot: handwritten characters of fifty alphabets (Lake et al., Science 2015)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_normdyn.core.object_checks import check_path
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.folder import find_file, require_folder
from lightning_normdyn.datasets.reading.labelled_pictures import ClassFolder, load_classes, subfolders
from lightning_normdyn.datasets.reading.lines import File
from lightning_normdyn.datasets.reading.npz import read_npz
from lightning_normdyn.datasets.reading.picture import open_image, pillow, to_tensor
from lightning_normdyn.datasets.reading.rows import read_columns
from lightning_normdyn.datasets.records import LabelledImages

Part = Literal["images_background", "images_evaluation"]


def read_omniglot(path: File, *, side: int | None = None, part: Part = "images_background") -> LabelledImages:
    """Reads drawings as ``[n, 1, side, side]`` with ink 255 on paper 0; groups of classes are their alphabets.

    Paper is 0, though the published images are black on white, because few-shot networks are trained so: what a
    convolution pads images with is then paper. Classes are named ``alphabet/character``.

    Args:
        path: folders ``<alphabet>/<character>/*.png``, or the folder of ``images_background``; or a ``.npz`` file, or
            the folder of the only one, with ``images`` (uint8 ``[n, height, width]``, ink 255) or ``bits``
            (:func:`numpy.packbits` of each square image, ink 1), and ``labels`` or ``label``. ``classes.tsv`` beside
            it, with the columns label, alphabet and character, names the classes.
        side: of the result in pixels: images shrink to it by means of areas, and 28 is the default; of packed bits,
            what they were packed from, by default the largest square that fits.
        part: which half of the published set, where the folder has both.

    Raises:
        MalformedFileError: if a file is missing or does not hold what it should. Broken images are left out and
            reported.
    """
    check_path("folder", path=path)
    root = Path(path)
    if root.suffix == ".npz":
        return _from_npz(root, side)
    require_folder(root)
    archives = sorted(root.glob("*.npz"))
    if len(archives) > 1:
        raise MalformedFileError(path, None, "one .npz file", ", ".join(file.name for file in archives), "name it")
    if archives:
        return _from_npz(archives[0], side)
    return _from_folders(root / part if (root / part).is_dir() else root, 28 if side is None else side)


def _from_folders(root: Path, side: int) -> LabelledImages:
    problems = Problems(root)
    library = pillow()

    def load(file: Path) -> Tensor:
        ink = library.ImageOps.invert(open_image(file, name=file, mode="L"))
        return to_tensor(ink.resize((side, side), library.Image.Resampling.BOX))

    classes = [
        ClassFolder(character, f"{alphabet.name}/{character.name}", alphabet.name)
        for alphabet in subfolders(root)
        for character in subfolders(alphabet)
    ]
    images = load_classes(root, classes, load, problems)
    problems.report()
    return images


def _from_npz(file: Path, side: int | None) -> LabelledImages:
    arrays = read_npz(file)
    images = _images(file, arrays, side)
    labels = _labels(file, arrays, len(images))
    largest = int(labels.max())
    class_names = _read_classes(file.parent)
    if class_names is None:
        numbers = [str(label) for label in range(largest + 1)]
        return LabelledImages(images, labels, numbers, numbers)
    if largest >= len(class_names[0]):
        expected = f"labels below {len(class_names[0])}, as classes.tsv has"
        raise MalformedFileError(file, None, expected, str(largest), "add the class")
    return LabelledImages(images, labels, *class_names)


def _images(file: Path, arrays: Mapping[str, Any], side: int | None) -> Tensor:
    if "images" in arrays:
        images = arrays["images"]
        if images.dtype != np.uint8 or images.ndim != 3 or not images.size:
            raise MalformedFileError(
                file, None, "'images' as uint8 [n, height, width]", f"{images.dtype} {list(images.shape)}"
            )
        return torch.from_numpy(images).unsqueeze(1)
    if "bits" not in arrays:
        raise MalformedFileError(file, None, "an array 'images' or 'bits'", f"the arrays {sorted(arrays)}")
    bits = arrays["bits"]
    if bits.dtype != np.uint8 or bits.ndim != 2 or not bits.size:
        raise MalformedFileError(file, None, "'bits' as uint8 [n, bytes]", f"{bits.dtype} {list(bits.shape)}")
    side = math.isqrt(8 * bits.shape[1]) if side is None else side
    if (side * side + 7) // 8 != bits.shape[1]:
        raise MalformedFileError(
            file, None, f"{(side * side + 7) // 8} bytes for {side} x {side} bits", str(bits.shape[1]), "pass side"
        )
    ink = np.unpackbits(bits, axis=1, count=side * side).reshape(-1, 1, side, side)
    return torch.from_numpy(ink * np.uint8(255))


def _labels(file: Path, arrays: Mapping[str, Any], count: int) -> Tensor:
    labels = arrays.get("labels", arrays.get("label"))
    if labels is None:
        raise MalformedFileError(file, None, "an array 'labels' or 'label'", f"the arrays {sorted(arrays)}")
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < 0:
        came = f"{labels.dtype} {list(labels.shape)}"
        raise MalformedFileError(file, None, f"{count} labels, whole numbers from 0", came)
    return torch.from_numpy(labels.astype(np.int64))


def _read_classes(folder: Path) -> tuple[list[str], list[str]] | None:
    file = find_file(folder, "classes.tsv")
    if file is None:
        return None
    classes: list[str] = []
    groups: list[str] = []
    for line, (label, alphabet, character) in read_columns(file, "label", "alphabet", "character"):
        if label.strip() != str(len(classes)):
            raise MalformedFileError(file, line, f"label {len(classes)}", repr(label), "sort the rows by label")
        classes.append(f"{alphabet}/{character}")
        groups.append(alphabet)
    return classes, groups
