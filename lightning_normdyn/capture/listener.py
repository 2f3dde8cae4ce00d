"""Hears the calls of a submodule: what came, as it came, and what was returned."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import UserDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lightning_normdyn.capture.features import FeatureWriters, untraced
from lightning_normdyn.capture.vectors import HeardCall
from lightning_normdyn.caution import OnError
from lightning_normdyn.core.embedding_tap import Published
from lightning_normdyn.core.object_checks import check_instance, check_name


class ForwardListener(ABC):
    """Hears the calls of a submodule while it is attached.

    A module of sentence-transformers writes its outputs into the dict that it was called with. So mappings are copied
    before the call, their tensors not.

    Args:
        name: qualified name of the submodule.
        module: the submodule itself.

    Attributes:
        writers: the modules inside of it that write into features, where it is a model of such.
        calls_with_gradients: how many calls were made under grad mode, heard or not.
        calls_without_gradients: how many were not.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        check_name(name=name)
        check_instance(nn.Module, module=module, hint="pass the submodule itself")
        self.name, self.module = name, module
        self.writers = FeatureWriters(module)
        self._handles: list[RemovableHandle] = []
        self._inputs: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._on_error: OnError | None = None
        self._is_repetition = Recomputed()
        self.calls_with_gradients = self.calls_without_gradients = 0

    def attach(self, on_error: OnError | None = None) -> None:
        """Starts to listen.

        Args:
            on_error: takes what goes wrong while it listens; ``None`` lets it through to the training.
        """
        self.detach()
        self._on_error = on_error
        before, after = untraced(self._note_inputs, on_error), untraced(self._note_output, on_error)
        self._handles.append(self.module.register_forward_pre_hook(before, with_kwargs=True))
        self._handles.append(self.module.register_forward_hook(after, with_kwargs=True))
        self.writers.attach(on_error)

    def detach(self) -> None:
        """Stops listening."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.writers.detach()
        self._inputs = None

    def _note_inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        self._count()
        self._inputs = copied_inputs(args, kwargs) if self._wants_call() else None

    def _note_output(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        inputs, self._inputs = self._inputs, None
        may_repeat = not isinstance(module, Published) or module.repeats
        if self._wants_call() and not (may_repeat and self._is_repetition()):
            self._hear(HeardCall(module, *(inputs or (args, kwargs)), output, self.writers.take()))

    def _count(self) -> None:
        if torch.is_grad_enabled():
            self.calls_with_gradients += 1
        else:
            self.calls_without_gradients += 1

    @abstractmethod
    def _wants_call(self) -> bool:
        """Whether the call under way is to be heard."""

    @abstractmethod
    def _hear(self, call: HeardCall) -> None:
        """Called with each call that is wanted and repeats none."""


def copied_inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments whose mappings are copies, so that what a module writes into them does not show.

    Example:
        >>> features = {"input_ids": torch.ones(2)}
        >>> (copy_of_features,), _ = copied_inputs((features,), {})
        >>> features["token_embeddings"] = torch.ones(2, 3)
        >>> list(copy_of_features)
        ['input_ids']
    """
    return tuple(_copied(value) for value in args), {name: _copied(value) for name, value in kwargs.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, UserDict):  # such as the batches of transformers' tokenizers, which torch does not look into
        return dict(value)
    return copy.copy(value) if isinstance(value, Mapping) else value


class Recomputed:
    """Tells, of a call heard under grad mode, whether it only repeats one that was heard before.

    A checkpointed module is called again during the backward pass. Where the first call was made under grad mode
    (``use_reentrant=False``) it is the one that gets the gradients; where it was not (``use_reentrant=True``), the
    second one is.
    """

    def __init__(self) -> None:
        self._heard_forward = False

    def __call__(self) -> bool:
        """Whether the call under way is such a repetition."""
        if in_backward():
            return self._heard_forward
        self._heard_forward = True
        return False


def in_backward() -> bool:
    """Whether autograd is at work on this thread."""
    return bool(torch._C._current_graph_task_id() != -1)
