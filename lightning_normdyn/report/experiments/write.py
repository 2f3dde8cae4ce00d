"""The page of all experiments."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lightning_normdyn.history.experiment import ExperimentRecord, Finding
from lightning_normdyn.report.experiments.class_imbalance import class_story
from lightning_normdyn.report.experiments.encoder_terms import encoder_story
from lightning_normdyn.report.experiments.frequency_law import frequency_story
from lightning_normdyn.report.experiments.plot import Story
from lightning_normdyn.report.experiments.vocabulary_norms import vocabulary_story
from lightning_normdyn.report.experiments.weight_decay_sweep import weight_decay_story
from lightning_normdyn.report.kit.canvas import drawing_style
from lightning_normdyn.report.kit.card import arrange
from lightning_normdyn.report.kit.document import document
from lightning_normdyn.report.kit.numbers import plain
from lightning_normdyn.report.run.headline import PAPER

_STORIES: Mapping[str, Callable[[ExperimentRecord], Story]] = {
    "weight_decay_sweep": weight_decay_story,
    "vocabulary_norms": vocabulary_story,
    "frequency_law": frequency_story,
    "encoder_terms": encoder_story,
    "class_imbalance": class_story,
}
_FOOTER = (
    f'<p>SRV: Su, Ren, Veitch 2026, <a href="{PAPER}">arXiv 2606.30625</a>. Slope 0.88 and r 0.97 are those of '
    "their Fig. 3a; other expected values are what the theory gives. R is a norm, λ the weight decay, V² the mean of "
    "‖R·g_tan‖², p the probability of a gradient. Models and texts here are small and are not the published ones: "
    "what is held against the figures is their law, not their data.</p>"
)


def write_reproduction(
    out: str | os.PathLike[str], records: Sequence[ExperimentRecord], *, facts: Mapping[str, Any] | None = None
) -> Path:
    """Writes one self-contained HTML page: every experiment's figure, and its numbers beside the published ones.

    Args:
        out: the page's path.
        records: the experiments, in the order of the page.
        facts: what stands below the heading, name and value.

    Returns:
        The page's path.

    Raises:
        ValueError: if an experiment is not known to the page.
        OSError: if the page cannot be written.
    """
    unknown = [record.name for record in records if record.name not in _STORIES]
    if unknown:
        raise ValueError(f"records: expected experiments among {', '.join(_STORIES)}, got {', '.join(unknown)}")
    with drawing_style():
        main = "".join(_section(record) for record in records)
    told = " · ".join(f"{name} {value}" for name, value in (facts or {}).items())
    text = document(
        "Published figures, reproduced",
        header=f'<p class="facts">{escape(told)}</p>{_contents(records)}',
        main=main,
        footer=_FOOTER,
    )
    path = Path(out)
    path.write_text(text, encoding="utf-8")
    return path


def _section(record: ExperimentRecord) -> str:
    story = _STORIES[record.name](record)
    settings = [f"{name.replace('_', ' ')} {_amount(value)}" for name, value in record.settings.items()]
    facts = " · ".join([*settings, f"{plain(record.seconds)} s"])
    return (
        f'<section id="{record.name}"><h2>{escape(story.title)}</h2><p class="facts">{escape(facts)}</p>'
        f'<p>{escape(story.lead)}</p><div class="tables"><div>{findings_table(record.findings)}</div></div>'
        f"{arrange([story.card])}</section>"
    )


def _amount(value: object) -> str:
    return plain(float(value)) if isinstance(value, (int, float)) else str(value)


def _contents(records: Sequence[ExperimentRecord]) -> str:
    items = "".join(
        f'<li><a href="#{record.name}">{escape(record.name.replace("_", " "))}</a></li>' for record in records
    )
    return f'<nav aria-label="Experiments"><ul>{items}</ul></nav>'


_NONE = "–"


def findings_table(findings: Iterable[Finding]) -> str:
    """One row per finding, as HTML.

    Args:
        findings: what an experiment measured.
    """
    rows = "".join(
        f'<tr><th scope="row">{escape(found.quantity)}<span class="how">{escape(found.source)}</span></th>'
        f'<td>{_number(found.expected)}</td><td class="main">{_number(found.measured)}</td></tr>'
        for found in findings
    )
    head = '<tr><td></td><th scope="col">published or expected</th><th scope="col">measured</th></tr>'
    return f'<table class="findings"><thead>{head}</thead><tbody>{rows}</tbody></table>'


def _number(value: float | None) -> str:
    return _NONE if value is None else plain(value, 4)
