"""What a checkpoint holds of a run, entry by entry: the forms in which states are believed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.law import ObservedMean
from lightning_normdyn.instruments.state_check import (
    Check,
    Sizes,
    each,
    fields,
    flag,
    listed,
    mapped,
    number,
    optional,
    tensor,
    whole,
    word,
)
from lightning_normdyn.instruments.verdicts.evidence import Course
from lightning_normdyn.instruments.verdicts.verdict import SEVERITIES

_BOOL, _INT = (torch.bool,), (torch.int32,)


def table_forms(rows: int, *, is_lost: Tensor) -> dict[str, Check]:
    """The states of the instruments of a table, by name.

    Args:
        rows: tracked rows.
        is_lost: rows whose norm is not finite any more, of which anything may have been kept, a mask ``[rows]``.
    """
    return {
        "met": fields(
            {
                "met": tensor(rows, dtypes=_BOOL),
                "was_zero": tensor(rows, dtypes=_BOOL),
                "products": tensor(rows, unless=is_lost),
                "is_steady": flag,
                "decay": fields(
                    {"factor": number(), "steps": whole(), "velocity": number(), "swings": flag, "rate": number()}
                ),
            }
        ),
        "trajectory": fields({"last_snapshot": whole()}),
        "dead": fields({}),
        "split": fields({}),
        "clip": fields({}),
        "fit": _fit(rows, is_lost),
    }


def _fit(rows: int, is_lost: Tensor) -> Check:
    forecast = fields(
        {
            "due": whole(),
            "norms": tensor(rows, may_be_nan=True),
            "stays": tensor(rows, least=0, unless=is_lost),
            "errors": optional(_errors(rows)),
            "judged": flag,
        }
    )
    form = fields(
        {
            "window_start": whole(),
            "window_end": whole(),
            "forecast": optional(forecast),
            "window": _fit_window(rows, is_lost),
            "previous": optional(_noise(rows, is_lost)),
            "nonfinite_before": number(0),
            "touch_share": optional(tensor(rows, least=0, most=1 + 1e-9, unless=is_lost)),
            "counted_steps": whole(),
            "typical_row": optional(listed(number(0), number(0), whole())),
        }
    )
    of_previous = fields(
        {
            "previous_readings": listed(tensor(rows, dtypes=_INT, least=0), tensor(rows, dtypes=_BOOL)),
            "previous_memory": _memory(rows),
        }
    )

    def check(value: Any, place: str) -> None:
        form(value, place)
        if value["previous"] is not None:
            of_previous(value, place)

    return check


def _errors(rows: int) -> Check:
    """What chance does to a forecast; NaN for rows that are not judged."""
    return tensor("errors", rows, sizes=Sizes(), may_be_nan=True)


def _fit_window(rows: int, is_lost: Tensor) -> Check:
    moments = {
        "steps": whole(),
        "scarce_steps": _check_scarce_steps,
        "sums": tensor(rows + 1, 3, least=0),
        "nonfinite": tensor(dtypes=(torch.int64,), least=0),
        "cadences": optional(tensor(rows, dtypes=(torch.int8,), least=0)),
    }
    resets = {
        "before": optional(tensor(rows, least=0, unless=is_lost)),
        "change": _any_of(tensor(rows, least=0, unless=is_lost), tensor(least=0)),
        "changed": tensor(least=0),
        "returned": tensor(least=0),
    }
    return fields(
        {
            "observed_mean": word(*get_args(ObservedMean)),
            "start": tensor(rows, least=0, unless=is_lost),
            "samples": whole(),
            "sums": tensor(3, rows, least=-math.inf, unless=is_lost),  # the log of a norm of zero
            "moments": fields(moments),
            "rates": _RATES,
            "resets": fields(resets),
            "memory": _memory(rows),
        }
    )


def _memory(rows: int) -> Check:
    """What the optimizer has in store of each row."""
    return listed(optional(tensor(rows, may_be_nan=True)), optional(tensor(rows, 2, may_be_nan=True)))


def _noise(rows: int, is_lost: Tensor) -> Check:
    """``V²``, probability and kurtosis of a window."""

    def check(value: Any, place: str) -> None:
        tensor(3, rows, may_be_nan=True)(value, place)
        tensor(2, rows, least=0, unless=is_lost)(value[:2], place)

    return check


def _any_of(first: Check, second: Check) -> Check:
    def check(value: Any, place: str) -> None:
        try:
            first(value, place)
        except ValueError:
            second(value, place)

    return check


def output_forms() -> dict[str, Check]:
    """The states of the instruments of an output, by name."""
    return {"summary": fields({}), "balance": _balance()}


def _balance() -> Check:
    """The state of an encoder's balance, which is empty where there is no probe; items are counted by their norms."""
    sizes = Sizes()

    def of_items(*shape: int | str, **limits: Any) -> Check:
        return tensor(*shape, "items", sizes=sizes, may_be_nan=True, **limits)

    window = fields(
        {
            "start": of_items(least=0),
            "rates": _RATES,
            "samples": listed(whole(), whole()),
            "lr": listed(number(), number()),
            "sums": of_items(6),
            "decays": of_items(2),
        }
    )
    errors = optional(of_items("errors"))
    forecast = {"due": whole(), "norms": of_items(), "stays": of_items(least=0), "errors": errors, "judged": flag}
    terms = listed(
        of_items(), of_items(), of_items(), of_items(), number(), _any_of(of_items(), tensor()), flag, number()
    )
    form = fields(
        {
            "window": window,  # first: it says how many items there are
            "window_start": whole(),
            "window_end": whole(),
            "forecast": optional(fields(forecast)),
            "inputs": each(listed(each(_anything), mapped(_anything), whole())),
            "ranks": whole(1),
            "lag": whole(1),
            "measured": whole(),
            "lagging": optional(listed(whole(), tensor("items", "dim", sizes=sizes, may_be_nan=True), number())),
            "decay": optional(of_items()),
            "heard": tensor(2, dtypes=(torch.float64,), least=0, may_be_nan=True),
            "previous": optional(terms),
            "last_snapshot": whole(),
        }
    )
    return lambda value, place: None if value == {} else form(value, place)


