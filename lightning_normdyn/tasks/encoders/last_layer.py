"""The layer that a model's output comes out of, found by running it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_normdyn.retrieval.audit.saturation import LastLayer


@torch.no_grad()
def find_last_layer(
    model: nn.Module, run: Callable[[], Tensor], *, pooling: str = "", normalised: bool = False
) -> LastLayer:
    """Runs a model once and sees which of its layers made the output.

    Args:
        model: whose layers are watched; nothing stays hooked.
        run: calls the model, and gives the output that is asked about.
        pooling: what happens to that output afterwards.
        normalised: whether a step to length one is left out after that.

    Returns:
        The layer; where the output is the work of no layer but of the code around them, the last layer that ran, with
        ``and a step after it``.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.Dropout(0.0)).eval()
        >>> find_last_layer(model, lambda: model(torch.ones(1, 2))).name
        'LayerNorm'
    """
    seen: list[tuple[str, Tensor]] = []  # outputs are held, so that no address is used twice

    def see(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            seen.append((type(module).__name__, output))

    handles: list[RemovableHandle] = []
    try:
        handles += [leaf.register_forward_hook(see) for leaf in model.modules() if not any(leaf.children())]
        output = run()
    finally:
        for handle in handles:
            handle.remove()
    # Dropout that is off hands on what it got: the first to have made the output is meant.
    makers = [name for name, made in seen if made.data_ptr() == output.data_ptr() and made.shape == output.shape]
    if makers:
        return LastLayer(makers[0], "norm" in makers[0].lower(), pooling, normalised)
    ran = f"{seen[-1][0]} and a step after it" if seen else type(model).__name__
    return LastLayer(ran, False, pooling, normalised)
