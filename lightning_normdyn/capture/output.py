"""Output embeddings: the vectors that a submodule returns, and the gradients that come back to them."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_normdyn.capture.names import ModulePath
from lightning_normdyn.caution import OnError, SettingsError, caution, contained
from lightning_normdyn.core.dynamics.geometry import at_least_float32, safe_norm, split_radial_tangential
from lightning_normdyn.core.object_checks import check_instance, check_name


class OutputStep(NamedTuple):
    """All vectors that a submodule returned on the way to one optimizer step.

    Attributes:
        norms: their norms, ``[n]``, calls and micro-batches one after the other; of several ranks, samples of them.
        radial_square: sum of ``g_rad²`` over the vectors, in the scale of the loss as it was differentiated.
        gradient_square: sum of ``|g|²``.
        nonfinite: vectors whose gradient was NaN or infinite; they are left out of the sums.
        direction_sum: sum of the vectors' directions ``x/|x|``, ``[d]``; a zero vector adds none.
        vector_count: how many vectors.
    """

    norms: Tensor
    radial_square: Tensor
    gradient_square: Tensor
    nonfinite: Tensor
    direction_sum: Tensor
    vector_count: int

    @property
    def common_direction(self) -> Tensor:
        """Length of the mean of the vectors' directions, 1 if all point one way."""
        length: Tensor = self.direction_sum.norm() / self.vector_count
        return length


_MOST_CALLS = 1_024  # measured between two steps


