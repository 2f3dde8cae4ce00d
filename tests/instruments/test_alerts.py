"""Alerts are said once, at every place where somebody may look, and never end a training."""

from __future__ import annotations

import json
import logging
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_normdyn.core.dynamics.optimizers import equilibrium_rule
from lightning_normdyn.history import RunWriter
from lightning_normdyn.history.alert_log import AlertLog, read_alerts, read_verdicts
from lightning_normdyn.history.run_reader import RunReader, find_record
from lightning_normdyn.instruments import NormObserver
from lightning_normdyn.instruments.alerts import Alerts
from lightning_normdyn.instruments.options import complete_options
from lightning_normdyn.instruments.verdicts.evidence import Facts
from lightning_normdyn.levers import equilibrium_init


def facts(target="table", step=200):
    optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1)
    rule = equilibrium_rule(optimizer)
    return Facts(target, "table", rule, lr=0.1, weight_decay=0.0, step=step, total_steps=1000, dim=4)


COLLAPSE = {"common_direction": 0.95}


@pytest.fixture
def lines():
    return []


def test_each_verdict_is_passed_on_once_and_again_when_it_is_worse(lines):
    heard = []
    alerts = Alerts(lines.append, on_alert=heard.append)
    for value in (0.95, 0.96, 0.999, 0.95):
        alerts.hear(facts(), {"common_direction": value})
    assert [verdict.severity for verdict in heard] == ["warning", "critical"]
    assert [line.partition(" (")[0] for line in lines] == ["warning", "critical"]
    assert "'table': all rows point one way" in lines[0]
    assert "Likely cause: " in lines[0]
    assert "Lever: " in lines[0]


def test_the_terminal_is_spared_a_flood_but_nothing_else_is(lines):
    heard = []
    alerts = Alerts(lines.append, on_alert=heard.append)
    for number in range(12):
        alerts.hear(facts(f"table {number}"), COLLAPSE)
    assert len(heard) == 12
    assert len(lines) == 5
    alerts.conclude()
    assert lines[-1].startswith("7 further alerts")


def test_a_function_that_fails_is_said_and_not_called_again(lines):
    calls = []

    def fail(verdict):
        calls.append(verdict)
        raise RuntimeError("no network")

    alerts = Alerts(lines.append, on_alert=fail)
    alerts.hear(facts("a"), COLLAPSE)
    alerts.hear(facts("b"), COLLAPSE)
    assert len(calls) == 1
    assert any(line == "on_alert: it failed (RuntimeError: no network) and is not called again" for line in lines)


def test_a_resumed_run_does_not_repeat_itself(lines):
    first, second = Alerts(lines.append), Alerts(lines.append)
    first.hear(facts(), COLLAPSE)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second.hear(facts(step=300), COLLAPSE)
    assert len(lines) == 1
    assert second.courses("table")["common_direction"].count == 2


def test_only_the_first_rank_speaks(lines, tmp_path):
    heard = []
    alerts = Alerts(lines.append, on_alert=heard.append, log=AlertLog(run := begun_run(tmp_path)), speaks=False)
    alerts.hear(facts(), COLLAPSE)
    assert not lines
    assert not heard
    run.end()
    assert not read_alerts(reader(tmp_path))
    assert alerts.verdicts()[0].rule == "collapsed_directions"


def begun_run(folder):
    run = RunWriter(folder)
    run.begin({"table": 0})
    return run


def reader(folder):
    return RunReader(find_record(folder))


def test_alerts_of_several_monitors_lie_together(tmp_path):
    run = begun_run(tmp_path)
    for writer in ("one", "other"):
        log = AlertLog(run, writer=writer)
        log.append({"step": 100, "target": writer, "rule": "no_decay", "severity": "note"})
        log.stand([dict.fromkeys(("step", "target", "rule", "severity", "sentence", "cause", "lever"), writer)])
    AlertLog(run, writer="one").stand([])
    run.end()
    assert [alert["target"] for alert in read_alerts(reader(tmp_path))] == ["one", "other"]
    assert [verdict["target"] for verdict in read_verdicts(run.root)] == ["other"]
    assert read_verdicts(tmp_path / "elsewhere") is None


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "verdicts.json").write_text('{"one": [{"step": 1}]}')
    with pytest.raises(ValueError, match=r"verdicts\.json' is damaged"):
        read_verdicts(tmp_path)


