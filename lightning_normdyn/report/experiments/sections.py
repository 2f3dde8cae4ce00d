"""The sections of the experiments' page: each with its story, its figures and its findings in a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from markupsafe import Markup

from lightning_normdyn.history.experiment import ExperimentRecord, Finding
from lightning_normdyn.report.experiments.class_imbalance import class_story
from lightning_normdyn.report.experiments.encoder_terms import encoder_story
from lightning_normdyn.report.experiments.frequency_law import frequency_story
from lightning_normdyn.report.experiments.log_plot import Story
from lightning_normdyn.report.experiments.vocabulary_norms import vocabulary_story
from lightning_normdyn.report.experiments.weight_decay_sweep import weight_decay_story
from lightning_normdyn.report.kit.card import arrange
from lightning_normdyn.report.kit.figure import drawing_style
from lightning_normdyn.report.kit.numbers import NONE, plain
from lightning_normdyn.report.kit.page import render
from lightning_normdyn.report.kit.table import Cell, Column, Table

_STORIES: Mapping[str, Callable[[ExperimentRecord], Story]] = {
    "weight_decay_sweep": weight_decay_story,
    "vocabulary_norms": vocabulary_story,
    "frequency_law": frequency_story,
    "encoder_terms": encoder_story,
    "class_imbalance": class_story,
}


def experiment_sections(records: Sequence[ExperimentRecord]) -> Markup:
    """One section for each experiment, in their order.

    Raises:
        DrawingError: if a figure cannot be drawn.
    """
    sections = []
    with drawing_style():
        for record in records:
            story = _STORIES[record.name](record)
            sections.append((record, story, _facts(record), findings_table(record), arrange([story.card])))
    return render("experiments.html.j2", sections=sections)


def _facts(record: ExperimentRecord) -> str:
    settings = [f"{name.replace('_', ' ')} {_amount(value)}" for name, value in record.settings.items()]
    return " · ".join([*settings, f"{plain(record.seconds)} s"])


def _amount(value: object) -> str:
    return plain(float(value)) if isinstance(value, (int, float)) else str(value)


def findings_table(record: ExperimentRecord) -> Table:
    """One row per finding, the measured number beside the expected one."""
    columns = (Column("quantity"), Column("published or expected"), Column("measured", kind="main"))
    return Table(
        f"{record.name}-findings", "Measured beside expected", columns, _rows(record.findings), style="findings"
    )


def _rows(findings: Iterable[Finding]) -> list[tuple[Cell, str, str]]:
    return [
        (Cell(finding.quantity, finding.source), _number(finding.expected), _number(finding.measured))
        for finding in findings
    ]


def _number(value: float | None) -> str:
    return NONE if value is None else plain(value, 4)
