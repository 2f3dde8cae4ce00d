"""Output embeddings: the vectors that a submodule returns, and the gradients that come back to them."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_normdyn.capture.padding import present
from lightning_normdyn.capture.recomputed import Recomputed
from lightning_normdyn.capture.vectors import describe_output, find_vectors
from lightning_normdyn.core.geometry import at_least_float32, safe_norm, split_radial_tangential


class OutputStep(NamedTuple):
    """All vectors that a submodule returned on the way to one optimizer step.

    Attributes:
        norms: their norms, ``[n]``, calls and micro-batches one after the other.
        radial_square: sum of ``g_rad²`` over the vectors, in the scale of the loss as it was differentiated.
        gradient_square: sum of ``|g|²``.
        nonfinite: vectors whose gradient was NaN or infinite; they are left out of the sums.
    """

    norms: Tensor
    radial_square: Tensor
    gradient_square: Tensor
    nonfinite: Tensor


_MOST_CALLS = 1_024  # measured between two steps


class OutputTarget:
    """A submodule whose output ``[..., d]`` is watched, over any number of calls a step.

    Args:
        name: qualified name of the submodule.
        module: the submodule itself.
    """

    kind = "output"

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = module
        self._armed = False
        self._known = False
        self._recomputed = Recomputed()
        self._handle: RemovableHandle | None = None
        self._norms: list[Tensor] = []
        self._gradients: list[Tensor] = []

    def attach(self) -> None:
        """Starts to listen to the submodule."""
        self.detach()
        self._handle = self.module.register_forward_hook(self._hear, with_kwargs=True)

    def detach(self) -> None:
        """Stops listening and forgets what was heard."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None
        self.arm(False)

    def arm(self, armed: bool) -> None:
        """Sets whether calls are measured from now on; forgets those of the step before."""
        self._armed = armed
        self._norms, self._gradients = [], []
        self._recomputed = Recomputed()

    def step(self) -> OutputStep | None:
        """What was heard since :meth:`arm`; ``None`` if the submodule was not called."""
        if not self._norms:
            return None
        norms = torch.cat(self._norms)
        sums = torch.stack(self._gradients).sum(0) if self._gradients else norms.new_full((3,), torch.nan)
        return OutputStep(norms, *sums.unbind())

    def _hear(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not self._armed or not torch.is_grad_enabled() or self._recomputed():
            return
        if len(self._norms) >= _MOST_CALLS:
            return  # a step that never comes must not fill the memory
        vectors = find_vectors(output)
        if vectors is None:
            self._refuse(output)
            return
        self._known = True
        embedding = vectors.detach()
        self._norms.append(safe_norm(present(embedding, module, args, kwargs)))
        if vectors.requires_grad:
            version = embedding._version
            vectors.register_hook(lambda gradient: self._hear_gradient(gradient, embedding, version))

    def _refuse(self, output: Any) -> None:
        """Ends a run whose target is wrong from the start; later, when there is something to lose, warns instead."""
        came = describe_output(output)
        sentence = f"targets: the output of '{self.name}' is no tensor of embeddings [..., d] (came: {came})"
        if not self._known:
            raise ValueError(f"{sentence}; name the submodule that returns the vectors")
        warnings.warn(f"{sentence} any more; such calls are left out", stacklevel=2)

    def _hear_gradient(self, gradient: Tensor, embedding: Tensor, version: int) -> None:
        if not self._armed or embedding._version != version:  # overwritten in place: no longer what was returned
            return
        gradient = at_least_float32(gradient.detach())
        radial = split_radial_tangential(gradient, embedding).radial
        length = safe_norm(gradient)
        finite = length.isfinite()
        radial_square = radial.square().where(finite, 0).sum()
        gradient_square = length.square().where(finite, 0).sum()
        self._gradients.append(torch.stack((radial_square, gradient_square, (~finite).sum().to(length.dtype))))