def _anything(value: Any, place: str) -> None:
    """What an encoder is called with: the encoder itself will tell."""


def alerts_form() -> Check:
    """The state of the courses of all quantities, and of what was said of them."""
    numbers = {entry.name: number() for entry in dataclasses.fields(Course) if entry.name != "latest"}
    course = fields(
        numbers | {"first_step": whole(), "last_step": whole(), "count": whole(1), "latest": each(number())}
    )
    courses = fields({"relaxations": number(0), "relaxed_until": whole(), "courses": mapped(course)})
    return fields({"courses": mapped(courses), "passed_on": mapped(word(*SEVERITIES))})


def _check_scarce_steps(value: Any, place: str) -> None:
    """How many steps were read on each cadence."""
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected a dict, got a {type(value).__name__}")
    for cadence, steps in value.items():
        whole(1)(cadence, place)
        whole()(steps, f"{place}.{cadence}")


def _check_rates(value: Any, place: str) -> None:
    """Sums over steps, of rates and decays or, by an earlier release, of rates alone."""
    fields({"span": whole(1), "closed": each(each(number(0))), "open": each(number(0))})(value, place)
    sums = [*value["closed"], value["open"]]
    if len({len(members) for members in sums}) > 1 or len(value["open"]) not in (3, 4):
        raise ValueError(f"{place}: expected sums of 4 numbers each, got {sorted({len(members) for members in sums})}")
    if len(value["closed"]) >= _MOST_SUMS or any(members[0] < 0 or members[0] % 1 for members in sums):
        raise ValueError(f"{place}: expected fewer than {_MOST_SUMS} sums of whole numbers of steps, got others")
    if not value["open"][0] < value["span"]:
        raise ValueError(f"{place}: expected open sums of fewer than {value['span']} steps, got {value['open'][0]}")


_MOST_SUMS = 256
_RATES: Check = _check_rates


def steps_of(rates: dict[str, Any]) -> int:
    """How many steps a trace of rates was saved with."""
    return int(sum(members[0] for members in (*rates["closed"], rates["open"])))
