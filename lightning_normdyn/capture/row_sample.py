"""Which rows of a table are tracked, and where the statistics of each of them are."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

RowCounts = Any
"""``None``, or how often each row occurs: numbers in a tensor, an array, a list or a file that ``numpy.save`` wrote."""

_CHUNK = 2**20  # rows whose counts are looked at together
_EXPONENTS = 64


class RowSample:
    """Rows at an even stride, all of them where they are few enough.

    A slot is the place of a tracked row among the tracked ones. Nothing here is as large as the table.

    Args:
        rows: of the table.
        most_rows: most that are tracked.

    Attributes:
        rows: of the table.
        size: how many are tracked.
        stride: every ``stride``-th is; 0 where they are chosen otherwise.

    Example:
        >>> sample = RowSample(100_000_000, 16_384)
        >>> sample.size, sample.stride
        (16383, 6104)
        >>> sample.slots(torch.tensor([0, 6_104, 6_105])).tolist()  # the last is not tracked
        [0, 1, 16383]
    """

    def __init__(self, rows: int, most_rows: int) -> None:
        self.rows = rows
        self.stride = -(-rows // most_rows)
        self.size = -(-rows // self.stride)

    @property
    def is_whole(self) -> bool:
        """Whether every row is tracked."""
        return self.size == self.rows

    def numbers(self, slots: Tensor | None = None) -> Tensor:
        """The row of the table that each slot stands for, ``[size]``, or each of some slots."""
        if slots is None:
            return torch.arange(0, self.rows, self.stride)
        return slots if self.stride == 1 else slots * self.stride

    def slots(self, rows: Tensor) -> Tensor:
        """The slot of each row; rows that are not tracked share the slot ``size``."""
        if self.stride == 1:
            return rows
        return torch.where(rows % self.stride == 0, rows // self.stride, self.size)

    def of(self, table: Tensor) -> Tensor:
        """The tracked rows of a table, ``[size, ...]``: a view, or a copy."""
        return table[:: self.stride]

    def within(self, start: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The slots of the tracked rows from one row on and before another, and how far from the first each lies."""
        slots = torch.arange(-(-start // self.stride), max(-(-stop // self.stride), -(-start // self.stride)))
        return slots.to(device), (slots * self.stride - start).to(device)

    @property
    def weights(self) -> Tensor | None:
        """How many rows of the table each slot stands for, ``[size]``; ``None`` where all stand for as many."""
        return None

    @property
    def digest(self) -> int:
        """Tells samples of the same table, size and stride apart."""
        return 0


class StratifiedSample(RowSample):
    """Rows chosen by how often they occur: as many of each octave of counts, so that frequent and rare ones are there.

    Rows that never occur are an octave of their own. An octave with fewer rows than its share is tracked whole, and
    the others share the rest; within one, rows lie at even distances.

    Args:
        counts: how often each row occurs, ``[rows]``, or any numbers in proportion to it.
        most_rows: most that are tracked.

    Example:
        >>> counts = torch.ones(1_000)
        >>> counts[500:502] = 900
        >>> sample = StratifiedSample(counts, 6)
        >>> sample.numbers().tolist(), sample.weights.tolist()
        ([0, 332, 500, 501, 666, 999], [249.5, 249.5, 1.0, 1.0, 249.5, 249.5])
    """

    def __init__(self, counts: Tensor, most_rows: int) -> None:
        self.rows, self.stride = len(counts), 0
        populations = torch.zeros(2 * _EXPONENTS + 1, dtype=torch.int64)
        for octaves in map(_octaves, counts.split(_CHUNK)):
            populations += octaves.bincount(minlength=len(populations))
        self._numbers, self._weights = _choose(counts, populations, _shares(populations.tolist(), most_rows))
        self.size = len(self._numbers)
        self._by_device: dict[torch.device, Tensor] = {}

    def numbers(self, slots: Tensor | None = None) -> Tensor:
        """The row of the table that each slot stands for, in order, ``[size]``, or each of some slots."""
        return self._numbers if slots is None else self._on(slots.device)[slots]

    def slots(self, rows: Tensor) -> Tensor:
        """The slot of each row; rows that are not tracked share the slot ``size``."""
        numbers = self._on(rows.device)
        places = torch.searchsorted(numbers, rows.contiguous()).clamp_(max=self.size - 1)
        return torch.where(numbers[places] == rows, places, self.size)

    def of(self, table: Tensor) -> Tensor:
        """The tracked rows of a table, ``[size, ...]``, a copy."""
        return table.index_select(0, self._on(table.device))

    def within(self, start: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The slots of the tracked rows from one row on and before another, and how far from the first each lies."""
        first, last = torch.searchsorted(self._numbers, torch.tensor([start, max(start, stop)])).tolist()
        return torch.arange(first, last, device=device), (self._numbers[first:last] - start).to(device)

    @property
    def weights(self) -> Tensor | None:
        """How many rows of the table each slot stands for, ``[size]``."""
        return self._weights

    @property
    def digest(self) -> int:
        """A checksum of the rows."""
        return zlib.crc32(self._numbers.numpy().tobytes())

    def _on(self, device: torch.device) -> Tensor:
        if device not in self._by_device:
            self._by_device[device] = self._numbers.to(device)
        return self._by_device[device]


def _octaves(counts: Tensor) -> Tensor:
    """The octave of each count, from 1 on; 0 for rows that do not occur."""
    exponents = torch.frexp(counts.double())[1].clamp(1 - _EXPONENTS, _EXPONENTS).long() + _EXPONENTS
    return exponents.where(counts > 0, 0)


def _shares(populations: list[int], most_rows: int) -> list[int]:
    """How many rows of each octave are tracked: those of a small one, and as many of all others."""
    shares, budget = [0] * len(populations), most_rows
    octaves = sorted((population, octave) for octave, population in enumerate(populations) if population)
    for place, (population, octave) in enumerate(octaves):
        shares[octave] = min(population, -(-budget // (len(octaves) - place)))
        budget -= shares[octave]
    return shares


def _choose(counts: Tensor, populations: Tensor, shares: list[int]) -> tuple[Tensor, Tensor]:
    """The numbers of the chosen rows in order, and how many rows each stands for."""
    ordinals = {
        octave: torch.arange(share) * (int(populations[octave]) - 1) // max(1, share - 1)
        for octave, share in enumerate(shares)
        if share
    }
    passed = dict.fromkeys(ordinals, 0)
    chosen: list[tuple[Tensor, float]] = []
    for chunk_number, octaves in enumerate(map(_octaves, counts.split(_CHUNK))):
        for octave in octaves.unique().tolist():
            if octave not in ordinals:
                continue
            members = (octaves == octave).nonzero().squeeze(1)
            wanted = ordinals[octave] - passed[octave]
            wanted = wanted[(wanted >= 0) & (wanted < len(members))]
            weight = int(populations[octave]) / shares[octave]
            chosen.append((members[wanted] + chunk_number * _CHUNK, weight))
            passed[octave] += len(members)
    numbers = torch.cat([numbers for numbers, _ in chosen])
    weights = torch.cat([torch.full((len(numbers),), weight, dtype=torch.float64) for numbers, weight in chosen])
    order = numbers.argsort()
    return numbers[order], weights[order]


def sample_of(rows: int, most_rows: int, counts: RowCounts = None, *, table: str = "the table") -> RowSample:
    """Which rows of a table to track.

    Args:
        rows: of the table.
        most_rows: most that are tracked.
        counts: how often each row occurs; ``None`` for rows at an even stride.
        table: its name, for the message.

    Raises:
        ValueError: if there is not one count, finite and not negative, for each row.

    Example:
        >>> sample_of(5, 10, [3, 0, 0, 1, 9]).is_whole
        True
    """
    if counts is None:
        return RowSample(rows, most_rows)
    numbers = check_row_counts(counts, rows=rows, table=table)
    return RowSample(rows, most_rows) if rows <= most_rows else StratifiedSample(numbers, most_rows)


def check_row_counts(counts: RowCounts, *, rows: int, table: str) -> Tensor:
    """The counts as a tensor ``[rows]``.

    Raises:
        ValueError: if there is not one, finite and not negative, for each row.
    """
    numbers = _as_tensor(counts)
    if numbers.shape != (rows,):
        raise ValueError(
            f"row_counts: expected a count for each of the {rows} rows of '{table}', got {tuple(numbers.shape)}; "
            "torch.bincount(ids, minlength=rows) makes them"
        )
    for number, chunk in enumerate(numbers.split(_CHUNK)):
        is_wrong = ~((chunk >= 0) & chunk.isfinite())
        if bool(is_wrong.any()):
            row = int(is_wrong.nonzero()[0])
            raise ValueError(
                f"row_counts: expected finite counts of 0 or more for '{table}', got one of {float(chunk[row]):g}, "
                f"that of row {number * _CHUNK + row}; torch.bincount(ids, minlength=rows) makes them"
            )
    return numbers


def check_counts_source(counts: RowCounts) -> RowCounts:
    """Refuses what can count no rows, and a file that is not there.

    Raises:
        ValueError: with what was expected.

    Example:
        >>> check_counts_source(3)
        Traceback (most recent call last):
            ...
        ValueError: row_counts: expected a count for each row (a tensor, an array, a list, the path of a file that ...
    """
    if isinstance(counts, Mapping):
        for source in counts.values():
            check_counts_source(source)
    elif isinstance(counts, (str, os.PathLike)):
        if not Path(counts).is_file():
            raise ValueError(f"row_counts: no file '{os.fspath(counts)}'; numpy.save the count of each row there")
    elif counts is not None and not isinstance(counts, (Tensor, np.ndarray, list, tuple)):
        raise ValueError(
            "row_counts: expected a count for each row (a tensor, an array, a list, the path of a file that numpy.save "
            f"wrote), or a dict of target names to these, got {counts!r}"
        )
    return counts


def _as_tensor(counts: RowCounts) -> Tensor:
    try:
        if isinstance(counts, Tensor):
            if counts.is_complex() or counts.layout is not torch.strided or counts.is_meta:
                raise TypeError(f"a tensor of {counts.dtype}, {counts.layout}, on {counts.device}")
            return counts.detach().cpu()
        array = np.load(counts) if isinstance(counts, (str, os.PathLike)) else np.asarray(counts)
        if array.dtype.kind in "cV":  # astype would take the first part of each
            raise TypeError(f"an array of {array.dtype}")
        is_plain = array.flags.writeable and array.dtype.kind in "if"
        return torch.from_numpy(array if is_plain else array.astype(np.float64))
    except (TypeError, ValueError, OSError) as error:
        raise ValueError(
            f"row_counts: expected numbers, one a row, got what cannot be read as such ({error})"
        ) from error
