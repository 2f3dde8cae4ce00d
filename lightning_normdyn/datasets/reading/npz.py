"""Reads npy and npz files safely: arrays of numbers alone, no pickled objects."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_normdyn.datasets.problems import MalformedFileError
from lightning_normdyn.datasets.reading.lines import File, open_file

_WRITTEN = "write it with numpy, from an array of numbers"


def read_npz(file: File) -> dict[str, Any]:
    """Reads all arrays of a ``.npz`` file.

    Raises:
        MalformedFileError: if it is missing or no whole archive of arrays of numbers.
    """
    with open_file(file) as stream:
        try:
            with np.load(stream, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except Exception as error:  # a broken archive or header can raise anything
            raise MalformedFileError(file, None, "a whole .npz file of numbers", _came(error), _WRITTEN) from None


def read_npy(file: File) -> Any:
    """Reads the array of a ``.npy`` file.

    Raises:
        MalformedFileError: if it is missing or no whole array of numbers.
    """
    with open_file(file) as stream:
        try:
            return np.lib.format.read_array(stream, allow_pickle=False)
        except Exception as error:  # a broken header can raise anything
            raise MalformedFileError(file, None, "a whole .npy file of numbers", _came(error), _WRITTEN) from None


def _came(error: Exception) -> str:
    """What came, in numpy's words but for its hint to load pickled objects, which run code."""
    return "'Object arrays', or a file of another kind" if "pickle" in str(error) else f"'{error}'"
