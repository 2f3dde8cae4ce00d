"""What makes a function a command: its options are checked on every call, and it says how a shell spells them."""

from __future__ import annotations

import inspect
import os
import random
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from types import SimpleNamespace, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from lightning_normdyn.cli.values import Value
from lightning_normdyn.nearest_word import nearest
from lightning_normdyn.passwords import without_passwords

if TYPE_CHECKING:
    from rich.console import Console


class CommandRecord(Protocol):
    """What a command returns: all that it found, for a call from Python, and how a terminal shows it.

    A command that draws has a ``drawing_error`` besides, the error that kept it from its page or ``None``: the rest of
    the record is printed before it is said.
    """

    @property
    def exit_code(self) -> int:
        """Of the process, see :mod:`lightning_normdyn.cli`."""

    def print_to(self, console: Console) -> None:
        """Prints what was not printed on the way."""


_NAME = Value("NAME")
P = ParamSpec("P")
R = TypeVar("R", bound=CommandRecord)


@dataclass(frozen=True)
class Option:
    """One option of a command, as its annotation has it.

    Attributes:
        name: of the argument.
        default: ``inspect.Parameter.empty`` for an option that must be named.
        value: metavar and check of the value, or of each value of a list.
        is_list: whether it is a list.
        choices: the words that it may be, where they are counted.
        flag: whether naming it means yes.
    """

    name: str
    default: Any
    value: Value = _NAME
    is_list: bool = False
    choices: tuple[str, ...] = ()
    flag: bool = False

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is inspect.Parameter.empty

    def checked(self, value: Any) -> Any:
        """The value of a call from Python.

        Raises:
            ValueError: if it is not what the annotation wants.
        """
        try:
            return self._checked(value)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def _checked(self, value: Any) -> Any:
        if self.flag and not isinstance(value, bool):
            raise ValueError(f"expected True or False, got {value!r}")
        if value is None and self.default is not None:
            raise ValueError("expected a value, got None; leave it out for its default")
        if value is None or self.flag:
            return value
        if self.choices and value not in self.choices:
            hint = nearest(value, self.choices) if isinstance(value, str) else ""
            raise ValueError(f"expected one of {', '.join(self.choices)}, got {value!r}{hint}")
        if not self.is_list:
            return self.value.check(value)
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise ValueError(f"expected a list, got {value!r}")
        if not len(value) and self.default != ():
            raise ValueError("expected at least one, got an empty list")
        return [self.value.check(element) for element in value]


@dataclass(frozen=True)
class Shell:
    """How a shell spells a command.

    Attributes:
        extra: of the package that it needs, with the modules by which one sees whether it is there.
        positional: options that are named by their place.
        underscore_options: options whose name keeps its underscores.
        overrides: the argument that takes all options that the command does not know.
        groups: heading to options, for help.
    """

    extra: tuple[str, tuple[str, ...]] = ("cli", ())
    positional: Sequence[str] = ()
    underscore_options: Sequence[str] = ()
    overrides: str | None = None
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def spelled(self, option: str) -> str:
        """The option as a shell spells it.

        Example:
            >>> Shell().spelled("batch_size"), Shell(underscore_options=("ckpt_path",)).spelled("ckpt_path")
            ('--batch-size', '--ckpt_path')
        """
        return f"--{option}" if option in self.underscore_options else f"--{option.replace('_', '-')}"


class Command(Generic[P, R]):
    """A function of keyword arguments that checks them before it does anything.

    Args:
        function: typed and documented.
        shell: how its options are spelled.
    """

    def __init__(self, function: Callable[P, R], shell: Shell) -> None:
        wraps(function)(self)
        self.function = function
        self.shell = shell

    @property
    def options(self) -> list[Option]:
        """All options in the order of the signature."""
        hints = SimpleNamespace(__annotations__={**self.function.__annotations__, "return": None})
        types = get_type_hints(hints, globalns=self.function.__globals__, include_extras=True)
        return [
            _option(name, p.default, types[name]) for name, p in inspect.signature(self.function).parameters.items()
        ]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Checks the arguments and calls the function."""
        options = {option.name: option for option in self.options}
        arguments: Any = dict(kwargs)
        for name in arguments.keys() & options.keys():
            arguments[name] = options[name].checked(arguments[name])
        token = _running_command.set(self.spelled_call(arguments))
        try:
            with unchanged_random_state():
                return self.function(*args, **arguments)
        finally:
            _running_command.reset(token)

    def spelled_call(self, arguments: Mapping[str, Any]) -> str:
        """A call as one would type it in a shell.

        Args:
            arguments: of the call; those that say nothing (``None``, a flag that is not set) are left out.
        """
        words = ["normdyn", self.function.__name__]
        for option in self.options:
            words += self._words(option, arguments.get(option.name))
        return shlex.join(words)

    def _words(self, option: Option, value: Any) -> Iterator[str]:
        if value is None or (option.flag and not value):
            return
        values = [str(element) for element in value] if option.is_list else [str(value)]
        if option.name == self.shell.overrides or option.name in self.shell.positional:
            yield from values
            return
        option_word = self.shell.spelled(option.name)
        if option.is_list and option.value.one_word:
            yield from (word for element in values for word in (option_word, element))
        else:
            yield from (option_word, *([] if option.flag else values))


@contextmanager
def unchanged_random_state() -> Iterator[None]:
    """Afterwards the caller's random numbers go on as if the command had drawn and seeded none.

    Those of Python, numpy and torch; and the variables by which Lightning hands a seed to later trainers are gone.
    Nothing is imported for it: a library that a command is the first to load starts as it starts by itself.
    """
    seeds = {name: os.environ.get(name) for name in _SEED_VARIABLES}
    python_state, numpy, torch = random.getstate(), sys.modules.get("numpy"), sys.modules.get("torch")
    numpy_state = None if numpy is None else numpy.random.get_state()
    torch_state = None if torch is None else torch.get_rng_state()
    has_devices = torch is not None and torch.cuda.is_initialized()
    device_states = torch.cuda.get_rng_state_all() if torch is not None and has_devices else []
    try:
        yield
    finally:
        random.setstate(python_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)
        elif "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()
        if "torch" in sys.modules:
            torch = sys.modules["torch"]
            torch.set_rng_state(torch.Generator().get_state() if torch_state is None else torch_state)
            if has_devices:
                torch.cuda.set_rng_state_all(device_states)
        for name, seed in seeds.items():
            if seed is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = seed


_SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
_running_command: ContextVar[str] = ContextVar("running_command", default="")


def running_command() -> str:
    """The command that runs, as one would type it in a shell, without passwords; empty outside of a command."""
    return without_passwords(_running_command.get())


def command(shell: Shell) -> Callable[[Callable[P, R]], Command[P, R]]:
    """Makes a function a command."""
    return lambda function: Command(function, shell)


def _option(name: str, default: Any, annotation: Any) -> Option:
    """Reads an annotation: ``T``, ``T | None``, ``Sequence[T]``, ``Literal``, ``bool`` or ``Annotated``."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (part for part in get_args(annotation) if part is not type(None))
    if annotation is bool:
        return Option(name, default, flag=True)
    is_list = inspect.isclass(get_origin(annotation)) and issubclass(get_origin(annotation), Sequence)
    if is_list:
        (annotation,) = get_args(annotation)
    if get_origin(annotation) is Literal:
        return Option(name, default, choices=get_args(annotation))
    if get_origin(annotation) is Annotated:
        (value,) = (note for note in annotation.__metadata__ if isinstance(note, Value))
        return Option(name, default, value, is_list)
    return Option(name, default, is_list=is_list)
