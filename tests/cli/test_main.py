"""The entry point: light where it can be, one sentence for the user's errors, a traceback for ours."""

import ast
import inspect
import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from typing import Annotated

import pytest
from written_history import history_of

from lightning_normdyn import __version__, cli
from lightning_normdyn.cli import audit, commands, configs, demo, main as main_module
from lightning_normdyn.cli.commands.command import Shell, command, running_command
from lightning_normdyn.cli.main import COMMANDS, LIGHTNING_COMMANDS, main
from lightning_normdyn.cli.parser import build_parser, parse
from lightning_normdyn.cli.values import Value, count

HEAVY = ("torch", "pytorch_lightning", "matplotlib", "numpy", "jsonargparse")
TYPED_COMMANDS = [name for name in COMMANDS if name not in LIGHTNING_COMMANDS]
FUNCTIONS = [name.replace("-", "_") for name in TYPED_COMMANDS]


def heavy_imports(statement):
    code = f"{statement}\nimport sys\nprint('LOADED', [name for name in {HEAVY} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return printed.rpartition("LOADED ")[2].strip()


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_loads_nothing_heavy(words):
    statement = f"from lightning_normdyn.cli.main import main\nassert main({words}) == 0"
    assert heavy_imports(statement) == "[]"


def test_help_of_commands_loads_their_parser_alone():
    statement = "from lightning_normdyn.cli.main import main\n" + "\n".join(
        f"assert main([{name!r}, '--help']) == 0" for name in TYPED_COMMANDS
    )
    assert heavy_imports(statement) == "['jsonargparse']"


def test_usage_errors_load_no_torch():
    words = (["nothing"], [], ["demo", "--steps", "0"], ["audit", "--modle", "x"], ["grid"], ["configs", "absent"])
    statement = "from lightning_normdyn.cli.main import main\n" + "\n".join(f"assert main({w}) == 2" for w in words)
    assert heavy_imports(statement) == "['jsonargparse']"


def test_the_check_for_heavy_imports_can_fail():
    assert heavy_imports("import numpy") == "['numpy']"


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in ("demo", "report", "fit", "validate", "test", "predict"))
    assert all(command in printed for command in COMMANDS)


@pytest.mark.parametrize("name", TYPED_COMMANDS)
def test_every_option_has_help_and_every_command_its_line(name, capsys):
    command = getattr(import_module("lightning_normdyn.cli"), name.replace("-", "_"))
    actions = build_parser(command)._actions
    assert {action.dest for action in actions} == {
        "help", *(option.name for option in command.options if option.name != "overrides")
    }  # fmt: skip
    assert all(action.help for action in actions)
    sentence = command.__doc__.partition("\n")[0]
    assert sentence == f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}."


def test_every_command_of_the_terminal_can_be_called_from_python():
    assert sorted(cli.__all__) == sorted(FUNCTIONS)
    assert [getattr(cli, name).function.__name__ for name in cli.__all__] == cli.__all__
    (for_type_checkers,) = (node for node in ast.parse(inspect.getsource(cli)).body if isinstance(node, ast.If))
    assert sorted(alias.name for imports in for_type_checkers.body for alias in imports.names) == sorted(cli.__all__)


def test_the_list_of_bodies_names_every_command_and_the_file_that_it_imports():
    listed = dict(re.findall(r"^``(\w+)``\s+``([\w/.]+)``$", commands.__doc__, re.M))
    assert sorted(listed) == sorted(FUNCTIONS)
    for name, file in listed.items():
        module = f"lightning_normdyn.{file.removesuffix('.py').replace('/', '.')}"
        assert f"from {module} import" in inspect.getsource(getattr(cli, name).function)


