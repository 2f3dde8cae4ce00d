"""A folder of images for each class, as torchvision's ``ImageFolder`` has them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from torch import Tensor

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.object_checks import check_choice, check_path
from lightning_normdyn.datasets.problems import Problems
from lightning_normdyn.datasets.reading.folder import require_folder
from lightning_normdyn.datasets.reading.labelled_pictures import ClassFolder, load_classes, subfolders
from lightning_normdyn.datasets.reading.lines import File
from lightning_normdyn.datasets.reading.picture import Mode, open_image, pillow, to_tensor
from lightning_normdyn.datasets.records import LabelledImages


def read_image_folder(folder: File, *, height: int, width: int, mode: Mode = "RGB") -> LabelledImages:
    """Reads ``<class>/**/*.png`` and other images into memory, all of one size.

    Classes are sorted by name, and each is its own group. Images are stretched to the size, smoothed where they shrink;
    broken ones, and files that are no images by their names, are left out and reported. Hidden files are not looked at.

    Args:
        folder: of the folders of classes; read the folder of each split on its own.
        height: of the result, in pixels.
        width: of the result, in pixels.
        mode: colours or grey.

    Raises:
        MalformedFileError: if the folder is missing or no image can be opened.
        ValueError: if a size is not positive.
    """
    check_path("folder", folder=folder)
    check_count(height=height, width=width)
    check_choice(get_args(Mode), mode=mode)
    root = require_folder(folder)
    problems = Problems(folder)
    smooth = pillow().Image.Resampling.BILINEAR

    def load(file: Path) -> Tensor:
        return to_tensor(open_image(file, name=file, mode=mode).resize((width, height), smooth))

    classes = [ClassFolder(path, path.name, path.name) for path in subfolders(root)]
    images = load_classes(folder, classes, load, problems)
    problems.report()
    return images
