"""Objects of a JSON-lines file and the fields in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from lightning_normdyn.datasets.problems import MalformedFileError
from lightning_normdyn.datasets.reading.lines import File, read_lines


class Entry(NamedTuple):
    """An object of a file and where it stands."""

    file: File
    line: int
    fields: dict[str, Any]

    def id(self, name: str = "_id") -> str:
        """Takes a field as an id; a whole number counts as its digits.

        Raises:
            MalformedFileError: if it is missing, empty, or neither text nor a whole number.
        """
        value = self._required(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value:
            raise self._refusal(name, "a text or a whole number", value)
        return value

    def text(self, name: str, *, default: str | None = None) -> str:
        """Takes a field as text.

        Args:
            name: of the field.
            default: what a missing field or a null counts as; without one, neither may be.

        Raises:
            MalformedFileError: if the field is missing, no text, or holds half of a surrogate pair.
        """
        if default is not None and self.fields.get(name) is None:
            return default
        value = self._required(name)
        if not isinstance(value, str):
            raise self._refusal(name, "a text", value)
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise self._refusal(name, "Unicode text", "half of a surrogate pair") from None
        return value

    def _required(self, name: str) -> object:
        if name not in self.fields:
            raise MalformedFileError(self.file, self.line, f"a field '{name}'", f"the fields {sorted(self.fields)}")
        value: object = self.fields[name]
        return value

    def _refusal(self, name: str, expected: str, value: object) -> MalformedFileError:
        return MalformedFileError(self.file, self.line, f"{expected} in field '{name}'", repr(value)[:80])


def read_json_lines(file: File) -> Iterator[Entry]:
    """Reads a file with a JSON object on each line.

    Raises:
        MalformedFileError: while reading, if lines cannot be read or one is no JSON object.
    """
    for number, text in read_lines(file):
        try:
            fields = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise MalformedFileError(
                file, number, "a JSON object", f"{text[:60]!r} ({error})", "write one object a line"
            ) from None
        if not isinstance(fields, dict):
            raise MalformedFileError(file, number, "a JSON object", repr(text[:60]), "write one object a line")
        yield Entry(file, number, fields)
