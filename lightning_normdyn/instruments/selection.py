"""What of a model is observed."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_normdyn.capture.table import check_rows
from lightning_normdyn.capture.targets import Targets, check_targets
from lightning_normdyn.instruments.probe_source import ProbeSource, check_probe, check_probe_items


@dataclass(frozen=True)
class Selection:
    """Targets, and how much of them.

    Attributes:
        targets: ``"auto"`` or patterns, see :func:`lightning_normdyn.capture.targets.find_targets`.
        max_tracked_rows: most rows of a table that keep statistics of their own.
        probe: see :data:`lightning_normdyn.instruments.probe_source.ProbeSource`.
        probe_items: most items of a probe.

    Example:
        >>> Selection(targets="encoder")
        Traceback (most recent call last):
            ...
        ValueError: targets: expected 'auto' or a list of patterns, got 'encoder'; write targets=['encoder']
    """

    targets: Targets = "auto"
    max_tracked_rows: int = 16_384
    probe: ProbeSource = None
    probe_items: int = 64

    def __post_init__(self) -> None:
        check_targets(self.targets)
        check_rows(self.max_tracked_rows)
        check_probe(self.probe)
        check_probe_items(self.probe_items)
