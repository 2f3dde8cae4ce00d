"""Kernel votes: what every item of a batch does to the norm of a probe through the shared parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_normdyn.core.dynamics.geometry import most_precise, split_radial_tangential
from lightning_normdyn.core.object_checks import check_callable, check_sequence
from lightning_normdyn.core.tensor_checks import check_tensors


class KernelVotes(NamedTuple):
    """What one step of plain SGD on a batch does to the norms of probes, by item; per unit of lr, in float64.

    Attributes:
        votes: ``-<w_j, g_j>`` with ``w_j = K(x, X_j)^T z(x)``, ``[probes, batch]``: positive where item j pushes the
            probe outward. Times lr, a row sums to the first-order change of the probe's norm.
        radial_votes: the part of it that goes through the radial gradient at item j, ``[probes, batch]``; zero to
            rounding for a cosine loss, whose votes are ``<a_K, -s_j>/R_j`` alone.
        cos_psi: ``<a_K, -s_j> / (|a_K|·|s_j|)``, ``[probes, batch]``: how well what item j wants lines up with what
            would lengthen the probe; 0 where one of the two is zero.
        radial_change: ``<z(x), J(x)·Δθ>/lr``, ``[probes]``, from the step of the parameters itself, not from votes.
    """

    votes: Tensor
    radial_votes: Tensor
    cos_psi: Tensor
    radial_change: Tensor

    @property
    def residual(self) -> Tensor:
        """``radial_change - sum of votes``, ``[probes]``: zero to rounding, or the encoder is not the same twice."""
        return self.radial_change - self.votes.sum(1)


def kernel_votes(
    encoder: nn.Module | Callable[..., Tensor],
    probes: Any,
    batch: Any,
    *,
    loss: Callable[[Tensor], Tensor] | Tensor,
    parameters: Sequence[Tensor] | None = None,
) -> KernelVotes:
    """Splits the first-order change of the norms of probes over the items of a batch.

    One step of plain SGD moves a probe by ``Δx = -lr·sum_j K(x, X_j)·g_j``, ``K = J(x)·J(X_j)^T`` the neural tangent
    kernel between outputs. Nothing but the part of ``K^T z(x)`` tangent at ``z_j`` meets the source ``s_j = R_j·g_tan``
    of a cosine loss (Su, Ren, Veitch 2026, arXiv 2606.30625, Fig. 1; theory: kernel votes). No Jacobian is built: a
    probe costs one product with its transpose and one product with it over the batch, a few forward passes.

    The encoder is called as it is: call its ``eval()`` first where it has dropout. Its parameters, gradients and
    buffers stay as they are. Attention runs in its plain form, which alone has a second derivative.

    Args:
        encoder: a module, or any function that uses ``parameters``; returns embeddings ``[n, d]``.
        probes: inputs whose norms are asked about: a tensor, a tuple of positional or a mapping of keyword arguments.
        batch: inputs of the training step, likewise.
        loss: function of the batch's embeddings ``[batch, d]``, or its gradient at them, of the same shape.
        parameters: what the step trains; a module's parameters that want gradients, if left out.

    Returns:
        Votes, their cosines, and the change they must add up to.

    Raises:
        ValueError: if a function comes without parameters, or shapes do not fit.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> encoder, probes, batch = torch.nn.Linear(3, 2), torch.randn(2, 3), torch.randn(4, 3)
        >>> found = kernel_votes(encoder, probes, batch, loss=lambda x: torch.cosine_similarity(x[:2], x[2:]).sum())
        >>> found.votes.shape, bool((found.residual.abs() < 1e-5).all()), bool((found.radial_votes.abs() < 1e-5).all())
        (torch.Size([2, 4]), True, True)
    """
    encode, values = _as_function(encoder, parameters)
    with _differentiable():
        at_probes, at_batch = (
            Linearisation(_embeddings(encode, **{name: inputs}), values)
            for name, inputs in {"probes": probes, "batch": batch}.items()
        )
        gradient = _gradient(loss, at_batch.embeddings)
        step = [-part for part in at_batch.pull(gradient)]
        directions = nn.functional.normalize(at_probes.embeddings, dim=1, eps=torch.finfo(gradient.dtype).tiny)
        radial_change = torch.linalg.vecdot(most_precise(at_probes.push(step)), most_precise(directions))
        reach = torch.stack([at_batch.push(_pull_one(at_probes, directions, row)) for row in range(len(directions))])
    return _votes(most_precise(reach), most_precise(gradient), most_precise(at_batch.embeddings), radial_change)


def _votes(reach: Tensor, gradient: Tensor, embeddings: Tensor, radial_change: Tensor) -> KernelVotes:
    """The record from ``w_j`` ``[probes, batch, d]`` and the gradient at every item ``[batch, d]``."""
    pull = split_radial_tangential(gradient, embeddings)
    along, across = split_radial_tangential(reach, embeddings.expand_as(reach))
    radial, tangential = -along * pull.radial, -torch.linalg.vecdot(across, pull.tangential)
    lengths = across.norm(dim=-1) * pull.tangential.norm(dim=-1)
    cos_psi = torch.where(lengths > 0, tangential / lengths.where(lengths > 0, 1), 0)
    return KernelVotes(radial + tangential, radial, cos_psi, radial_change)


def _pull_one(at_probes: Linearisation, directions: Tensor, row: int) -> tuple[Tensor, ...]:
    """``J(x)^T z`` of one probe."""
    direction = torch.zeros_like(directions)
    direction[row] = directions[row]
    return at_probes.pull(direction)


def _gradient(loss: Callable[[Tensor], Tensor] | Tensor, embeddings: Tensor) -> Tensor:
    if isinstance(loss, Tensor):
        if loss.shape != embeddings.shape:
            raise ValueError(
                f"loss: expected a gradient of the embeddings' shape, {tuple(embeddings.shape)}, got "
                f"{tuple(loss.shape)}; pass one row for each item of the batch, or the loss as a function"
            )
        return loss.detach().to(embeddings)
    check_callable("of the batch's embeddings, or its gradient at them", loss=loss)
    leaf = embeddings.detach().requires_grad_()
    value = loss(leaf)
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        came = f"{tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:80]
        ending = " without a gradient" if isinstance(value, Tensor) and not value.requires_grad else ""
        raise ValueError(f"loss: expected one number that depends on the embeddings, got {came}{ending}; take its mean")
    (gradient,) = torch.autograd.grad(value, leaf)
    return gradient


def _as_function(
    encoder: nn.Module | Callable[..., Tensor], parameters: Sequence[Tensor] | None
) -> tuple[Callable[[Any], Tensor], list[Tensor]]:
    """The encoder as a function of its inputs, and the parameters that its output hangs on."""
    if parameters is None and isinstance(encoder, nn.Module):
        return _module_as_function(encoder)
    check_callable("of the inputs, such as a module", encoder=encoder)
    if parameters is not None:
        check_sequence(parameters=parameters)
        check_tensors(**{f"parameters[{place}]": parameter for place, parameter in enumerate(parameters)})
    if not parameters:
        raise ValueError(
            "parameters: expected what the encoder trains, got none; pass a list of tensors, or a module as the encoder"
        )
    return lambda inputs: _call(encoder, inputs), list(parameters)


def _module_as_function(module: nn.Module) -> tuple[Callable[[Any], Tensor], list[Tensor]]:
    """Over copies of what a forward pass may change, so that the module stays as it is."""
    parameters = {name: p.detach().requires_grad_() for name, p in module.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("encoder: expected parameters that want gradients, got none; nothing of it would be trained")

    def encode(inputs: Any) -> Tensor:
        state = parameters | {name: buffer.clone() for name, buffer in module.named_buffers()}
        return _call(lambda *args, **kwargs: torch.func.functional_call(module, state, args, kwargs), inputs)

    return encode, list(parameters.values())


def _embeddings(encode: Callable[[Any], Tensor], **inputs: Any) -> Tensor:
    """What an encoder makes of one side's inputs.

    Raises:
        ValueError: naming the side, if the encoder cannot take them.
    """
    ((name, side),) = inputs.items()
    try:
        return encode(side)
    except (TypeError, RuntimeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{name}: expected inputs that the encoder takes, got {_shown(side)}, of which it says: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error


def _shown(inputs: Any) -> str:
    return f"a tensor of {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__


def _call(encoder: Callable[..., Tensor], inputs: Any) -> Tensor:
    if isinstance(inputs, Mapping):
        return encoder(**inputs)
    return encoder(*inputs) if isinstance(inputs, tuple) else encoder(inputs)


@contextmanager
def _differentiable() -> Iterator[None]:
    """Gradients on, and attention without the kernels that know no second derivative."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


