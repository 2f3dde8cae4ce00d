"""The operations that torch carries out in a training step, to see that an unmeasured one has none of ours."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Notes the name of every operation that reaches a tensor; a device sync shows as ``_local_scalar_dense``."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class StepRecord(Callback):
    """Records the operations of every step from the start of its batch to the end of it, all callbacks included."""

    def __init__(self) -> None:
        self.steps: list[list[str]] = []
        self._mode: Operations | None = None

    def on_train_batch_start(self, *args: Any) -> None:
        """Starts to listen."""
        self._mode = Operations()
        self._mode.__enter__()

    def on_train_batch_end(self, *args: Any) -> None:
        """Stops; this callback comes last."""
        assert self._mode is not None
        self._mode.__exit__(None, None, None)
        self.steps.append(self._mode.names)
