"""Exact gradients of a large batch through an encoder that sees a few inputs at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_normdyn.core.contrast.first_derivative import first_derivative_only
from lightning_normdyn.core.dynamics.geometry import at_least_float32
from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.sharded_tensor import is_sharded
from lightning_normdyn.losses.in_batch import InBatchLoss

Encode = Callable[[Any], Tensor]


def cached_loss(
    loss: InBatchLoss,
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
    each parameter one gradient, so a loss scaler, accumulation and DistributedDataParallel work as always.

    Args:
        loss: what is computed of the embeddings.
        query_inputs: a tensor, a list, or a mapping of those, one entry an input.
        document_inputs: likewise.
        encode_query: makes embeddings ``[k, d]`` of ``k`` query inputs.
        encode_document: the same for the other side.
        module: whose parameters train; the encoders use no others.
        chunk_size: inputs to encode together.
        options: keywords of the loss.

    Returns:
        A scalar, equal to ``loss(encode_query(query_inputs), encode_document(document_inputs), **options)``.

    Raises:
        ValueError: if ``chunk_size`` is no positive whole number, inputs cannot be cut, or an encoder returns fewer
            embeddings than it was given inputs; on the way back, if a side trains none of the module's parameters.
    """
    check_count(chunk_size=chunk_size)
    _refuse_trained(options)
    _check_kinds(loss, module, encode_query=encode_query, encode_document=encode_document)
    queries = _Side("encode_query", encode_query, _cut("query_inputs", query_inputs, chunk_size))
    documents = _Side("encode_document", encode_document, _cut("document_inputs", document_inputs, chunk_size))
    if not torch.is_grad_enabled():
        loss_value: Tensor = loss(queries.encode(), documents.encode(), **options)
        return loss_value
    # What is spread over ranks gets its gradients where backward meets it, and nowhere else.
    replays_backward = _is_spread(module)
    all_parameters = dict.fromkeys([*([] if replays_backward else module.parameters()), *loss.parameters()])
    parameters = [parameter for parameter in all_parameters if parameter.requires_grad]
    # Wide, because gradients wait here unscaled: half precision would lose them.
    leaves = [at_least_float32(side.encode()).requires_grad_() for side in (queries, documents)]
    value: Tensor = loss.compute(*leaves, **options)
    gradients = torch.autograd.grad(value, [*leaves, *parameters], allow_unused=True)
    cache_type = _SpreadCache if replays_backward else _Cache
    cache = cache_type(module, loss, (queries, documents), leaves, gradients[:2], gradients[2:], parameters)
    anchor = value.new_zeros((), requires_grad=True)  # a way back where no parameter is named
    replayed_loss: Tensor = _Replay.apply(value.detach(), cache, anchor, *parameters)
    return replayed_loss


def _check_kinds(loss: object, module: object, **encoders: object) -> None:
    if not isinstance(loss, InBatchLoss):
        raise ValueError(f"loss: expected one of lightning_normdyn.losses, got {type(loss).__name__}; InfoNCE() is one")
    if loss.reduction == "none":
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


class _Side:
    """Inputs of one side, cut into chunks, and what it takes to encode them twice alike."""

    def __init__(self, name: str, encode: Encode, chunks: list[Any]) -> None:
        self.name = name
        self._encode = encode
        self._chunks = chunks
        self._random: list[list[Tensor]] = []
        self._autocast = [
            (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in _device_types()
        ]
        self.sizes: list[int] = []

    def encode(self) -> Tensor:
        """All embeddings ``[n, d]``, without a graph."""
        encoded = []
        with torch.no_grad(), self._as_autocast():
            for chunk in self._chunks:
                self._random.append(_random_state())
                encoded.append(self._encoded(chunk))
        self.sizes = [len(part) for part in encoded]
        return torch.cat(encoded)

    def again(self) -> Iterator[Tensor]:
        """Embeddings ``[k, d]`` of each chunk with a graph; random numbers stay where they were."""
        for chunk, random in zip(self._chunks, self._random, strict=True):
            current_state = _random_state()
            with torch.enable_grad(), self._as_autocast():
                _set_random_state(random)
                encoded = self._encoded(chunk)
            _set_random_state(current_state)
            yield encoded

    def _encoded(self, chunk: Any) -> Tensor:
        encoded = self._encode(chunk)
        if not isinstance(encoded, Tensor) or encoded.ndim != 2:
            came = f"{tuple(encoded.shape)}" if isinstance(encoded, Tensor) else f"a {type(encoded).__name__}"
            raise ValueError(f"{self.name}: expected it to return embeddings [n, d], got {came}; pool inside it")
        entries = _length(chunk) or 0
        if len(encoded) < entries:
            raise ValueError(
                f"{self.name}: expected it to return an embedding for each of {entries} inputs, got {len(encoded)}; "
                "leave out what has no embedding before it is encoded"
            )
        return encoded

    @contextmanager
    def _as_autocast(self) -> Iterator[None]:
        # Not caching: weights that were cast without a graph must not serve where there is one.
        with ExitStack() as stack:
            for kind, enabled, dtype in self._autocast:
                stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False))
            yield


