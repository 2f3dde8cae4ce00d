"""A probe: a fixed batch that an encoder encodes again during training, without leaving a trace."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_normdyn.capture.call import Call
from lightning_normdyn.capture.evaluation import evaluating, stretched, widened
from lightning_normdyn.capture.features import FeatureWriters
from lightning_normdyn.capture.sharded import computing_dtype, gathered
from lightning_normdyn.capture.vectors import describe_output
from lightning_normdyn.caution import SettingsError
from lightning_normdyn.core.dynamics.geometry import most_precise

_STRETCH = 5e-3
"""Half the distance of the central difference: its cube against float32's rounding."""
_REPEAT_TOLERANCE = 1e-4
"""How far vectors may differ between two encodings, as a share of the largest entry."""
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")


class UnusableInputsError(SettingsError):
    """The inputs of a probe are none that its encoder can be called with."""


class ProbeTooLargeError(SettingsError, RuntimeError):
    """Its items do not fit into memory."""


Gather = Callable[[Tensor | None], Tensor]


def _as_they_are(rows: Tensor | None) -> Tensor:
    assert rows is not None
    return rows


class Probe:
    """Encodes the same items at any moment of training, without leaving a trace.

    Args:
        name: qualified name of the encoder.
        module: the encoder.
        calls: its inputs, the same on every rank.
        rank: number of this rank, which encodes every ``ranks``-th item from this one on.
        ranks: how many ranks there are.
        gather: puts the rows ``[n, d]`` of all ranks one below the other; called with ``None`` where this rank has
            none, for the others to learn it.
        most_rows: most vectors of a rank that are followed; more are thinned at an even stride.
        root: the model that holds the encoder, if its parameters are sharded over ranks.
        key: of the vectors in the mapping that the encoder returns; ``None`` for those that it writes.

    Attributes:
        shape: of this rank's vectors, ``[n, d]``.

    Raises:
        ValueError: if the encoder gives no vectors, others each time or coarse ones, or if there are fewer items than
            ranks.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        calls: Sequence[Call],
        *,
        rank: int = 0,
        ranks: int = 1,
        gather: Gather = _as_they_are,
        most_rows: int = 16_384,
        root: nn.Module | None = None,
        key: str | None = None,
    ) -> None:
        self.name, self.module, self.calls, self.ranks = name, module, list(calls), ranks
        self._key, self._writers = key, FeatureWriters(module)
        self._root = module if root is None else root
        fewest_rows = min((call.rows() for call in calls), default=0)
        if fewest_rows < ranks:
            raise UnusableInputsError(
                f"probe: expected at least {ranks} item(s) of '{name}', one for each rank, got {fewest_rows}; give "
                "more in probe=, or switch the probe off with probe=False"
            )
        self._share = [call.share(rank, ranks) for call in calls]
        self._items = _items_by_rank([call.rows() for call in calls], ranks)
        self._gather, self._most_rows = gather, most_rows
        self._check()

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    @property
    def _dtype(self) -> torch.dtype:
        """In what the encoder computes, at least float32."""
        is_double = any(p.dtype == torch.float64 for p in self.module.parameters())
        return torch.float64 if is_double else torch.float32

    def plain_inputs(self) -> list[list[Any]] | None:
        """The inputs for a checkpoint; ``None`` if they hold more than tensors, numbers and text."""
        plain = (Tensor, int, float, str, type(None))
        inputs = [call.state() for call in self.calls]
        return inputs if all(isinstance(leaf, plain) for leaf in tree_leaves(inputs)) else None

    def has_inputs(self, calls: Sequence[Call]) -> bool:
        """Whether these are its inputs, bit for bit."""
        return len(self.calls) == len(calls) and all(
            probe_call.equals(call) for probe_call, call in zip(self.calls, calls, strict=True)
        )

    def encode(self) -> Tensor:
        """The vectors of all items as they are now, ``[n, d]``, from evaluation mode in float32.

        Where each item has one vector, they are in the order of the items, on any number of ranks.
        """
        try:
            rows = self._encode_share()
        except Exception:
            if self.ranks > 1:
                with contextlib.suppress(Exception):  # it says so to the others
                    self._gather(None)
            raise
        vectors = self._gather(rows)
        if self.ranks == 1 or len(vectors) != len(self._items):
            return vectors
        return torch.empty_like(vectors).index_copy_(0, self._items.to(vectors.device), vectors)

    def radial_decay(self, decays: Sequence[tuple[nn.Parameter, float]], vectors: Tensor) -> Tensor:
        """The rate at which weight decay shortens each vector, ``lambda_rad = <x, J(lambda∘θ)>/R²``.

        ``J(lambda∘θ)`` is a central difference in the scale of the decayed parameters, which works with any kernel
        (docs/theory.md, "Encoders"; a bias-free ReLU network of ``L`` layers gives ``L·lambda``).

        Args:
            decays: decayed parameters of the encoder, each with its rate.
            vectors: what :meth:`encode` gives, ``[n, d]``.

        Returns:
            ``[n]``, float64; zero where nothing decays.
        """
        fastest = max((rate for _, rate in decays), default=0.0)
        if fastest <= 0:
            return torch.zeros_like(most_precise(vectors[:, 0]))
        ends = []
        for sign in (1, -1):
            with stretched([(parameter, 1 + sign * _STRETCH * rate / fastest) for parameter, rate in decays if rate]):
                ends.append(most_precise(self.encode()))
        change = (ends[0] - ends[1]) * (fastest / (2 * _STRETCH))
        embedding = most_precise(vectors)
        rate: Tensor = torch.linalg.vecdot(embedding, change) / embedding.square().sum(1)
        return rate

    def _encode_share(self, *, seed: int = 0) -> Tensor:
        try:
            with evaluating(self.module, self.device, seed), widened(self.module), gathered(self.module, self._root):
                vectors = torch.cat([self._encode_call(call.to(self.device, self._dtype)) for call in self._share])
        except RuntimeError as error:
            if not any(sign in str(error) for sign in _OUT_OF_MEMORY):
                raise
            items = sum(call.rows() for call in self._share)
            raise ProbeTooLargeError(
                f"probe: {items} items of '{self.name}' do not fit into memory; set probe_items to fewer"
            ) from error
        return vectors[:: 1 + (len(vectors) - 1) // self._most_rows]

    def _encode_call(self, call: Call) -> Tensor:
        with self._writers.heard():
            outcome = call.run(self.module)._replace(written=self._writers.take())
        tensor = outcome.tensor(self._key)
        if tensor is None:
            raise SettingsError(
                f"probe: in evaluation '{self.name}' returned no tensor of embeddings [..., d] "
                f"(came: {describe_output(outcome.output)}); name the submodule that returns the vectors"
            )
        self._refuse_half(tensor.dtype)
        return outcome.rows(tensor).float()

    def _refuse_half(self, dtype: torch.dtype | None) -> None:
        if dtype in (torch.float16, torch.bfloat16):
            raise SettingsError(
                f"probe: '{self.name}' computes in {dtype} though it was asked in float32, and what a step changes is "
                "lost in its rounding; train it under precision='bf16-mixed' instead, or switch the probe off with "
                "probe=False"
            )

    def _check(self) -> None:
        self._refuse_half(computing_dtype(self.module))
        state_before = _state_of(self.module)
        try:
            vectors = self._encode_share(seed=0)
        except ProbeTooLargeError:
            raise
        except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError) as error:
            raise UnusableInputsError(
                f"probe: '{self.name}' cannot be called with it again ({type(error).__name__}: {_first_line(error)}); "
                "give what the encoder's forward takes (a mapping is keyword arguments, or targets by name), keep "
                "whole batches with a larger probe_items= where items need one another, as nodes of a graph do, or "
                "switch the probe off with probe=False"
            ) from error
        self.shape = vectors.shape
        repetition = self._encode_share(seed=1)
        largest = float(vectors.abs().nan_to_num(0, 0, 0).max())
        tolerance = _REPEAT_TOLERANCE * largest
        if not torch.allclose(vectors, repetition, rtol=_REPEAT_TOLERANCE, atol=tolerance, equal_nan=True):
            raise SettingsError(
                f"probe: '{self.name}' gives other vectors each time in evaluation mode; its norms cannot be followed "
                "before what is random in it stops under module.eval(), or switch the probe off with probe=False"
            )
        tensor_name = _first_change(state_before, _state_of(self.module))
        if tensor_name:
            raise SettingsError(
                f"probe: encoding with '{self.name}' in evaluation mode writes to its '{tensor_name}', as an embedding "
                "with max_norm does, and would change the training; switch the probe off with probe=False"
            )


def _items_by_rank(sizes: Sequence[int], ranks: int) -> Tensor:
    """The numbers of all items as the ranks encode them, one rank after the other: of each call every ``ranks``-th."""
    firsts = itertools.accumulate(sizes[:-1], initial=0)
    calls = [range(first, first + size) for first, size in zip(firsts, sizes, strict=True)]
    return torch.tensor([item for rank in range(ranks) for call in calls for item in call[rank::ranks]])


class _TensorState(NamedTuple):
    """A parameter or buffer: which tensor it is, how often it was written to, and a buffer's values."""

    tensor: Tensor
    version: int
    values: Tensor | None


def _state_of(module: nn.Module) -> dict[str, _TensorState]:
    parameters = {name: _TensorState(p, p._version, None) for name, p in module.named_parameters()}
    return parameters | {name: _TensorState(b, b._version, b.detach().clone()) for name, b in module.named_buffers()}


def _first_change(old_states: dict[str, _TensorState], new_states: dict[str, _TensorState]) -> str | None:
    """The first that was written to, replaced or added."""
    for name, new in new_states.items():
        old = old_states.get(name)
        if old is None or old.tensor is not new.tensor or old.version != new.version:
            return name
        if old.values is not None and not torch.equal(old.values.nan_to_num(), new.tensor.nan_to_num()):
            return name
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
