"""CIFAR-10's batches, and how people labelled its test images (CIFAR-10H, arXiv 1908.07086)."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_normdyn.core.object_checks import check_path, check_sequence
from lightning_normdyn.datasets.problems import MalformedFileError
from lightning_normdyn.datasets.reading.folder import require_file, require_folder
from lightning_normdyn.datasets.reading.lines import File, open_file
from lightning_normdyn.datasets.reading.npz import read_npy
from lightning_normdyn.datasets.records import LabelledImages

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_PIXELS = 3 * 32 * 32
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
"""What a batch needs to be unpickled; anything else could run code."""


def read_cifar10h(folder: File, *, soft_labels: File | None = None) -> LabelledImages:
    """Reads the test images with the share of people who said each class.

    Args:
        folder: of ``test_batch``, or of ``cifar-10-batches-py``.
        soft_labels: ``cifar10h-probs.npy``; by default the one beside the batch or in ``folder``.

    Raises:
        MalformedFileError: if a file is missing or does not hold what it should.
    """
    check_path("folder", folder=folder)
    batch = _batch_folder(folder) / "test_batch"
    images = read_cifar10([batch])
    if soft_labels is None:
        root = require_folder(folder)
        inside = batch.with_name("cifar10h-probs.npy")
        soft_labels = inside if inside.is_file() else require_file(root, "cifar10h-probs.npy")
    shares = _shares(soft_labels, len(images.labels))
    return LabelledImages(images.images, images.labels, images.classes, images.groups, shares)


def read_cifar10(batches: Sequence[File]) -> LabelledImages:
    """Reads batches of CIFAR-10's Python version, one after the other; each class is its own group.

    They are pickles: only what makes up an array is unpickled, and anything else is refused.

    Args:
        batches: such as ``data_batch_1`` to ``data_batch_5``.

    Raises:
        MalformedFileError: if a file is missing or does not hold what it should.
    """
    check_sequence(batches=batches)
    if not batches:
        raise ValueError("batches: expected at least one file, got none")
    batch_pairs = [_read_batch(file) for file in batches]
    images = torch.cat([images for images, _ in batch_pairs])
    return LabelledImages(images, torch.cat([labels for _, labels in batch_pairs]), CLASSES, CLASSES)


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        return super().find_class(module.replace("numpy.core", "numpy._core") if _NEW_NUMPY else module, name)


_NEW_NUMPY = int(np.__version__.split(".")[0]) >= 2


def _read_batch(file: File) -> tuple[Tensor, Tensor]:
    with open_file(file) as stream:
        data = stream.read()
    try:
        batch = _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a broken pickle can raise anything
        raise MalformedFileError(file, None, "a batch of CIFAR-10", f"'{error}'", "fetch the file again") from None
    if not isinstance(batch, dict) or not {b"data", b"labels"} <= batch.keys():
        raise MalformedFileError(file, None, "a batch with 'data' and 'labels'", type(batch).__name__)
    images, labels = batch[b"data"], batch[b"labels"]
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (_PIXELS,):
        raise MalformedFileError(file, None, f"'data' as uint8 [n, {_PIXELS}]", _shape(images))
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < len(CLASSES) for label in labels):
        raise MalformedFileError(file, None, "'labels' from 0 to 9", repr(labels)[:80])
    if len(labels) != len(images) or not labels:
        raise MalformedFileError(file, None, "a label for each image", f"{len(labels)} for {len(images)}")
    return torch.tensor(images).view(-1, 3, 32, 32), torch.tensor(labels)


def _shares(file: File, count: int) -> Tensor:
    shares = read_npy(file)
    if shares.shape != (count, len(CLASSES)) or shares.dtype.kind != "f":
        raise MalformedFileError(file, None, f"shares [{count}, {len(CLASSES)}]", _shape(shares))
    wrong = ~((shares >= 0).all(1) & (np.abs(shares.sum(1) - 1) < 1e-3))
    if wrong.any():
        row = int(wrong.argmax())
        raise MalformedFileError(file, row + 1, "shares that add up to 1", str(shares[row].tolist()))
    return torch.tensor(shares, dtype=torch.float32)


def _shape(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def _batch_folder(folder: File) -> Path:
    root = require_folder(folder)
    inside = root / "cifar-10-batches-py"
    return inside if inside.is_dir() else root
