"""Finds the last layer of a model, the one whose output is the embedding, by forward hooks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_normdyn.retrieval.audit.saturation import LastLayer


@torch.no_grad()
def find_last_layer(
    model: nn.Module, run: Callable[[], Tensor], *, pooling: str = "", had_unit_step: bool = False
) -> LastLayer:
    """Runs a model once and sees which of its layers made the output.

    Args:
        model: whose layers are watched; nothing stays hooked.
        run: calls the model, and gives the output that is asked about.
        pooling: what happens to that output afterwards.
        had_unit_step: whether a step to length one is left out after that.

    Returns:
        The layer; where the output is the work of no layer but of the code around them, the last layer that ran, with
        ``and a step after it``.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.Dropout(0.0)).eval()
        >>> find_last_layer(model, lambda: model(torch.ones(1, 2))).name
        'LayerNorm'
    """
    outputs: list[tuple[str, Tensor]] = []  # outputs are held, so that no address is used twice

    def record(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            outputs.append((type(module).__name__, output))

    handles: list[RemovableHandle] = []
    try:
        handles += [leaf.register_forward_hook(record) for leaf in model.modules() if not any(leaf.children())]
        output = run()
    finally:
        for handle in handles:
            handle.remove()
    # Dropout that is off hands on what it got: the first to have made the output is meant.
    makers = [
        name
        for name, candidate in outputs
        if candidate.data_ptr() == output.data_ptr() and candidate.shape == output.shape
    ]
    if makers:
        return LastLayer(makers[0], "norm" in makers[0].lower(), pooling, had_unit_step)
    name = f"{outputs[-1][0]} and a step after it" if outputs else type(model).__name__
    return LastLayer(name, False, pooling, had_unit_step)
