"""What came of a bad input: a sentence that names the argument and the fix, or anything worse; and a table of many."""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

_FIX = re.compile(
    r"\bexpected\b|; \w|did you mean|choose from|\bpass --|see normdyn|install with|should be|must be|Available names"
)
_FOREIGN = re.compile(
    r"Parser key|NestedArg|Namespace\(|typing\.|<class '|jsonargparse|Subtypes|has no attribute|positional argument"
    r"|\[Errno|object at 0x|not subscriptable|not iterable"
)
_MOST_CHARACTERS = 600
FAULTS = ("accepted", "traceback", "foreign", "lines", "no argument", "no fix", "advises pickles")


class Outcome(NamedTuple):
    """Of one input.

    Attributes:
        kind: what is wrong with it.
        case: it, in words.
        accepted: whether it was taken without a word.
        traceback: whether the user sees one, or an error of a kind that means a bug.
        message: what was said.
        argument: what a message has to name, a regular expression.
        foreign: whether the words are a library's: nobody chose them for who reads them.
    """

    kind: str
    case: str
    accepted: bool
    traceback: bool
    message: str
    argument: str
    foreign: bool = False

    @property
    def lines(self) -> int:
        """Of the message; a list that it ends with, a name a line, counts as its last line."""
        return sum(not line.startswith("  ") for line in self.message.strip().splitlines())

    @property
    def names_argument(self) -> bool:
        """Whether the message says which argument it is."""
        return re.search(self.argument, self.message) is not None

    @property
    def names_fix(self) -> bool:
        """Whether the message says what is expected or what to do."""
        return _FIX.search(self.message) is not None

    @property
    def faults(self) -> list[str]:
        """What is to be mended about it."""
        if self.accepted:
            return ["accepted"]
        faults = {
            "traceback": self.traceback,
            "foreign": self.foreign or _FOREIGN.search(self.message) is not None,
            "lines": self.lines != 1 or len(self.message) > _MOST_CHARACTERS,
            "no argument": not self.names_argument,
            "no fix": not self.names_fix,
            "advises pickles": "allow_pickle" in self.message or "weights_only=False" in self.message,
        }
        return [name for name, is_fault in faults.items() if is_fault]

    def __str__(self) -> str:
        return f"{self.kind} | {self.case} | {', '.join(self.faults)} | {self.message.strip()[:300]}"


def table(outcomes: Iterable[Outcome]) -> str:
    """Kind by kind: inputs, how many are in order, and what is wrong with the others."""
    by_kind: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_kind[outcome.kind].append(outcome)
    lines = [f"{'kind':34} {'inputs':>6} {'good':>5} " + " ".join(f"{name:>15}" for name in FAULTS)]
    rows = [*by_kind.items(), ("all", [outcome for kind in by_kind.values() for outcome in kind])]
    for kind, members in rows:
        counts = [sum(name in outcome.faults for outcome in members) for name in FAULTS]
        good = sum(not outcome.faults for outcome in members)
        lines.append(f"{kind:34} {len(members):6} {good:5} " + " ".join(f"{count:15}" for count in counts))
    return "\n".join(lines)
