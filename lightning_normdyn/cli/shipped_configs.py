"""The configs that come with the package: they are listed, copied, and looked up by their bare names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightning_normdyn.cli.run_folder import make_writable
from lightning_normdyn.nearest_word import nearest

if TYPE_CHECKING:
    from rich.console import Console

FOLDER = Path(__file__).parents[1] / "configs"


class ShippedConfig(NamedTuple):
    """A config of the package.

    Attributes:
        name: such as ``sts.yaml``.
        summary: what it trains.
        file: where it lies.
    """

    name: str
    summary: str
    file: Path


class ConfigsRecord(NamedTuple):
    """What ``normdyn configs`` prints.

    Attributes:
        configs: all of them.
        copy: of one of them, if one was made.
    """

    configs: tuple[ShippedConfig, ...]
    copy: Path | None = None

    @property
    def exit_code(self) -> int:
        """Success."""
        return 0

    def print_to(self, console: Console) -> None:
        """Prints a line for each config, or where the copy is."""
        if self.copy is not None:
            console.print(f"Copied: {self.copy}")
            return
        width = max(len(config.name) for config in self.configs)
        for config in self.configs:
            console.print(f"{config.name:{width}}  {config.summary}")
        console.print("Train with: normdyn fit --config NAME; copy with: normdyn configs NAME [--out DIR]")


def list_configs() -> ConfigsRecord:
    """All configs, by name, with the first line of each."""
    return ConfigsRecord(tuple(_config(file) for file in sorted(FOLDER.glob("*.yaml"))))


def copy_config(name: str, out: str, *, overwrite: bool = False) -> ConfigsRecord:
    """Copies a config into a folder.

    Args:
        name: with or without ``.yaml``.
        out: the folder; made if it is not there.
        overwrite: whether a file of that name may be replaced.

    Raises:
        ValueError: if there is no such config, or the file is there.
        OSError: if the folder cannot be written.
    """
    record = list_configs()
    files = {config.name: config.file for config in record.configs}
    file_name = name if name.endswith(".yaml") else f"{name}.yaml"
    if file_name not in files:
        raise ValueError(f"name: expected one of {', '.join(files)}, got '{name}'{_nearest(file_name, tuple(files))}")
    copy = Path(out) / file_name
    if os.path.lexists(copy) and not overwrite:  # a link that leads nowhere is in the way too
        raise ValueError(f"out: '{copy}' exists already; pass --overwrite to replace it, or choose another folder")
    make_writable(copy.parent)
    from lightning_normdyn.atomic_file import write_atomically  # loads numpy, which usage errors must not

    write_atomically(copy, files[file_name].read_bytes())
    return record._replace(copy=copy)


def config_file(name: str) -> str:
    """The path of a config: a file as it is, or a shipped one where a bare name is no file here.

    Args:
        name: as ``--config`` has it; a text that is a configuration itself is left alone.

    Raises:
        FileNotFoundError: if there is neither.

    Example:
        >>> Path(config_file("sts.yaml")).name
        'sts.yaml'
    """
    if Path(name).exists() or any(mark in name for mark in "\n{:") or not name.strip():
        return name
    shipped_file = FOLDER / name
    if Path(name).name == name and shipped_file.is_file():
        return str(shipped_file)
    names = tuple(config.name for config in list_configs().configs)
    hint = f"; did you mean the shipped '{Path(name).name}'?" if Path(name).name in names else _nearest(name, names)
    raise FileNotFoundError(f"config: expected a file or one of {', '.join(names)}, got '{name}'{hint}")


def _nearest(name: str, names: tuple[str, ...]) -> str:
    """Compares without the ending, which makes all of them similar."""
    return nearest(Path(name).stem, [Path(shipped).stem for shipped in names]).replace("'?", ".yaml'?")


def _config(file: Path) -> ShippedConfig:
    first_line = file.read_text(encoding="utf-8").partition("\n")[0]
    return ShippedConfig(file.name, first_line.lstrip("# ").partition(":")[0].strip(), file)
