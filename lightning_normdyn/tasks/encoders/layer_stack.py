"""The layers of a transformer, from its token embeddings up."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn import Parameter


class LayerStack:
    """Which parameters of a model of transformers belong to which layer.

    Its layers are the list of as many modules as its configuration has hidden layers. What comes before them in the
    order of parameters belongs to the token embeddings; what comes behind them, or serves them all, to the top layer.

    Args:
        model: as ``AutoModel`` gives it.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = {"vocab_size": 9, "hidden_size": 4, "num_attention_heads": 1, "intermediate_size": 4}
        >>> stack = LayerStack(BertModel(BertConfig(num_hidden_layers=3, **sizes)))
        >>> len(stack), [len(layer) for layer in stack.parameters()]
        (3, [5, 16, 16, 18])
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        number = getattr(model.config, "num_hidden_layers", None)
        lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == number]
        self._layers: list[nn.Module] = max(([*each] for each in lists), key=_size, default=[])

    def __len__(self) -> int:
        """How many there are; 0 where they cannot be told apart, as those of ALBERT, which share their weights."""
        return len(self._layers)

    def parameters(self) -> list[list[Parameter]]:
        """Of the embeddings and of each layer, from the lowest up; one list where layers cannot be told apart."""
        depths = {id(p): depth for depth, layer in enumerate(self._layers, 1) for p in layer.parameters()}
        groups: list[list[Parameter]] = [[] for _ in range(len(self) + 1)]
        depth_of_rest = 0
        for parameter in self._model.parameters():
            depth = depths.get(id(parameter))
            depth_of_rest = depth_of_rest if depth is None else len(self)
            groups[depth_of_rest if depth is None else depth].append(parameter)
        return groups

    def freeze(self, frozen_layers: int) -> None:
        """Lets the embeddings and so many layers from the bottom stay as they are.

        Args:
            frozen_layers: from 0, for the embeddings alone, to one less than there are.

        Raises:
            ValueError: if there are not as many, or none can be told apart.
        """
        if not len(self):
            raise ValueError(
                f"frozen_layers: expected a model whose layers can be told apart, got a {type(self._model).__name__}, "
                "in which they share weights or are in no list; leave it out"
            )
        if frozen_layers >= len(self):
            raise ValueError(
                f"frozen_layers: expected less than the {len(self)} layers of the model, got {frozen_layers}; set "
                "frozen to train none"
            )
        for layer in self.parameters()[: frozen_layers + 1]:
            for parameter in layer:
                parameter.requires_grad_(False)


def _size(layers: list[nn.Module]) -> int:
    return sum(p.numel() for layer in layers for p in layer.parameters())
