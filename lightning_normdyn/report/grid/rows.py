"""The tables of a grid as records of numbers, which the page, the Markdown file and the terminal draw alike.

:func:`grid_tables` computes every number once. :meth:`GridTable.text` writes them for a page: one column each,
intervals in brackets. :meth:`GridTable.short_text` writes them for a terminal of 80 columns: short headings of several
lines, an interval in a column of its own. Nothing here draws, so matplotlib, jinja2 and rich stay out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lightning_normdyn.core.statistics.interval import Interval
from lightning_normdyn.core.statistics.variant_comparison import VariantComparison
from lightning_normdyn.history.grid_findings import GridFindings
from lightning_normdyn.history.number import Number, show_number


class GridColumn(NamedTuple):
    """A column of numbers.

    Attributes:
        heading: on a page.
        form: of its numbers, as in :func:`format`.
        short_heading: on a terminal, lines apart; the heading if empty.
        interval_heading: the same of the intervals; empty for a column without them.
    """

    heading: str
    form: str
    short_heading: str = ""
    interval_heading: str = ""


class GridRow(NamedTuple):
    """What a row is about, and as many values as there are columns; ``None`` where there is no number."""

    name: str
    values: Sequence[Number | Interval]


class TextTable(NamedTuple):
    """A table of finished text.

    Attributes:
        head: of the columns.
        rows: as many words as there are columns; the first names the row.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class GridTable(NamedTuple):
    """A table of numbers.

    Attributes:
        name: ``scores``, ``choices``, ``parts``, ``also-0`` and so on, ``floors``, ``cross``, ``diagnosis`` or
            ``dynamics``.
        title: what it shows.
        row_heading: what its rows are.
        columns: without the one that names the rows.
        rows: the numbers.
        note: what its words mean, in sentences.
    """

    name: str
    title: str
    row_heading: str
    columns: Sequence[GridColumn]
    rows: Sequence[GridRow]
    note: str = ""

    def text(self) -> TextTable:
        """The table for a page: a value and its interval in one cell."""
        head = [self.row_heading, *(column.heading for column in self.columns)]
        rows = [
            (row.name, *(_wide(value, column.form) for value, column in zip(row.values, self.columns, strict=True)))
            for row in self.rows
        ]
        return TextTable(head, rows)

    def short_text(self) -> TextTable:
        """The table for a terminal: a value and its interval in two cells."""
        head = [self.row_heading]
        for column in self.columns:
            head.append(column.short_heading or column.heading)
            head += [column.interval_heading] if column.interval_heading else []
        rows = []
        for row in self.rows:
            cells = [_short(value, column) for value, column in zip(row.values, self.columns, strict=True)]
            rows.append((row.name, *(word for cell in cells for word in cell)))
        return TextTable(head, rows)


def grid_tables(findings: GridFindings) -> list[GridTable]:
    """All tables of a grid, in the order of reading; those without rows are left out."""
    tables = [
        _scores(findings),
        _choices(findings),
        _parts(findings),
        *_out_of_domain(findings),
        _floors(findings),
        _cross(findings),
        _diagnosis(findings),
        _dynamics(findings),
    ]
    return [table for table in tables if table.rows]


def _scores(findings: GridFindings) -> GridTable:
    comparison, headline = findings.comparison, findings.headline
    columns = (
        GridColumn(f"{headline}, 95%", ".4f", headline, "95%\ninterval"),
        GridColumn("gain on cosine, 95% for all at once", "+.4f", "gain on\ncosine", "95%,\nall at once"),
        GridColumn("best in draws", ".0%", "best"),
    )
    rows = []
    for name, score in comparison.scores.items():
        gain = None if name == comparison.reference else score.gain_interval
        rows.append(GridRow(name, (score.mean_interval, gain, score.share_best)))
    title = f"{findings.task}: {headline}, trainings: {comparison.seeds} each, test items: {comparison.queries}"
    note = "Best in draws: the share of draws, over items and trainings, in which a variant leads."
    return GridTable("scores", title, "variant", columns, rows, note)


def _choices(findings: GridFindings) -> GridTable:
    columns = (
        GridColumn("learning rate", ".3g", "lr"),
        GridColumn("lead over the next rate", "+.4f", "lead over\nnext lr"),
        GridColumn("temperature", ".3g", "temper-\nature"),
        GridColumn("in units of auto", ".3g", "of\nauto"),
        GridColumn("lead over the next temperature", "+.4f", "lead over\nnext temp."),
        GridColumn("settings tried", ".0f", "tried"),
    )
    rows = [
        GridRow(
            name,
            (
                choice.lr,
                choice.lr_lead,
                choice.temperature,
                choice.temperature_factor,
                choice.temperature_lead,
                choice.trials,
            ),
        )
        for name, choice in findings.choices.items()
    ]
    note = (
        f"Leads are in {findings.headline} on validation, with the first seed: a choice that leads by little is flat, "
        f"and chance made it; {show_number(None, '')} where no other was tried. Auto is the temperature at which a "
        "variant's scores spread as cosines do at the config's."
    )
    return GridTable("choices", "What each variant chose on validation", "variant", columns, rows, note)


_SHORT_PARTS = ("known\ndocs", "new\ndocs")


