"""Bad calls of the API end in one sentence that names the argument and the fix: none is taken in silence."""

import warnings

import pytest
from bad_calls import CALLS
from bad_command_lines import COMMAND_LINES
from call_outcomes import run_call
from outcomes import table
from reach import untouched_arguments, untouched_options

_SHARE = 0.99
_EVERY = 8


@pytest.fixture(autouse=True)
def _folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


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
    assert len(CALLS) >= 2_500
    assert len(faulty) <= (1 - _SHARE) * len(outcomes)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")
def test_each_is_in_order_but_for_the_one_argument():
    """Else an error might be about something else."""
    refused, seen = [], set()
    for case in CALLS:
        place = (case.kind, case.case.partition("(")[0], str(case.good and case.good.__closure__))
        if case.good is not None and place not in seen:
            seen.add(place)
            try:
                case.good()
            except Exception as error:
                refused.append(f"{place[:2]}: {error!r}")
    assert not refused, "\n".join(refused)


def test_every_argument_of_every_public_name_is_touched():
    assert untouched_arguments(CALLS) == {"capture.OutputTarget(path)"}  # which find_targets makes
    some = [case for case in CALLS if case.name != "temperature"]
    assert "core.fisher_condition_number(temperature)" in untouched_arguments(some)


def test_every_option_of_every_command_is_touched():
    assert not untouched_options(COMMAND_LINES)
    some = [case for case in COMMAND_LINES if not any(word.startswith("--seed") for word in case.words)]
    assert untouched_options(some) == {"demo --seed", "reproduce --seed", "grid --seeds"}


def test_what_is_accepted_counts_as_a_fault():
    """The oracle itself: a call that is in order, one that warns of its argument, and one that breaks inside."""
    case = CALLS[0]
    accepted = run_call(case._replace(call=lambda: None))
    warned = run_call(case._replace(call=lambda: warnings.warn("x: expected 1, got 2", stacklevel=1), argument="x"))
    broken = run_call(case._replace(call=lambda: [][0], argument="width"))
    assert (accepted.faults, warned.faults) == (["accepted"], [])
    assert broken.faults == ["traceback", "foreign", "no argument", "no fix"]
