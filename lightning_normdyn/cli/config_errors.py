"""Errors of LightningCLI's configuration, each as one sentence: the key, the value, the nearest right word.

jsonargparse says in up to sixty lines what each alternative of a type would have wanted; the sentence keeps the first
line that tells what is wrong.
"""

from __future__ import annotations

import ast
import inspect
import re
import traceback
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_normdyn.cli.parser_message import CLASS, KEY, load_class, of_innermost_key, of_named_classes
from lightning_normdyn.nearest_word import nearest

_UNKNOWN = re.compile(r"(?:does not accept option|[Oo]ption|[Kk]ey) '([^']+)'(?: is not accepted)?$", re.MULTILINE)
_NO_ATTRIBUTE = re.compile(r"module '([^']+)' has no attribute '([^']+)'")
_LITERAL = re.compile(r"Expected an? typing\.Literal\[([^\]]*)\]")
_TYPE = re.compile(r"Expected an? <class '([^']+)'>")
_PLAIN = re.compile(r"Subtypes: \[<class '(?:int|float|bool|str)'>")
_GOT = re.compile(r"Got value: (.*)")
_NESTED = re.compile(r"NestedArg\(key='[^']*', val='([^']*)'")
_CLASS_PATH = re.compile(r"^Namespace\(class_path='|'(, init_args=.*)?\)$")
_NOT_DOTTED = re.compile(r"Expected a dot import path string: (.*)")
_BASE = re.compile(r"Subtypes: \[(?:list\[|<class ')(\w+(?:\.\w+)+)")
_VALUE = re.compile(r"Given value: (.*)")
_LISTS = ("list", "Sequence", "Iterable", "tuple")
_MOST_NAMES = 12
_NOISE = ("Does not validate", "Subtypes:", "Errors:", "Given value", "Not a valid subclass", "Expected a ")


class ConfigError(ValueError):
    """A configuration, or words of a command line that override it, will not do."""


def config_error(error: Exception, command: str, keys: Iterable[str]) -> ConfigError:
    """The sentence about words or a config that the parser refused.

    Args:
        error: as jsonargparse raises it.
        command: whose help is pointed to.
        keys: all that a config may have.

    Example:
        >>> error = Exception("unrecognized arguments: --trainr.max_epochs 3")
        >>> print(config_error(error, "fit", ["trainer.max_epochs"]))
        trainr.max_epochs: expected an option of normdyn fit or of LightningCLI, got 3; did you mean
        'trainer.max_epochs'? normdyn fit --help lists all
    """
    text = of_named_classes(str(error))
    sentence = (
        _unrecognised(text, command, keys)
        or _missing(text)
        or _malformed(text)
        or _unknown_option(text)
        or _no_mapping(text)
        or _beside_class_path(text)
        or _unknown_class(text)
        or _wrong_value(text)
        or f"{_path(text) or 'config'}: {_shortened(text)}"
    )
    return ConfigError(f"{sentence}{_pointer(sentence, text, command)}")


