"""The entry point of the command line: choose the command, print what it returns, turn errors into one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_normdyn._version import __version__
from lightning_normdyn.cli.signals import Terminated, ending_signal, sigterm_raises
from lightning_normdyn.cli.user_errors import is_of_drawing, is_the_users, one_sentence, require, users_traceback
from lightning_normdyn.nearest_word import nearest
from lightning_normdyn.passwords import without_passwords

if TYPE_CHECKING:
    from lightning_normdyn.cli.commands.command import CommandRecord

ERROR, USAGE = 1, 2
COMMANDS = {
    "demo": "train a token table on real text and compare its norms with the theory",
    "fit": "train a model through LightningCLI, e.g. --config sts.yaml",
    "validate": "run a model's validation through LightningCLI",
    "test": "run a model's test through LightningCLI",
    "predict": "write the embeddings of both sides of a trained task, with their ids, for audit and export",
    "configs": "list the configs that come with the package, or copy one to change it",
    "report": "draw the report of a run that trained with NormDynamics",
    "watch": "keep the report of a run up to date while it trains",
    "grid": "train a task with every normalization and say which to take",
    "advise": "say how to score with a trained model, and what to train next",
    "audit": "say what the norms of a model's or of ready embeddings carry, and whether to use them",
    "export": "fold a power of the norms into stored vectors, and fill an index with them",
    "cluster": "say what norms gain in clustering, beside plain and spherical k-means",
    "check-store": "say what a store really ranks by: inner products, cosines, distances, and at which precision",
    "reproduce": "run the published figures' experiments and write each beside its published number",
}
LIGHTNING_COMMANDS = ("fit", "validate", "test")


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        args: the words after ``normdyn``; by default those of the running process.

    Returns:
        The exit code, see :mod:`lightning_normdyn.cli`.
    """
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words or bool(os.environ.get("NORMDYN_DEBUG"))
    try:
        with sigterm_raises():
            return _run([word for word in words if word != "--debug"])
    except (SystemExit, KeyboardInterrupt) as stop:
        return _exit_code(stop)
    except Exception as error:
        if debug or not (is_the_users(error) or is_of_drawing(error)):
            raise
        if is_of_drawing(error):
            print(_undrawn(error), file=sys.stderr)
            return ERROR
        text = users_traceback(error)
        print(without_passwords(f"normdyn: {one_sentence(error)}" if text is None else text), file=sys.stderr)
        return USAGE if text is None else ERROR


def _exit_code(stop: SystemExit | KeyboardInterrupt) -> int:
    number = ending_signal(stop)
    if number is None:
        assert isinstance(stop, SystemExit)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    print("normdyn: terminated" if number == ending_signal(Terminated()) else "normdyn: interrupted", file=sys.stderr)
    return 128 + number


def _run(words: list[str]) -> int:
    if not words or words[0].startswith("-"):
        return _run_without_command(words)
    name, *options = words
    if name in LIGHTNING_COMMANDS:
        return _run_lightning(words)
    if name not in COMMANDS:
        raise ValueError(
            f"argument COMMAND: invalid choice: '{name}' (choose from {', '.join(COMMANDS)})"
            f"{nearest(name, tuple(COMMANDS))}"
        )
    require("jsonargparse", "rich", extra="cli")
    from lightning_normdyn.cli.parser import parse
    from lightning_normdyn.cli.terminal import shown_terminal

    command = getattr(import_module("lightning_normdyn.cli"), name.replace("-", "_"))
    arguments = parse(command, options)
    extra, modules = command.shell.extra
    require(*modules, extra=extra)
    if command.shell.overrides is not None:
        sys.path.append(str(Path.cwd()))  # a config may name a class in the working folder
    with shown_terminal() as console:
        record = command(**arguments)
        record.print_to(console)
    return _ended(record)


def _ended(record: CommandRecord) -> int:
    """The exit code; a page that could not be drawn is said when all else was printed."""
    drawing_error: Exception | None = getattr(record, "drawing_error", None)  # of commands that draw
    if drawing_error is not None:
        if record.exit_code == ERROR:
            raise drawing_error
        print(_undrawn(drawing_error), file=sys.stderr)  # a signal decides the exit code
    return record.exit_code


def _undrawn(error: Exception) -> str:
    return f"normdyn: {one_sentence(error)}; no page was written; --debug shows the traceback"


def _run_lightning(words: list[str]) -> int:
    require("jsonargparse", extra="cli")
    from lightning_normdyn.cli.fit import NormdynCLI
    from lightning_normdyn.cli.process_group import ended_process_group

    sys.path.append(str(Path.cwd()))  # a config may name a class in the working folder
    with ended_process_group():
        NormdynCLI(words)
    return 0


def _run_without_command(words: list[str]) -> int:
    if words[:1] == ["--version"]:
        print(f"normdyn {__version__}")
        return 0
    if words[:1] in (["--help"], ["-h"]):
        print(_help())
        return 0
    if words:
        raise ValueError(f"unrecognized arguments: {words[0]}; see normdyn --help")
    raise ValueError("the following arguments are required: COMMAND; see normdyn --help")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items())
    return (
        "usage: normdyn [-h] [--version] COMMAND ...\n\n"
        "What happens to the lengths of embeddings while a model trains, why, and where they will end.\n\n"
        f"commands:\n{lines}\n\n"
        "normdyn COMMAND --help lists the options of a command. --debug, or NORMDYN_DEBUG=1, shows the full traceback "
        "of an error.\nExit codes: 0 success, 1 error, 2 usage, 130 Ctrl-C, 143 SIGTERM."
    )
