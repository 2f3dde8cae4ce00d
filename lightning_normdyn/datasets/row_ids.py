"""Ids of rows, each of which names one row."""

from __future__ import annotations

from collections.abc import Iterable


def places_by_id(ids: Iterable[str], source: object) -> dict[str, int]:
    """The row that each id names.

    Args:
        ids: in the order of the rows.
        source: whose ids they are, for the message.

    Raises:
        ValueError: if an id comes twice.

    Example:
        >>> places_by_id(["a", "b"], "ids")
        {'a': 0, 'b': 1}
        >>> places_by_id(["a", "b", "a"], "ids")
        Traceback (most recent call last):
            ...
        ValueError: ids: expected each id once, got 'a' in rows 0 and 2; keep one of them or rename the other
    """
    places: dict[str, int] = {}
    for row, id in enumerate(ids):
        if places.setdefault(id, row) != row:
            raise ValueError(
                f"{source}: expected each id once, got {id!r} in rows {places[id]} and {row}; keep one of them or "
                "rename the other"
            )
    return places
