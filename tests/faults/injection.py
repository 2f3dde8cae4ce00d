"""Raises an error in the midst of a function of the library, whichever it is, without touching its source."""

from __future__ import annotations

import contextlib
import inspect
import sys
import types
from pathlib import Path

import lightning_normdyn

PACKAGE = str(Path(lightning_normdyn.__file__).parent)


class InjectedError(Exception):
    """Something went wrong that nobody foresaw."""


class Injection:
    """Raises once, when a function is called while it is active.

    Args:
        code: the code of the function.
        active: whether it may raise from the start.
    """

    def __init__(self, code, *, active=True):
        self.code, self.active, self.was_raised = code, active, False

    def __call__(self, frame, event, arg):
        if self.active and not self.was_raised and event == "call" and frame.f_code is self.code:
            self.was_raised = True
            raise InjectedError(self.code.co_name)


class Record:
    """Keeps the codes of the library that are called while it is active.

    Args:
        active: whether it may record from the start.
    """

    def __init__(self, *, active=True):
        self.active, self.codes = active, {}

    def __call__(self, frame, event, arg):
        code = frame.f_code
        if self.active and event == "call" and code.co_filename.startswith(PACKAGE):
            self.codes[code] = None


@contextlib.contextmanager
def tracing(trace):
    """Calls something at each call of a function, until it raises."""
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield trace
    finally:
        sys.settrace(before)


def code_of(member):
    """The code of a method or property as it is written, beneath its decorators."""
    function = member.fget if isinstance(member, property) else member
    return inspect.unwrap(function).__code__


def methods_of(cls):
    """Names of the methods and properties that a class itself defines, dunders among them."""
    return [name for name, member in vars(cls).items() if isinstance(member, (types.FunctionType, property))]
