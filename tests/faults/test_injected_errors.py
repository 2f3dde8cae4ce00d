"""An error anywhere in the observer never ends a training: it costs one warning, and no bit of the weights."""

from __future__ import annotations

import logging
import re
import warnings

import pytest
import torch
from injection import Injection, Record, code_of, methods_of, tracing
from mid_run_changes import ENCODER, TABLE, Towers, sgd
from pytorch_lightning import Callback
from small_models import DIM, Lit, pair_batches, seeded

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.callbacks.monitor import NormMonitor
from lightning_normdyn.history import read_run
from lightning_normdyn.instruments import NormObserver
from lightning_normdyn.instruments.safeguard import FAILURES

STEPS = 12
PROBE = torch.linspace(-1, 1, 6 * DIM).reshape(6, DIM)
OPTIONS = {"every_n_steps": 1, "window": 4}
VERDICT = re.compile(r": (warning|critical) \(\w+\) at step ")


class KilledError(Exception):
    """The user's own."""


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(logging.getLogger("lightning_normdyn.caution"), "disabled", True)


def said(record):
    """What was said of failures; nothing else may be but verdicts."""
    messages = [str(warning.message) for warning in record]
    ours = [message for message in messages if "Norm" in message.split(":")[0] and not VERDICT.search(message)]
    assert all("InjectedError" in message for message in ours), ours
    return ours


class Saves(Callback):
    """Saves a checkpoint after step 4, and reads the verdicts."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 4:
            trainer.save_checkpoint(self.path)
            next(callback for callback in trainer.callbacks if isinstance(callback, NormMonitor)).verdicts  # noqa: B018


class Fails(Callback):
    """Ends a run at step 6."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 6:
            raise KilledError


AT_SETUP = {
    *("setup", "on_fit_start", "_join_others", "on_train_start", "_bookmark"),
    *("__init__", "state_key", "__getstate__", "_recorder"),
}
"""Members of a callback that run before anything is trained, where errors are the user's to mend, or that only read."""
INNER = {"_switch_off", "_stop", "_log"}
"""Members that hooks alone call."""


def lightning_scenario(fit, folder):
    """A run that is saved, one that the user's own error ends, and one that is resumed; the weights of the last."""
    for path in (folder, folder / "killed", folder / "resumed"):
        path.mkdir(exist_ok=True)

    def module():
        return Lit(seeded(Towers), lambda net: sgd(net.parameters()))

    def dynamics():
        return NormDynamics(targets=[f"net.{TABLE}", f"net.{ENCODER}"], probe={f"net.{ENCODER}": PROBE}, **OPTIONS)

    batches, checkpoint = pair_batches(STEPS), folder / "saved.ckpt"
    with pytest.raises(KilledError):
        fit(module(), batches, dynamics(), Fails(), default_root_dir=folder / "killed")
    whole, resumed = module(), module()
    fit(whole, batches, dynamics(), Saves(checkpoint), default_root_dir=folder)
    fit(resumed, batches, dynamics(), ckpt_path=checkpoint, default_root_dir=folder / "resumed")
    return [whole.state_dict(), resumed.state_dict()]


@pytest.fixture(scope="module")
def undisturbed():
    """Weights of the scenario without an observer."""
    net = seeded(Towers)
    optimizer = sgd(net.parameters())
    for batch in pair_batches(STEPS):
        optimizer.zero_grad()
        net(batch).backward()
        optimizer.step()
    return net.state_dict()


def assert_undisturbed(state, undisturbed, prefix=""):
    assert {f"{prefix}{name}" for name in undisturbed} == state.keys()
    assert not [name for name, value in undisturbed.items() if not torch.equal(state[f"{prefix}{name}"], value)]


@pytest.mark.parametrize("name", [n for n in methods_of(NormMonitor) if n not in AT_SETUP | INNER])
def test_a_hook_of_the_callback_that_fails_costs_one_warning(fit, tmp_path, undisturbed, name):
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        with tracing(Injection(code_of(vars(NormMonitor)[name]))) as injection:
            states = lightning_scenario(fit, tmp_path)
    assert injection.was_raised
    for state in states:
        assert_undisturbed(state, undisturbed, "net.")
    assert len(said(record)) == 1


@pytest.mark.parametrize("name", sorted(n for n in AT_SETUP if n.startswith(("on_", "setup"))))
def test_before_the_training_errors_are_raised(fit, tmp_path, name):
    with tracing(Injection(code_of(vars(NormMonitor)[name]))), pytest.raises(Exception, match=name):
        lightning_scenario(fit, tmp_path)


class Hookless:
    """Passes steps on to an optimizer of torch, and is none."""

    def __init__(self, optimizer):
        self.optimizer, self.param_groups, self.state = optimizer, optimizer.param_groups, optimizer.state

    def step(self):
        self.optimizer.step()


