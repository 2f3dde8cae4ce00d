"""The equilibrium law as a reader likes it written."""

from __future__ import annotations

import re

_SIGNS = (("lambda_rad", "λ"), ("lambda", "λ"), ("beta2", "β₂"), ("sqrt(d)", "√d"), (" - ", " − "))
_RATE = re.compile(r"(?<![A-Za-z])lr(?![A-Za-z])")


def typographic(law: str) -> str:
    """A law with its letters in Greek, and a word on which learning rate it means.

    Args:
        law: as an optimizer's rule spells it.

    Example:
        >>> typographic("R² = lr·d / (2·lambda_rad) · p / (p + 1 - beta2)")
        'R² = lr·d / (2·λ) · p / (p + 1 − β₂) with the effective lr'
        >>> typographic("Adagrad has no known law of the norm")
        'Adagrad has no known law of the norm'
    """
    for spelled, sign in _SIGNS:
        law = law.replace(spelled, sign)
    return f"{law} with the effective lr" if _RATE.search(law) else law
