"""What a training of either side of ``family_peers.py`` came to."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Outcome:
    """One training, or one method that has none.

    Attributes:
        validation: mean of the first measure on the validation split, by which rates are chosen.
        values: measure to one value a query of the test split.
        seconds: of training.
        notes: further figures by name.
    """

    validation: float
    values: dict[str, list[float]]
    seconds: float
    notes: dict[str, float] = field(default_factory=dict)
