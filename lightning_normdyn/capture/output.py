"""Output embeddings: the vectors that a submodule returns, and the gradients that come back to them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_normdyn.capture.listener import ForwardListener, Recomputed
from lightning_normdyn.capture.names import ModulePath
from lightning_normdyn.capture.vectors import HeardCall, as_vectors, describe_output
from lightning_normdyn.caution import SettingsError, caution, contained
from lightning_normdyn.core.dynamics.geometry import at_least_float32, safe_norm, split_radial_tangential
from lightning_normdyn.core.object_checks import check_name


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
        """Length of the mean of the vectors' directions, 1 if all point one way; NaN where there are not two."""
        length: Tensor = self.direction_sum.norm()
        return length / self.vector_count if self.vector_count > 1 else torch.full_like(length, torch.nan)


_MOST_CALLS = 1_024  # measured between two steps


class OutputTarget(ForwardListener):
    """A submodule whose output ``[..., d]`` is watched, over any number of calls a step.

    Args:
        name: qualified name of the submodule.
        module: the submodule itself.
        path: the way to the module that is called, which may be replaced; ``None`` where nobody looks whether it is.
        key: of the vectors in the mapping that the module returns; ``None`` for those that it writes.

    Attributes:
        called_module: the module that is called, which has the method where a method is the target.
        was_heard: whether any of its calls gave vectors.
        had_gradient: whether a gradient came back to any of them.
        reads_computed_inputs: whether it was called with what is itself computed from parameters.
        dim: length of its vectors, as last heard; ``None`` before.
        dtype: of the numbers in them.
    """

    kind = "output"

    def __init__(self, name: str, module: nn.Module, path: ModulePath | None = None, *, key: str | None = None) -> None:
        super().__init__(name, module)
        if key is not None:
            check_name(key=key)
        self._path, self.key = path, key
        self.called_module = None if path is None else path.module()
        self._listens = self._keeps_vectors = False
        self.was_heard = self.had_gradient = self.reads_computed_inputs = False
        self.dim: int | None = None
        self.dtype = torch.float32
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
        self.writers.listens = listens
        self.writers.take()
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

    def _wants_call(self) -> bool:
        # A step that never comes must not fill the memory.
        return self._listens and torch.is_grad_enabled() and len(self._norms) < _MOST_CALLS

    def _hear(self, call: HeardCall) -> None:
        if call.written is not None and not call.written:
            return  # nothing was encoded: the model gives again what it gave before
        tensor = call.tensor(self.key)
        if tensor is None:
            self._refuse(call.output)
            return
        self.was_heard = True
        embedding = tensor.detach()
        rows = call.rows(embedding)
        self.dim, self.dtype = rows.shape[-1], embedding.dtype
        norms = safe_norm(rows)
        self._norms.append(norms)
        self._directions.append((rows / norms[:, None]).nan_to_num(0).sum(0))
        if self._keeps_vectors:
            self._vectors.append(rows.clone())  # they may be overwritten in place
        if tensor.requires_grad:
            version = embedding._version
            hear_gradient = contained(self._hear_gradient, self._on_error)
            tensor.register_hook(lambda gradient: hear_gradient(gradient, embedding, version))

    def _refuse(self, output: Any) -> None:
        """Ends a run whose target is wrong from the start; later, when there is something to lose, warns instead."""
        description = describe_output(output)
        vectors = "tensor of embeddings [..., d]" if self.key is None else f"mapping with embeddings '{self.key}'"
        sentence = f"targets: the output of '{self.name}' is no {vectors} (came: {description})"
        if not self.was_heard:
            raise SettingsError(f"{sentence}; name the submodule that returns the vectors")
        caution(f"{sentence} any more; such calls are left out", stacklevel=2)

    def _hear_gradient(self, gradient: Tensor, embedding: Tensor, version: int) -> None:
        if not self._listens or embedding._version != version:  # overwritten in place: no longer what was returned
            return
        self.had_gradient = True
        gradient = at_least_float32(as_vectors(gradient.detach()))
        radial = split_radial_tangential(gradient, as_vectors(embedding)).radial
        length = safe_norm(gradient)
        finite = length.isfinite()
        radial_square = radial.square().where(finite, 0).sum()
        gradient_square = length.square().where(finite, 0).sum()
        self._gradients.append(torch.stack((radial_square, gradient_square, (~finite).sum().to(length.dtype))))
