"""Splits by group: nobody is parted, nothing is empty, equal seeds agree."""

import pytest
from hypothesis import given, strategies as st

from lightning_normdyn.tasks.group_split import split_by_group

SHARES = {"test": 0.2, "validation": 0.1}


@given(st.lists(st.sampled_from("abcdefgh"), min_size=3).filter(lambda groups: len(set(groups)) > 2), st.integers(0, 9))
def test_every_member_is_in_one_split_and_every_group_too(groups, seed):
    split = split_by_group(groups, SHARES, seed=seed)
    assert sorted(place for places in split.values() for place in places.tolist()) == list(range(len(groups)))
    members = {name: {groups[place] for place in places.tolist()} for name, places in split.items()}
    assert all(members.values())
    assert sum(map(len, members.values())) == len(set(groups))


def test_shares_are_kept_where_groups_are_small():
    groups = [str(place // 2) for place in range(200)]
    split = split_by_group(groups, SHARES, seed=3)
    assert {name: len(places) for name, places in split.items()} == {"train": 140, "test": 40, "validation": 20}
    assert split["test"].tolist() != split_by_group(groups, SHARES, seed=4)["test"].tolist()
    assert split["test"].tolist() == split_by_group(groups, SHARES, seed=3)["test"].tolist()


def test_what_cannot_be_split_is_said():
    with pytest.raises(ValueError, match=r"^groups: expected at least 3 to split, got 2"):
        split_by_group(["a", "b", "b"], SHARES)
    with pytest.raises(ValueError, match=r"^shares: "):
        split_by_group(["a", "b", "c"], {"test": 0.5, "validation": 0.5})
