"""Pages and figures about norms, made offline from records alone: of a run, an audit, a grid, the experiments.

Nothing here loads matplotlib before a figure is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_normdyn.history.origin import Origin
from lightning_normdyn.report.kit.page import DrawingError
from lightning_normdyn.report.run.model_card import model_card_section, write_model_card_section
from lightning_normdyn.report.run.page import write_report

if TYPE_CHECKING:
    from lightning_normdyn.report.run.kernel_votes import draw_votes, write_votes

__all__ = [
    "DrawingError",
    "Origin",
    "draw_votes",
    "model_card_section",
    "write_model_card_section",
    "write_report",
    "write_votes",
]


def __getattr__(name: str) -> Any:
    """Loads the figure of kernel votes, whose module needs matplotlib, when it is first asked for."""
    if name not in ("draw_votes", "write_votes"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lightning_normdyn.report.run import kernel_votes

    return getattr(kernel_votes, name)
