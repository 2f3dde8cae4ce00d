"""What ``normdyn export`` says: of the embeddings, of what was tried on a sample, and of what the index loses."""

from __future__ import annotations

from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.export.index_export import ExportLoss
from lightning_normdyn.retrieval.export.pilot import CLOSE, Pilot, PilotResult
from lightning_normdyn.retrieval.export.survey import Survey
from lightning_normdyn.retrieval.indexes import SearchWidth

_BETTER = 0.01
_EXACT = "--index flat without --keep-norm is exact."

UNMEASURED_UPSERT = (
    "Recall was not measured: after --upsert there may be other vectors than these embeddings; export all of them with "
    "--overwrite to have it measured."
)

UNCHECKED_UPDATES = (
    "Whether the index holds vectors of that exponent was not checked, which its server alone knows: _meta of its "
    "mapping, or the first line of its schema, says so where an export made it."
)
UNMEASURED_FEED = (
    "Recall was not measured: the server makes the graph of this feed; --index flat is exact there, and its answers "
    "tell what the graph loses."
)
UNMEASURED_ZEROS = (
    "Recall was not measured: all embeddings that could be queries are zero vectors; give --queries that are not."
)


def describe(survey: Survey, folding: Folding) -> list[str]:
    """What is said before anything is written, what matters most first.

    Args:
        survey: of the embeddings.
        folding: how they will be folded.
    """
    lines = []
    if folding.stored_power != 1:
        lines.append(
            f"These embeddings are what an export wrote: their lengths carry exponent {folding.stored_power:g} of the "
            "original norms already, which is counted in."
        )
    if survey.unit_length and folding.stored_power:
        lines.append(
            "All embeddings have length 1 already, so folding does nothing, whatever the exponent: for norms, export "
            "what the model gives before it normalizes."
        )
    elif survey.same_length:
        lines.append(f"All embeddings have the same length ({survey.longest:.4g}), so no exponent changes any ranking.")
    dim = survey.sample.shape[1]
    lines.append(
        f"{survey.rows:,} embeddings of {dim} numbers, lengths from {survey.shortest:.4g} to {survey.longest:.4g}."
    )
    if survey.zeros:
        lines.append(f"{survey.zeros:,} embeddings have length 0: they stay so and score 0 with every query.")
    power = folding.score.document_power
    lines.append(f"To be stored: {_change(folding)}; norms count with exponent {power:g}.")
    return lines


def _change(folding: Folding) -> str:
    if folding.keep_norm:
        return "directions, with norms beside them"
    power = folding.score.document_power / (folding.stored_power or 1)
    if power == 1 or not folding.stored_power:
        return "as they are"
    return f"each times its length to the power {power - 1:g}"


def describe_pilot(pilot: Pilot, rows: int) -> list[str]:
    """What was tried on a sample, as a table, and why one was taken.

    Args:
        pilot: what was tried.
        rows: of all embeddings.
    """
    best = pilot.best
    lines = [_pilot_heading(pilot, rows), *(_pilot_line(result, pilot.k) for result in pilot.results)]
    highest = max(result.recall for result in pilot.results)
    reason = f"the least work of those within {CLOSE:g} of the best, {highest:.4f}"
    if highest < pilot.recall:
        reason = f"none finds {pilot.recall:g}; {reason}; --index flat without --keep-norm is exact"
    return [*lines, f"Taken: {best.candidate.name} ({best.options()}): {reason}."]


def describe_advice(pilot: Pilot | None) -> list[str]:
    """What would find more than the index that was written, as far as that was measured.

    Args:
        pilot: what was tried, the index that was written first; ``None`` where nothing can be tried.
    """
    if pilot is None:
        return [_EXACT]
    own, *others = pilot.results
    heading = f"Tried on {pilot.rows:,} rows with the same queries, where it finds {own.recall:.4f}{_with_width(own)}:"
    better = [result for result in others if result.recall >= own.recall + _BETTER]
    if not better:
        return [f"{heading} no other kind of index finds {_BETTER:g} more. {_EXACT}"]
    better.sort(key=lambda result: -result.recall)
    return [heading, *(_pilot_line(result, pilot.k) for result in better), _EXACT]


def _pilot_heading(pilot: Pilot, rows: int) -> str:
    of_all = f"{pilot.rows:,} of {rows:,} rows" if pilot.rows < rows else f"all {rows:,} rows"
    return (
        f"Tried on {of_all} with {pilot.queries:,} queries; recall@{pilot.k} against brute force, {pilot.recall:g} "
        "asked for:"
    )


def _pilot_line(result: PilotResult, k: int) -> str:
    if result.refusal:
        return f"  {result.candidate.name}: cannot be built ({result.refusal})"
    return (
        f"  {result.candidate.name}: recall@{k} {result.recall:.4f}{_with_width(result)}, "
        f"{result.milliseconds:.2g} ms a query: {result.options()}"
    )


def _with_width(result: PilotResult) -> str:
    options = result.width.options()
    return f" with {options}" if options else ""


def describe_appended(rows: int, existing_rows: int, *, by_row: bool) -> str:
    """How many rows were added to those that were there, and why others were not.

    Args:
        rows: of the embeddings.
        existing_rows: of them whose ids are there already.
        by_row: whether ids are numbers of rows, since there are no others.

    Example:
        >>> describe_appended(50, 0, by_row=False)
        'Added: 50 of 50 embeddings.'
    """
    added = f"Added: {rows - existing_rows:,} of {rows:,} embeddings"
    if not existing_rows:
        return f"{added}."
    numbers = "; ids here are numbers of rows, from 0: give new rows of another file --ids of their own" * by_row
    return f"{added}; the ids of the others are there already, and what is there stays{numbers}."


def describe_unmeasured(other_rows: int) -> str:
    """Why recall is not known after rows were appended.

    Args:
        other_rows: rows of the index that the embeddings do not have.
    """
    return (
        f"Recall was not measured: {other_rows:,} vectors of the index are not among these embeddings; give all "
        "of them as --embeddings with --append, which adds only those that are missing, to have it measured."
    )


def describe_wider(loss: ExportLoss, width: SearchWidth) -> str:
    """What a wider search finds in the index that was written.

    Args:
        loss: as measured with it.
        width: of that search.
    """
    return f"With {width.options()}, instead of what you set, the same index finds {loss.recall:.4f}."


def describe_loss(
    loss: ExportLoss,
    width: SearchWidth,
    *,
    approximate: bool,
    of_documents: bool,
    recall: float,
    equal_lengths: bool,
) -> list[str]:
    """What the index loses.

    Args:
        loss: as measured.
        width: of the search that it was measured with.
        approximate: whether the index is.
        of_documents: whether queries are some of the documents.
        recall: that was asked for.
        equal_lengths: whether lengths are equal already.
    """
    whose = "of the documents as queries" if of_documents else "queries"
    with_width = f", with {width.options()}" if width.values else ""
    finding = f"recall@{loss.k} against exact search in float32: {loss.recall:.4f}"
    lines = [f"{finding}, over {loss.queries:,} {whose}{with_width}."]
    if loss.score_error is not None:
        lines.append(f"float16 changes a score by at most {loss.score_error:.1e} of the query's best, in a sample.")
    if approximate and loss.recall < recall:
        lines.append(f"That is below the {recall:g} that was asked for.")
    if not approximate and equal_lengths and loss.recall < recall:
        lines.append(
            "That is low for an exact search: where lengths are so unlike, rounding hides what tells scores apart; "
            "take --metric inner_product."
        )
    return lines
