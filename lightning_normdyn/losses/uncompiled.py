"""The decorator ``uncompiled``: keeps a method out of ``torch.compile``, without loading the compiler on import."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

MethodT = TypeVar("MethodT", bound=Callable[..., Any])


def uncompiled(method: MethodT) -> MethodT:
    """As ``torch.compiler.disable``, which loads the compiler at once, and so costs whoever never compiles its import.

    Example:
        >>> class Twice:
        ...     @uncompiled
        ...     def forward(self, x):
        ...         return 2 * x
        >>> Twice().forward(3)
        6
    """
    eager_methods: list[Any] = []  # made once: the compiler would take another function for other code

    @functools.wraps(method)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            return method(*args, **kwargs)
        if not eager_methods:
            eager_method = torch.compiler.disable(method)  # its own line: the graph breaks here, not inside `append`
            eager_methods.append(eager_method)
        return eager_methods[0](*args, **kwargs)

    return forward  # type: ignore[return-value]