class Linearisation:
    """How embeddings move when the parameters move a little, to first order.

    Both products come from one encoding and cost a backward pass or two each. Differentiating backward twice, rather
    than forward, works for any function without calling it again with other parameters, and was the faster of the two
    where it was measured (a transformer of four layers, eight directions: 2.6 s against 3.5 s).

    Args:
        output: embeddings ``[n, d]`` with their graph.
        values: the parameters, each wanting a gradient.

    Raises:
        ValueError: if the embeddings are not ``[n, d]`` or have no graph.

    Example:
        >>> weight = torch.tensor([[2.0]], requires_grad=True)
        >>> at = Linearisation(weight**2, [weight])
        >>> at.pull(torch.tensor([[10.0]]))[0].item(), at.push([torch.tensor([[1.0]])]).item()
        (40.0, 4.0)
    """

    def __init__(self, output: Tensor, values: Sequence[Tensor]) -> None:
        if output.ndim != 2 or not output.requires_grad:
            raise ValueError(
                f"encoder: expected embeddings [n, d] that depend on the parameters, got {tuple(output.shape)}"
                f"{'' if output.requires_grad else ' without a gradient'}"
            )
        self._output, self._values = output, tuple(values)
        self._cotangent: Tensor | None = None
        self._pull_back: tuple[Tensor, ...] = ()

    @property
    def embeddings(self) -> Tensor:
        """``[n, d]``, without their graph."""
        return self._output.detach()

    def pull(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        """``J^T`` times a gradient at the embeddings ``[n, d]``: the gradient at the parameters."""
        return torch.autograd.grad(
            self._output, self._values, cotangent, retain_graph=True, allow_unused=True, materialize_grads=True
        )

    def push(self, direction: Sequence[Tensor]) -> Tensor:
        """``J`` times a direction of the parameters: how the embeddings move along it, ``[n, d]``."""
        if self._cotangent is None:
            self._cotangent = torch.zeros_like(self._output, requires_grad=True)
            options = {"create_graph": True, "allow_unused": True, "materialize_grads": True}
            self._pull_back = torch.autograd.grad(self._output, self._values, self._cotangent, **options)
        # J^T u is linear in u, so that its derivative by u is J, wherever u is.
        pairs = [
            (pull, tangent) for pull, tangent in zip(self._pull_back, direction, strict=True) if pull.requires_grad
        ]
        pulls, tangents = zip(*pairs, strict=True)
        (change,) = torch.autograd.grad(pulls, self._cotangent, tangents, retain_graph=True)
        return change
