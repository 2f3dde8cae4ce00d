"""What an optimizer has in store of each row of a table: accumulated squares and averaged weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.core.dynamics.law_inputs import OptimizerMemory
from lightning_normdyn.core.dynamics.optimizer_wrappers import unwrapped_optimizer
from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.object_checks import check_callable
from lightning_normdyn.core.sharded_tensor import is_sharded, of_all_ranks
from lightning_normdyn.core.tensor_checks import check_tensors


def accumulated_squares(optimizer: torch.optim.Optimizer, table: torch.Tensor) -> torch.Tensor | None:
    """The sum over each row of what Adagrad has accumulated for it, which its law starts from.

    Args:
        optimizer: torch's Adagrad.
        table: ``[n, d]``, a parameter that it trains.

    Returns:
        ``A`` in float64, ``[n]``, by which ``EquilibriumRule.evolve`` goes; ``None`` for an optimizer that accumulates
        nothing. Of a row-wise accumulator that you hold yourself, as FBGEMM's ``momentum1``, take ``d`` times it.

    Example:
        >>> table = torch.nn.Parameter(torch.ones(3, 64))
        >>> accumulated_squares(torch.optim.Adagrad([table], initial_accumulator_value=0.5), table)
        tensor([32., 32., 32.], dtype=torch.float64)
    """
    check_tensors(table=table)
    accumulator = _accumulator(unwrapped_optimizer(optimizer), table)
    return None if accumulator is None else of_all_ranks(most_precise(accumulator).sum(-1))


def _accumulator(optimizer: torch.optim.Optimizer, table: torch.Tensor) -> torch.Tensor | None:
    """The squares that Adagrad has accumulated, ``[n, d]``; ``None`` for another optimizer."""
    if type(optimizer) is not torch.optim.Adagrad or table not in optimizer.state:
        return None
    accumulator: torch.Tensor = optimizer.state[table]["sum"]
    return accumulator


def optimizer_memory(
    optimizer: torch.optim.Optimizer,
    table: torch.Tensor,
    stride: int = 1,
    *,
    products: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor] | None = None,
) -> OptimizerMemory:
    """What an optimizer has in store of each row of a table, as far as a law asks for it.

    Args:
        optimizer: Adagrad and schedule-free ones have something; of a schedule-free one in training mode without a
            warm-up, or weights by time, alone it is enough.
        table: ``[n, d]``, a parameter that it trains.
        stride: of every how many rows.
        products: gives the product of each row that is wanted of two tensors of the table's shape, or its sum over one
            (with ``None`` for the other), ``[n]`` in float64; ``None`` for rows at the stride. Where few rows of a
            large table are wanted it saves reading the others.

    Example:
        >>> table = torch.nn.Parameter(torch.ones(4, 64))
        >>> optimizer = torch.optim.Adagrad([table], initial_accumulator_value=0.5)
        >>> optimizer_memory(optimizer, table, stride=2).accumulated
        tensor([32., 32.], dtype=torch.float64)
    """
    check_count(stride=stride)
    check_tensors(table=table)
    if products is not None:
        check_callable("of two tensors that gives [n]", products=products)
    optimizer = unwrapped_optimizer(optimizer)
    products = products or partial(_products, stride=stride)
    accumulator = _accumulator(optimizer, table)
    memory = OptimizerMemory(None if accumulator is None else products(accumulator, None))
    state = optimizer.state.get(table, {})
    group = next((group for group in optimizer.param_groups if any(x is table for x in group["params"])), {})
    is_averaged = type(optimizer).__name__ in ("AdamWScheduleFree", "SGDScheduleFree") and "z" in state
    if not is_averaged or group.get("warmup_steps") or group.get("r") or not group.get("train_mode", True):
        return memory
    return memory._replace(averages=torch.stack([products(state["z"], other) for other in (state["z"], table)], 1))


def _products(left: torch.Tensor, right: torch.Tensor | None, *, stride: int) -> torch.Tensor:
    """Product of every ``stride``-th row of two tensors, or its sum over one, which all ranks compute at once."""
    skip = 1 if is_sharded(left) else stride
    rows = [most_precise(tensor.detach()[::skip]) for tensor in (left, right) if tensor is not None]
    sums = of_all_ranks((rows[0] if right is None else rows[0] * rows[1]).sum(-1))
    return sums[:: stride if is_sharded(left) else 1].clone()
