"""The text of a config file: UTF-8 and YAML with each key once, or one sentence that names the file and the line."""

from __future__ import annotations

from pathlib import Path

import yaml

from lightning_normdyn.cli.config_errors import ConfigError

_TAB = "found character '\\t' that cannot start any token"


def check_config_text(file: str | Path) -> None:
    r"""Refuses what no parser could read, and what it would read in silence otherwise than it was meant.

    Args:
        file: of a configuration.

    Raises:
        ConfigError: if it is no text, no YAML or no mapping, or has a key twice.
        OSError: if it cannot be read.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.yaml"
        >>> _ = file.write_text("trainer:\n  max_epochs: 1\n  max_epochs: 2\n")
        >>> try:
        ...     check_config_text(file)
        ... except ConfigError as error:
        ...     print(str(error).replace(str(file), "a.yaml"))
        config: expected each key once, got 'max_epochs' again in 'a.yaml', line 3; remove one of them
    """
    try:
        root = yaml.compose(Path(file).read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        byte = f"{error.object[error.start]:#04x}"
        raise ConfigError(
            f"config: expected UTF-8 text, got byte {byte} in '{file}', line {line}; save it as UTF-8"
        ) from error
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"config: expected YAML, got character {error.character:#x} in '{file}'") from error
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"config: expected YAML, got {_problem(error)} in '{file}'{_place(error)}") from error
    if not isinstance(root, yaml.MappingNode):
        content = "nothing" if root is None else "a list" if isinstance(root, yaml.SequenceNode) else repr(root.value)
        raise ConfigError(f"config: expected keys such as model, data and trainer in '{file}', got {content}")
    _check_keys(root, file)


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "something else"
    if problem == _TAB or "tab character" in problem:
        return "a tab where blanks indent"
    return " ".join(f"{problem} {error.context or ''}".split())


def _place(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    return (
        "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}; check its indentation and brackets"
    )


def _check_keys(node: yaml.Node, file: str | Path) -> None:
    if isinstance(node, yaml.SequenceNode):
        for element in node.value:
            _check_keys(element, file)
    if not isinstance(node, yaml.MappingNode):
        return
    names = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in names:
            raise ConfigError(
                f"config: expected each key once, got '{key.value}' again in '{file}', line "
                f"{key.start_mark.line + 1}; remove one of them"
            )
        names.add(key.value)
        _check_keys(value, file)
