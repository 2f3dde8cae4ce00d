"""The commands of ``normdyn``, which can be called from Python too: they return what the command line prints.

Exit codes of every command:

====  =================================================================================================
code  meaning
====  =================================================================================================
0     success
1     error: something failed while the command ran (a training, an experiment, code of a user's own, a bug)
2     usage: an option, a setting, a file or a folder that the user has to mend, named in one sentence
130   ended by Ctrl-C (128 + SIGINT); what was finished is saved
143   ended by SIGTERM (128 + SIGTERM); what was finished is saved
====  =================================================================================================

Example:
    >>> from lightning_normdyn.cli import configs
    >>> [config.name for config in configs().configs][:2]
    ['clip.yaml', 'fewshot.yaml']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_normdyn.cli.commands.advise import advise
    from lightning_normdyn.cli.commands.audit import audit
    from lightning_normdyn.cli.commands.configs import configs
    from lightning_normdyn.cli.commands.demo import demo
    from lightning_normdyn.cli.commands.export import export
    from lightning_normdyn.cli.commands.grid import grid
    from lightning_normdyn.cli.commands.predict import predict
    from lightning_normdyn.cli.commands.report import report
    from lightning_normdyn.cli.commands.reproduce import reproduce

__all__ = ["advise", "audit", "configs", "demo", "export", "grid", "predict", "report", "reproduce"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lightning_normdyn.cli' has no attribute {name!r}")
    return getattr(import_module(f"lightning_normdyn.cli.commands.{name}"), name)