def plain_scenario(folder, trace=None, *, is_hookless=False, has_closure=False):
    """A plain loop that announces its steps, saves and reads the verdicts in the midst of it; the weights."""
    net = seeded(Towers)
    inner = sgd(net.parameters())
    optimizer = Hookless(inner) if is_hookless else inner
    observer = NormObserver(
        net, optimizer, targets=[TABLE, ENCODER], probe={ENCODER: PROBE}, total_steps=STEPS, log=lambda *_: None,
        log_dir=folder, **OPTIONS,
    )  # fmt: skip
    with observer:
        for step, batch in enumerate(pair_batches(STEPS), 1):
            if trace is not None and step == 3:
                trace.active = True
            inner.zero_grad()
            if has_closure:
                inner.step(lambda batch=batch: net(batch).backward())
            else:
                net(batch).backward()
                observer.before_step()
                optimizer.step()
                observer.after_step()
            if step == 8:
                observer.flush()
                observer.state_dict()
                assert isinstance(observer.verdicts, list)
        observer.finish()
    hooks = [*inner._optimizer_step_pre_hooks, *inner._optimizer_step_post_hooks]
    hooks += [hook for module in net.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]
    assert not hooks
    return net.state_dict()


OBSERVERS_SETUP = {"__init__", "begin", "__enter__", "load_state_dict", "_run"}
OBSERVERS_INNER = {"switch_off", "_switch_off", "_detach", "_announce", "_is_followed", "_report", "_loss_scale"}
OBSERVERS_INNER |= {"_future_rates", "_steps_tried", "_drives", "_left_beside"}
HOOKLESS = {"is_hookless": True}
LOOPS = {"_announce_once": {"has_closure": True}, "_complete": HOOKLESS, "_hear_part": HOOKLESS}
"""How the loop steps in which a method is called, where that is not the usual way."""


@pytest.mark.parametrize("name", [n for n in methods_of(NormObserver) if n not in OBSERVERS_SETUP | OBSERVERS_INNER])
def test_a_hook_of_the_observer_that_fails_costs_one_warning(tmp_path, undisturbed, name):
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        with tracing(Injection(code_of(vars(NormObserver)[name]), active=False)) as injection:
            state = plain_scenario(tmp_path, injection, **LOOPS.get(name, {}))
    assert injection.was_raised
    assert_undisturbed(state, undisturbed)
    assert len(said(record)) == 1


def called_codes(folder):
    """All functions of the library that a training calls from its third step on."""
    with tracing(Record(active=False)) as record, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain_scenario(folder, record)
    handlers = ("safeguard.py", "caution.py")
    inner = OBSERVERS_INNER & {"switch_off", "_switch_off", "_detach"}
    return [
        code
        for code in record.codes
        if not code.co_filename.endswith(handlers) and code.co_name not in inner and not code.co_name.startswith("<")
    ]


def test_the_traceback_lies_beside_the_history_and_the_rest_goes_on(tmp_path):
    """What fails concerns the table alone: the encoder is followed to the end, and the history is read as ever."""
    from lightning_normdyn.instruments.trajectory import NormTrajectory

    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        with tracing(Injection(code_of(NormTrajectory.observe), active=False)) as injection:
            plain_scenario(tmp_path, injection)
    (message,) = said(record)
    assert message == (
        f"NormObserver: '{TABLE}' is not measured any more after step 3: measuring it failed (InjectedError: observe); "
        "the training goes on, and what is on disk stays; please report it to the developers of lightning_normdyn "
        f"0.1.0, with the traceback in '{tmp_path / 'normdyn' / FAILURES}'"
    )
    text = (tmp_path / "normdyn" / FAILURES).read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in text
    assert 'trajectory.py", line' in text
    histories = read_run(tmp_path)
    assert set(histories[TABLE].trajectory()["step"].to_pylist()) == {1, 2}
    assert set(histories[ENCODER].trajectory()["step"].to_pylist()) == set(range(1, STEPS + 1))


@pytest.mark.exhaustive
def test_an_error_in_any_function_that_a_training_calls_costs_no_bit_of_it(tmp_path, undisturbed):
    codes = called_codes(tmp_path / "record")
    assert len(codes) > 150
    silent = []
    for number, code in enumerate(codes):
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            with tracing(Injection(code, active=False)) as injection:
                state = plain_scenario(tmp_path / str(number), injection)
        assert injection.was_raised
        assert_undisturbed(state, undisturbed)
        assert len(said(record)) <= 1
        silent += [code.co_qualname if hasattr(code, "co_qualname") else code.co_name] * (not said(record))
    print(f"{len(codes)} functions, {len(silent)} whose failure nobody was told of: {silent}")


def test_without_a_history_the_traceback_is_in_the_debug_log(caplog):
    from lightning_normdyn.instruments.trajectory import NormTrajectory

    with (
        caplog.at_level("DEBUG", logger="lightning_normdyn.instruments.safeguard"),
        warnings.catch_warnings(record=True) as record,
    ):
        warnings.simplefilter("always")
        with tracing(Injection(code_of(NormTrajectory.observe), active=False)) as injection:
            plain_scenario(None, injection)
    (message,) = said(record)
    assert message.endswith(", with the traceback in the debug log")
    assert "InjectedError: observe" in caplog.text
