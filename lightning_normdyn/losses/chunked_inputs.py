"""Inputs of an encoder in pieces of a few entries each, whatever they are made of, and the gradient of what trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

Take = Callable[[Tensor, slice | None], Tensor]
"""Makes of a tensor and the entries of a piece, ``None`` for all of them, what stands in the piece."""


class InputLeaf(NamedTuple):
    """What stands in a piece for a tensor that carries gradient.

    Attributes:
        tensor: as it came.
        part: its entries in the piece; ``None`` for all of them.
        leaf: those entries, without the graph of the tensor.
    """

    tensor: Tensor
    part: slice | None
    leaf: Tensor


class ChunkedInputs:
    """Inputs of one side, cut into pieces of ``chunk_size`` entries.

    A tensor, and every tensor and list in a mapping or in a tuple with tensors, has an entry in each row: a tuple such
    as ``(ids, mask)`` holds columns. Any other list or tuple holds an entry an element. What has no length is part of
    every piece.

    Args:
        name: of the argument that they came as, for the error.
        inputs: what to cut.
        chunk_size: entries of a piece.

    Raises:
        ValueError: if nothing tells how many entries there are.

    Example:
        >>> import torch
        >>> inputs = ChunkedInputs("query_inputs", (torch.arange(3), {"mask": torch.ones(3), "scale": 2.0}), 2)
        >>> inputs.piece(inputs.parts[1])
        (tensor([2]), {'mask': tensor([1.]), 'scale': 2.0})
    """

    def __init__(self, name: str, inputs: Any, chunk_size: int) -> None:
        length = _length(inputs)
        if not length:
            raise ValueError(
                f"{name}: expected a tensor, a list, or a mapping or tuple of those, all of one length, got "
                f"{_came(inputs)}"
            )
        self._inputs, self.length = inputs, length
        self.parts = [slice(start, min(start + chunk_size, length)) for start in range(0, length, chunk_size)]
        trained: dict[int, Tensor] = {}

        def note(tensor: Tensor, part: slice | None) -> Tensor:
            del part
            if tensor.requires_grad:
                trained[id(tensor)] = tensor
            return tensor

        self._cut(slice(0, length), note)
        self.trained = list(trained.values())

    def piece(self, part: slice) -> Any:
        """Some entries as they came."""
        return self._cut(part, lambda tensor, rows: tensor if rows is None else tensor[rows])

    def leaves(self, part: slice) -> tuple[Any, list[InputLeaf]]:
        """The same with leaves in place of tensors that carry gradient."""
        leaves: list[InputLeaf] = []

        def take(tensor: Tensor, rows: slice | None) -> Tensor:
            if not tensor.requires_grad:
                return tensor if rows is None else tensor[rows]
            detached = tensor.detach() if rows is None else tensor.detach()[rows]
            leaves.append(InputLeaf(tensor, rows, detached.requires_grad_()))
            return leaves[-1].leaf

        return self._cut(part, take), leaves

    def refuse_other_rows(self, name: str, part: slice, rows: int) -> None:
        """Compares how many embeddings a piece gave with how many entries it has.

        Args:
            name: of the encoder.
            part: the entries of the piece.
            rows: embeddings that came of it.

        Raises:
            ValueError: if they are fewer, or if it shows that a list was meant as columns, or a tuple as entries.
        """
        entries = part.stop - part.start
        sentence = f"{name}: expected it to return an embedding for each of {entries} inputs, got {rows}; "
        is_list_of_columns = isinstance(self._inputs, list) and entries > 1 and _row_counts(self._inputs) == {rows}
        if rows != entries and (_is_columns(self._inputs) or is_list_of_columns):
            raise ValueError(
                f"{sentence}a tuple with tensors holds columns, such as (ids, mask), and a list an input an element"
            )
        if rows < entries:
            raise ValueError(f"{sentence}leave out what has no embedding before it is encoded")

    def _cut(self, part: slice, take: Take) -> Any:
        return _cut(self._inputs, part, self.length, take)


def _cut(inputs: Any, part: slice, length: int, take: Take) -> Any:
    if isinstance(inputs, Tensor):
        return take(inputs, part if _length(inputs) == length else None)
    if isinstance(inputs, Mapping):
        return {key: _cut(value, part, length, take) for key, value in inputs.items()}
    if _is_columns(inputs):
        columns = [_cut(column, part, length, take) for column in inputs]
        return type(inputs)(*columns) if hasattr(inputs, "_fields") else tuple(columns)
    if not isinstance(inputs, (list, tuple)):
        return inputs
    entries = inputs[part] if len(inputs) == length else inputs
    cut_entries = [take(entry, None) if isinstance(entry, Tensor) else entry for entry in entries]
    return cut_entries if isinstance(inputs, list) else tuple(cut_entries)


def _is_columns(inputs: Any) -> bool:
    return isinstance(inputs, tuple) and any(isinstance(column, Tensor) and column.ndim for column in inputs)


def _length(inputs: Any) -> int | None:
    if isinstance(inputs, Tensor):
        return len(inputs) if inputs.ndim else None
    if isinstance(inputs, Mapping) or _is_columns(inputs):
        columns = inputs.values() if isinstance(inputs, Mapping) else inputs
        lengths = {length for column in columns if (length := _length(column))}
        return lengths.pop() if len(lengths) == 1 else None
    return len(inputs) if isinstance(inputs, (list, tuple)) else None


def _row_counts(inputs: list[Any]) -> set[int]:
    """How many rows the tensors of a list have; nothing if it holds anything else."""
    if not all(isinstance(entry, Tensor) and entry.ndim for entry in inputs):
        return set()
    return {len(entry) for entry in inputs}


def _came(inputs: Any) -> str:
    if isinstance(inputs, Mapping):
        return "a mapping of lengths " + ", ".join(f"{key}: {_length(value)}" for key, value in inputs.items())
    if _is_columns(inputs):
        return "a tuple of lengths " + ", ".join(str(_length(column)) for column in inputs)
    return f"a tensor of shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else repr(inputs)[:80]
