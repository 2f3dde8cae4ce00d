"""Reproducible train, validation and test splits of groups, decided by a digest of their names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def in_digest_order(names: Iterable[str]) -> list[str]:
    """Puts names in an order that has nothing to do with what they say, the same in every process."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def split_groups(sizes: Mapping[str, int], *, share: float = 0.1) -> dict[str, Split]:
    """Deals whole groups to the splits.

    In the order of the SHA-256 of their names, a group goes to ``test`` if it fits into what is left of its share, else
    to ``validation`` if it fits there, else to ``train``.

    Args:
        sizes: members of each group.
        share: of all members, at most, in ``validation``, and as many in ``test``.

    Returns:
        The split of each group.

    Example:
        >>> split_groups({"a": 5, "b": 1, "c": 1, "d": 3})
        {'d': 'train', 'c': 'test', 'b': 'validation', 'a': 'train'}
    """
    left: dict[Split, float] = {name: share * sum(sizes.values()) for name in ("test", "validation")}
    splits: dict[str, Split] = {}
    for group in in_digest_order(sizes):
        split: Split = next((name for name, room in left.items() if sizes[group] <= room), "train")
        splits[group] = split
        if split in left:
            left[split] -= sizes[group]
    return splits
