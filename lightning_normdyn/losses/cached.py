"""Exact gradients of a large batch through an encoder that sees a few inputs at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_normdyn.core.contrast.first_derivative import first_derivative_only
from lightning_normdyn.core.dynamics.geometry import at_least_float32
from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.sharded_tensor import is_sharded
from lightning_normdyn.losses.chunked_encoder import ChunkedEncoder, Encode
from lightning_normdyn.losses.chunked_inputs import ChunkedInputs, InputLeaf
from lightning_normdyn.losses.in_batch import InBatchLoss


def cached_loss(
    loss: Callable[..., Tensor],
    query_inputs: Any,
    document_inputs: Any,
    *,
    encode_query: Encode,
    encode_document: Encode,
    module: nn.Module,
    chunk_size: int,
    **options: Any,
) -> Tensor:
    """The loss of a batch whose encoding with a graph would not fit into memory (arXiv 2101.06983, section 3).

    Inputs are encoded ``chunk_size`` at a time without a graph; the loss and the gradients of all embeddings are
    computed together; on the way back each chunk is encoded again, with the random numbers and the autocast of the
    first time, and its part of every parameter's gradient is added up. To autograd all of it is one node that hands
    each parameter, and each input that carries gradient, one gradient, so a loss scaler, accumulation and
    DistributedDataParallel work as always.

    What would train nothing says so instead: an encoder under ``no_grad`` (as sentence-transformers' ``encode`` is),
    one that the module does not hold, and encoders sharded by FSDP1. Those of FSDP2 and tensor parallelism do train.

    Args:
        loss: what is computed of the embeddings: one of this package's losses, or any function of queries ``[n, d]``
            and documents ``[m, d]`` that gives a number, such as ``lambda q, d: first(q, d) + 0.1 * second(q, d)``;
            what it learns itself is trained, in a module or not.
        query_inputs: a tensor, a list with an entry an input, or a mapping or a tuple of columns: tensors and lists of
            one length, such as ``(ids, mask)``, see :class:`ChunkedInputs`.
        document_inputs: likewise.
        encode_query: makes embeddings ``[k, d]`` of ``k`` query inputs.
        encode_document: the same for the other side.
        module: whose parameters train; the encoders use no others.
        chunk_size: inputs to encode together.
        options: keywords of the loss.

    Returns:
        A scalar, equal to ``loss(encode_query(query_inputs), encode_document(document_inputs), **options)``.

    Raises:
        ValueError: if ``chunk_size`` is no positive whole number, inputs cannot be cut, an encoder returns fewer
            embeddings than it was given inputs, or the module is sharded by FSDP1; on the way back, if nothing would
            train, or not all that a side uses.
    """
    check_count(chunk_size=chunk_size)
    _refuse_trained(options)
    _check_kinds(loss, module, encode_query=encode_query, encode_document=encode_document)
    queries = ChunkedEncoder("encode_query", encode_query, ChunkedInputs("query_inputs", query_inputs, chunk_size))
    documents = ChunkedEncoder(
        "encode_document", encode_document, ChunkedInputs("document_inputs", document_inputs, chunk_size)
    )
    if not torch.is_grad_enabled():
        loss_value: Tensor = loss(queries.encode(), documents.encode(), **options)
        return loss_value
    _refuse_flattened(module)
    # What is spread over ranks gets its gradients where backward meets it, and nowhere else.
    replays_backward = _is_spread(module)
    # Wide, because gradients wait here unscaled: half precision would lose them.
    leaves = [at_least_float32(side.encode()).requires_grad_() for side in (queries, documents)]
    value = _value(loss, leaves, options)
    loss_parameters = _trained(loss.parameters() if isinstance(loss, nn.Module) else _leaves(value), but=leaves)
    encoder_parameters = _trained(module.parameters(), but=loss_parameters)
    parameters = [*loss_parameters, *([] if replays_backward else encoder_parameters)]
    gradients = _LossGradients(loss, value, leaves, parameters)
    inputs = _trained([*queries.inputs.trained, *documents.inputs.trained], but=parameters)
    receivers = [*parameters, *inputs]
    cache_type = _SpreadCache if replays_backward else _Cache
    cache = cache_type(module, (queries, documents), gradients, receivers)
    cache.expects_encoder = bool(encoder_parameters) or not loss_parameters
    anchor = value.new_zeros((), requires_grad=True)  # a way back where no parameter is named
    replayed_loss: Tensor = _Replay.apply(value.detach(), cache, anchor, *receivers)
    return replayed_loss


def _check_kinds(loss: object, module: object, **encoders: object) -> None:
    if not callable(loss):
        raise ValueError(
            f"loss: expected a loss of lightning_normdyn.losses or a function of queries and documents, got "
            f"{type(loss).__name__}; InfoNCE() is one"
        )
    if isinstance(loss, InBatchLoss) and loss.reduction == "none":
        raise ValueError("loss: its gradient is made ahead, of one number; leave reduction='none', and pass weights")
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"module: expected a module of torch, got {type(module).__name__}; pass what holds the encoders"
        )
    for name, encoder in encoders.items():
        if not callable(encoder):
            raise ValueError(f"{name}: expected a function of inputs to embeddings, got {type(encoder).__name__}")


def _refuse_trained(options: dict[str, Any]) -> None:
    """Options are no encoder's work, and nothing would bring their gradients home."""
    for name in ("weights", "temperatures"):
        if isinstance(options.get(name), Tensor) and options[name].requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name}: they carry gradient, which a cached loss would drop; write {name}.detach()")