def _parts(findings: GridFindings) -> GridTable:
    columns = [
        column
        for (part, comparison), short_heading in zip(findings.query_kinds.items(), _SHORT_PARTS, strict=False)
        for column in _columns_of(f"{findings.headline} on {part}", short_heading, comparison)
    ]
    rows = [
        GridRow(
            name, [value for comparison in findings.query_kinds.values() for value in _mean_and_gain(comparison, name)]
        )
        for name in (findings.comparison.scores if findings.query_kinds else ())
    ]
    title = "Test items by whether training wants a document that they want"
    note = "Where it does, a training can gain by memory of which documents are asked for, and by what."
    return GridTable("parts", title, "variant", columns, rows, note)


def _out_of_domain(findings: GridFindings) -> list[GridTable]:
    """A table for each further set, by the score that trained and by cosine."""
    tables = []
    for number, (name, comparisons) in enumerate(findings.out_of_domain.items()):
        of_own_score, by_cosine = comparisons["trained"], comparisons["cosine"]
        columns = [
            *_columns_of(f"{findings.headline} by its own score", "own\nscore", of_own_score),
            *_columns_of("by cosine", "by\ncosine", by_cosine),
        ]
        rows = [
            GridRow(variant, [*_mean_and_gain(of_own_score, variant), *_mean_and_gain(by_cosine, variant)])
            for variant in of_own_score.scores
        ]
        title = f"Out of domain: {name}, test items: {of_own_score.queries}"
        note = "Gains are on what trained with cosine; the same embeddings are scored as they trained, and by cosine."
        tables.append(GridTable(f"also-{number}", title, "variant", columns, rows, note))
    return tables


def _columns_of(heading: str, short_heading: str, comparison: VariantComparison) -> tuple[GridColumn, GridColumn]:
    return (
        GridColumn(heading, ".4f", short_heading),
        GridColumn(f"gain on cosine, 95%, {comparison.queries} items", "+.4f", "gain", "95%,\nall at once"),
    )


def _mean_and_gain(comparison: VariantComparison, name: str) -> tuple[float, Interval | None]:
    score = comparison.scores[name]
    return score.mean, None if name == comparison.reference else score.gain_interval


def _floors(findings: GridFindings) -> GridTable:
    rows = [GridRow(name, (value,)) for name, value in findings.floors.items()]
    return GridTable("floors", "Without training", "method", (GridColumn(findings.headline, ".4f"),), rows)


def _cross(findings: GridFindings) -> GridTable:
    similarities = list(next(iter(findings.cross.values())))
    columns = [GridColumn(name, ".4f") for name in similarities]
    rows = [GridRow(variant, [scores[name] for name in similarities]) for variant, scores in findings.cross.items()]
    return GridTable("cross", "Trained with one similarity, scored with another", "trained \\ scored", columns, rows)


_DIAGNOSES = (
    ("cohens_d", GridColumn("Cohen's d", "+.2f")),
    ("query_cv", GridColumn("CV of queries", ".3f", "CV\nqueries")),
    ("document_cv", GridColumn("CV of documents", ".3f", "CV\ndocs")),
    ("kappa_qnorm", GridColumn("log κ qnorm", ".2f", "log κ\nqnorm")),
    ("kappa_dnorm", GridColumn("log κ dnorm", ".2f", "log κ\ndnorm")),
)
_EXPONENTS = (
    ("gamma_query", GridColumn("γ q", ".3f", "γ\nquery")),
    ("gamma_document", GridColumn("γ d", ".3f", "γ\ndoc")),
)


def _diagnosis(findings: GridFindings) -> GridTable:
    rows = []
    for variant, diagnosis in findings.diagnosis.items():
        exponents = findings.learnt.get(variant, {})
        values = [diagnosis[key] for key, _ in _DIAGNOSES] + [exponents.get(key) for key, _ in _EXPONENTS]
        rows.append(GridRow(variant, values))
    note = (
        "log κ: log10 of the Fisher condition number, of which the smaller should train better. There is no Cohen's d "
        "where every document is relevant to some query."
    )
    columns = [column for _, column in _DIAGNOSES + _EXPONENTS]
    title = "Norms on the validation split, means over trainings"
    return GridTable("diagnosis", title, "variant", columns, rows, note)


_DYNAMICS = ("norm_mean", "norm_cv", "radial_fraction", "balance_slope", "transient_slope", "forecast_skill")


def _dynamics(findings: GridFindings) -> GridTable:
    """Last values of the first training of each variant, of the quantities that most targets have."""
    first = {variant: next(run.dynamics for run in findings.runs if run.variant == variant) for variant in findings.lrs}
    keys = [key for values in first.values() for key in values if key.rpartition("/")[2] in _DYNAMICS]
    rows = [
        GridRow(key.removeprefix("normdyn/"), [values.get(key) for values in first.values()])
        for key in dict.fromkeys(keys)
    ]
    columns = [GridColumn(variant, ".3g") for variant in first]
    title = "Norm dynamics as last logged in the first training"
    return GridTable("dynamics", title, "quantity", columns, rows)


def _wide(value: Number | Interval, form: str) -> str:
    if not isinstance(value, Interval):
        return show_number(value, form)
    return f"{value.value:{form}} ({value.low:{form}} to {value.high:{form}})"


def _short(value: Number | Interval, column: GridColumn) -> list[str]:
    if not isinstance(value, Interval):
        text = show_number(value, column.form)
        return [text, text] if column.interval_heading else [text]
    between = " " if column.form.startswith("+") else "–"
    ends = between.join(f"{end:{column.form}}" for end in (value.low, value.high))
    return [f"{value.value:{column.form}}", ends]
