"""The commands of ``normdyn``, which can be called from Python too: they return what the command line prints.

Exit codes of every command:

====  =================================================================================================
code  meaning
====  =================================================================================================
0     success
1     error: something failed while the command ran (a training, an experiment, a page, a user's own code, a bug),
      or `check-store` saw that norms do not count
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
    from lightning_normdyn.cli.commands.embeddings import audit, check_store, cluster, export
    from lightning_normdyn.cli.commands.runs import configs, demo, report, reproduce, watch
    from lightning_normdyn.cli.commands.tasks import advise, grid, predict

__all__ = [
    "advise",
    "audit",
    "check_store",
    "cluster",
    "configs",
    "demo",
    "export",
    "grid",
    "predict",
    "report",
    "reproduce",
    "watch",
]

_MODULES = ("embeddings", "runs", "tasks")


def __getattr__(name: str) -> Any:
    if name in __all__:
        modules = (import_module(f"lightning_normdyn.cli.commands.{module}") for module in _MODULES)
        return next(getattr(module, name) for module in modules if hasattr(module, name))
    raise AttributeError(f"module 'lightning_normdyn.cli' has no attribute {name!r}")
