"""The page of the reproduced experiments: each with its figure, and its numbers beside the published ones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lightning_normdyn.core.dynamics.published_fit import PUBLISHED_FIT
from lightning_normdyn.history.experiment import ExperimentRecord
from lightning_normdyn.history.origin import Origin
from lightning_normdyn.report.kit.page import NORM_LAW_PAPER, Link, Page, write_page

_EXPERIMENTS = ("weight_decay_sweep", "vocabulary_norms", "frequency_law", "encoder_terms", "class_imbalance")
_SOURCE = Markup(
    f'<p>SRV: Su, Ren, Veitch 2026, <a href="{NORM_LAW_PAPER}">arXiv 2606.30625</a>. Slope {PUBLISHED_FIT.slope} and '
    f"r {PUBLISHED_FIT.pearson_r} are those of their Fig. 3a; other expected values are what the theory gives. "
    "R is a norm, λ the weight decay, V² the mean of ‖R·g_tan‖², p the probability of a gradient. Models and texts "
    "here are small and are not the published ones: what is held against the figures is their law, not their data.</p>"
)


def write_reproduction(
    out: str | os.PathLike[str],
    records: Sequence[ExperimentRecord],
    *,
    facts: Mapping[str, Any] | None = None,
    command: str = "",
) -> Path:
    """Writes one self-contained HTML page: every experiment's figure, and its numbers beside the published ones.

    Args:
        out: the page's path.
        records: the experiments, in the order of the page.
        facts: what stands below the heading, name and value.
        command: that made the page, for its last line.

    Returns:
        The page's path.

    Raises:
        ValueError: if an experiment is not known to the page.
        DrawingError: if a figure cannot be drawn.
        OSError: if the page cannot be written.
    """
    _check_names([record.name for record in records])
    # Imported where it is drawn: whoever reads records alone needs no matplotlib.
    from lightning_normdyn.report.experiments.sections import experiment_sections

    page = Page(
        title="Published figures, reproduced",
        main=experiment_sections(records),
        facts=[f"{name} {value}" for name, value in (facts or {}).items()],
        contents=[Link(record.name, record.name.replace("_", " ")) for record in records],
        contents_name="Experiments",
        sources=_SOURCE,
        origin=Origin(command=command),
    )
    return write_page(Path(out), page)


def _check_names(names: Sequence[str]) -> None:
    """Refuses what the page has no section for."""
    strangers = [name for name in names if name not in _EXPERIMENTS]
    if strangers:
        raise ValueError(f"records: expected experiments among {', '.join(_EXPERIMENTS)}, got {', '.join(strangers)}")
