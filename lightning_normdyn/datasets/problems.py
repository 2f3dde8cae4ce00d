"""Errors and warnings of readers: malformed files are refused, small faults counted and reported once."""

from __future__ import annotations

import os
import warnings
from collections import Counter

from lightning_normdyn.core.object_checks import check_path


class MalformedFileError(ValueError):
    """A file does not hold what its format promises.

    The message names the file and the line, what was expected, what came, and the likely fix.
    """

    def __init__(self, file: str | os.PathLike[str], line: int | None, expected: str, came: str, fix: str = "") -> None:
        place = f"{os.fspath(file)}" if line is None else f"{os.fspath(file)}, line {line}"
        super().__init__(f"{place}: expected {expected}, got {came}" + (f"; {fix}" if fix else ""))


class Problems:
    """Counts what a reader leaves out or mends, and says it once at the end.

    Example:
        >>> problems = Problems("corpus.jsonl")
        >>> problems.count("empty documents, kept as empty texts", line=7)
        >>> problems.counts
        {'empty documents, kept as empty texts': 1}
        >>> print(problems)
        corpus.jsonl: 1 empty documents, kept as empty texts (first: line 7)
    """

    def __init__(self, file: str | os.PathLike[str]) -> None:
        check_path(file=file)
        self.file = os.fspath(file)
        self._counts: Counter[str] = Counter()
        self._first: dict[str, int | str] = {}

    @property
    def counts(self) -> dict[str, int]:
        """Kind of problem to how many there were."""
        return dict(self._counts)

    def count(self, kind: str, *, line: int | str) -> None:
        """Notes one problem.

        Args:
            kind: what it is and what was done about it, in the plural.
            line: where it was, a line number or the name of a row or member.
        """
        self._counts[kind] += 1
        self._first.setdefault(kind, line)

    def report(self) -> None:
        """Warns of all that was noted, in one warning; says nothing if there was nothing."""
        if self._counts:
            warnings.warn(str(self), stacklevel=3)

    def __str__(self) -> str:
        sentences = []
        for kind, number in self._counts.items():
            place = self._first[kind]
            sentences.append(f"{number} {kind} (first: {f'line {place}' if isinstance(place, int) else place})")
        return f"{self.file}: " + "; ".join(sentences)