class _Cache:
    """The gradients that wait for the way back."""

    def __init__(
        self,
        module: nn.Module,
        loss: InBatchLoss,
        sides: tuple[_Side, _Side],
        embeddings: list[Tensor],
        gradients: tuple[Tensor, ...],
        of_parameters: tuple[Tensor | None, ...],
        parameters: list[nn.Parameter],
    ) -> None:
        self._module, self._loss, self._sides = module, loss, sides
        self._embeddings, self._gradients = [leaf.detach() for leaf in embeddings], gradients
        self._of_parameters, self._parameters = of_parameters, parameters

    def replay(self, factor: Tensor) -> list[Tensor | None]:
        """The gradient of every parameter, times a factor."""
        total = [None if gradient is None else gradient * factor for gradient in self._of_parameters]
        with _unchanged(list(self._module.buffers())):
            for side, gradient in zip(self._sides, self._gradients, strict=True):
                for encoded, part in zip(side.again(), gradient.split(side.sizes), strict=True):
                    if not encoded.requires_grad:  # a frozen encoder, or none
                        continue
                    chunk_gradients = self._chunk_gradients(side.name, encoded, part * factor)
                    for number, addition in enumerate(chunk_gradients):
                        if addition is not None:
                            subtotal = total[number]
                            total[number] = addition if subtotal is None else subtotal + addition
        return total

    def _chunk_gradients(self, side: str, encoded: Tensor, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of every parameter from the embeddings ``[k, d]`` of a chunk; ``None`` where it has no part."""
        chunk_gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
            encoded, self._parameters, gradient.to(encoded.dtype), allow_unused=True
        )
        if all(chunk_gradient is None for chunk_gradient in chunk_gradients):
            raise self._no_gradient(side)
        return chunk_gradients

    def _no_gradient(self, side: str) -> ValueError:
        return ValueError(
            f"module: expected the one whose parameters {side} uses, got a {type(self._module).__name__} that no "
            f"gradient reaches, so that {side} would not train; pass the module that holds both encoders"
        )

    def publish(self, factor: Tensor) -> None:
        """Lets those who listen see embeddings and gradients as they would have passed."""
        places = (self._loss.queries, self._loss.documents)
        for place, embedding, gradient in zip(places, self._embeddings, self._gradients, strict=True):
            with torch.enable_grad():
                leaf = embedding.requires_grad_()
                published = place(leaf.view_as(leaf))
            torch.autograd.grad(published, leaf, gradient * factor)


class _SpreadCache(_Cache):
    """The same of encoders that FSDP2 or tensor parallelism spreads over ranks.

    What computes there are copies of their parameters, gathered for a while, so that autograd can be asked for none of
    their gradients: each chunk goes all the way back instead, where FSDP2 waits for it.
    """

    def _chunk_gradients(self, side: str, encoded: Tensor, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not _reaches_leaf(encoded):
            raise self._no_gradient(side)
        torch.autograd.backward(encoded, gradient.to(encoded.dtype))
        return ()


def _is_spread(module: nn.Module) -> bool:
    """Whether ranks hold parts of a module."""
    return any(hasattr(child, "_get_fsdp_state") for child in module.modules()) or any(
        is_sharded(parameter) for parameter in module.parameters()
    )


def _reaches_leaf(encoded: Tensor) -> bool:
    """Whether a graph ends in anything that trains."""
    waiting, seen = [encoded.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if hasattr(node, "variable"):
            return True
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, cache: _Cache, anchor: Tensor, *parameters: Tensor) -> Tensor:
        del anchor, parameters  # named so that autograd brings their gradients home
        ctx.cache = cache
        return value.clone()

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        ctx.cache.publish(factor)
        return None, None, None, *ctx.cache.replay(factor)


def _cut(name: str, inputs: Any, chunk_size: int) -> list[Any]:
    """Inputs in pieces of ``chunk_size`` entries."""
    length = _length(inputs)
    if not length:
        raise ValueError(
            f"{name}: expected a tensor, a list or a mapping of those, all of one length, got {_came(inputs)}"
        )
    return [_piece(inputs, slice(start, start + chunk_size), length) for start in range(0, length, chunk_size)]


def _length(inputs: Any) -> int | None:
    if isinstance(inputs, Tensor):
        return len(inputs) if inputs.ndim else None
    if isinstance(inputs, Mapping):
        lengths = {length for value in inputs.values() if (length := _length(value))}
        return lengths.pop() if len(lengths) == 1 else None
    return len(inputs) if isinstance(inputs, (list, tuple)) else None


def _piece(inputs: Any, part: slice, length: int) -> Any:
    if isinstance(inputs, Mapping):
        return {key: _piece(value, part, length) for key, value in inputs.items()}
    return inputs[part] if _length(inputs) == length else inputs


def _came(inputs: Any) -> str:
    if isinstance(inputs, Mapping):
        return "a mapping of lengths " + ", ".join(f"{key}: {_length(value)}" for key, value in inputs.items())
    return f"a tensor of shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else repr(inputs)[:80]


def _device_types() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _random_state() -> list[Tensor]:
    """The state of torch's generators, the CPU's first."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def _set_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state[1:])


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
