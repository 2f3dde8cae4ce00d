"""A spoilt state of the observer costs the statistics, said once, and no bit of the training that is resumed.

What it costs is all or nothing: the observer begins with the very state that it is given, or afresh.
"""

from __future__ import annotations

import logging
import re
import warnings

import pytest
import torch
from loops import TABLE, Contrasted, Named
from small_models import pair_batches, seeded
from state_mutations import mutations

from lightning_normdyn.instruments import Instrument, NormObserver

STEPS, SAVED_AT = 24, 13
VERDICT = re.compile(r": (warning|critical) \(\w+\) at step ")


class Looks(Instrument):
    """Counts its looks."""

    quantities = ("looks",)

    def __init__(self):
        self.looks = 0

    def measure(self, look):
        self.looks += 1
        return {"looks": self.looks}

    def state_dict(self):
        return {"looks": self.looks}

    def load_state_dict(self, state):
        self.looks = int(state["looks"])


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.3, weight_decay=0.02)


def observe(net, optimizer):
    targets = [TABLE, "net.encoder"]
    return NormObserver(
        Named(net), optimizer, targets=targets, total_steps=STEPS, every_n_steps=2, window=4, instruments=[Looks()]
    )  # fmt: skip


def go_on(net, optimizer, batches):
    for batch in batches:
        optimizer.zero_grad()
        net(batch).backward()
        optimizer.step()


@pytest.fixture(scope="module")
def saved():
    """Weights and state after 13 steps, and the weights at the end."""
    net = seeded(Contrasted)
    optimizer = sgd(net)
    batches = pair_batches(STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with observe(net, optimizer) as observer:
            go_on(net, optimizer, batches[:SAVED_AT])
            state = observer.state_dict()
            weights = {name: value.clone() for name, value in net.state_dict().items()}
            go_on(net, optimizer, batches[SAVED_AT:])
    return weights, state, net.state_dict()


def resume(saved, state):
    """Resumes with a state.

    Returns:
        The state that the observer began with, that at the end, the weights, and what was said.
    """
    net = seeded(Contrasted)
    net.load_state_dict(saved[0])
    optimizer = sgd(net)
    observer = observe(net, optimizer)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        observer.load_state_dict(state)
        observer.begin(steps_made=SAVED_AT)
        first = observer.state_dict()
        go_on(net, optimizer, pair_batches(STEPS)[SAVED_AT:])
        observer.finish()
    said = [str(warning.message) for warning in record]
    return first, observer.state_dict(), net.state_dict(), [message for message in said if not VERDICT.search(message)]


def are_same(left, right):
    """Whether all of a state is in another, bit for bit."""
    if isinstance(left, torch.Tensor) or isinstance(right, torch.Tensor):
        is_pair = isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor)
        return is_pair and left.shape == right.shape and torch.equal(left.nan_to_num(-7), right.to(left).nan_to_num(-7))
    if isinstance(left, dict):
        return isinstance(right, dict) and all(are_same(left[key], right.get(key)) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(are_same(*pair) for pair in zip(left, right, strict=True))
    return left == right or (left != left and right != right)


def assert_all_or_nothing(saved, name, spoilt, afresh):
    first, last, weights, said = resume(saved, spoilt)
    assert not [key for key, value in saved[2].items() if not torch.equal(weights[key], value)], name
    if "Looks: looks" in name:  # the user's own instrument, which judges its state itself
        assert all("Looks cannot take back its state of" in message for message in said), (name, said)
        return "taken"
    if said:
        assert len(said) == 1, (name, said)
        assert "the checkpoint's norm statistics cannot be used (" in said[0], (name, said)
        assert are_same(afresh[0], first), name
        assert are_same(afresh[1], last), name
        return "refused"
    assert are_same(first["targets"], spoilt["targets"]) or begins_some_anew(first, spoilt, afresh[0]), name
    return "taken"


def begins_some_anew(first, spoilt, afresh):
    """Whether whole targets, or instruments of the user's own, begin anew and the rest is as in the state."""
    for target, state in first["targets"].items():
        given, fresh = spoilt["targets"].get(target), afresh["targets"][target]
        if given is None:
            if not are_same(fresh, state):
                return False
            continue
        for name, instrument in state["instruments"].items():
            taken = given["instruments"].get(name, {})
            expected = fresh["instruments"][name] if ": " in name and not are_same(instrument, taken) else taken
            if not are_same(instrument, expected):
                return False
    return True


@pytest.fixture(scope="module")
def afresh(saved):
    """States of a run that is resumed without one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, last, _, _ = resume(saved, {})
    return first, last


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(logging.getLogger("lightning_normdyn.caution"), "disabled", True)


def test_the_state_itself_is_taken(saved, afresh):
    assert assert_all_or_nothing(saved, "as it was", saved[1], afresh) == "taken"
    assert not are_same(saved[1]["targets"], afresh[0]["targets"])


def test_some_spoilt_states(saved, afresh):
    """Every fiftieth, from here and there."""
    every = list(mutations(saved[1]))
    assert len(every) >= 665
    outcomes = [assert_all_or_nothing(saved, name, spoil(), afresh) for name, spoil in every[3 :: len(every) // 24]]
    assert outcomes.count("refused") > len(outcomes) / 2


@pytest.mark.exhaustive
def test_all_spoilt_states(saved, afresh):
    counts = {"refused": 0, "taken": 0}
    taken = []
    for name, spoil in mutations(saved[1]):
        outcome = assert_all_or_nothing(saved, name, spoil(), afresh)
        counts[outcome] += 1
        taken += [name] * (outcome == "taken")
    print(counts, "taken as they are:", *taken, sep="\n")
    assert counts["refused"] + counts["taken"] >= 665
