"""``normdyn reproduce``: what it prints and saves, how it goes on, and how it ends when something is in the way."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_normdyn.cli.main import main
from lightning_normdyn.cli.signals import Terminated
from lightning_normdyn.tasks.experiments import EXPERIMENTS

pytestmark = pytest.mark.cautions(r"_ids exclude \d+% of")

SMALL = {"frequency_law": {"steps": 200}, "class_imbalance": {"steps": 60, "encoder_steps": 20}}
BOTH = ["reproduce", "--quick", "--only", *SMALL]


@pytest.fixture
def calls(monkeypatch):
    """Makes two experiments tiny; returns the names of those that were run."""
    made = []

    def counting(name, run):
        return lambda **options: made.append(name) or run(**options)

    for name, steps in SMALL.items():
        changed = EXPERIMENTS[name]._replace(run=counting(name, EXPERIMENTS[name].run), quick=steps)
        monkeypatch.setitem(EXPERIMENTS, name, changed)
    return made


def breaking(monkeypatch, name, error):
    def broken(**options):
        raise error

    monkeypatch.setitem(EXPERIMENTS, name, EXPERIMENTS[name]._replace(run=broken))


def summary(folder="run"):
    return json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))


def test_chosen_experiments_are_printed_and_saved(calls, capsys):
    assert main([*BOTH, "--seed", "2", "--out", "run"]) == 0
    printed = capsys.readouterr().out
    for text in (
        "frequency_law",
        "slope of log R on log p",
        "0.25",
        "class_imbalance",
        "1.682",
        "--quick takes too few",
    ):
        assert text in printed
    assert max(map(len, printed.splitlines()[:30])) <= 100
    found = summary()
    assert calls == list(SMALL) == list(found["experiments"])
    assert (found["seed"], found["quick"], found["failed"]) == (2, True, {})
    first = found["experiments"]["frequency_law"]["findings"][0]
    assert first["expected"] == 0.25
    assert {"quantity", "source", "measured"} < first.keys()
    page = Path("run/reproduce.html").read_text(encoding="utf-8")
    assert page.count("<section") == 2
    assert "seed 2" in page


def test_what_rules_say_of_the_trainings_is_printed_and_saved(calls, monkeypatch, capsys):
    """Of the trainings of an experiment that are watched, as fit says it of its own."""
    fields = {"target": "table", "step": 9, "cause": "that", "sentence": "norms grow", "lever": "set weight_decay=3"}
    verdicts = [
        {**fields, "rule": "no_decay", "severity": "warning"},
        {**fields, "rule": "equal_norms", "severity": "note"},
    ]
    experiment = EXPERIMENTS["frequency_law"]
    judged = experiment._replace(run=lambda **options: replace(experiment.run(**options), verdicts=verdicts))
    monkeypatch.setitem(EXPERIMENTS, "frequency_law", judged)
    assert main(["reproduce", "--quick", "--only", "frequency_law", "--out", "run"]) == 0
    printed = capsys.readouterr().out.replace("\n", " ")
    line = "Warning (no_decay): 'table': norms grow. Likely cause: that. Lever: set weight_decay=3."
    assert f"frequency_law: {line}" in printed
    assert "equal_norms" not in printed
    assert summary()["experiments"]["frequency_law"]["verdicts"] == verdicts
    assert main(["reproduce", "--quick", "--only", "frequency_law", "--out", "run"]) == 0  # read off the disk
    assert line in capsys.readouterr().out.replace("\n", " ")


def test_the_page_names_its_command(calls):
    assert main(["reproduce", "--quick", "--only", "class_imbalance", "--out", "run"]) == 0
    page = Path("run/reproduce.html").read_text(encoding="utf-8")
    assert "normdyn reproduce --only class_imbalance --quick --out run" in re.sub(r"<[^>]+>", "", page)


def test_without_a_drawing_all_else_is_saved_and_the_code_is_1(calls, undrawable, capsys):
    assert main(["reproduce", "--quick", "--only", "class_imbalance", "--out", "run"]) == 1
    printed = capsys.readouterr()
    assert printed.err == f"normdyn: {undrawable}; no page was written; --debug shows the traceback\n"
    assert "class_imbalance" in printed.out
    assert "Run: run (numbers: summary.json; what is drawn: experiments/)" in printed.out
    assert list(summary()["experiments"]) == ["class_imbalance"]
    assert not Path("run/reproduce.html").exists()


def test_what_is_there_is_not_run_again(calls):
    assert main(["reproduce", "--quick", "--only", "class_imbalance", "--out", "run"]) == 0
    assert main([*BOTH, "--out", "run"]) == 0
    assert calls == ["class_imbalance", "frequency_law"]
    assert summary()["experiments"].keys() == SMALL.keys()


def test_an_experiment_that_breaks_off_costs_no_other(calls, monkeypatch, capsys):
    breaking(monkeypatch, "frequency_law", RuntimeError("no luck"))
    assert main([*BOTH, "--out", "run"]) == 1
    assert "frequency_law broke off: RuntimeError: no luck" in capsys.readouterr().out
    assert summary()["failed"] == {"frequency_law": "RuntimeError: no luck"}
    assert list(summary()["experiments"]) == ["class_imbalance"]
    assert Path("run/reproduce.html").read_text(encoding="utf-8").count("<section") == 1


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (SystemExit, 130), (Terminated, 143)])
def test_ctrl_c_keeps_what_is_known(calls, monkeypatch, stop, code):
    breaking(monkeypatch, "class_imbalance", stop())
    assert main([*BOTH, "--out", "run"]) == code
    assert list(summary()["experiments"]) == ["frequency_law"]
    assert Path("run/reproduce.html").exists()


def test_the_default_folder_says_what_it_is(calls, capsys):
    assert main(["reproduce", "--quick", "--only", "class_imbalance"]) == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("reproduce-")
    assert f"Page: {folder}/reproduce.html" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--only", "walk"], "only: expected experiments among weight_decay_sweep, vocabulary_norms,"),
        (["--out", "taken"], "out: 'taken' is not empty"),
        (["--out", "taken/file"], "out: 'taken/file' is not a folder"),
        (["--out", "taken/file/below"], "out: cannot write to 'taken/file/below'"),
        (["--out", "other"], "out: 'other/summary.json' is no summary of a reproduction"),
    ],
)
def test_what_will_not_do_is_said_before_anything_runs(calls, capsys, options, sentence):
    for folder in ("taken", "other"):
        Path(folder).mkdir()
    Path("taken/file").touch()
    Path("other/summary.json").write_text('{"slope": 1}')
    assert main(["reproduce", "--quick", *options]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"normdyn: {sentence}")
    assert printed.err.count("\n") == 1
    assert calls == []


@pytest.mark.parametrize("options", [["--seed", "1"], []])
def test_runs_of_other_settings_are_not_mixed(calls, capsys, options):
    main([*BOTH, "--seed", "2", "--out", "run"])
    assert main([*BOTH, *options, "--out", "run"]) == 2
    assert (
        f"out: 'run' holds a run with seed 2, got {(options or [0, 0])[1]}; choose another" in capsys.readouterr().err
    )


def test_a_damaged_record_is_named(calls, capsys):
    main([*BOTH, "--out", "run"])
    Path("run/experiments/frequency_law.json").write_text("{")
    assert main([*BOTH, "--out", "run"]) == 2
    assert "frequency_law.json' is damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_everything_runs_quickly_and_shows_the_published_numbers(capsys):
    assert main(["reproduce", "--quick", "--out", "run"]) == 0
    printed = capsys.readouterr().out
    for text in (*EXPERIMENTS, "0.88", "0.97", "0.25", "0.02", "1.189", "1.414", "1.682"):
        assert text in printed
    assert summary()["experiments"].keys() == EXPERIMENTS.keys()
    page = Path("run/reproduce.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 9
    assert page.count("<td>0.88</td>") == 3
