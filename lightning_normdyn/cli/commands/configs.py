"""``normdyn configs``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_normdyn.cli.commands.command import Shell, command
from lightning_normdyn.cli.values import Folder, Name

if TYPE_CHECKING:
    from lightning_normdyn.cli.shipped_configs import ConfigsRecord


@command(Shell(positional=("name",)))
def configs(*, name: Name | None = None, out: Folder = ".", overwrite: bool = False) -> ConfigsRecord:
    """List the configs that come with the package, or copy one to change it.

    Args:
        name: of the config to copy, such as sts.yaml (default: list all)
        out: the folder that it is copied to (default: the current one)
        overwrite: replace the file that is there

    Returns:
        All configs with what they are for, and the copy if one was made.

    Raises:
        ValueError: if there is no such config, or the file is there already.
        OSError: if the folder cannot be written.
    """
    from lightning_normdyn.cli.shipped_configs import copy_config, list_configs

    return list_configs() if name is None else copy_config(name, out, overwrite=overwrite)
