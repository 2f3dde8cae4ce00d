"""The message of jsonargparse about a value: a tree by indentation, each level a key or a class that was tried."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

KEY = re.compile(r'Parser key "([^"]+)"')
CLASS = re.compile(r"Problem with given class_path '([^']+)'")


def of_named_classes(text: str) -> str:
    """The message without what base classes say, which are tried after the class that was named.

    Args:
        text: as jsonargparse has it.

    Example:
        >>> text = '''Parser key "m":
        ...   - Problem with given class_path 'collections.OrderedDict':
        ...       Parser key "window":
        ...   - Problem with given class_path 'builtins.dict':
        ...       Option 'window' is not accepted
        ...   - Expected a <class 'NoneType'>'''
        >>> "not accepted" in of_named_classes(text), "NoneType" in of_named_classes(text)
        (False, True)
    """
    classes: dict[int, str] = {}
    lines, skipped_depth = [], -1
    for line in text.splitlines():
        depth = _depth(line)
        if line.strip() and 0 <= skipped_depth < depth:
            continue
        skipped_depth = -1
        classes = {place: path for place, path in classes.items() if place <= depth}
        match = CLASS.search(line)
        if match is not None and depth in classes and _is_base(match.group(1), of=classes[depth]):
            skipped_depth = depth
            continue
        if match is not None:
            classes[depth] = match.group(1)
        lines.append(line)
    return "\n".join(lines)


def of_innermost_key(text: str) -> str:
    r"""What the message says of the innermost key; all of it where no key is named.

    Args:
        text: as jsonargparse has it.

    Example:
        >>> print(of_innermost_key('Parser key "m":\n  Parser key "lr":\n    Expected a number\n  Given value: 3'))
          Parser key "lr":
            Expected a number
    """
    lines = text.splitlines()
    places = [number for number, line in enumerate(lines) if KEY.search(line)]
    if not places:
        return text
    first, *below = lines[places[-1] :]
    end = next((n for n, line in enumerate(below) if line.strip() and _depth(line) <= _depth(first)), len(below))
    return "\n".join([first, *below[:end]])


def load_class(path: str) -> Any:
    """The class that a dotted path names."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _is_base(path: str, *, of: str) -> bool:
    try:
        base, cls = load_class(path), load_class(of)
    except (ImportError, AttributeError, ValueError):  # which the message is about
        return False
    return base is not cls and issubclass(cls, base)


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())
