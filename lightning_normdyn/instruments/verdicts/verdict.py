"""``Rule`` and ``Verdict``: what can be wrong with a run, and what one rule says of one target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from lightning_normdyn.instruments.verdicts.evidence import Evidence, amount

__all__ = ["SEVERITIES", "Finding", "Rule", "Severity", "Verdict", "amount", "by_severity"]

Severity = Literal["note", "warning", "critical"]
"""How bad it is: worth knowing, costs quality, or ruins the run."""

SEVERITIES: tuple[Severity, ...] = ("note", "warning", "critical")
"""From the mildest on."""


class Verdict(NamedTuple):
    """What a rule says of a target: ``on_alert=`` is called with it.

    Attributes:
        target: the table, encoder or learnt number that it is about.
        rule: name of the rule.
        severity: how bad it is.
        step: steps made when it was found.
        sentence: what is the case, with its numbers.
        cause: what it most likely comes from.
        lever: what to set to what.
    """

    target: str
    rule: str
    severity: Severity
    step: int
    sentence: str
    cause: str
    lever: str

    @property
    def text(self) -> str:
        """Sentence, cause and lever in a line.

        Example:
            >>> Verdict("table", "no_decay", "note", 9, "norms grow", "no decay", "set weight_decay=0.1").text
            'norms grow. Likely cause: no decay. Lever: set weight_decay=0.1.'
        """
        return f"{self.sentence}. Likely cause: {self.cause}. Lever: {self.lever}."


class Finding(NamedTuple):
    """What a rule found in the evidence.

    Attributes:
        sentence: what is the case, with its numbers.
        lever: what to set to what.
        severity: if it is another than the rule's.
    """

    sentence: str
    lever: str
    severity: Severity | None = None


class Rule(NamedTuple):
    """One thing that can be wrong with a run.

    Attributes:
        name: tells it from other rules.
        severity: how bad it is, unless a finding says otherwise.
        quantities: the logged quantities that it reads.
        condition: when it speaks, in words.
        cause: what it most likely comes from.
        remedy: the lever in words; a finding gives it with its value.
        judge: gives what it finds in the evidence; ``None`` where all is well or too little is known.
    """

    name: str
    severity: Severity
    quantities: tuple[str, ...]
    condition: str
    cause: str
    remedy: str
    judge: Callable[[Evidence], Finding | None]

    def apply(self, evidence: Evidence) -> Verdict | None:
        """The verdict on a target; ``None`` where the rule has nothing to say."""
        finding = self.judge(evidence)
        if finding is None:
            return None
        severity = finding.severity or self.severity
        facts = evidence.facts
        return Verdict(facts.target, self.name, severity, facts.step, finding.sentence, self.cause, finding.lever)


def by_severity(verdicts: list[Verdict]) -> list[Verdict]:
    """The worst first; of one severity, in their order."""
    return sorted(verdicts, key=lambda verdict: -SEVERITIES.index(verdict.severity))
