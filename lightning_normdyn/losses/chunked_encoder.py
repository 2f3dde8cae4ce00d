"""An encoder that is given a few inputs at a time, twice: without a graph, and once more alike with one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.losses.chunked_inputs import ChunkedInputs, InputLeaf

Encode = Callable[[Any], Tensor]


class ChunkedEncoder:
    """One side of a loss: what encodes, its inputs, and what it takes to encode them twice alike.

    Args:
        name: of the argument that the encoder came as.
        encode: makes embeddings ``[k, d]`` of ``k`` inputs.
        inputs: in pieces.
    """

    def __init__(self, name: str, encode: Encode, inputs: ChunkedInputs) -> None:
        self.name, self.inputs = name, inputs
        self._encode = encode
        self._random_states: list[list[Tensor]] = []
        self._autocast = [
            (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in _device_types()
        ]
        self.sizes: list[int] = []

    def encode(self) -> Tensor:
        """All embeddings ``[n, d]``, without a graph."""
        encoded = []
        with torch.no_grad(), self._as_autocast():
            for part in self.inputs.parts:
                self._random_states.append(random_state())
                encoded.append(self._encoded(self.inputs.piece(part), part))
        self.sizes = [len(embeddings) for embeddings in encoded]
        return torch.cat(encoded)

    def again(self) -> Iterator[tuple[Tensor, list[InputLeaf]]]:
        """Embeddings ``[k, d]`` of each piece with a graph, and its inputs that train; random numbers stay in place."""
        for part, random in zip(self.inputs.parts, self._random_states, strict=True):
            piece, leaves = self.inputs.leaves(part)
            current_state = random_state()
            with torch.enable_grad(), self._as_autocast():
                set_random_state(random)
                encoded = self._encoded(piece, part)
            set_random_state(current_state)
            yield encoded, leaves

    def _encoded(self, piece: Any, part: slice) -> Tensor:
        encoded = self._encode(piece)
        if not isinstance(encoded, Tensor) or encoded.ndim != 2:
            came = f"{tuple(encoded.shape)}" if isinstance(encoded, Tensor) else f"a {type(encoded).__name__}"
            raise ValueError(f"{self.name}: expected it to return embeddings [n, d], got {came}; pool inside it")
        self.inputs.refuse_other_rows(self.name, part, len(encoded))
        return encoded

    @contextmanager
    def _as_autocast(self) -> Iterator[None]:
        # Not caching: weights that were cast without a graph must not serve where there is one.
        with ExitStack() as stack:
            for kind, enabled, dtype in self._autocast:
                stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False))
            yield


def random_state() -> list[Tensor]:
    """The state of torch's generators: the CPU's first, then those of every device of the accelerator there is."""
    accelerator = _accelerator()
    if accelerator is None:
        return [torch.get_rng_state()]
    all_devices = getattr(accelerator, "get_rng_state_all", None)
    return [torch.get_rng_state(), *([accelerator.get_rng_state()] if all_devices is None else all_devices())]


def set_random_state(state: list[Tensor]) -> None:
    """Takes back what :func:`random_state` gave.

    Example:
        >>> state = random_state()
        >>> number = torch.rand(1)
        >>> set_random_state(state)
        >>> torch.equal(torch.rand(1), number)
        True
    """
    torch.set_rng_state(state[0])
    accelerator = _accelerator()
    if accelerator is None:
        return
    if hasattr(accelerator, "set_rng_state_all"):
        accelerator.set_rng_state_all(state[1:])
    else:
        accelerator.set_rng_state(state[1])


def _accelerator() -> Any:
    """Torch's module for the accelerator of this machine, such as ``torch.cuda``; ``None`` without one."""
    kind = _accelerator_type()
    return None if kind is None else torch.get_device_module(kind)


def _accelerator_type() -> str | None:
    if not torch.accelerator.is_available():
        return None
    device = torch.accelerator.current_accelerator()
    return None if device is None else device.type


def _device_types() -> list[str]:
    kind = _accelerator_type()
    return ["cpu"] if kind is None else ["cpu", kind]
