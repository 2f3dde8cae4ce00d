"""Reads one log of a history, again and again while it grows: each part once, and no branch that was abandoned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lightning_normdyn.history.log_lines import LogLines, coded, in_order
from lightning_normdyn.history.part import Part, grouped_parts, read_columns
from lightning_normdyn.history.run_record import RunRecord, Stretch

_ATTEMPTS = 5


class Branch(NamedTuple):
    """Which lines of a run count: of the stretches that lead up to one, each up to where the next went on.

    Attributes:
        stretches: of the run.
        last: number of the one that they lead up to; ``None`` for the latest.
        is_known: whether the run's record could be read; without it, steps alone tell where a branch ends.
    """

    stretches: Sequence[Stretch]
    last: int | None
    is_known: bool

    @classmethod
    def of(cls, record: RunRecord, last: int | None) -> Branch:
        """The one that leads up to a stretch of a run."""
        return cls(list(record.stretches), last, not record.damage)

    def limits(self, stretch: int) -> Callable[[str], float] | None:
        """Gives of each target the last step that counts of what a stretch wrote; ``None`` where all of it does."""
        if not self.is_known or stretch >= len(self.stretches):
            return None if self.last is None or stretch <= self.last else _nothing
        lineage = RunRecord(Path(), "", stretches=self.stretches).lineage(self.last)
        if stretch not in lineage:
            return _nothing
        later = [self.stretches[number] for number in lineage if number > stretch]
        return (lambda target: min(each.step_of(target) for each in later)) if later else None


def _nothing(target: str) -> float:
    """The limit of a branch that was abandoned."""
    del target
    return -np.inf


class LogReader:
    """Keeps what it has read in one table, in order, and adds to it what is new.

    Args:
        folder: of the log.
        schema: its columns, the target's name among them.
        key: the column that tells the lines of a step apart; empty to keep them as they were written.
    """

    def __init__(self, folder: Path, schema: pa.Schema, key: str) -> None:
        self.folder, self.schema, self.key = folder, schema, key
        self._forget()

    def _forget(self) -> None:
        self._lines = LogLines(self.schema.empty_table(), {})
        self._flushes: dict[int, set[int]] = {}  # whose rows are in the lines, by stretch
        self._branch: Branch | None = None
        self._damage: dict[Path, str] = {}

    def lines(self, branch: Branch, inherited: Callable[[], list[pa.Table]], note: Callable[[str], object]) -> LogLines:
        """What counts of the log now.

        Args:
            branch: which lines do.
            inherited: gives the lines of the runs that this one goes on from.
            note: hears of damaged parts, a sentence each.

        Raises:
            OSError: if the folder cannot be read.
        """
        for _ in range(_ATTEMPTS - 1):
            with suppress(FileNotFoundError):  # the writer puts some parts together meanwhile
                return self._look(branch, inherited, note)
        return self._look(branch, inherited, note)

    def _look(self, branch: Branch, inherited: Callable[[], list[pa.Table]], note: Callable[[str], object]) -> LogLines:
        groups = grouped_parts(self.folder)
        if branch != self._branch or not branch.is_known or not self._goes_on(groups):
            self._forget()
        tables = [self._lines.table] if self._branch is not None else inherited()
        parts: list[tuple[Part, pa.Table]] = []
        for group in groups:
            parts += self._new(*group, note)
        self._note_damage(groups, note)
        if self._branch is None or parts:
            tables += (
                _cut_by_steps(parts) if not branch.is_known else [_cut(part, table, branch) for part, table in parts]
            )
            flushes = [(part.stretch, range(part.first, part.last + 1)) for part, _ in parts]
            parts.clear()
            self._lines = LogLines(self.schema.empty_table(), {})
            self._lines = in_order(tables, self.schema, self.key)
            for stretch, numbers in flushes:
                self._flushes.setdefault(stretch, set()).update(numbers)
        self._branch = branch
        return self._lines

    def _goes_on(self, groups: Sequence[tuple[Part, Sequence[Part]]]) -> bool:
        """Whether what was read is there still, in the same or broader parts, and all that is new comes after it."""
        present: dict[int, set[int]] = {}
        end = max(((stretch, max(numbers)) for stretch, numbers in self._flushes.items()), default=(-1, 0))
        for part, narrower in groups:
            numbers = set(range(part.first, part.last + 1))
            present.setdefault(part.stretch, set()).update(numbers)
            has_read = self._flushes.get(part.stretch, set())
            if (
                not numbers <= has_read
                and (numbers & has_read or (part.stretch, part.first) < end)
                and not (part.file in self._damage and not narrower)
            ):
                return False
        return all(numbers <= present.get(stretch, set()) for stretch, numbers in self._flushes.items())

    def _new(self, part: Part, narrower: Sequence[Part], note: Callable[[str], object]) -> list[tuple[Part, pa.Table]]:
        """The part if it is new; if it is damaged what it was made of, as far as that is still there."""
        if set(range(part.first, part.last + 1)) <= self._flushes.get(part.stretch, set()):
            return []
        if part.file not in self._damage:
            try:
                return [(part, read_columns(part, self.schema))]
            except ValueError as error:
                self._damage[part.file] = f"{error}; its rows are left out"
            except FileNotFoundError:
                raise
            except OSError as error:  # it may be over the next time
                note(f"history: '{part.file}' cannot be read ({error.strerror}); its rows are left out")
        return [sound for old in narrower for sound in self._new(old, [], note)]

    def _note_damage(self, groups: Sequence[tuple[Part, Sequence[Part]]], note: Callable[[str], object]) -> None:
        files = {part.file for whole, narrower in groups for part in (whole, *narrower)}
        self._damage = {file: damage for file, damage in self._damage.items() if file in files}
        for damage in self._damage.values():
            note(damage)


def _cut(part: Part, table: pa.Table, branch: Branch) -> pa.Table:
    limits = branch.limits(part.stretch)
    return table if limits is None else up_to(table, limits)


def up_to(table: pa.Table, limit: Callable[[str], float]) -> pa.Table:
    """The lines of each target up to a step.

    Args:
        table: with the columns ``target`` and ``step``.
        limit: gives the last step of a target.
    """
    names, codes = coded(table.column("target"))
    if not names:
        return table
    live = table.column("step").to_numpy() <= np.array([limit(name) for name in names])[codes]
    return table if live.all() else table.filter(pa.array(live))


def _cut_by_steps(parts: Sequence[tuple[Part, pa.Table]]) -> list[pa.Table]:
    """What counts where nothing but steps tells: of each target up to where a later stretch began."""
    tables, limits = [], {part.stretch: _first_steps(parts, part.stretch) for part, _ in parts}
    for part, table in parts:
        firsts = limits[part.stretch]
        tables.append(up_to(table, lambda target, firsts=firsts: firsts.get(target, np.inf) - 1))  # type: ignore[misc]
    return tables


def _first_steps(parts: Sequence[tuple[Part, pa.Table]], stretch: int) -> Mapping[str, float]:
    """Of each target the first step that any stretch after one wrote."""
    firsts: dict[str, float] = {}
    for part, table in parts:
        if part.stretch > stretch:
            names, codes = coded(table.column("target"))
            least = np.full(len(names), np.inf)
            np.minimum.at(least, codes, table.column("step").to_numpy())
            for name, step in zip(names, least.tolist(), strict=True):
                firsts[name] = min(step, firsts.get(name, np.inf))
    return firsts
