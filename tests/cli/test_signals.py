"""Ctrl-C and SIGTERM: every command ends in order, with 128 + the signal, and nothing that was measured is lost."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pytorch_lightning import seed_everything

from lightning_normdyn.cli.demos.training import train
from lightning_normdyn.cli.ray_cluster import _sigterm_told_apart
from lightning_normdyn.cli.signals import Terminated, ending_signal, sigterm_raises, sigterm_waits
from lightning_normdyn.history import read_run
from lightning_normdyn.tasks import TokenContrast, TokenPairs

CODES = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}


def stopped(words, number, *, after):
    """Runs a command, sends the signal once a file is there, and returns exit code, output and errors."""
    command = [sys.executable, "-m", "lightning_normdyn", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 240
        while not any(Path().glob(after)):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.1)
        time.sleep(1)  # some steps more
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES)
def test_fit_ends_in_order_and_keeps_its_history(text, number):
    words = ["fit", "--config", "tokens.yaml", f"--data.text=[{text}]", "--trainer.max_steps=1000000"]
    words += ["--trainer.enable_progress_bar=false"]
    code, _, err = stopped(words, number, after="runs/tokens/version_0/metrics.csv")  # written after some steps
    assert (code, err.splitlines()[-1]) == (CODES[number][0], f"normdyn: {CODES[number][1]}")
    assert "Traceback" not in err
    history = read_run("runs/tokens/version_0")["table.weight"].trajectory()
    assert history.num_rows > 0
    assert Path("runs/tokens/version_0/config.yaml").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES)
def test_the_demo_shows_what_it_measured(text, number):
    words = ["demo", "--text", text, "--steps", "1000000", "--out", "run"]
    code, out, err = stopped(words, number, after="run/normdyn/targets.json")
    assert code == CODES[number][0]
    assert "equilibrium law" in out
    assert "Traceback" not in err
    assert json.loads(Path("run/summary.json").read_text(encoding="utf-8"))["steps"] > 0


def test_the_signal_behind_an_exception_is_known():
    def stop_of(error):
        try:
            try:
                raise error
            except KeyboardInterrupt:
                sys.exit(1)  # as a Trainer does
        except SystemExit as stop:
            return ending_signal(stop)

    assert stop_of(KeyboardInterrupt()) == signal.SIGINT
    assert stop_of(Terminated()) == signal.SIGTERM
    assert ending_signal(SystemExit(2)) is None


def test_a_trainer_gets_its_step_and_a_second_signal_does_not_wait():
    before = signal.getsignal(signal.SIGTERM)
    steps = []

    def train(signals):
        with sigterm_waits():
            for _ in range(signals):
                signal.raise_signal(signal.SIGTERM)
            steps.append(signals)

    for signals in (1, 2):
        with pytest.raises(Terminated):
            train(signals)
    assert steps == [1]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", CODES)
def test_the_demos_figures_do_not_depend_on_the_signal(text, number):
    """The last window is concluded after either; held against a training that was asked to stop by itself."""
    stopping_step = 130  # the first window has closed at 100, the second would at 200

    class Stopped(TokenContrast):
        def on_train_batch_end(self, *_):
            if self.trainer.global_step == stopping_step:
                signal.raise_signal(number)

    class Asked(TokenContrast):
        def on_train_batch_end(self, *_):
            self.trainer.should_stop = self.trainer.global_step == stopping_step

    metrics = []
    for kind in (Stopped, Asked):
        data = TokenPairs([text], steps_per_epoch=1000, seed=0)
        data.setup("fit")
        seed_everything(0, verbose=False)
        training = train(kind(data.table_rows), data, steps=1000, folder=Path(kind.__name__))
        assert training.signal == (number if kind is Stopped else None)
        metrics.append({name: float(value) for name, value in training.trainer.callback_metrics.items()})
    assert metrics[0] == pytest.approx(metrics[1], nan_ok=True)
    assert any(name.endswith("transient_median_error") for name in metrics[0])


def test_a_sigterm_that_a_library_made_an_interrupt_of_is_told_apart() -> None:
    """Ray raises a plain KeyboardInterrupt where it waits, whatever the handler raised."""

    def wait(number: int) -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None

    with sigterm_raises():
        before = signal.getsignal(signal.SIGTERM)
        for number, kind in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)):
            with pytest.raises(KeyboardInterrupt) as raised, _sigterm_told_apart():
                wait(number)
            assert type(raised.value) is kind
            assert ending_signal(raised.value) == number
        assert signal.getsignal(signal.SIGTERM) in (before, signal.SIG_IGN)