def test_a_command_is_a_function_that_returns_what_it_prints():
    record = configs()
    assert "sts.yaml" in [config.name for config in record.configs]
    assert record.exit_code == 0
    with pytest.raises(ValueError, match="steps: expected a positive whole number, got 0"):
        demo(steps=0)
    with pytest.raises(ValueError, match="optimizer: expected one of sgd, adamw, got 'adam'; did you mean 'adamw'"):
        demo(optimizer="adam")
    with pytest.raises(TypeError, match="stepz"):
        demo(stepz=3)
    with pytest.raises(ValueError, match=r"text: expected a list, got"):
        demo(text="a.txt")


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("demo", {"text": ["a b.txt", "c.txt"], "steps": 5}, "normdyn demo --text 'a b.txt' c.txt --steps 5"),
        ("report", {"out": "x.html", "run": "a"}, "normdyn report a --out x.html"),
        ("reproduce", {"quick": True, "out": None}, "normdyn reproduce --quick"),
        ("audit", {"batch_size": 4, "overwrite": False}, "normdyn audit --batch-size 4"),
        (
            "grid",
            {"config": ["a.yaml", "b.yaml"], "lr_factors": (0.3, 1.0), "overrides": ["--trainer.max_epochs", "5"]},
            "normdyn grid --config a.yaml --config b.yaml --lr-factors 0.3 1.0 --trainer.max_epochs 5",
        ),
        ("advise", {"config": ["a.yaml"], "ckpt_path": "b.ckpt"}, "normdyn advise --config a.yaml --ckpt_path b.ckpt"),
    ],
)
def test_a_call_is_spelled_as_one_would_type_it(name, arguments, line):
    command = getattr(import_module("lightning_normdyn.cli"), name.replace("-", "_"))
    assert command.spelled_call(arguments) == line
    typed = parse(command, shlex.split(line)[2:])
    assert command.spelled_call(typed) == line


def test_the_running_command_is_known_inside_alone():
    assert running_command() == ""

    @command(Shell())
    def inner(*, number: Annotated[int, Value("N", count)] = 1) -> str:
        return running_command()

    assert inner(number="3") == "normdyn inner --number 3"
    with pytest.raises(ValueError, match="number: expected a positive whole number"):
        inner(number=0)
    assert running_command() == ""


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["gird"], "did you mean 'grid'?"),
        (["demo", "--stepz", "3"], "did you mean '--steps'?; see normdyn demo --help"),
        (["export", "--to", "npyy", "--embeddings", "a", "--out", "b"], "did you mean 'npy'?"),
        (["configs", "sst"], "did you mean 'sts.yaml'?"),
        (["fit", "--config", "retreival.yaml"], "did you mean 'retrieval.yaml'?"),
        (["demo", "--step", "3"], "unrecognized arguments: --step 3; did you mean '--steps'?"),
        (["fit", "--conf", "sts.yaml"], "did you mean 'config'?"),
        (["reproduce", "--only", "frequency_laws"], "did you mean 'frequency_law'?"),
    ],
)
def test_the_nearest_right_word_is_named(capsys, words, hint):
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert hint in printed
    assert printed.count("\n") == 1


