"""Bad calls of the API end in one sentence that names the argument and the fix: none is taken in silence."""

import warnings

import pytest
from bad_calls import CALLS
from call_outcomes import run_call
from outcomes import table

_SHARE = 0.99
_EVERY = 8


def test_some_of_each_kind():
    kinds = {}
    for case in CALLS:
        kinds.setdefault(case.kind, []).append(case)
    cases = [case for members in kinds.values() for case in members[::_EVERY]]
    faulty = [str(outcome) for outcome in map(run_call, cases) if outcome.faults]
    assert not faulty, "\n".join(faulty)


@pytest.mark.exhaustive
def test_all_of_them(capsys):
    outcomes = [run_call(case) for case in CALLS]
    faulty = [str(outcome) for outcome in outcomes if outcome.faults]
    with capsys.disabled():
        print("", table(outcomes), *faulty, sep="\n")
    assert len(CALLS) >= 246
    assert len(faulty) <= (1 - _SHARE) * len(outcomes)


def test_what_is_accepted_counts_as_a_fault():
    """The oracle itself: a call that is in order, one that warns of its argument, and one that breaks inside."""
    case = CALLS[0]
    accepted = run_call(case._replace(call=lambda: None))
    warned = run_call(case._replace(call=lambda: warnings.warn("x: expected 1, got 2", stacklevel=1), argument="x"))
    broken = run_call(case._replace(call=lambda: [][0], argument="width"))
    assert (accepted.faults, warned.faults) == (["accepted"], [])
    assert broken.faults == ["traceback", "no argument", "no fix"]
