"""The entry point: light where it can be, one sentence for the user's errors, a traceback for ours."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from lightning_normdyn import __version__
from lightning_normdyn.cli import main as main_module
from lightning_normdyn.cli.arguments import build_parser
from lightning_normdyn.cli.main import main

HEAVY = ("torch", "pytorch_lightning", "matplotlib", "numpy", "jsonargparse")


def heavy_imports(statement):
    code = f"{statement}\nimport sys\nprint('LOADED', [name for name in {HEAVY} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return printed.rpartition("LOADED ")[2].strip()


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["demo", "--help"], ["report", "--help"]])
def test_help_loads_nothing_heavy(words):
    statement = f"from lightning_normdyn.cli.main import main\nassert main({words}) == 0"
    assert heavy_imports(statement) == "[]"


def test_the_check_for_heavy_imports_can_fail():
    assert heavy_imports("import numpy") == "['numpy']"


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in ("demo", "report", "fit", "validate", "test", "predict"))


def test_python_dash_m_is_the_console_script():
    command = [sys.executable, "-m", "lightning_normdyn", "--version"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == f"normdyn {__version__}"
    (script,) = entry_points(group="console_scripts", name="normdyn")
    assert script.load() is main


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["demo", "--steps", "0"], "argument --steps: expected a positive whole number, got '0'"),
        (["demo", "--steps", "99999999999999999999"], "argument --steps: expected at most 1000000000000, got"),
        (["demo", "--out", ""], "argument --out: expected the name of a folder, got nothing"),
        (["demo", "--seed", "-1"], "argument --seed: expected a whole number from 0"),
        (["demo", "--optimizer", "lion"], "argument --optimizer: invalid choice"),
        (["nothing"], "invalid choice: 'nothing'"),
        ([], "required: COMMAND"),
        (["report", "absent"], "normdyn: log_dir: no norm history under 'absent"),
    ],
)
def test_wrong_words_end_with_2_and_a_sentence(capsys, words, sentence):
    assert main(words) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("rich", ["demo"], "[cli]"),
        ("jsonargparse", ["fit"], "[cli]"),
        ("matplotlib", ["report", "run"], "[cli,report]"),
    ],
)
def test_a_missing_extra_says_what_to_install(monkeypatch, capsys, module, words, extra):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(words) == 2
    expected = f"normdyn: this command needs {module}; install with: pip install 'lightning-normdyn{extra}'\n"
    assert capsys.readouterr().err == expected


def test_debug_shows_the_traceback_of_the_users_error_and_bugs_always_do(monkeypatch, capsys):
    with pytest.raises(FileNotFoundError):
        main(["--debug", "report", "absent"])
    monkeypatch.setenv("NORMDYN_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(["report", "absent"])
    monkeypatch.delenv("NORMDYN_DEBUG")

    def fail(words):
        raise ZeroDivisionError

    monkeypatch.setattr(main_module, "_run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["report", "absent"])


def test_ctrl_c_outside_training_ends_with_130(monkeypatch, capsys):
    def interrupt(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(main_module, "_run", interrupt)
    assert main([]) == 130
    assert capsys.readouterr().err == "normdyn: interrupted\n"


@pytest.mark.parametrize("content", ["[1]", "null", '{"slope": '])
def test_a_damaged_summary_is_named(tmp_path, capsys, content):
    (tmp_path / "normdyn" / "table").mkdir(parents=True)
    (tmp_path / "normdyn" / "table" / "target.json").write_text('{"target": "table"}')
    (tmp_path / "summary.json").write_text(content)
    assert main(["report", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "summary.json' is damaged" in printed.err
    assert len(printed.err.strip().splitlines()) == 1


def test_text_files_may_be_named_one_by_one():
    options = build_parser().parse_args(["demo", "--text", "a.txt", "--text", "b.txt", "c.txt"])
    assert options.text == ["a.txt", "b.txt", "c.txt"]