def test_a_far_word_is_not_suggested(capsys):
    assert main(["fit", "--config", "nope.yaml"]) == 2
    assert capsys.readouterr().err.endswith("tokens.yaml, got 'nope.yaml'\n")


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
        (
            ["audit", "--out", "file:///tmp/audit"],
            "--out: expected a folder on this machine, got a URL; name a path",
        ),
        (
            ["report", "runs", "--out", "s3://bucket/a.html"],
            "--out: expected a file on this machine, got a URL",
        ),
        (["demo", "--seed", "-1"], "argument --seed: expected a whole number from 0"),
        (
            ["grid", "--config", "sts.yaml", "--temperatures", "-1", "1"],
            "argument --temperatures: expected a positive number, got '-1'",
        ),
        (
            ["grid", "--model.loss.margin", "-2", "--config", "sts.yaml", "--lr-factors", "1", "-1e-3"],
            "argument --lr-factors: expected a positive number, got '-1e-3'",
        ),
        (["export", "--to", "npy", "--out", "x", "--embeddings", "a", "--alpha", "-1e-3"], "out: expected a file"),
        (["grid", "--config", "sts.yaml", "--seeds", "-inf"], "--seeds: expected a positive whole number, got '-inf'"),
        (["demo", "--optimizer", "lion"], "argument --optimizer: invalid choice"),
        (["nothing"], "invalid choice: 'nothing'"),
        ([], "required: COMMAND"),
        (["report", "absent"], "normdyn: run: 'absent' does not exist; name the folder of a run"),
        (["report", "/dev/null"], "normdyn: run: '/dev/null' is a file; name the folder of a run"),
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
    history_of(tmp_path, "table").describe({})
    (tmp_path / "summary.json").write_text(content)
    assert main(["report", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "summary.json' is damaged" in printed.err
    assert len(printed.err.strip().splitlines()) == 1


def test_text_files_may_be_named_one_by_one():
    options = parse(demo, ["--text", "a.txt", "--text", "b.txt", "c.txt"])
    assert options["text"] == ["a.txt", "b.txt", "c.txt"]


def test_configs_are_listed_and_copied_and_never_overwritten_in_silence(capsys, tmp_path):
    assert main(["configs"]) == 0
    printed = capsys.readouterr().out
    assert "Semantic textual similarity with one encoder" in printed
    assert main(["configs", "sts.yaml", "--out", "mine"]) == 0
    assert capsys.readouterr().out == "Copied: mine/sts.yaml\n"
    copy = tmp_path / "mine" / "sts.yaml"
    copy.write_text("changed")
    assert main(["configs", "sts", "--out", "mine"]) == 2
    assert "exists already; pass --overwrite" in capsys.readouterr().err
    assert copy.read_text() == "changed"
    assert main(["configs", "sts", "--out", "mine", "--overwrite"]) == 0
    assert "StsData" in copy.read_text()


def test_a_folder_of_runs_lists_those_with_a_history(capsys, tmp_path):
    for number in range(2):
        history_of(tmp_path / "logs" / f"version_{number}", "table").describe({})
    assert main(["report", "logs"]) == 2
    printed = capsys.readouterr().err
    assert "run: 'logs' is no run but holds 2 below it" in printed
    assert "e.g. normdyn report logs/version_" in printed
    assert len(printed.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"embeddings": "d.npy", "overwrite": "false"}, "overwrite: expected True or False, got 'false'"),
        (
            {"embeddings": "d.npy", "out": None},
            "out: expected a value, got None; leave it out for its default",
        ),
    ],
)
def test_arguments_of_a_call_from_python_are_checked(arguments, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        audit(**arguments)


ODD_CALLS = {
    "out": ("configs", {"name": "sts.yaml", "out": 3}, "text or a path, got 3"),
    "name": ("configs", {"name": 3}, "text or a path, got 3"),
    "text": ("demo", {"text": 3}, "a list, got 3"),
    "optimizer": ("demo", {"optimizer": 3}, "one of sgd, adamw, got 3"),
    "alpha": ("export", {"embeddings": "x", "to": "npy", "out": "y", "alpha": True}, "a number, got True"),
    "lr_factors": ("grid", {"config": ["sts.yaml"], "lr_factors": {1, 2}}, "a list, got {1, 2}"),
    "config": ("predict", {"config": 3}, "a list, got 3"),
    "overrides": ("predict", {"config": ["sts.yaml"], "overrides": [3]}, "text or a path, got 3"),
    "json": ("advise", {"queries": "a", "documents": "b", "json": True}, "text or a path, got True"),
}


@pytest.mark.parametrize("argument", ODD_CALLS)
def test_a_call_from_python_with_a_value_of_another_kind_is_named(argument):
    name, arguments, expectation = ODD_CALLS[argument]
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        getattr(cli, name)(**arguments)
    assert str(raised.value) == f"{argument}: expected {expectation}"
