"""The parser of a command, made of the signature and the docstring of its function."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from docstring_parser import parse as parse_docstring
from docstring_parser.common import DocstringStyle
from jsonargparse import ArgumentParser

from lightning_normdyn.cli.commands.command import Command, Option
from lightning_normdyn.nearest_word import nearest

_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|-(inf|nan)$", re.IGNORECASE)


class UsageError(ValueError):
    """The words of a command line do not fit the command; the message says how in one sentence."""


def build_parser(command: Command[..., Any]) -> ArgumentParser:
    """Builds the parser of a command.

    Args:
        command: the function; the first line of its docstring is the description, its ``Args`` are the help.
    """
    documentation = parse_docstring(inspect.getdoc(command.function) or "", DocstringStyle.GOOGLE)
    helps = {entry.arg_name: " ".join((entry.description or "").split()) for entry in documentation.params}
    parser = ArgumentParser(
        prog=f"normdyn {command.function.__name__.replace('_', '-')}",
        description=f"{documentation.short_description} {_paragraph(documentation.long_description)}".strip(),
        formatter_class=argparse.HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
        default_env=False,
    )
    # argparse's own knows no -1e-3, which it takes for an option.
    parser._negative_number_matcher = _NEGATIVE
    groups = {title: parser.add_argument_group(title) for title in command.shell.groups}
    title_of = {name: title for title, names in command.shell.groups.items() for name in names}
    for option in command.options:
        if option.name != command.shell.overrides:
            container = groups[title_of[option.name]] if option.name in title_of else parser
            _add(container, option, command, helps.get(option.name, ""))
    return parser


def parse(command: Command[..., Any], words: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments of a command; what was not named is left out, so that the function's default holds.

    Raises:
        UsageError: if words do not fit.
        SystemExit: after ``--help`` was printed.
    """
    parser = build_parser(command)
    overrides: list[str] = []
    if command.shell.overrides is not None:
        words, overrides = _split(words, set(parser._option_string_actions))
    try:
        options: dict[str, Any] = parser.parse_args(list(words)).as_dict()
    except argparse.ArgumentError as error:
        raise UsageError(_sentence(error, parser, command)) from None
    if command.shell.overrides is not None:
        options[command.shell.overrides] = overrides
    return options


def _add(container: Any, option: Option, command: Command[..., Any], help_text: str) -> None:
    details: dict[str, Any] = {
        "help": _with_default(help_text, option).replace("%", "%%"),
        "default": argparse.SUPPRESS,
    }
    if option.flag:
        container.add_argument(command.shell.spelled(option.name), action="store_true", **details)
        return
    if option.choices:
        details["choices"] = option.choices
    else:
        details |= {"type": _word_check(option.value.check), "metavar": option.value.metavar}
    if option.is_list:
        details |= {"action": "append"} if option.value.one_word else {"action": "extend", "nargs": "+"}
    if option.name in command.shell.positional:
        nargs = {} if option.required else {"nargs": "?"}
        container.add_argument(option.name, **details | nargs)
    else:
        container.add_argument(
            command.shell.spelled(option.name), dest=option.name, required=option.required, **details
        )


def _word_check(check: Callable[[Any], Any]) -> Callable[[str], Any]:
    def of_word(word: Any) -> Any:
        if isinstance(word, list):
            return word  # jsonargparse asks again about all that an option was given, each of which was checked
        try:
            return check(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return of_word


def _with_default(help_text: str, option: Option) -> str:
    if option.required or option.flag or option.default in (None, ()) or "(default" in help_text:
        return help_text
    default = option.default
    words = " ".join(f"{value:g}" for value in default) if isinstance(default, tuple) else str(default)
    return f"{help_text.rstrip('.')} (default: {words})"


def _split(words: Sequence[str], options: set[str]) -> tuple[list[str], list[str]]:
    """The words of the command's options, and those of options that it does not know."""
    sides: tuple[list[str], list[str]] = ([], [])
    side = 0
    for word in words:
        if word.startswith("-") and not _NEGATIVE.match(word):
            side = int(word.split("=")[0] not in options)
        sides[side].append(word)
    return sides


def _sentence(error: argparse.ArgumentError, parser: ArgumentParser, command: Command[..., Any]) -> str:
    text = " ".join(str(error).split())
    for place in (option for option in command.options if option.name in command.shell.positional):
        text = text.replace(f"argument {place.value.metavar}:", f"argument {place.name}:")
    required = text.partition("arguments are required: ")[2]
    if required:
        spelled = {option.name: command.shell.spelled(option.name) for option in command.options}
        names = [name if name in command.shell.positional else spelled[name] for name in required.split(", ")]
        text = text.replace(required, ", ".join(names))
    if text.startswith("unrecognized arguments: "):
        word = text.removeprefix("unrecognized arguments: ").split(" ")[0].split("=")[0]
        text = f"{text}{nearest(word, tuple(parser._option_string_actions))}"
    if "invalid choice" in text:
        option = next((o for o in command.options if command.shell.spelled(o.name) in text), None)
        word = text.partition("invalid choice: '")[2].partition("'")[0]
        text += nearest(word, option.choices) if option is not None else ""
    return f"{text.rstrip('.')}; see {parser.prog} --help"


def _paragraph(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())
