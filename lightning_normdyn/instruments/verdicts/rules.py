"""The table of all rules, and the judgement of a target by them.

To add a rule, write a function that finds something in the :class:`Evidence` and enter it, with its words, in the table
of its file; the docs page and the table of quantities show it by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lightning_normdyn.instruments.verdicts.evidence import Evidence
from lightning_normdyn.instruments.verdicts.norm_rules import NORM_RULES
from lightning_normdyn.instruments.verdicts.rounding_rules import ROUNDING_RULES
from lightning_normdyn.instruments.verdicts.row_rules import ROW_RULES
from lightning_normdyn.instruments.verdicts.setup_rules import SETUP_RULES
from lightning_normdyn.instruments.verdicts.step_rules import STEP_RULES
from lightning_normdyn.instruments.verdicts.verdict import Rule, Verdict, by_severity

RULES: Mapping[str, Rule] = MappingProxyType(
    {rule.name: rule for rule in (*NORM_RULES, *STEP_RULES, *ROUNDING_RULES, *ROW_RULES, *SETUP_RULES)}
)
"""Name to rule, in the order in which the docs show them."""


FEWEST_STEPS = 100
"""A shorter run says too little of itself."""


def judge(evidence: Evidence) -> list[Verdict]:
    """What the rules say of a target, the worst first; nothing before it has made a hundred steps."""
    if evidence.facts.step + evidence.facts.skipped_steps < FEWEST_STEPS:
        return []
    verdicts = (rule.apply(evidence) for rule in RULES.values())
    return by_severity([verdict for verdict in verdicts if verdict is not None])


def rules_of(quantity: str) -> list[str]:
    """The rules that read a quantity.

    Example:
        >>> rules_of("clip_ratio")
        ['clipping_sets_steps', 'clip_share']
    """
    return [rule.name for rule in RULES.values() if quantity in rule.quantities]
