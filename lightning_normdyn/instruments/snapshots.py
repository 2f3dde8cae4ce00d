"""When all norms are kept for the history."""

from __future__ import annotations

_PER_DOUBLING = 256


class Snapshots:
    """Thins out as a run goes on.

    Two are never nearer than 1/256 of the run so far, so their number grows with the logarithm of its length.

    Args:
        every_n_steps: cadence at which one may be taken.

    Example:
        >>> snapshots = Snapshots(10)
        >>> [step for step in (1, 10, 20, 25, 30) if snapshots.take(step)]
        [1, 10, 20, 30]
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self.last = 0

    def take(self, step: int) -> bool:
        """Whether to take one after this step; notes it if so."""
        if step != 1 and step - self.last < max(self.every_n_steps, step // _PER_DOUBLING):
            return False
        self.last = step - step % self.every_n_steps  # the first step is an extra
        return True
