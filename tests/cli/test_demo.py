"""The demo: what it prints and writes, and how it ends when something is in the way."""

import errno
import html
import json
import math
import os
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

from lightning_normdyn.cli.demos.findings import Findings
from lightning_normdyn.cli.main import main
from lightning_normdyn.cli.run_folder import create_run_folder, read_words, write_summary, write_vocabulary
from lightning_normdyn.report import DrawingError
from lightning_normdyn.tasks import TokenContrast
from lightning_normdyn.tasks.tokens.vocabulary import Vocabulary

KEYS = {
    "slope",
    "pearson_r",
    "median_relative_error",
    "equilibrium_slope",
    "equilibrium_slope_stderr",
    "equilibrium_pearson_r",
    "equilibrium_coverage",
    "equilibrium_excess",
    "equilibrium_judged_rows",
    "equilibrium_least_squares_slope",
    "equilibrium_least_squares_pearson_r",
    "equilibrium_median_error",
    "transient_persistence_error",
    "transient_skill",
    "stationarity",
    "log_frequency_correlation",
    "forecast_slope",
    "forecast_pearson_r",
    "forecast_skill",
    "forecast_median_error",
    "persistence_median_error",
    "budget_residual",
    "seconds",
    "steps",
    "optimizer",
    "schedule",
    "seed",
    "corpus",
    "verdicts",
    "versions",
}


def read_summary(folder):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"), parse_constant=refuse)


def on_step(monkeypatch, number, action):
    step = TokenContrast.training_step

    def acting(self, batch):
        if self.global_step == number:
            action()
        return step(self, batch)

    monkeypatch.setattr(TokenContrast, "training_step", acting)


def test_a_run_prints_and_saves_what_it_found(text, capsys):
    assert main(["demo", "--text", text, "--steps", "60", "--seed", "3", "--out", "run"]) == 0
    printed = capsys.readouterr()
    for word in (
        "equilibrium law",
        "by least squares",
        "transient-corrected",
        "forecast from 40%",
        "(0.88)",
        "(0.97)",
        "frequency: r =",
    ):
        assert word in printed.out
    assert "GPU available" not in printed.out + printed.err
    summary = read_summary("run")
    assert summary.keys() == KEYS
    assert summary["steps"] == 60
    assert summary["seed"] == 3
    assert summary["corpus"] == {"name": "text.txt", "documents": 100, "words": 4000, "vocabulary": 60}
    assert summary["versions"].keys() == {"python", "torch", "pytorch_lightning", "lightning_normdyn"}
    assert summary["budget_residual"] < 1e-5
    assert len(read_words(Path("run"))) == 60
    assert {"metrics.csv", "report.html", "normdyn"} <= {path.name for path in Path("run").iterdir()}
    assert list(Path("run").glob("events.out.tfevents.*"))


def test_the_report_can_be_drawn_again(text, capsys):
    main(["demo", "--text", text, "--steps", "60", "--out", "run"])
    Path("run/report.html").unlink()
    assert main(["report", "run"]) == 0
    assert Path("run/report.html").exists()
    assert "Report: run/report.html" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--optimizer", "adamw"], ["--schedule", "constant"]])
def test_runs_too_short_to_fit_show_a_dash_and_null(text, capsys, options):
    assert main(["demo", "--text", text, "--steps", "1", "--out", "run", *options]) == 0
    assert "–" in capsys.readouterr().out
    assert read_summary("run")["forecast_skill"] is None


def test_a_seed_decides_the_run(text):
    for name, seed in {"a": "0", "b": "0", "c": "1"}.items():
        main(["demo", "--text", text, "--steps", "20", "--seed", seed, "--out", name])
    slopes = [read_summary(name)["equilibrium_least_squares_slope"] for name in "abc"]
    assert slopes[0] == slopes[1] != slopes[2]


def test_ctrl_c_keeps_what_is_known(text, monkeypatch, capsys):
    on_step(monkeypatch, 25, lambda: os.kill(os.getpid(), signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    assert main(["demo", "--text", text, "--steps", "60", "--out", "run"]) == 130
    assert read_summary("run")["steps"] == 26
    assert "equilibrium law" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before


def test_two_times_ctrl_c_stop_at_once_and_keep_what_is_known(text, monkeypatch, capsys):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    on_step(monkeypatch, 25, twice)
    before = signal.getsignal(signal.SIGINT)
    assert main(["demo", "--text", text, "--steps", "60", "--out", "run"]) == 130
    assert read_summary("run")["steps"] == 25
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.filterwarnings("ignore:NormDynamics. (warning|critical) ")  # what is said of so short a run
def test_a_folder_that_vanishes_costs_the_files_and_not_the_run(text, monkeypatch, capsys):
    def vanish():
        shutil.rmtree("run")
        Path("run").write_text("in the way")

    on_step(monkeypatch, 10, vanish)
    with pytest.warns(UserWarning, match="training goes on"), pytest.warns(UserWarning, match="are lost"):
        assert main(["demo", "--text", text, "--steps", "150", "--out", "run"]) == 0
    printed = capsys.readouterr().out
    assert "equilibrium law" in printed
    assert "The summary could not be saved" in printed


def test_without_matplotlib_only_the_page_is_missing(text, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["demo", "--text", text, "--steps", "20", "--out", "run"]) == 0
    assert "No report.html: this command needs matplotlib" in capsys.readouterr().out
    assert not Path("run/report.html").exists()
    assert read_summary("run")["steps"] == 20


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--text", "absent.txt"], "text: there is no file 'absent.txt'"),
        (["--out", "taken"], "out: 'taken' is not empty"),
        (["--out", "taken/file"], "out: 'taken/file' is not a folder"),
        (["--out", "taken/file/below"], "out: cannot write to 'taken/file/below'"),
    ],
)
def test_what_will_not_do_is_said_before_training(capsys, options, sentence):
    Path("taken").mkdir()
    Path("taken/file").touch()
    assert main(["demo", "--steps", "5", *options]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"normdyn: {sentence}")
    assert printed.err.count("\n") == 1
    assert sorted(path.name for path in Path("runs").glob("*")) == []


