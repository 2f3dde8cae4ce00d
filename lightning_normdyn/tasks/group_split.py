"""Splits a data set by whole groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def split_by_group(groups: Sequence[str], shares: Mapping[str, float], *, seed: int = 0) -> dict[str, Tensor]:
    """Deals out whole groups to splits.

    Groups come in an order drawn from the seed; each goes to the first split whose share it does not exceed, otherwise
    to ``train``. A split that got none takes the smallest group of those that have several.

    Args:
        groups: the group of each member.
        shares: split to the most members it gets, as a share of all; the rest is ``train``.
        seed: of the order.

    Returns:
        Split to the places of its members, ascending, int64; ``train`` is one of them.

    Raises:
        ValueError: if the shares leave nothing for training, or there are fewer groups than splits.

    Example:
        >>> split = split_by_group(["a", "a", "b", "c", "c", "c"], {"test": 0.4})
        >>> sorted(split), len(split["test"]) + len(split["train"])
        (['test', 'train'], 6)
    """
    if any(not share > 0 for share in shares.values()) or not sum(shares.values()) < 1:
        names = " and ".join(f"{split}_share" for split in shares)
        raise ValueError(f"shares: expected {names} above 0 that leave something for training, got {dict(shares)}")
    sizes = Counter(groups)
    if len(sizes) <= len(shares):
        raise ValueError(f"groups: expected at least {len(shares) + 1} to split, got {len(sizes)}")
    owner = _deal(sizes, {split: share * len(groups) for split, share in shares.items()}, seed)
    members: dict[str, list[int]] = {split: [] for split in ("train", *shares)}
    for place, group in enumerate(groups):
        members[owner[group]].append(place)
    return {split: torch.tensor(places, dtype=torch.int64) for split, places in members.items()}


def _deal(sizes: Mapping[str, int], room: Mapping[str, float], seed: int) -> dict[str, str]:
    """The split of each group."""
    left = dict(room)
    names = sorted(sizes)
    owner: dict[str, str] = {}
    for place in torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist():
        group = names[place]
        split = next((split for split in left if sizes[group] <= left[split]), "train")
        owner[group] = split
        if split in left:
            left[split] -= sizes[group]
    for split in left:
        if split not in owner.values():
            group_counts = Counter(owner.values())
            spare = [name for name in names if group_counts[owner[name]] > 1]
            owner[min(spare, key=lambda name: sizes[name])] = split
    return owner
