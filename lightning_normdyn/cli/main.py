"""The entry point of the command line: choose the command, and turn the user's errors into one sentence."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lightning_normdyn.cli.arguments import LIGHTNING_COMMANDS, build_parser
from lightning_normdyn.cli.extras import MissingExtraError, require

USER_ERROR = 2
INTERRUPTED = 130
TERMINATED = 143


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        args: the words after ``normdyn``; by default those of the running process.

    Returns:
        The exit code: 0 if all went well, 2 for an error that is the user's to mend, 130 after Ctrl-C, 143 after a
        SIGTERM that a command cleaned up after.
    """
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words or bool(os.environ.get("NORMDYN_DEBUG"))
    try:
        return _run([word for word in words if word != "--debug"])
    except SystemExit as stop:  # argparse and jsonargparse, after they printed what is wrong
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Terminated:
        print("normdyn: terminated", file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt:
        print("normdyn: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if debug or not _is_the_users(error):
            raise
        print(f"normdyn: {_one_line(error)}", file=sys.stderr)
        return USER_ERROR


def _run(words: list[str]) -> int:
    if words and words[0] in LIGHTNING_COMMANDS:
        return _run_lightning(words)
    if words and words[0] in ("grid", "advise"):
        return _run_with_overrides(words)
    options = build_parser().parse_args(words)
    if options.command == "demo":
        require("rich", "tensorboard", extra="cli")
        from lightning_normdyn.cli.demo import run_demo

        return run_demo(options)
    if options.command == "reproduce":
        require("rich", "matplotlib", extra="cli,report")
        from lightning_normdyn.cli.reproduce import run_reproduce

        return run_reproduce(options)
    if options.command == "audit":
        require("rich", "matplotlib", extra="cli,report")
        from lightning_normdyn.cli.audit.command import run_audit

        with sigterm_raises():
            return run_audit(options)
    if options.command == "export":
        require("rich", extra="cli")
        from lightning_normdyn.cli.export import run_export

        with sigterm_raises():
            return run_export(options)
    require("matplotlib", extra="cli,report")
    from lightning_normdyn.cli.report import run_report

    return run_report(options)


def _run_with_overrides(words: list[str]) -> int:
    """Commands that hand what they do not know to LightningCLI."""
    options, of_lightning = build_parser().parse_known_args(words)
    sys.path.append(str(Path.cwd()))
    if options.command == "advise":
        require("jsonargparse", "rich", extra="cli")
        from lightning_normdyn.cli.advise import run_advise

        return run_advise(options, of_lightning)
    require("jsonargparse", "rich", "matplotlib", extra="cli,report")
    from lightning_normdyn.cli.grid.command import run_grid

    return run_grid(options, of_lightning)


def _run_lightning(words: list[str]) -> int:
    require("jsonargparse", extra="cli")
    from lightning_normdyn.cli.fit import NormdynCLI
    from lightning_normdyn.cli.process_group import ended_process_group

    sys.path.append(str(Path.cwd()))  # a config may name a class in the working folder
    with ended_process_group():
        NormdynCLI(words)
    return 0


def _is_the_users(error: Exception) -> bool:
    if isinstance(error, ValueError | OSError | MissingExtraError):
        return True
    if isinstance(error, RuntimeError) and str(error).startswith("SaveConfigCallback expected"):
        return True  # a configuration of an earlier run is in the way
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    return isinstance(error, MisconfigurationException)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class Terminated(KeyboardInterrupt):
    """The process was asked to end."""


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raises :class:`Terminated` where SIGTERM comes in; in threads, which cannot listen to signals, changes nothing.

    Example:
        >>> try:
        ...     with sigterm_raises():
        ...         signal.raise_signal(signal.SIGTERM)
        ... except Terminated:
        ...     print("cleaned up")
        cleaned up
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _terminate(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_IGN)  # a second one must not cut the cleaning short
    raise Terminated
