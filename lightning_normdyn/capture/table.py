"""Embedding tables: which rows a step touched, and what the step did to them."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_normdyn.capture.backward_norm import BackwardNorm
from lightning_normdyn.capture.layout import TableLayout
from lightning_normdyn.capture.names import ParameterIndex
from lightning_normdyn.capture.row_sample import RowCounts, RowSample, sample_of
from lightning_normdyn.caution import OnError, contained
from lightning_normdyn.core.dynamics.budget import UpdateSums
from lightning_normdyn.core.dynamics.geometry import are_nonzero, at_least_float32, most_precise, safe_norm
from lightning_normdyn.core.dynamics.row_readings import RowReading, read_rows
from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.object_checks import check_choice, check_instance, check_name
from lightning_normdyn.core.sharded_tensor import is_sharded
from lightning_normdyn.nearest_word import nearest

Items = Literal["rows", "columns"]

_LOOK_UPS = (nn.Embedding.forward, nn.EmbeddingBag.forward)  # a subclass with its own may look up other rows


_MOST_CALLS = 256  # of a layer between two steps, before their ids are boiled down


class Clipping(Enum):
    """Whether gradients are clipped, seen from the moment at which a step is announced.

    ``PAST`` says no more than that they may have been.
    """

    NONE = auto()
    AHEAD = auto()
    PAST = auto()


class TableForm(NamedTuple):
    """What statistics of a table depend on besides its numbers.

    Attributes:
        shape: ``[rows, d]``.
        dtype: of its numbers.
        device: where they are.
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, parameter: Tensor) -> TableForm:
        """The form of a parameter as it is now."""
        return cls(parameter.shape, parameter.dtype, parameter.device)


