"""How an index is built and how much a search of it looks at: what a user sets, what is widened until recall is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, NamedTuple

from lightning_normdyn.core.number_checks import check_count

_WIDTHS = ("ef_construction", "ef_search", "nprobe", "refine_factor", "candidates")
_MOST = 2**20


@dataclass(frozen=True)
class IndexParameters:
    """What a user sets of an index; ``None`` leaves it to the target, and to what recall asks for.

    Attributes:
        m: neighbours of a node of a graph (HNSW's M).
        ef_construction: nodes that are looked at to place a new one in a graph.
        ef_search: nodes that a search of a graph looks at.
        nprobe: lists, or partitions, that a search looks into.
        subvectors: codes of a product quantizer for each vector.
        refine_factor: how many times as many as are asked for are compared again in full.
        candidates: nearest by direction whose scores are then made with their norms, where norms are kept apart.

    Raises:
        ValueError: if one is no positive whole number, or larger than any index has use for.

    Example:
        >>> IndexParameters(ef_search=64).of_user
        {'ef_search': 64}
    """

    m: int | None = None
    ef_construction: int | None = None
    ef_search: int | None = None
    nprobe: int | None = None
    subvectors: int | None = None
    refine_factor: int | None = None
    candidates: int | None = None

    def __post_init__(self) -> None:
        counts: dict[str, Any] = dict(self.of_user)
        check_count(**counts)
        for name, count in counts.items():
            if name in _WIDTHS and count > _MOST:  # FAISS makes room for all, for minutes that no signal ends
                raise ValueError(f"{name}: expected {_MOST:,} at most, got {count}; 64 to 1,024 are common")

    @property
    def of_user(self) -> dict[str, int]:
        """Those that were set."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if value is not None}

    def check(self, names: Sequence[str], *, index: str, target: str) -> None:
        """Refuses what an index does not have.

        Args:
            names: of what it has.
            index: its word.
            target: that holds it.

        Raises:
            ValueError: if something else was set.
        """
        for name, value in self.of_user.items():
            if name not in names:
                choices = f"it has {', '.join(names)}" if names else "it has nothing to set"
                raise ValueError(
                    f"{name}: expected nothing with index '{index}' of {target}, got {value}; {choices}: leave it out"
                )

    def among(self, names: Sequence[str]) -> IndexParameters:
        """Those of these names alone."""
        return IndexParameters(**{name: value for name, value in self.of_user.items() if name in names})


NO_PARAMETERS = IndexParameters()
"""All is left to the target."""


class SearchWidth(NamedTuple):
    """How much a search looks at.

    Attributes:
        values: name to number.
        limits: the most that each may be widened to; what the user set is missing here.
    """

    values: Mapping[str, int] = MappingProxyType({})
    limits: Mapping[str, int] = MappingProxyType({})

    @classmethod
    def of(
        cls,
        parameters: IndexParameters,
        defaults: Mapping[str, tuple[int, int]],
        first: Mapping[str, int] | None = None,
    ) -> SearchWidth:
        """What the user set, and else what a pilot found, and else defaults.

        Args:
            parameters: of the user.
            defaults: name to what it is at first and what it may be at most.
            first: what a pilot found to begin with.

        Example:
            >>> SearchWidth.of(IndexParameters(nprobe=3), {"nprobe": (8, 64), "refine_factor": (1, 16)})
            SearchWidth(values={'nprobe': 3, 'refine_factor': 1}, limits={'refine_factor': 16})
        """
        of_user = parameters.of_user
        starts = {name: min(most, (first or {}).get(name, start)) for name, (start, most) in defaults.items()}
        return cls(
            {name: of_user.get(name, start) for name, start in starts.items()},
            {name: most for name, (_, most) in defaults.items() if name not in of_user},
        )

    def widened(self) -> SearchWidth | None:
        """Twice as wide wherever that may be; ``None`` if it may nowhere.

        Example:
            >>> SearchWidth({"ef_search": 64}, {"ef_search": 100}).widened().values
            {'ef_search': 100}
            >>> SearchWidth({"ef_search": 64}).widened() is None
            True
        """
        wider = {name: min(2 * self.values[name], most) for name, most in self.limits.items()}
        values = {**self.values, **{name: value for name, value in wider.items() if value > self.values[name]}}
        return None if values == self.values else SearchWidth(values, self.limits)

    @property
    def freed(self) -> SearchWidth:
        """The same, and the user's own numbers may be widened too, to 16 times what they are."""
        return SearchWidth(self.values, {**{name: 16 * value for name, value in self.values.items()}, **self.limits})

    def options(self, *, only: Sequence[str] = ()) -> str:
        """As options of the command line.

        Args:
            only: names to take; all if left out.

        Example:
            >>> SearchWidth({"ef_search": 128}).options()
            '--ef-search 128'
        """
        names = [name for name in self.values if not only or name in only]
        return " ".join(f"--{name.replace('_', '-')} {self.values[name]}" for name in names)