def _refuse_flattened(module: nn.Module) -> None:
    """FSDP1 reduces gradients in hooks of its own, which nothing here meets."""
    wrapped = any(hasattr(child, "_fsdp_wrapped_module") for child in module.modules())
    if wrapped or any(getattr(parameter, "_fsdp_flattened", False) for parameter in module.parameters()):
        raise ValueError(
            "module: FSDP1 (FullyShardedDataParallel) would leave its gradients out or unreduced; use FSDP2 "
            "(fully_shard, Lightning's ModelParallelStrategy) or DistributedDataParallel"
        )


def _value(loss: Callable[..., Tensor], leaves: list[Tensor], options: dict[str, Any]) -> Tensor:
    """The loss of embeddings; ours shows them to nobody yet, since their gradient is still to be scaled."""
    value = loss.compute(*leaves, **options) if isinstance(loss, InBatchLoss) else loss(*leaves, **options)
    if not isinstance(value, Tensor) or value.ndim:
        came = f"{tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss: expected it to return a tensor without dimensions, got {came}; take its mean")
    if not value.requires_grad:
        raise ValueError("loss: expected a value that carries the gradient of the embeddings; leave out no_grad")
    return value


def _trained(tensors: Iterable[Tensor], *, but: Iterable[Tensor]) -> list[Tensor]:
    """Those that carry gradient, each once, without some."""
    others = {id(tensor) for tensor in but}
    return [tensor for tensor in dict.fromkeys(tensors) if tensor.requires_grad and id(tensor) not in others]


def _leaves(value: Tensor) -> list[Tensor]:
    """What a graph ends in that trains."""
    waiting, seen, leaves = [value.grad_fn], set(), []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return leaves


class _LossGradients:
    """The gradients of a loss with respect to embeddings and what it learns itself, times what comes from above.

    Ours are made at once, which frees the graph, and those who listen see them when they are scaled. Any other function
    may show embeddings itself: its graph waits, so that its gradients pass when they are asked for.
    """

    def __init__(self, loss: Any, value: Tensor, embeddings: list[Tensor], parameters: list[Tensor]) -> None:
        self._value, self._sources = value, [*embeddings, *parameters]
        self._loss = loss if isinstance(loss, InBatchLoss) else None
        self._embeddings = [leaf.detach() for leaf in embeddings]
        self._gradients: tuple[Tensor | None, ...] | None = None
        if self._loss is not None:
            self._gradients = torch.autograd.grad(value, self._sources, allow_unused=True)

    def times(self, factor: Tensor) -> list[Tensor | None]:
        """Of the two sides, and then of every parameter."""
        if self._gradients is None:
            above = factor.to(self._value.dtype)
            return [*torch.autograd.grad(self._value, self._sources, above, retain_graph=True, allow_unused=True)]
        gradients: list[Tensor | None] = [
            None if gradient is None else gradient * factor for gradient in self._gradients
        ]
        self._publish(gradients[:2])
        return gradients

    def _publish(self, gradients: list[Tensor | None]) -> None:
        """Lets those who listen see embeddings and gradients as they would have passed."""
        assert self._loss is not None
        places = (self._loss.queries, self._loss.documents)
        for place, embedding, gradient in zip(places, self._embeddings, gradients, strict=True):
            if gradient is None:
                continue
            with torch.enable_grad():
                leaf = embedding.requires_grad_()
                place.repeats = False
                try:
                    published = place(leaf.view_as(leaf))
                finally:
                    place.repeats = True
            torch.autograd.grad(published, leaf, gradient)


