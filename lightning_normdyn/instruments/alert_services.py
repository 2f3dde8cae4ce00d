"""Hands alerts to the experiment services that a run logs to: ``wandb.alert`` and ``trackio.alert``."""

from __future__ import annotations

import sys
from typing import Any

from lightning_normdyn.instruments.verdicts.verdict import Severity, Verdict

_LEVELS: dict[Severity, str] = {"note": "INFO", "warning": "WARN", "critical": "ERROR"}


def alert_services(verdict: Verdict) -> list[str]:
    """Sends a verdict to each service that this process logs a run to.

    Nothing is imported: a service that nobody imported has no run. One that refuses or fails is passed over, since a
    training must not end with it.

    Args:
        verdict: what to send.

    Returns:
        The names of the services that took it.
    """
    return [name for name in ("wandb", "trackio") if _send(sys.modules.get(name), name, verdict)]


def _send(module: Any, name: str, verdict: Verdict) -> bool:
    alert = getattr(module, "alert", None)
    has_run = module is not None and (name != "wandb" or getattr(module, "run", None) is not None)
    if alert is None or not has_run:
        return False
    level = _LEVELS[verdict.severity]
    levels = getattr(module, "AlertLevel", None)
    title = f"{verdict.target}: {verdict.rule.replace('_', ' ')}"
    try:
        alert(title=title, text=verdict.text, level=level if levels is None else levels[level])
    except Exception:  # no run (trackio raises then), no network, another signature
        return False
    return True
