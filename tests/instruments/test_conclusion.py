"""The closing line of a run says what its norms did, and why it says nothing of them."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from lightning_normdyn.instruments import NormObserver
from lightning_normdyn.instruments.closing_line import conclusion


def closing_lines(caplog, steps, *, momentum=0.0, **options):
    """What is said at the end of a plain loop over a table and an encoder."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"table": nn.Embedding(12, 4), "encoder": nn.Linear(4, 4, bias=False)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum, weight_decay=0.05)
    caplog.clear()
    targets = ["table.weight", "encoder"]
    with caplog.at_level(logging.INFO), NormObserver(model, optimizer, targets=targets, total_steps=steps, **options):
        for _ in range(steps):
            optimizer.zero_grad()
            losses = model["table"](torch.arange(12)), model["encoder"](torch.randn(6, 4))
            sum(vectors.square().sum() for vectors in losses).backward()
            optimizer.step()
    return caplog.messages


def test_norms_that_moved_by_much_do_not_repeat_their_start():
    moved = {"a/stationarity": 0.1, "a/transient_median_error": 0.01, "a/transient_persistence_error": 0.42}
    still = moved | {"a/transient_persistence_error": 0.003}
    assert conclusion(moved, "a/").endswith(
        "not settled: the norms moved by 42.0% (median) in the last window, still one way"
    )
    assert conclusion(still, "a/").endswith("moved by 0.3% (median) and mostly repeat where they started")
    assert conclusion({"a/stationarity": 0.1}, "a/") == "not settled: the norms still move one way"


def test_a_run_shorter_than_its_window_says_so_once(caplog):
    lines = [line for line in closing_lines(caplog, 12, window=100) if "no window" in line]
    assert len(lines) == 1
    assert "'table.weight', 'encoder': no window of 100 steps closed in the run's 12 steps" in lines[0]
    assert "window=6" in lines[0]
    assert not any("no window" in line for line in closing_lines(caplog, 12, window=6))


def test_windows_without_a_measurement_are_said_to_be_empty(caplog):
    options = {"momentum": 0.95, "every_n_steps": 50}
    lines = [line for line in closing_lines(caplog, 12, window=4, **options) if "a whole measurement" in line]
    assert len(lines) == 1
    assert "'encoder': no window of the run's 12 steps held a whole measurement" in lines[0]
    assert "or measure more often: every_n_steps=1" in lines[0]
    followed = options | {"every_n_steps": 1}
    assert not any("a whole measurement" in line for line in closing_lines(caplog, 12, window=4, **followed))
    assert not any("a whole measurement" in line for line in closing_lines(caplog, 12, window=4))


def test_a_long_run_of_short_windows_is_told_how_long_they_must_be(caplog):
    options = {"momentum": 0.95, "every_n_steps": 20}
    lines = [line for line in closing_lines(caplog, 120, window=4, **options) if "a whole measurement" in line]
    assert "or pass a longer window: window=60" in lines[0]
    assert not any("a whole measurement" in line for line in closing_lines(caplog, 120, window=60, **options))


@pytest.mark.parametrize(("window", "is_said"), [(1, True), (49, True), (50, False), (0.2, False)])
def test_a_window_of_few_steps_is_cautioned_against(caplog, window, is_said):
    lines = closing_lines(caplog, 3, window=window)
    assert sum(f"window={window}: norms hardly move in so few steps" in line for line in lines) == is_said


def test_a_run_with_a_history_ends_with_the_command_that_draws_it(caplog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = closing_lines(caplog, 3, log_dir=tmp_path / "my run")
    assert lines[-1].endswith("to see the norms: normdyn report 'my run'")
    assert not any("normdyn report" in line for line in closing_lines(caplog, 3))
