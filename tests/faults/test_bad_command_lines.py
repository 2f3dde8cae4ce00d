"""Bad command lines end in one sentence that names the argument and the fix: none is taken in silence."""

import subprocess
import sys
from contextlib import suppress

import pytest
from bad_command_lines import COMMAND_LINES
from command_runs import Accepted, run, write_inputs
from outcomes import table

_SHARE = 0.99
_QUICK = {
    # of each kind one or two that start no training and load no model
    "words: commands and options": 3,
    "words: whole numbers": 3,
    "words: numbers": 3,
    "words: choices": 3,
    "words: flags": 3,
    "files: embeddings": 8,
    "files: shards and URLs": 90,
    "files: judgements": 4,
    "files: ids": 3,
    "YAML": 3,
    "options that do not fit": 3,
}

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("no_minutes"),
]


@pytest.fixture
def no_minutes(monkeypatch):
    """Trainings of a grid are not begun, and nothing is looked for on the network."""

    def begin(*args, **kwargs):
        raise Accepted

    monkeypatch.setattr("lightning_normdyn.cli.grids.grid.run_jobs", begin)
    with suppress(ImportError):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from the environment long ago
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


def outcomes_of(cases, folder, *, model):
    write_inputs(folder / "inputs", model=model)
    return [run(case, folder / f"case{number}", folder / "inputs") for number, case in enumerate(cases)]


def test_a_few_of_each_kind(tmp_path):
    cases = []
    for kind, count in _QUICK.items():
        members = [case for case in COMMAND_LINES if case.kind == kind and "inputs/bert" not in case.words]
        cases += members[:: max(1, len(members) // count)][:count]
    faulty = [str(outcome) for outcome in outcomes_of(cases, tmp_path, model=False) if outcome.faults]
    assert not faulty, "\n".join(faulty)


@pytest.mark.exhaustive
def test_all_of_them(tmp_path, capsys):
    pytest.importorskip("transformers")
    outcomes = outcomes_of(COMMAND_LINES, tmp_path, model=True)
    faulty = [str(outcome) for outcome in outcomes if outcome.faults]
    with capsys.disabled():
        print("", table(outcomes), *faulty, sep="\n")
    assert len(COMMAND_LINES) >= 780
    assert sum(case.kind == "YAML" for case in COMMAND_LINES) >= 60
    assert len(faulty) <= (1 - _SHARE) * len(outcomes)
    assert not [outcome for outcome in outcomes if "advises pickles" in outcome.faults]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["audit", "--embeddings", "text.npy"], "normdyn: text.npy: is no .npy file of numbers; write it with numpy"),
        (["fit", "--config", "none.yaml"], "normdyn: config: expected a file or one of "),
        (["export", "--embeddings", "x.npy", "--to", "npy", "--out", "http://me:hush@h/x"], "normdyn: out: expected a"),
    ],
)
def test_so_does_a_process_of_its_own(tmp_path, words, sentence):
    (tmp_path / "text.npy").write_text("0.1 0.2\n")
    ended = subprocess.run(
        [sys.executable, "-m", "lightning_normdyn", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(sentence)
    assert ended.stderr.count("\n") == 1
    assert "hush" not in ended.stderr
