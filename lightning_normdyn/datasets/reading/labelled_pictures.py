"""Decodes folders of image files, one folder a class, into one labelled tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.lines import File
from lightning_normdyn.datasets.reading.picture import SUFFIXES
from lightning_normdyn.datasets.records import LabelledImages


class ClassFolder(NamedTuple):
    """A folder whose images are of one class."""

    folder: Path
    name: str
    group: str


def load_classes(
    source: File, classes: Sequence[ClassFolder], load: Callable[[Path], Tensor], problems: Problems
) -> LabelledImages:
    """Decodes the images of all classes.

    Args:
        source: where they come from, for errors.
        classes: in the order of their labels; those without an image that can be opened are left out and counted.
        load: takes a file as uint8 ``[channels, height, width]``.
        problems: where broken images and files that are no images, all left out, are counted.

    Raises:
        MalformedFileError: if no image is left.
    """
    images: list[Tensor] = []
    labels: list[int] = []
    loaded_classes: list[ClassFolder] = []
    for class_folder in classes:
        class_images = [
            image
            for file in _image_files(class_folder.folder, problems)
            if (image := _load(file, load, problems)) is not None
        ]
        if not class_images:
            problems.count("classes without an image, left out", line=str(class_folder.folder))
            continue
        labels += [len(loaded_classes)] * len(class_images)
        images += class_images
        loaded_classes.append(class_folder)
    if not images:
        raise MalformedFileError(source, None, "folders of images, one a class", str(problems.counts or "none"))
    return LabelledImages(
        torch.stack(images),
        torch.tensor(labels),
        [class_folder.name for class_folder in loaded_classes],
        [class_folder.group for class_folder in loaded_classes],
    )


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, hidden ones left out, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _load(file: Path, load: Callable[[Path], Tensor], problems: Problems) -> Tensor | None:
    try:
        return load(file)
    except MalformedFileError:
        problems.count("broken images, left out", line=str(file))
        return None


def _image_files(folder: Path, problems: Problems) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    for file in files:
        if file.suffix.lower() not in SUFFIXES:
            problems.count("files that are no images by their names, left out", line=str(file))
    return [file for file in files if file.suffix.lower() in SUFFIXES]