class TableTarget:
    """A 2-D parameter whose rows are embeddings.

    The rows that a step touches come from the ids that the embedding layers were called with, so that a step costs what
    it touched and not what the table holds. Where ids do not tell (a weight that is tied to a linear layer, used as a
    bare tensor, or trained on several ranks, whose ids the others do not see), every tracked row is read instead.

    Args:
        name: qualified name of the parameter.
        module: the model that holds it, or what was read of it.
        max_tracked_rows: most rows that keep statistics of their own; larger tables are sampled.
        row_counts: how often each row occurs, ``[rows]``, by which a sample is chosen; ``None`` for one at an even
            stride.
        items: whether the embeddings are the ``"rows"`` of the parameter or its ``"columns"``, which are called rows
            from here on.

    Attributes:
        sample: which rows are tracked.
        tracked_rows: how many these are.
        layout: which part of it this rank holds; ``None`` where that is all of it.
        backward_norm: hears the gradient's norm before it is clipped, where a step is announced too late for that.
        is_fused: whether its optimizer is fused into backward, so that no gradient is ever seen.
    """

    kind = "table"
    is_fused = False
    layout: TableLayout | None
    items: Items
    _layers: list[Any]

    def __init__(
        self,
        name: str,
        module: nn.Module | ParameterIndex,
        *,
        max_tracked_rows: int = 16_384,
        row_counts: RowCounts = None,
        items: Items = "rows",
    ) -> None:
        check_rows(max_tracked_rows)
        check_choice(("rows", "columns"), items=items)
        check_name(name=name)
        check_instance((nn.Module, ParameterIndex), module=module, hint="pass the model itself")
        index = module if isinstance(module, ParameterIndex) else ParameterIndex(module)
        self.name = name
        if name not in index.parameters:
            raise ValueError(f"name: expected that of a parameter, got {name!r}{nearest(name, index.parameters)}")
        self._path = index.path(name)
        self.parameter = index.parameters[name]
        self.form = TableForm.of(self.parameter)
        if self.parameter.ndim != 2:
            raise ValueError(
                f"name: expected that of a table [rows, d], got {name!r} of shape {tuple(self.parameter.shape)}"
            )
        self.items = items
        if not self.parameter.numel():
            raise ValueError(f"targets: '{name}' of shape {tuple(self.parameter.shape)} has no rows to watch")
        rows, dim = self.rows_of(self.parameter).shape
        self._track(dim, sample_of(rows, max_tracked_rows, row_counts, table=name))
        owners = index.owners(self.parameter)
        self._layers = [layer for layer in owners if _forward(layer) in _LOOK_UPS and items == "rows"]
        is_spread = is_sharded(self.parameter)
        self.layout = TableLayout(self.rows_of(self.parameter), self.sample) if is_spread else None
        self.ids_tell = len(self._layers) == len(owners) and self.layout is None

    def _track(self, dim: int, sample: RowSample) -> None:
        """Takes the rows that are tracked; no layer is known, and nothing is heard yet."""
        self.rows, self.dim, self.sample, self.tracked_rows = sample.rows, dim, sample, sample.size
        self._layers, self.layout = [], None
        self.ids_tell = self._ids_confirmed = False
        self._may_listen = self._keeps_ids = False
        self._ids: list[Tensor] = []
        self._sparse_gradient: tuple[Tensor, int, Tensor] | None = None
        self._direction: Tensor | None = None
        self.embedding_buffer, self.gradient_buffer, self.product_buffer = RowBuffer(), RowBuffer(), RowBuffer()
        self.backward_norm: BackwardNorm | None = None
        self._handles: list[RemovableHandle] = []
        self._listener: Callable[..., Any] = self._hear

    def attach(self, on_error: OnError | None = None) -> None:
        """Allows it to listen to the embedding layers, which it does while it is armed.

        Args:
            on_error: takes what goes wrong while it listens; ``None`` lets it through to the training.
        """
        self.detach()
        self._may_listen, self._listener = True, contained(self._hear, on_error)
        if self.backward_norm is not None:
            self.backward_norm.on_error = on_error

    @property
    def has_gradient(self) -> bool:
        """Whether the step that is announced concerns it."""
        return self.parameter.grad is not None

    @property
    def has_sparse_gradient(self) -> bool:
        """Whether its gradient names the rows that it is of."""
        gradient = self.parameter.grad
        return gradient is not None and gradient.is_sparse

    @property
    def dtype(self) -> torch.dtype:
        """Of its numbers, the same on all ranks."""
        return self.parameter.dtype

    @property
    def is_spread(self) -> bool:
        """Whether ranks hold parts of it, so that all of them must look at it together."""
        return self.layout is not None

    def is_current(self) -> bool:
        """Whether the model still holds this parameter by this name, in the form that it had."""
        parameter, form = self.parameter, self.form
        has_form = parameter.shape == form.shape and parameter.dtype is form.dtype and parameter.device == form.device
        return has_form and self._path.parameter() is parameter

    def go_by(self, target: Any) -> None:
        """Takes over the way by which the same parameter is found now, as through a wrapper."""
        self._path = target._path

    def detach(self) -> None:
        """Stops listening and forgets what was heard."""
        self.arm(False)
        self._may_listen = False
        if self.backward_norm is not None:
            self.backward_norm.arm(False)

    def arm(self, keeps_ids: bool) -> None:
        """Sets whether ids are kept from now on; forgets those of the step before."""
        self._keeps_ids = keeps_ids and self.ids_tell and self._may_listen
        self._ids.clear()
        self._sparse_gradient = None
        if self._keeps_ids and not self._handles:
            self._handles = [
                layer.register_forward_pre_hook(self._listener, with_kwargs=True) for layer in self._layers
            ]
        elif self._handles and not self._keeps_ids:  # a hook that does nothing still slows the layer down
            for handle in self._handles:
                handle.remove()
            self._handles.clear()

    def rows_of(self, tensor: Tensor) -> Tensor:
        """A tensor of the parameter's shape, such as its gradient, with embeddings for rows, ``[rows, d]``: a view."""
        tensor = tensor.detach() if tensor.requires_grad else tensor
        return tensor if self.items == "rows" else tensor.t()

    def table(self) -> Tensor:
        """The embeddings as they are now, ``[rows, d]``: a view."""
        return self.rows_of(self.parameter)

    def tracked(self) -> Tensor:
        """The tracked rows as they are now, ``[tracked_rows, d]``: a view, or a copy that all ranks gather at once."""
        if self.layout is None:
            return self.sample.of(self.table())
        return self.layout.gathered(self.tracked_here(self.layout)).to(self.parameter.dtype)

    def tracked_here(self, layout: TableLayout) -> Tensor:
        """This rank's part of the tracked rows of a sharded table as they are now, ``[m, c]``."""
        return layout.tracked(layout.block(self.table()))

    def tracked_products(self, left: Tensor, right: Tensor | None = None) -> Tensor:
        """Product of each tracked row of one tensor of the parameter's shape with that of another, ``[tracked_rows]``.

        Args:
            left: of an optimizer's state, say; of a sharded table, on all ranks at once.
            right: likewise; ``None`` for the sum over each row of the first.

        Returns:
            In float64.
        """
        tensors = [self.rows_of(tensor) for tensor in (left, right) if tensor is not None]
        if self.layout is None:
            rows = [most_precise(self.sample.of(tensor)) for tensor in tensors]
        else:
            rows = [self.layout.tracked(self.layout.block(tensor)) for tensor in tensors]
        sums = (rows[0] if right is None else rows[0] * rows[1]).sum(1)
        return sums if self.layout is None else self.layout.sums(sums[:, None], sums.new_zeros(0))[0][:, 0]

    def norms(self) -> Tensor:
        """Norms of the tracked rows as they are now, ``[tracked_rows]``; of a sharded table, on all ranks at once."""
        if self.layout is None:
            return safe_norm(self.tracked())
        rows = self.tracked_here(self.layout)
        squares, _ = self.layout.sums(rows.square().sum(1, keepdim=True), rows.new_zeros(0))
        return squares[:, 0].sqrt()

    def zero_rows(self) -> Tensor:
        """Which tracked rows are zero, a mask ``[tracked_rows]``; likewise on all ranks at once."""
        return ~are_nonzero(self.tracked()) if self.layout is None else self.norms() == 0

    def products(self) -> Tensor:
        """Product of each tracked row with one vector of length one, ``[tracked_rows]``; likewise on all ranks at once.

        A Gaussian one: Adam's first steps are signs, of which a vector of signs is orthogonal to many.
        """
        if self.layout is None:
            rows = at_least_float32(self.tracked())
            direction = self.direction(rows)
            products: Tensor = rows @ direction if rows.device.type == "cpu" else (rows * direction).sum(1)
            return products
        rows = self.tracked_here(self.layout)
        sums, _ = self.layout.sums((rows @ self.direction(rows))[:, None], rows.new_zeros(0))
        return sums[:, 0]

    def direction(self, like: Tensor) -> Tensor:
        """The vector of length one, or what this rank has of it, of the type of another tensor."""
        direction_here = self._direction
        if direction_here is None or direction_here.dtype != like.dtype or direction_here.device != like.device:
            direction = torch.randn(self.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            direction /= direction.norm()
            direction_here = self._direction = (
                direction if self.layout is None else direction[self.layout.columns]
            ).to(like)
        return direction_here

    def common_direction(self, chosen: Tensor, norms: Tensor) -> Tensor:
        """How far tracked rows point one way: the length of their mean direction; likewise on all ranks at once.

        Args:
            chosen: which of them, a mask ``[tracked_rows]``.
            norms: of the tracked rows, ``[tracked_rows]``.
        """
        if self.layout is not None:
            return self.layout.mean_direction(self.tracked_here(self.layout), norms, chosen)
        rows = self.tracked()[chosen].float()
        length: Tensor = (rows / safe_norm(rows, keepdim=True)).nanmean(0).norm()
        return length

    def row_numbers(self) -> Tensor:
        """The row of the table that each slot stands for, ``[tracked_rows]``."""
        return self.sample.numbers()

    @property
    def max_norm(self) -> float | None:
        """The length to which an embedding layer cuts rows that it looks up; ``None`` where none does."""
        return min((layer.max_norm for layer in self._layers if layer.max_norm is not None), default=None)

    def padding(self) -> Tensor:
        """Which slots hold a ``padding_idx`` of an embedding layer, ``[tracked_rows]``: rows that are never trained."""
        is_padding = torch.zeros(self.tracked_rows, dtype=torch.bool)
        rows = [layer.padding_idx for layer in self._layers if layer.padding_idx is not None]
        slots = self.slots(torch.tensor(rows, dtype=torch.int64))
        is_padding[slots[slots < self.tracked_rows]] = True
        return is_padding

    def touched(self, *, verify: bool = False) -> Tensor | None:
        """Rows that have a gradient now, possibly named more than once, ``[k]``; ``None`` if that cannot be told.

        Args:
            verify: whether to make sure, from the gradient of all tracked rows, that the ids still name every one that
                has a gradient. Done in any case until a first one was seen.
        """
        gradient = self.parameter.grad
        if gradient is None:
            return None
        if gradient.is_sparse:
            return self.gradient().indices()[0]
        if not self.ids_tell or not self._ids:
            return None
        ids = self._heard()
        if ids is None:
            return None
        if verify or not self._ids_confirmed:
            self._verify(ids, gradient)
        return ids if self.ids_tell else None

    def gradient(self) -> Tensor:
        """The gradient as it is now: dense, or sparse and coalesced; of a sharded table, this rank's part."""
        gradient = self.parameter.grad
        assert gradient is not None, "a step is looked at only where there is a gradient"
        if self.layout is not None:
            return self.layout.block(self.rows_of(gradient))
        if not gradient.is_sparse:
            return self.rows_of(gradient)
        # Sorting the entries takes a while: it is done again only if they were clipped in between.
        if (
            self._sparse_gradient is None
            or self._sparse_gradient[0] is not gradient
            or self._sparse_gradient[1] != gradient._version
        ):
            self._sparse_gradient = gradient, gradient._version, gradient.detach().coalesce()
        return self._sparse_gradient[2]

    def slots(self, rows: Tensor) -> Tensor:
        """The slot of each row; rows that are not tracked share the slot ``tracked_rows``."""
        return self.sample.slots(rows)

    @property
    def selects(self) -> bool:
        """Whether to choose among rows costs nothing but its time; elsewhere it waits for the device."""
        return self.parameter.device.type == "cpu"

    def tracked_among(self, rows: Tensor) -> Tensor | None:
        """Places of the tracked rows in ``rows [k]``; ``None`` for all, or where they cannot be selected."""
        if self.sample.is_whole or not self.selects:
            return None
        return (self.slots(rows) < self.tracked_rows).nonzero().squeeze(1)

    def _hear(self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._keeps_ids and torch.is_grad_enabled():
            ids = args[0] if args else kwargs["input"]
            self._ids.append(ids.clone())  # the batch may be overwritten
            if len(self._ids) >= _MOST_CALLS:
                ids = self._heard()
                self._ids = [] if ids is None else [ids.unique()]

    def _heard(self) -> Tensor | None:
        """All ids since the table was armed, ``[k]``; ``None`` where they cannot be laid out in a row."""
        try:
            return torch.cat([ids if ids.dim() == 1 else ids.reshape(-1) for ids in self._ids]).long()
        except RuntimeError:  # nested tensors, ids inside a vmap
            self.ids_tell = self._keeps_ids = False
            return None

    def _verify(self, ids: Tensor, gradient: Tensor) -> None:
        """Notes whether the gradient is zero on all tracked rows but the named ones."""
        gradient = self.sample.of(self.rows_of(gradient))
        present = are_nonzero(gradient)
        has_id = torch.zeros(self.tracked_rows + 1, dtype=torch.bool, device=gradient.device)
        has_id.index_fill_(0, self.slots(ids), True)
        anywhere, elsewhere = torch.stack((present.any(), (present > has_id[:-1]).any())).tolist()
        self._ids_confirmed = anywhere
        self.ids_tell = not elsewhere


def check_rows(max_tracked_rows: int) -> int:
    """Refuses what is no number of rows."""
    check_count(max_tracked_rows=max_tracked_rows)
    return max_tracked_rows


def _forward(layer: nn.Module) -> Any:
    """What a layer runs, as its class defines it; ``None`` for a scripted one, which hides it."""
    try:
        return type(layer).forward
    except AttributeError:
        return None


class TableStep:
    """One optimizer step as one table lived through it.

    Made before the step with the rows as they were. The gradient that the optimizer was given (unscaled and clipped) is
    read right before the update, or else after it; the rows as they became, after it.

    Args:
        target: the table; its gradient is there.
        touched: whether the touched rows and their gradients are wanted; without ``tracked``, the tracked ones alone.
        tracked: whether all tracked rows, before and after, are wanted.
        clipping: whether the gradient may still be clipped before the optimizer gets it, so that its norm must be
            taken now, or may have been already, so that backward alone knows it.

    Attributes:
        slots: slot of each touched row, ``[k]``, possibly repeated; ``None`` if they are all the tracked rows in order.
        embedding: touched rows before the step, ``[k, d]``; each once on a CPU, where a batch names many again.
        gradient: their gradients, ``[k, d]``.
        raw_gradient_norm: Frobenius norm of the table's gradient before clipping, NaN where nobody knows; for tracked
            rows.
        gradient_norm: the same as the optimizer got it.
        before: tracked rows before the step, ``[tracked_rows, d]``.
        after: the same after it.
        lr: learning rate of the parameter group in this step.
    """

    embedding: Tensor
    gradient: Tensor
    before: Tensor
    after: Tensor
    raw_gradient_norm: Tensor
    gradient_norm: Tensor
    lr: float
    _are_distinct = False

    def __init__(self, target: TableTarget, *, touched: bool, tracked: bool, clipping: Clipping) -> None:
        self.target = target
        self.wants_touched, self.wants_tracked = touched, tracked
        self.slots: Tensor | None = None
        self._rows: Tensor | None = None
        self._tracked_places: Tensor | None = None
        weight = target.table()
        if touched:
            self._rows = target.touched(verify=tracked)
            self._are_distinct = target.has_sparse_gradient  # it is coalesced
            if self._rows is not None and target.selects and not self._are_distinct:
                self._rows, self._are_distinct = self._rows.unique(), True
            if self._rows is not None and not tracked:
                self._tracked_places = target.tracked_among(self._rows)
                self._rows = self._rows if self._tracked_places is None else self._rows[self._tracked_places]
            self.slots = None if self._rows is None else target.slots(self._rows)
            self.embedding = (
                target.tracked().clone() if self._rows is None else target.embedding_buffer.gather(weight, self._rows)
            )
        if tracked:
            self.before = target.tracked().clone()
        self._clipping, self._has_gradient = clipping, False
        if tracked and clipping is Clipping.AHEAD:
            self.raw_gradient_norm = self._whole_gradient_norm()

    def read_gradient(self, *, copy: bool = False) -> None:
        """Reads the gradient as it is now; the last time before :meth:`complete` counts.

        Args:
            copy: whether the optimizer may overwrite it, so that views of it will not do.
        """
        if self.wants_touched:
            self.gradient = self._touched_gradient()
            if copy and (self._rows is None or self.target.gradient().is_sparse):
                self.gradient = self.gradient.clone()
            scratch = self.target.product_buffer.room_like(self.embedding)
            self.reading = read_rows(self.embedding, self.gradient, scratch=scratch)  # while they are in the cache
        if self.wants_tracked:
            self.gradient_norm = self._whole_gradient_norm()
        self._has_gradient = True

    def complete(self, lr: float) -> None:
        """Reads the rows after the update, and the gradient if nobody could read it before."""
        self.lr = lr
        if not self._has_gradient:
            self.read_gradient()
        if self.wants_tracked:
            self.after = self.target.tracked()
            if self._clipping is Clipping.NONE:
                self.raw_gradient_norm = self.gradient_norm
            elif self._clipping is Clipping.PAST:
                self.raw_gradient_norm = self._heard_gradient_norm()

    @property
    def rows(self) -> Tensor | None:
        """Row of the table that each touched row is, ``[k]``; ``None`` if they are all the tracked rows in order."""
        return self._rows

    @cached_property
    def norms(self) -> Tensor:
        """Norms of all tracked rows after the step, ``[tracked_rows]``."""
        return self.target.norms()

    @cached_property
    def products(self) -> Tensor:
        """What :meth:`TableTarget.products` gives after the step, ``[tracked_rows]``."""
        return self.target.products()

    @cached_property
    def reading(self) -> RowReading:
        """Lengths of the touched rows before the step and of their gradients, and products; none before it is final."""
        return read_rows(self.embedding, self.gradient)

    @cached_property
    def update_sums(self) -> UpdateSums:
        """What the step did to the tracked rows, ``[tracked_rows]`` each."""
        return UpdateSums.of(self.before, self.after)

    @cached_property
    def has_nonzero_gradient(self) -> Tensor:
        """Which touched rows have a gradient that is not zero, a mask ``[k]``; not before the gradient is final."""
        return are_nonzero(self.gradient)

    @property
    def touched_after(self) -> Tensor:
        """Touched rows after the step, ``[k, d]``."""
        if self._rows is None:
            return self.target.tracked()
        return self.target.table().index_select(0, self._rows)

    @property
    def distinct_rows(self) -> Tensor:
        """Touched rows in order, each once ``[m]``; not where they are all the tracked rows."""
        assert self._rows is not None, "all tracked rows are distinct"
        return self._rows if self._are_distinct else self._census[0]

    @cached_property
    def _census(self) -> tuple[Tensor, Tensor]:
        """Touched rows that may be repeated: each once ``[m]``, and the place of each of them there ``[k]``."""
        assert self._rows is not None
        rows, places = self._rows.unique(return_inverse=True)
        return rows, places

    def once_a_row(self, values: Tensor) -> Tensor:
        """Values of the touched rows ``[k]``, those of a row that is named more than once taken once, ``[m]``."""
        if self._rows is None or self._are_distinct:
            return values
        rows, places = self._census
        return values.new_empty(len(rows)).index_copy_(0, places, values)

    def _touched_gradient(self) -> Tensor:
        gradient = self.target.gradient()
        if gradient.is_sparse:
            return gradient.values() if self._tracked_places is None else gradient.values()[self._tracked_places]
        if self._rows is None:
            return self.target.sample.of(gradient)
        return self.target.gradient_buffer.gather(gradient, self._rows)

    def _heard_gradient_norm(self) -> Tensor:
        norm = self.target.backward_norm
        if norm is None or norm.last is None:
            return torch.full_like(self.gradient_norm, torch.nan)
        return norm.last

    def _whole_gradient_norm(self) -> Tensor:
        gradient = self.target.gradient()
        if gradient.is_sparse:
            entries = gradient.values()
        elif self._rows is None:
            entries = gradient
        else:
            entries = gradient.index_select(0, self.distinct_rows)
        norm: Tensor = torch.linalg.vector_norm(entries, dtype=torch.promote_types(entries.dtype, torch.float32))
        return norm


class RowBuffer:
    """Gathers rows into the same memory every time.

    On a CPU the allocator may hand memory of this size back to the system after each step, and to get it again takes
    longer than to gather. Holds as many rows as were ever asked for at once.

    Example:
        >>> buffer = RowBuffer()
        >>> buffer.gather(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([2, 0]))
        tensor([[3.],
                [1.]])
    """

    def __init__(self) -> None:
        self._memory: Tensor | None = None
        self._room: Tensor | None = None

    def gather(self, table: Tensor, rows: Tensor) -> Tensor:
        """``table[rows]``, valid until the next call.

        Args:
            table: ``[n, d]``, without a history of gradients.
            rows: ``[k]``.
        """
        return torch.index_select(table, 0, rows, out=self._room_for(table, rows.numel()))

    def room_like(self, rows: Tensor) -> Tensor:
        """Memory of the shape ``[k, d]`` and type of some rows, in float32 at least, valid until the next call."""
        is_wide = rows.dtype in (torch.float32, torch.float64)
        return self._room_for(rows if is_wide else at_least_float32(rows[:0]), rows.shape[0])

    def _room_for(self, table: Tensor, rows: int) -> Tensor:
        room = self._room
        if room is None or room.shape[0] != rows or room.dtype != table.dtype or room.device != table.device:
            room = self._room = self._make_room(table, rows)
        return room

    def _make_room(self, table: Tensor, rows: int) -> Tensor:
        memory = self._memory
        if memory is None or len(memory) < rows or memory.dtype != table.dtype or memory.device != table.device:
            self._memory = memory = table.new_empty(rows, table.shape[1])
        return memory[:rows]
