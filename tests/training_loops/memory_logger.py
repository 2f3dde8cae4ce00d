"""A logger that keeps what it is given."""

from __future__ import annotations

from pytorch_lightning.loggers.logger import Logger


class MemoryLogger(Logger):
    """Keeps every call in :attr:`calls` as ``(step, metrics)``."""

    name = "memory"
    version = 0

    def __init__(self):
        super().__init__()
        self.calls = []

    def log_metrics(self, metrics, step=None):
        self.calls.append((step, dict(metrics)))

    def log_hyperparams(self, *args, **kwargs):
        pass

    def of(self, target):
        """Step number (from 1) to the quantities of a target logged there."""
        prefix = f"normdyn/{target}/"
        steps = {}
        for step, metrics in self.calls:
            found = {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
            if found:
                steps.setdefault(step + 1, {}).update(found)
        return steps
