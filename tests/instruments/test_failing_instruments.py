"""Instruments of a user's own that fail: one warning that names them, and the training goes on as if they were not."""

from __future__ import annotations

import io
import threading
import warnings
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from small_models import Lit, PairTable, pair_batches, seeded

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.instruments import Instrument

TABLE = "net.table.weight"


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.3, weight_decay=0.01)


class Counting(Instrument):
    """Counts its looks, and fails where a subclass says so."""

    quantities = ("looks",)
    every_n_steps = 1

    def __init__(self):
        self.looks = 0

    def measure(self, look):
        self.looks += 1
        return {"looks": self.looks}

    def state_dict(self):
        return {"looks": self.looks}

    def load_state_dict(self, state):
        self.looks = state["looks"]


class FailsOnce(Counting):
    def measure(self, look):
        if look.step == 3:
            raise ZeroDivisionError("nothing to divide by")
        return super().measure(look)


class GivesNothingLater(Counting):
    def measure(self, look):
        return super().measure(look) if look.step < 3 else None


class Locked(Counting):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Unspoken(Counting):
    def state_dict(self):
        raise KeyError("where is it")


class NoState(Counting):
    def state_dict(self):
        return None


class Hybrid(Counting):
    def state_dict(self):
        return {"looks": [self.looks, {"share": np.float64(0.5)}]}


class Forgetful(Counting):
    def load_state_dict(self, state):
        self.looks = -100
        raise IndexError("lost it")


class Saves(Callback):
    def __init__(self, path, at=4):
        self.path, self.at = path, at

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.at:
            trainer.save_checkpoint(self.path)


def cautions(record):
    return [str(warning.message) for warning in record if "instruments: " in str(warning.message)]


def train(fit, instrument, *callbacks, **options):
    """Looks by step, the weights at the end, and what was said of instruments."""
    instruments = [] if instrument is None else [instrument]
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        module = Lit(seeded(PairTable), sgd)
        callback = NormDynamics(instruments=instruments, save_history=False)
        trainer = fit(module, pair_batches(6), callback, *callbacks, **options)
    looks = {step: scalars["looks"] for step, scalars in trainer.logger.of(TABLE).items() if "looks" in scalars}
    return looks, module.net.table.weight.detach().clone(), cautions(record)


@pytest.mark.parametrize(
    ("instrument", "looks", "words"),
    [
        (FailsOnce, [1, 2], f"FailsOnce failed at step 3 of '{TABLE}' (ZeroDivisionError: nothing to divide by)"),
        (GivesNothingLater, [1, 2], f"GivesNothingLater failed at step 3 of '{TABLE}' (UnusableReadingError: "),
        (Locked, [], "Locked cannot be copied for each target (TypeError: cannot pickle '_thread.lock' object)"),
    ],
)
def test_one_that_fails_is_off_and_the_training_is_what_it_was(fit, instrument, looks, words):
    seen, weights, said = train(fit, instrument())
    assert list(seen.values()) == looks
    assert torch.equal(weights, train(fit, None)[1])
    assert len(said) == 1
    assert words in said[0]


@pytest.mark.parametrize(
    ("instrument", "words"),
    [
        (Unspoken, "KeyError: 'where is it'"),
        (NoState, "expected tensors, numbers, strings, lists and dicts in a dict, got a NoneType"),
        (Hybrid, "expected tensors, numbers, strings, lists and dicts in a dict, got a numpy.float64"),
    ],
)
def test_a_state_that_cannot_be_saved_is_left_out_and_the_checkpoint_loads(fit, tmp_path, instrument, words):
    path = tmp_path / "saved.ckpt"
    looks, _, said = train(fit, instrument(), Saves(path, 3), Saves(tmp_path / "again.ckpt", 4))
    assert list(looks.values()) == [1, 2, 3, 4, 5, 6]
    assert len(said) == 1
    assert said[0].endswith(
        f"instruments: the state_dict of {instrument.__name__} cannot go into a checkpoint ({words}); it is left out, "
        "and a resumed run begins it anew"
    )
    torch.load(path, weights_only=True)
    resumed, _, said = train(fit, instrument(), ckpt_path=path, max_epochs=1)
    assert resumed == {4: 1, 5: 2, 6: 3}
    assert not said


def test_one_that_cannot_take_its_state_back_begins_anew(fit, tmp_path):
    """The other statistics of the checkpoint are taken back as ever."""
    path = tmp_path / "saved.ckpt"
    train(fit, Forgetful(), Saves(path))
    observed = {}

    class Steps(Callback):
        def on_train_start(self, trainer, pl_module):
            (monitor,) = (callback for callback in trainer.callbacks if isinstance(callback, NormDynamics))
            observed.update(monitor.state_dict()["targets"][TABLE])

    looks, _, said = train(fit, Forgetful(), Steps(), ckpt_path=path)
    assert looks == {5: 1, 6: 2}
    assert len(said) == 1
    assert f"Forgetful cannot take back its state of '{TABLE}' (IndexError: lost it) and begins anew" in said[0]
    assert observed["steps"] == 4


STATES = [
    {"tensor": torch.ones(2), "parameter": torch.nn.Parameter(torch.ones(2)), "size": torch.Size([2])},
    {"words": ["a", b"b", None, True, 1, 2.5, 1j, (1, [2, {"c": 3}])], 4: OrderedDict(a=1)},
    {"number": np.float64(1.0)},
    {"number": np.int64(1)},
    {"array": np.ones(2)},
    {"path": Path("x")},
    {"counts": defaultdict(int)},
    {"object": object},
    {"names": {1: [np.bool_(True)]}},
    {np.float64(0.5): 1},
]


@pytest.mark.parametrize("state", STATES, ids=lambda state: str(next(iter(state))))
def test_a_state_is_passed_exactly_where_torch_loads_it(fit, tmp_path, state):
    """The oracle is torch itself: what is left out would not load, what is passed does."""

    class Holding(Counting):
        def state_dict(self):
            return state

        def load_state_dict(self, state):
            del state

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    try:
        torch.load(file, weights_only=True)
        loads = True
    except Exception:
        loads = False
    path = tmp_path / "saved.ckpt"
    said = train(fit, Holding(), Saves(path))[2]
    torch.load(path, weights_only=True)
    if not loads:
        assert len(said) == 1
    elif not isinstance(next(iter(state.values())), defaultdict):  # torch knows some kinds of dict besides
        assert not said


def test_two_that_would_share_a_name_in_a_checkpoint_are_refused():
    class Own(Counting):
        quantities = ("a, b",)

    first = Own()

    class Own(Counting):
        quantities = ("a", "b")

    with pytest.raises(
        ValueError, match=r"^instruments: two are called 'Own: a, b' in a checkpoint, got 2 instruments;"
    ):
        NormDynamics(instruments=[first, Own()])