class ForwardListener(ABC):
    """Hears the calls of a submodule while it is attached.

    Args:
        name: qualified name of the submodule.
        module: the submodule itself.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        check_name(name=name)
        check_instance(nn.Module, module=module, hint="pass the submodule itself")
        self.name, self.module = name, module
        self._handle: RemovableHandle | None = None
        self._on_error: OnError | None = None
        self._is_repetition = Recomputed()

    def attach(self, on_error: OnError | None = None) -> None:
        """Starts to listen.

        Args:
            on_error: takes what goes wrong while it listens; ``None`` lets it through to the training.
        """
        self.detach()
        self._on_error = on_error
        self._handle = self.module.register_forward_hook(contained(self._hear, on_error), with_kwargs=True)

    def detach(self) -> None:
        """Stops listening."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None

    @abstractmethod
    def _hear(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Called with each call's arguments and output."""


class OutputTarget(ForwardListener):
    """A submodule whose output ``[..., d]`` is watched, over any number of calls a step.

    Args:
        name: qualified name of the submodule.
        module: the submodule itself.
        path: the way to the module that is called, which may be replaced; ``None`` where nobody looks whether it is.

    Attributes:
        called_module: the module that is called, which has the method where a method is the target.
    """

    kind = "output"

    def __init__(self, name: str, module: nn.Module, path: ModulePath | None = None) -> None:
        super().__init__(name, module)
        self._path = path
        self.called_module = None if path is None else path.module()
        self._listens = self._keeps_vectors = False
        self._gave_vectors = False
        self._vectors: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._directions: list[Tensor] = []
        self._gradients: list[Tensor] = []

    def is_current(self) -> bool:
        """Whether the model still holds this module by this name."""
        return self._path is None or self._path.module() is self.called_module

    def go_by(self, target: Any) -> None:
        """Takes over the way by which the same module is found now."""
        self._path = target._path

    def detach(self) -> None:
        """Stops listening and forgets what was heard."""
        super().detach()
        self.arm(False)

    def arm(self, listens: bool, *, keeps_vectors: bool = False) -> None:
        """Sets whether calls are measured from now on; forgets those of the step before.

        Args:
            listens: whether norms and gradients are measured.
            keeps_vectors: whether the vectors themselves are kept too.
        """
        self._listens, self._keeps_vectors = listens, keeps_vectors
        self._vectors, self._norms, self._directions, self._gradients = [], [], [], []
        self._is_repetition = Recomputed()

    def step(self) -> OutputStep | None:
        """What was heard since :meth:`arm`; ``None`` if the submodule was not called."""
        if not self._norms:
            return None
        norms = torch.cat(self._norms)
        sums = torch.stack(self._gradients).sum(0) if self._gradients else norms.new_full((3,), torch.nan)
        radial_square, gradient_square, nonfinite = sums.unbind()
        direction_sum = torch.stack(self._directions).sum(0)
        return OutputStep(norms, radial_square, gradient_square, nonfinite, direction_sum, norms.numel())

    def vectors(self) -> Tensor | None:
        """The vectors ``[n, d]`` that were returned since :meth:`arm`, if they were to be kept; ``None`` for none."""
        return torch.cat(self._vectors) if self._vectors else None

    def _hear(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not self._listens or not torch.is_grad_enabled() or self._is_repetition():
            return
        if len(self._norms) >= _MOST_CALLS:
            return  # a step that never comes must not fill the memory
        vectors = find_vectors(output)
        if vectors is None:
            self._refuse(output)
            return
        self._gave_vectors = True
        embedding = vectors.detach()
        rows = unpadded_rows(embedding, module, args, kwargs)
        norms = safe_norm(rows)
        self._norms.append(norms)
        self._directions.append((rows / norms[:, None]).nan_to_num(0).sum(0))
        if self._keeps_vectors:
            self._vectors.append(rows.clone())  # they may be overwritten in place
        if vectors.requires_grad:
            version = embedding._version
            hear_gradient = contained(self._hear_gradient, self._on_error)
            vectors.register_hook(lambda gradient: hear_gradient(gradient, embedding, version))

    def _refuse(self, output: Any) -> None:
        """Ends a run whose target is wrong from the start; later, when there is something to lose, warns instead."""
        description = describe_output(output)
        sentence = f"targets: the output of '{self.name}' is no tensor of embeddings [..., d] (came: {description})"
        if not self._gave_vectors:
            raise SettingsError(f"{sentence}; name the submodule that returns the vectors")
        caution(f"{sentence} any more; such calls are left out", stacklevel=2)

    def _hear_gradient(self, gradient: Tensor, embedding: Tensor, version: int) -> None:
        if not self._listens or embedding._version != version:  # overwritten in place: no longer what was returned
            return
        gradient = at_least_float32(gradient.detach())
        radial = split_radial_tangential(gradient, embedding).radial
        length = safe_norm(gradient)
        finite = length.isfinite()
        radial_square = radial.square().where(finite, 0).sum()
        gradient_square = length.square().where(finite, 0).sum()
        self._gradients.append(torch.stack((radial_square, gradient_square, (~finite).sum().to(length.dtype))))


_TOKEN_MASKS = ("attention_mask",)
"""Arguments that are 1 or True where there is a token (transformers)."""
_PADDING_MASKS = ("src_key_padding_mask", "key_padding_mask", "padding_mask")
"""Arguments that are True, or minus infinity, where there is none (torch)."""


def unpadded_rows(vectors: Tensor, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The vectors as rows of a matrix, ``[n, d]``, without those of padding.

    Args:
        vectors: what the module returned, ``[..., d]``.
        module: the module.
        args: what it was called with; a mask of the vectors' shape ``[...]`` among it tells.
        kwargs: the same, by name.

    Example:
        >>> import torch
        >>> mask = torch.tensor([[1, 1, 0]])
        >>> unpadded_rows(torch.ones(1, 3, 5), nn.Identity(), (), {"attention_mask": mask}).shape
        torch.Size([2, 5])
    """
    rows = vectors.reshape(-1, vectors.shape[-1])
    if vectors.ndim < 3:
        return rows
    arguments = _arguments_by_name(module, args) | dict(kwargs)
    for name in (*_TOKEN_MASKS, *_PADDING_MASKS):
        mask = arguments.get(name)
        if isinstance(mask, Tensor) and mask.shape == vectors.shape[:-1]:
            is_token = mask > 0 if name in _TOKEN_MASKS else mask == 0
            return rows[is_token.reshape(-1).to(rows.device)]
    return rows


def _arguments_by_name(module: nn.Module, args: tuple[Any, ...]) -> dict[str, Any]:
    """Positional arguments by name; a compiled module hides its own."""
    if not args:
        return {}
    forward = getattr(module, "_orig_mod", module).forward
    try:
        return dict(inspect.signature(forward).bind_partial(*args).arguments)
    except (TypeError, ValueError):
        return {}


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
    if torch.compiler.is_compiling():
        return False
    return bool(torch._C._current_graph_task_id() != -1)


def find_vectors(output: Any) -> Tensor | None:
    """The tensor that was returned, or the first floating-point one ``[..., d]`` among several; ``None`` if none is.

    Example:
        >>> import torch
        >>> find_vectors((torch.tensor(0.5), torch.ones(3, 2))).shape
        torch.Size([3, 2])
    """
    members = list(output.values()) if isinstance(output, Mapping) else output
    for member in members if isinstance(members, (list, tuple)) else [members]:
        if isinstance(member, Tensor) and member.is_floating_point() and member.ndim >= 2:
            return member
    return None


def describe_output(output: Any) -> str:
    """What came instead of vectors, for an error.

    Example:
        >>> import torch
        >>> describe_output(torch.ones(3)), describe_output("text")
        ('shape (3,)', 'a str')
    """
    return f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
