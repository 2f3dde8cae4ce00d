"""Rows that decay has left near zero, given back a norm that can be trained."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightning_normdyn.core.dynamics.geometry import at_least_float32, precise_norm
from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.object_checks import check_generator
from lightning_normdyn.core.statistics.near_dead import near_dead_rows

_SHORTEST_MEAN = 1e-6
_BLOCK = 2**24


@torch.no_grad()
def repair_rows(
    table: Tensor,
    rows: Tensor | None = None,
    *,
    output: Tensor | None = None,
    method: Literal["neighbours", "redraw"] = "neighbours",
    neighbours: int = 8,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sets near-dead rows in place to the median norm of the others, in the mean direction of their neighbours.

    A row of norm R gets a gradient of ``V/R`` from a loss that normalises, so that one row at a millionth of the median
    norm owns the clipped gradient of the first step that meets it. The neighbours of a row are the other rows nearest
    to it in angle, which decay has left as it was; a row of zeros has none, and is drawn.

    Adam's averages and momentum remember the old row: repair before the optimizer is made, or make it anew.

    Args:
        table: ``[rows, d]``: the weight of an embedding or a head.
        rows: which to repair, as numbers or as a mask ``[rows]``; ``None`` for those that
            :func:`lightning_normdyn.core.near_dead_rows` finds.
        output: the output table of the same rows, ``[rows, any]``, repaired at the same rows with the same neighbours
            and its own median norm; one that is tied to ``table`` is repaired once.
        method: ``"redraw"`` for random directions instead.
        neighbours: how many to average.
        generator: of the random directions.

    Returns:
        The repaired rows, ``[m]``; those that it found itself, shortest first.

    Raises:
        ValueError: if a table is no matrix, the two have other numbers of rows, ``rows`` names one that is not there,
            or no other row is left to learn from.

    Example:
        >>> table = torch.nn.Embedding(100, 16)
        >>> with torch.no_grad():
        ...     _ = table.weight[7].mul_(1e-6)
        >>> repair_rows(table.weight)
        tensor([7])
        >>> bool(table.weight[7].norm() > 1)
        True
    """
    _check_matrix("table", table)
    check_count(neighbours=neighbours)
    check_generator(generator=generator)
    if method not in ("neighbours", "redraw"):
        raise ValueError(f"method: expected 'neighbours' or 'redraw', got {method!r}")
    if output is not None:
        _check_matrix("output", output)
        if len(output) != len(table):
            raise ValueError(f"output: expected the {len(table)} rows of table, got {len(output)}; pass the head of it")
    near_dead = near_dead_rows(precise_norm(table), table.shape[1]).rows if rows is None else _numbers(rows, len(table))
    if not len(near_dead):
        return near_dead
    healthy = _healthy(table, near_dead)
    sources = healthy[_nearest(table, near_dead, healthy, neighbours)] if method == "neighbours" else None
    for matrix in [table] if output is None or output.data_ptr() == table.data_ptr() else [table, output]:
        _set_rows(matrix, near_dead, healthy, sources, generator)
    return near_dead


def _check_matrix(name: str, matrix: Tensor) -> None:
    if not isinstance(matrix, Tensor) or matrix.dim() != 2 or not matrix.is_floating_point():
        description = f"shape {tuple(matrix.shape)}" if isinstance(matrix, Tensor) else type(matrix).__name__
        raise ValueError(f"{name}: expected a matrix of rows, got {description}; pass the .weight of a layer")


def _numbers(rows: Tensor, count: int) -> Tensor:
    """Row numbers, each once."""
    try:
        rows = torch.as_tensor(rows)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"rows: expected numbers or a mask, got {type(rows).__name__}; pass a tensor") from error
    if rows.dtype == torch.bool and rows.shape == (count,):
        return rows.nonzero().squeeze(1)
    is_whole = rows.dim() == 1 and not rows.is_floating_point() and rows.dtype != torch.bool
    if not is_whole or bool(((rows < 0) | (rows >= count)).any()):
        raise ValueError(
            f"rows: expected numbers from 0 to {count - 1} or a mask of {count}, got {rows.dtype} {tuple(rows.shape)}; "
            "rows that are not in the table cannot be repaired"
        )
    numbers: Tensor = rows.long().unique()
    return numbers


def _healthy(table: Tensor, near_dead: Tensor) -> Tensor:
    """The other rows that have a direction, ``[h]``."""
    is_healthy = precise_norm(table) > 0
    is_healthy[near_dead.to(is_healthy.device)] = False
    healthy = is_healthy.nonzero().squeeze(1)
    if not len(healthy):
        raise ValueError("rows: expected rows besides those to be repaired, got none; draw the table anew instead")
    return healthy


def _nearest(table: Tensor, near_dead: Tensor, healthy: Tensor, neighbours: int) -> Tensor:
    """Places among the healthy rows of those nearest in angle to each near-dead one, ``[m, k]``."""
    directions = _directions(table, healthy)
    size = max(1, _BLOCK // len(healthy))
    count = min(neighbours, len(healthy))
    blocks = [(_directions(table, block) @ directions.T).topk(count).indices for block in near_dead.split(size)]
    return torch.cat(blocks)


def _directions(matrix: Tensor, rows: Tensor) -> Tensor:
    """Rows of length one, or of zeros, ``[m, d]``; scaled before they are squared, since squares may underflow."""
    vectors = at_least_float32(matrix[rows])
    largest = vectors.abs().amax(1, keepdim=True)
    directions: Tensor = normalize(vectors / largest.where(largest > 0, 1), dim=1)
    return directions


def _set_rows(
    matrix: Tensor, near_dead: Tensor, healthy: Tensor, sources: Tensor | None, generator: torch.Generator | None
) -> None:
    median = precise_norm(matrix)[healthy].median()
    directions = torch.randn(len(near_dead), matrix.shape[1], generator=generator).to(matrix.device)
    if sources is not None:
        mean = _directions(matrix, sources.flatten()).view(*sources.shape, -1).mean(1)
        has_mean = (_directions(matrix, near_dead).norm(dim=1) > 0) & (mean.norm(dim=1) > _SHORTEST_MEAN)
        directions = mean.where(has_mean.unsqueeze(1), directions.to(mean))
    matrix[near_dead] = (normalize(directions, dim=1) * median).to(matrix.dtype)