@pytest.mark.parametrize("has_run", [True, False])
def test_services_in_use_are_told(monkeypatch, lines, has_run):
    said = []
    levels = {"INFO": "info", "WARN": "warn", "ERROR": "error"}

    def refuse(**options):
        if not has_run:
            raise RuntimeError("Call trackio.init() before trackio.alert().")
        said.append(("trackio", options))

    def tell(**options):
        said.append(("wandb", options))

    wandb = SimpleNamespace(run=object() if has_run else None, alert=tell, AlertLevel=levels)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(alert=refuse, AlertLevel=levels))
    Alerts(lines.append).hear(facts(), COLLAPSE)
    assert [name for name, _ in said] == (["wandb", "trackio"] if has_run else [])
    for _, options in said:
        assert options["title"] == "table: collapsed directions"
        assert options["level"] == "warn"
        assert "0.950" in options["text"]
    assert len(lines) == 1


def test_an_on_alert_that_cannot_be_called_is_refused():
    with pytest.raises(ValueError, match="on_alert: expected a function of a verdict, got 3"):
        complete_options({"on_alert": 3})


def train(steps, *, weight_decay=0.5, lr=1e-3, init=False, scale=3.0, **options):
    """A plain loop over a table under AdamW, its observer given back."""
    torch.manual_seed(0)
    table = nn.Embedding(40, 16)
    optimizer = torch.optim.AdamW(table.parameters(), lr=lr, weight_decay=weight_decay)
    with torch.no_grad():
        table.weight *= scale / table.weight.norm(dim=1, keepdim=True)
    if init:
        equilibrium_init(table.weight, equilibrium_rule(optimizer))
    observer = NormObserver(table, optimizer, total_steps=steps, every_n_steps=10, **options)
    with observer:
        for _ in range(steps):
            optimizer.zero_grad()
            pairs = table(torch.randint(40, (16, 2)))
            vectors = nn.functional.normalize(pairs, dim=-1)
            (vectors[:, 0] * vectors[:, 1] * torch.randn(16, 1)).sum().backward()
            optimizer.step()
    return observer


def test_a_loop_leaves_alerts_verdicts_and_the_lever_in_its_last_line(caplog, tmp_path):
    heard = []
    with caplog.at_level(logging.INFO):
        observer = train(200, on_alert=heard.append, log_dir=tmp_path)
    assert [verdict.rule for verdict in observer.verdicts] == ["slow_relaxation"]
    assert [alert["rule"] for alert in read_alerts(reader(tmp_path))] == [verdict.rule for verdict in heard]
    (standing,) = read_verdicts(tmp_path / "normdyn")
    assert standing["step"] == 200
    (line,) = [message for message in caplog.messages if "would settle at" in message and "at step" not in message]
    assert "with a relaxation time of 1,000 steps in a run of 200" in line
    assert "equilibrium_init(table, rule)" in line
    assert "or train 3,000 steps" in line


def test_without_logging_the_last_line_goes_where_warnings_go(capsys, monkeypatch):
    """Python drops what is logged as information where nobody has set up logging, as in a plain script."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    train(200)
    assert "NormObserver: 'weight': norms are at" in capsys.readouterr().err
    monkeypatch.setattr(root, "handlers", [logging.NullHandler()])  # warnings alone, as after basicConfig()
    train(200)
    assert "NormObserver: 'weight': norms are at" in capsys.readouterr().err
    monkeypatch.setattr(logging.getLogger("lightning_normdyn"), "level", logging.WARNING)
    train(200)
    assert not capsys.readouterr().err


def test_three_steps_say_nothing(caplog):
    with caplog.at_level(logging.INFO):
        train(3, window=1)
    assert not [message for message in caplog.messages if "slope" in message or "skill" in message]


def test_rows_that_start_where_they_settle_have_no_skill_to_show(caplog):
    with caplog.at_level(logging.INFO):
        train(400, init=True)
    (line,) = [message for message in caplog.messages if "'weight'" in message]
    assert "skill" not in line
    assert "slope" not in line


def test_a_resumed_loop_keeps_what_it_has_heard():
    heard = []
    observer = train(200, on_alert=heard.append)
    state = observer.state_dict()
    table = nn.Embedding(40, 16)
    optimizer = torch.optim.AdamW(table.parameters(), lr=1e-3, weight_decay=0.5)
    again = NormObserver(table, optimizer, total_steps=400, on_alert=heard.append)
    again.load_state_dict(state)
    with again:
        for _ in range(120):
            table.weight.grad = torch.randn(40, 16)
            optimizer.step()
    assert [verdict.rule for verdict in heard].count("slow_relaxation") == 1