def test_default_folders_are_never_shared():
    folders = {create_run_folder() for _ in range(3)}
    assert len(folders) == 3
    assert {folder.parent.name for folder in folders} == {"runs"}


def test_a_current_folder_that_cannot_be_written_gives_a_temporary_run():
    Path("runs").touch()
    folder = create_run_folder()
    assert folder.name.startswith("normdyn-demo-")
    folder.rmdir()


def test_findings_turn_what_is_no_number_into_none():
    metrics = {
        "normdyn/table.weight/transient_slope": torch.tensor(math.nan),
        "normdyn/table.weight/budget_residual": 0.0,
    }
    table = torch.diag(torch.tensor([1.0, 2.0, 4.0]))
    findings = Findings(metrics, table, [10, 100, 1000])
    assert findings.summary()["slope"] is None
    assert findings.summary()["forecast_skill"] is None
    assert findings.summary()["budget_residual"] == 0.0
    assert findings.log_frequency_correlation == pytest.approx(1.0)
    assert Findings({}, table, [5, 5, 5]).log_frequency_correlation is None


def test_without_a_drawing_all_else_is_saved_and_the_code_is_1(text, undrawable, capsys):
    assert main(["demo", "--text", text, "--steps", "20", "--out", "run"]) == 1
    printed = capsys.readouterr()
    assert printed.err.endswith(f"normdyn: {undrawable}; no page was written; --debug shows the traceback\n")
    assert "equilibrium law" in printed.out
    assert "Run: run (summary.json" in printed.out
    assert read_summary("run")["steps"] == 20
    assert len(read_words(Path("run"))) == 60
    assert not Path("run/report.html").exists()
    assert main(["report", "run"]) == 1
    assert capsys.readouterr().err == f"normdyn: {undrawable}; no page was written; --debug shows the traceback\n"
    with pytest.raises(DrawingError):
        main(["report", "run", "--debug"])


def test_a_signal_decides_the_exit_code_where_drawing_fails_too(text, monkeypatch, undrawable, capsys):
    on_step(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert main(["demo", "--text", text, "--steps", "60", "--out", "run"]) == 130
    assert undrawable in capsys.readouterr().err


def test_summary_and_vocabulary_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    vocabulary = Vocabulary(["a", "b"], [2, 1])
    write_summary(tmp_path, {"slope": 1.0})
    write_vocabulary(tmp_path, vocabulary)
    files = [tmp_path / "summary.json", tmp_path / "vocabulary.tsv"]
    assert [file.read_text(encoding="utf-8") for file in files] == ['{\n  "slope": 1.0\n}\n', "a\t2\nb\t1\n"]

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for write in (lambda: write_summary(tmp_path, {"slope": 2.0}), lambda: write_vocabulary(tmp_path, vocabulary)):
        with pytest.raises(OSError, match="No space left"):
            write()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def without_tags(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page))


def test_the_report_names_its_command_and_shows_what_the_terminal_prints(text, capsys):
    words = ["demo", "--text", text, "--steps", "600", "--out", "run"]
    assert main(words) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    (forecast,) = (line.split() for line in lines if line.startswith("forecast from 40%"))
    slope, pearson_r = forecast[3], forecast[5]
    summary = read_summary("run")
    assert f"{summary['forecast_slope']:.3f}" == slope
    assert f"{summary['forecast_pearson_r']:.4f}" == pearson_r
    page = Path("run/report.html").read_text(encoding="utf-8")
    row = page.partition("Forecast for the end")[2].partition("</tr>")[0]
    assert slope in row
    assert f"{summary['forecast_pearson_r']:.3f}" in row
    assert shlex.join(["normdyn", *words]) in without_tags(page)
    assert main(["report", "run", "--out", "again.html"]) == 0
    assert "normdyn report run --out again.html" in without_tags(Path("again.html").read_text(encoding="utf-8"))
