"""Bad calls: one argument at a time replaced by what makes no sense, and what came of it."""

import math
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from outcomes import Outcome
from torch import nn

import lightning_normdyn
from lightning_normdyn.datasets import Judgements

NAN, INF = math.nan, math.inf
Q, D = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.randn(6, 3)
QN = Q.clone()
QN[1, 0] = NAN
RULE_OPTIMIZER = torch.optim.SGD([nn.Parameter(torch.randn(6, 3))], lr=0.1, weight_decay=0.1)
PAIRS = Judgements(torch.arange(4), torch.arange(4), torch.ones(4))
NOT_POSITIVE = [0, -1.0, NAN, INF, "0.1", None, True]
NOT_COUNT = [0, -1, 1.5, "3", True]
NOT_FLAG = ["no", 1, None]
_OURS = (ValueError, TypeError, OSError)
_PACKAGE = Path(lightning_normdyn.__file__).parent


class BadCall(NamedTuple):
    """A call.

    Attributes:
        kind: of what is called.
        case: what is wrong, in words.
        call: it.
        argument: a regular expression of what the error has to name.
        function: what is called, and ``name`` the argument of it that makes no sense.
        name: see there.
        good: the same call with nothing wrong, which must pass.
    """

    kind: str
    case: str
    call: Callable[[], Any]
    argument: str
    function: Callable[..., Any] | None = None
    name: str = ""
    good: Callable[[], Any] | None = None


def each(
    kind: str, function: Callable[..., Any], good: dict[str, Any] | None, /, *, argument: str = "", **bad: list[Any]
) -> Iterator[BadCall]:
    """The call with one argument at a time replaced by each of its bad values.

    Args:
        kind: of what is called.
        function: what is called.
        good: arguments that are in order; ``None`` where the call needs what is not at hand.
        argument: what errors have to name, where it is not the argument itself.
        bad: argument to its bad values.
    """
    for name, values in bad.items():
        for value in values:
            shown = f"{list(value.shape)} {value.dtype}" if isinstance(value, torch.Tensor) else repr(value)[:40]
            called = getattr(function, "__qualname__", type(function).__name__)
            yield BadCall(
                kind,
                f"{called}({name}={shown})",
                lambda name=name, value=value: function(**(good or {}) | {name: value}),
                argument or rf"\b{name.removesuffix('s')}s?\b",
                function,
                name,
                None if good is None else lambda: function(**good),
            )


def run_call(case: BadCall) -> Outcome:
    """Makes one; an error of a kind that Python or torch raises by itself counts as a traceback.

    Args:
        case: the call.
    """
    message, crash, accepted, foreign = "", False, False, False
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            case.call()
        except Exception as error:
            message, crash = f"{error}", not isinstance(error, _OURS)
            foreign = not Path(traceback.extract_tb(error.__traceback__)[-1].filename).is_relative_to(_PACKAGE)
            if crash:
                message = f"{type(error).__name__}: {error}"
        else:
            message = next((str(w.message) for w in caught if re.search(case.argument, str(w.message))), "")
            accepted = not message
    return Outcome(case.kind, case.case, accepted, crash, message, case.argument, foreign)
