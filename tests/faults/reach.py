"""Which arguments of public names, and which options of commands, no bad input touches."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

from bad_command_lines import BadWords
from call_outcomes import BadCall

import lightning_normdyn
from lightning_normdyn.cli.commands.command import Command

FACES = (
    "core", "losses", "levers", "callbacks", "metrics", "retrieval", "datasets", "history", "instruments", "capture",
    "report", "tasks",
)  # fmt: skip
MADE_BY_THE_PACKAGE = (
    "capture.TableStep", "core.EquilibriumRule", "history.RunRecord", "history.TargetHistory",
    "instruments.EquilibriumFit", "instruments.GradientSplit", "instruments.NormTrajectory", "instruments.OutputWatch",
    "instruments.Recorder", "instruments.TableWatch", "retrieval.HardNegatives",
)  # fmt: skip
"""Classes that are public for what they can be asked; functions and observers of the package make them, checked."""
COMMANDS = (
    "demo", "report", "watch", "reproduce", "configs", "grid", "advise", "predict", "audit", "export", "check_store",
)  # fmt: skip


def public_callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Functions and classes that people import; neither records that functions return nor protocols or errors."""
    for face in FACES:
        package = import_module(f"lightning_normdyn.{face}")
        for name in package.__all__:
            member = getattr(package, name)
            if inspect.isroutine(member) or (inspect.isclass(member) and not _is_record(member)):
                yield f"{face}.{name}", member


def _is_record(cls: type) -> bool:
    return issubclass(cls, tuple | dict | Exception) or bool(getattr(cls, "_is_protocol", False))


def untouched_arguments(cases: Iterable[BadCall]) -> set[str]:
    """``face.name(argument)`` of each that no case gives a value that makes no sense; not of what the package makes.

    Args:
        cases: the calls.
    """
    touched = {(_function_of(case.function), case.name) for case in cases if case.function is not None}
    return {
        f"{name}({parameter.name})"
        for name, function in public_callables()
        for parameter in _parameters(function)
        if name not in MADE_BY_THE_PACKAGE
        if not any(name == parameter.name and _covers(other, function) for other, name in touched)
    }


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [parameter for parameter in inspect.signature(function).parameters.values() if parameter.kind in named]


def _covers(other: object, function: Callable[..., Any]) -> bool:
    """Whether a call of one goes through the other: a subclass takes the arguments of what it is made of."""
    return other is function or (inspect.isclass(other) and inspect.isclass(function) and issubclass(other, function))


def _function_of(function: Callable[..., Any]) -> object:
    return function.func if isinstance(function, partial) else function


def untouched_options(lines: Iterable[BadWords]) -> set[str]:
    """``command --option`` of each that no case gives a value that makes no sense.

    Args:
        lines: the command lines.
    """
    given = {(case.words[0], word.partition("=")[0]) for case in lines if case.words for word in case.words[1:]}
    untouched = set()
    for name in COMMANDS:
        command: Command[..., Any] = getattr(lightning_normdyn.cli, name)
        for option in command.options:
            spelled = command.shell.spelled(option.name)
            is_named = option.name not in command.shell.positional and option.name != command.shell.overrides
            if is_named and (name.replace("_", "-"), spelled) not in given:
                untouched.add(f"{name} {spelled}")
    return untouched