def is_of_lightning(error: Exception) -> bool:
    """Whether Lightning itself raised an error, as about an option of its Trainer that it finds no use for."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and bool({"pytorch_lightning", "lightning_fabric"} & set(Path(frames[-1].filename).parts))


def constructor_complaint(error: Exception) -> str:
    """Digs out what a constructor said from what jsonargparse says around it.

    Example:
        >>> text = '''Does not validate against any of the Union subtypes
        ... Errors:
        ...   - Problem with given class_path 'datetime.timezone':
        ...       offset: expected less than a day, got two
        ...   - Expected a <class 'NoneType'>'''
        >>> constructor_complaint(ValueError(text))
        'offset: expected less than a day, got two'
    """
    text = str(error)
    if text.startswith("Call to compute_fn of link") and error.__cause__ is not None:
        return str(error.__cause__)
    if not text.startswith("Does not validate against any of the Union"):
        return text
    lines = [line.strip() for line in text.splitlines()]
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("- ") and not line.removeprefix("- ").startswith(_NOISE):
            return below if CLASS.search(line) and below else line.removeprefix("- ")
    return text


def _unrecognised(text: str, command: str, keys: Iterable[str]) -> str | None:
    if text.startswith("unrecognized arguments: "):
        key, _, value = text.removeprefix("unrecognized arguments: ").lstrip("-").replace("=", " ", 1).partition(" ")
        words = value.split(" ")
    elif (match := _UNKNOWN.search(text)) and not CLASS.search(text):
        group = re.search(r"Group '([^']+)' does not accept", text)
        key, words = f"{group.group(1)}.{match.group(1)}" if group else match.group(1), []
    else:
        return None
    value_clause = f", got {words[0]}" if words and words[0] else ""
    hint = _nearest_key(key, tuple(keys))
    return f"{key}: expected an option of normdyn {command} or of LightningCLI{value_clause}{hint}"


def _nearest_key(key: str, keys: tuple[str, ...]) -> str:
    """Whole keys first; then their first words, since a class has options that the parser does not know by name."""
    hint = nearest(key, tuple(name for name in keys if not name.endswith(".help") and ("." in name) == ("." in key)))
    if hint or "." not in key:
        return hint
    first, _, later_words = key.partition(".")
    return nearest(first, tuple({name.partition(".")[0] for name in keys})).replace("'?", f".{later_words}'?")


def _missing(text: str) -> str | None:
    names = text.partition("arguments are required: ")[2]
    if not names:
        return None
    name = names.split(",")[0].rpartition(".")[2]
    return f"{name}: expected a value in a config or as --{name}, got none; name a config, e.g. --config sts.yaml"


def _malformed(text: str) -> str | None:
    prefix = "Problems parsing config: "
    return f"config: expected YAML, got {_shortened(text.removeprefix(prefix))}" if text.startswith(prefix) else None


def _unknown_option(text: str) -> str | None:
    """An option that the class of a config does not have."""
    classes, match = CLASS.findall(text), _UNKNOWN.search(text)
    if not classes or match is None:
        return None
    word, path = match.group(1), _most_specific(classes)
    return (
        f"{_path(text)}.{word}: expected an option of {path}, got one that it does not have"
        f"{_value_of(word, text)}{nearest(word, _options_of(path))}"
    )


def _most_specific(classes: list[str]) -> str:
    """The innermost class, which is named last; not a base class that jsonargparse tries after the class itself."""
    last = load_class(classes[-1])
    return next(
        (path for path in classes if load_class(path) is not last and issubclass(load_class(path), last)), classes[-1]
    )


def _no_mapping(text: str) -> str | None:
    """Something else than options by name where a class takes its options."""
    classes, value = CLASS.findall(text), _VALUE.search(text)
    if not classes or "object has no attribute 'keys'" not in text:
        return None
    word = None if value is None else _NESTED.match(value.group(1))
    value_clause = "" if word is None else f", got '{word.group(1)}'"
    return f"{_path(text)}.init_args: expected options of {classes[-1]} by name{value_clause}"


def _unknown_class(text: str) -> str | None:
    key, block = _path(text), of_innermost_key(text)
    if match := _NO_ATTRIBUTE.search(text):
        module, name = match.groups()
        return f"{key}: expected a class of {module}, got '{name}'{nearest(name, _classes_in(module))}"
    if match := re.search(r"No module named '([^']+)'", text):
        path = (CLASS.findall(text) or [match.group(1)])[-1]
        return f"{key}: expected the path of a class, got '{path}', but there is no module '{match.group(1)}'"
    value = _VALUE.search(block)
    base = _BASE.search(block)
    if base is not None and (match := _NOT_DOTTED.search(block)) and not _PLAIN.search(block):
        word = match.group(1)
        kinds = _kinds(base.group(1)) or f"the path of a subclass of {base.group(1)}"
        names = tuple(_subclasses(base.group(1)))
        return f"{key}: expected {kinds}, or a dotted path, got '{word}'{nearest(word, names)}"
    # Of classes of other packages any could be loaded, and few would fit.
    concrete = _kinds(base.group(1)) if base is not None and base.group(1).startswith("lightning_normdyn.") else ""
    if value is not None and (match := re.search(r"does not correspond to a subclass of (\w+)", block)):
        such_as = f", such as {concrete}" if concrete else ""
        return f"{key}: expected a subclass of {match.group(1)}{such_as}, got '{_CLASS_PATH.sub('', value.group(1))}'"
    if value is not None and "but is abstract" in block:
        word = _CLASS_PATH.sub("", value.group(1))
        return f"{key}: expected {concrete or 'a class that is not abstract'}, got '{word}', which is abstract"
    if value is not None and ("Subclass types expect one of" in block or "is not iterable" in block):
        return f"{key}: expected the path of a class, or its class_path and init_args, got {value.group(1)[:80]}"
    return None


def _kinds(base: str) -> str:
    """Names of the classes that would do for a base class; empty where none is loaded."""
    names = _subclasses(base)
    return ", ".join(names[:_MOST_NAMES]) + ", ..." * (len(names) > _MOST_NAMES)


def _beside_class_path(text: str) -> str | None:
    """Keys that stand beside ``class_path`` where they are indented too far, or not far enough."""
    value = _VALUE.search(of_innermost_key(text))
    try:
        settings = ast.literal_eval(value.group(1)) if value is not None else None
    except (ValueError, SyntaxError):  # more than plain values, or cut short
        return None
    if not isinstance(settings, dict) or "class_path" not in settings:
        return None
    strange = [key for key in settings if key not in ("class_path", "init_args", "dict_kwargs")]
    if not strange:
        return None
    return (
        f"{_path(text)}.{strange[0]}: expected class_path and init_args alone there, got '{strange[0]}' beside them; "
        "check its indentation"
    )


def _wrong_value(text: str) -> str | None:
    key, block = _path(text), of_innermost_key(text)
    value = _VALUE.search(block) or _GOT.search(block)
    if not key or value is None:
        return None
    word = value.group(1)
    types = dict.fromkeys(name for name in _TYPE.findall(block) if name != "NoneType")
    types = {"a list" if name.rpartition(".")[2] in _LISTS else name: None for name in types}
    choices = [word.strip("' ") for options in _LITERAL.findall(block) for word in options.split(",")]
    if choices:
        choices = list(dict.fromkeys(choices))
        alternatives = "".join(f", or {name}" for name in types)
        return f"{key}: expected one of {', '.join(choices)}{alternatives}, got '{word}'{nearest(word, choices)}"
    return f"{key}: expected {' or '.join(types)}, got '{word}'" if types else None


def _path(text: str) -> str:
    """The key with those that it lies in: a nested message names each level."""
    return ".".join(dict.fromkeys(KEY.findall(text)))


def _value_of(word: str, text: str) -> str:
    match = re.search(rf"'{re.escape(word)}': ([^,}}\]]+)", text) or re.search(
        r"NestedArg\(key='[^']*', val='([^']*)'", text
    )
    return f" ({match.group(1)})" if match else ""


def _pointer(sentence: str, text: str, command: str) -> str:
    """Where the options are listed."""
    option = next(iter(KEY.findall(text)), None)
    mark = " " if sentence.endswith("?") else "; "
    classes = CLASS.findall(text)
    if option in ("model", "data") and len(classes) == 1 and "expected an option of" in sentence:
        return f"{mark}normdyn fit --{option}.help {classes[0]} lists its options"
    return f"{mark}normdyn {command} --help lists all" if text.startswith("unrecognized") else ""


def _options_of(path: str) -> tuple[str, ...]:
    """Names of the arguments of a class, those of its base classes included."""
    cls = load_class(path)
    constructors = [vars(base)["__init__"] for base in inspect.getmro(cls) if "__init__" in vars(base)]
    names = (name for constructor in constructors[:-1] for name in inspect.signature(constructor).parameters)
    return tuple(dict.fromkeys(name for name in names if name not in ("self", "args", "kwargs")))


def _classes_in(module: str) -> tuple[str, ...]:
    try:
        members: Any = import_module(module)
    except ImportError:
        return ()
    return tuple(name for name in dir(members) if inspect.isclass(getattr(members, name, None)))


def _subclasses(path: str) -> list[str]:
    """Names of the loaded subclasses of a class, but those that only hold what others share."""
    waiting, names = [load_class(path)], []
    while waiting:
        for cls in waiting.pop().__subclasses__():
            if not inspect.isabstract(cls) and ("__init__" in vars(cls) or not cls.__subclasses__()):
                names.append(cls.__name__)
            waiting.append(cls)
    return sorted(set(names))


def _shortened(text: str) -> str:
    lines = [line.strip().removeprefix("- ") for line in text.splitlines()]
    telling = [line for line in lines if line and not line.startswith((*_NOISE, "Parser key"))]
    return " ".join(" ".join(telling or lines).split())[:400]
