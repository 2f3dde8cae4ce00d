"""The closing line of a run: where the norms of a target are, where they would settle, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_normdyn.instruments.quantities import LITTLE_MOVE
from lightning_normdyn.instruments.verdicts.verdict import Verdict, amount

_SETTLING = 0.5
_FEWEST_STEPS = 30
_MOST_VERDICTS = 2


def closing_line(metrics: Mapping[str, Any], prefix: str, steps: int, verdicts: Sequence[Verdict]) -> str:
    """What became of a target's norms, and the worst verdicts on it; empty where there is nothing to say.

    Args:
        metrics: the trainer's metrics.
        prefix: what the target's keys start with.
        steps: that were made.
        verdicts: on the target, the worst first.
    """
    sentences = (conclusion(metrics, prefix, steps=steps), _advice(verdicts))
    return ". ".join(sentence for sentence in sentences if sentence)


def _advice(verdicts: Sequence[Verdict]) -> str:
    """The worst verdicts on a target from a warning on, in a line; empty if there is none."""
    grave = [verdict for verdict in verdicts if verdict.severity != "note"]
    texts = [f"{verdict.severity.capitalize()} ({verdict.rule}): {verdict.text}" for verdict in grave[:_MOST_VERDICTS]]
    rest = len(grave) - _MOST_VERDICTS
    return " ".join([*texts, f"{rest} more in the report."] if rest > 0 else texts)


def conclusion(metrics: Mapping[str, Any], prefix: str, *, steps: int | None = None) -> str:
    """Puts what became of the norms of one target into words; empty where there is nothing to say.

    A prediction is held against what happened only where something did: norms that moved by less than a tenth are
    predicted by their start.

    Args:
        metrics: the trainer's metrics.
        prefix: what the target's keys start with.
        steps: of the run, if they are known; a handful say nothing.

    Example:
        >>> conclusion({"a/transient_slope": 1.0, "a/transient_median_error": 0.012, "a/forecast_skill": 0.9}, "a/")
        'norms predicted with slope 1.00, 1.2% off (median); forecast for the end: skill 0.90'
        >>> there = {"a/norm_p50": 6.17, "a/equilibrium_norm_p50": 0.98, "a/relaxation_steps": 1667.0}
        >>> conclusion(there | {"a/stationarity": 0.1}, "a/", steps=906).partition(";")[0]
        'norms are at 6.17 (median) and would settle at 0.98, with a relaxation time of 1,667 steps in a run of 906'
    """
    if steps is not None and steps < _FEWEST_STEPS:
        return ""
    values = {key.removeprefix(prefix): float(value) for key, value in metrics.items() if key.startswith(prefix)}
    is_settled = values.get("stationarity", 1.0) >= _SETTLING
    clauses = [_whereabouts(values, is_settled, steps)]
    if values.get("transient_persistence_error", 1.0) >= LITTLE_MOVE:
        clauses.append(_fit(values, "transient", "norms predicted"))
    elif is_settled:
        clauses.append(_fit(values, "equilibrium", "as the law has them"))
    if not is_settled:
        clauses.append(_unsettled(values.get("transient_persistence_error")))
    if "forecast_skill" in values and values.get("persistence_median_error", 1.0) >= LITTLE_MOVE:
        clauses.append(f"forecast for the end: skill {values['forecast_skill']:.2f}")
    return "; ".join(clause for clause in clauses if clause)


def _whereabouts(values: Mapping[str, float], is_settled: bool, steps: int | None) -> str:
    """Where norms are, where they would settle, and how long that takes."""
    if not {"norm_p50", "equilibrium_norm_p50"} <= values.keys():
        error = values.get("equilibrium_median_error")
        return "" if error is None else f"{error:.1%} away from equilibrium"
    norm, target = amount(values["norm_p50"]), amount(values["equilibrium_norm_p50"])
    if is_settled:
        return f"norms have settled at {norm} (median), where the law has {target}"
    relaxation = values.get("relaxation_steps")
    time = f", with a relaxation time of {relaxation:,.0f} steps" if relaxation is not None else ""
    length = f" in a run of {steps:,}" if time and steps is not None else ""
    return f"norms are at {norm} (median) and would settle at {target}{time}{length}"


def _fit(values: Mapping[str, float], kind: str, words: str) -> str:
    """How well norms were predicted, as slope, r and median error."""
    names = {"slope": ".2f", "pearson_r": ".3f"}
    fit = [
        f"{name.removeprefix('pearson_')} {values[f'{kind}_{name}']:{style}}"
        for name, style in names.items()
        if f"{kind}_{name}" in values
    ]
    if f"{kind}_median_error" not in values:
        return ""
    return f"{words} with " * bool(fit) + ", ".join([*fit, f"{values[f'{kind}_median_error']:.1%} off (median)"])


def _unsettled(move: float | None) -> str:
    """What to make of norms that still move one way.

    Args:
        move: their relative change since the last window's start, the median; ``None`` where it was not measured.
    """
    if move is None:
        return "not settled: the norms still move one way"
    if move < LITTLE_MOVE:
        return f"not settled: the norms moved by {move:.1%} (median) and mostly repeat where they started"
    return f"not settled: the norms moved by {move:.1%} (median) in the last window, still one way"