class _Cache:
    """What waits for the way back.

    Args:
        module: what trains.
        sides: queries and documents.
        loss_gradients: of the embeddings, and of what the loss learns.
        receivers: who gets gradients: what the loss learns, parameters of the module, and inputs.
    """

    expects_encoder = True
    """Whether it would be wrong if no encoder got any."""

    def __init__(
        self,
        module: nn.Module,
        sides: tuple[ChunkedEncoder, ChunkedEncoder],
        loss_gradients: _LossGradients,
        receivers: list[Tensor],
    ) -> None:
        self._module, self._sides, self._loss_gradients = module, sides, loss_gradients
        self._receivers = receivers
        self._numbers = {id(receiver): number for number, receiver in enumerate(receivers)}

    def replay(self, factor: Tensor) -> list[Tensor | None]:
        """The gradient of every receiver, times a factor."""
        of_sides, of_loss = _split(self._loss_gradients.times(factor))
        total: list[Tensor | None] = [*of_loss, *[None] * (len(self._receivers) - len(of_loss))]
        trains = False
        with _unchanged(list(self._module.buffers())):
            for side, gradient in zip(self._sides, of_sides, strict=True):
                if gradient is None:  # the loss is blind to this side
                    continue
                for number, ((encoded, leaves), part) in enumerate(
                    zip(side.again(), gradient.split(side.sizes), strict=True)
                ):
                    if not encoded.requires_grad:  # a frozen encoder, or none
                        continue
                    trains = True
                    if number == 0:
                        self._refuse_strangers(side.name, encoded, leaves)
                    self._add_chunk(total, side.name, encoded, leaves, part)
        if not trains and self.expects_encoder:
            raise self._nothing_trains()
        return total

    def _add_chunk(
        self, total: list[Tensor | None], side: str, encoded: Tensor, leaves: list[InputLeaf], gradient: Tensor
    ) -> None:
        """Adds what comes of the embeddings ``[k, d]`` of a chunk."""
        sources = [*self._receivers, *(leaf.leaf for leaf in leaves)]
        chunk_gradients = torch.autograd.grad(encoded, sources, gradient.to(encoded.dtype), allow_unused=True)
        if all(chunk_gradient is None for chunk_gradient in chunk_gradients):
            raise self._no_gradient(side)
        for number, addition in enumerate(chunk_gradients[: len(self._receivers)]):
            if addition is not None:
                subtotal = total[number]
                total[number] = addition if subtotal is None else subtotal + addition
        for leaf, addition in zip(leaves, chunk_gradients[len(self._receivers) :], strict=True):
            self._add_input(total, leaf, addition)

    def _add_input(self, total: list[Tensor | None], leaf: InputLeaf, addition: Tensor | None) -> None:
        """Adds the gradient of an input's entries in a chunk."""
        if addition is None:
            return
        number = self._numbers[id(leaf.tensor)]
        gradient = total[number]
        if gradient is None:
            total[number] = gradient = torch.zeros_like(leaf.tensor)
        (gradient if leaf.part is None else gradient[leaf.part]).add_(addition)

    def _refuse_strangers(self, side: str, encoded: Tensor, leaves: list[InputLeaf]) -> None:
        """Names what an encoder uses that would train without caching, and not with it."""
        known = {*self._numbers, *(id(leaf.leaf) for leaf in leaves)}
        strangers = [leaf for leaf in _leaves(encoded) if id(leaf) not in known]
        if strangers:
            raise ValueError(
                f"module: expected the one whose parameters {side} uses, got a {type(self._module).__name__} without "
                f"{len(strangers)} of them, one of shape {tuple(strangers[0].shape)}, which would not train; pass the "
                "module that holds both encoders"
            )

    def _no_gradient(self, side: str) -> ValueError:
        return ValueError(
            f"module: expected the one whose parameters {side} uses, got a {type(self._module).__name__} that no "
            f"gradient reaches, so that {side} would not train; pass the module that holds both encoders"
        )

    def _nothing_trains(self) -> ValueError:
        return ValueError(
            f"module: no gradient of encode_query or encode_document reaches the {type(self._module).__name__}, so "
            "that it would not train; encode without no_grad, inference_mode, detach and numpy (sentence-transformers' "
            "encode() has no_grad: call the model itself), and checkpoint with use_reentrant=False"
        )


class _SpreadCache(_Cache):
    """The same of encoders that FSDP2 or tensor parallelism spreads over ranks.

    What computes there are copies of their parameters, gathered for a while, so that autograd can be asked for none of
    their gradients: each chunk goes all the way back instead, where FSDP2 waits for it.
    """

    def _add_chunk(
        self, total: list[Tensor | None], side: str, encoded: Tensor, leaves: list[InputLeaf], gradient: Tensor
    ) -> None:
        if not _leaves(encoded):
            raise self._no_gradient(side)
        torch.autograd.backward(encoded, gradient.to(encoded.dtype))
        for leaf in leaves:
            self._add_input(total, leaf, leaf.leaf.grad)

    def _refuse_strangers(self, side: str, encoded: Tensor, leaves: list[InputLeaf]) -> None:
        """Whatever is there trains."""


def _split(gradients: list[Tensor | None]) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Gradients of the two sides, and those of what the loss learns."""
    return gradients[:2], gradients[2:]


def _is_spread(module: nn.Module) -> bool:
    """Whether ranks hold parts of a module."""
    return any(hasattr(child, "_get_fsdp_state") for child in module.modules()) or any(
        is_sharded(parameter) for parameter in module.parameters()
    )


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, cache: _Cache, anchor: Tensor, *receivers: Tensor) -> Tensor:
        del anchor, receivers  # named so that autograd brings their gradients home
        ctx.cache = cache
        return value.clone()

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *ctx.cache.replay(factor)


@contextmanager
def _unchanged(buffers: list[Tensor]) -> Iterator[None]:
    """Puts back running statistics that encoding once more has moved."""
    saved_buffers = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, saved in zip(buffers, saved_buffers, strict=True):
                buffer.copy_(saved)
