"""Qualified names of parameters without the wrappers of torch.compile, checkpointing and FSDP."""

from __future__ import annotations

from torch import nn

_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


def plain_name(name: str) -> str:
    """A qualified name without the wrappers of ``torch.compile``, activation checkpointing and FSDP.

    Example:
        >>> plain_name("encoder._orig_mod.embed.weight")
        'encoder.embed.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


class ParameterIndex:
    """The parameters of a model by plain name, and the layers that hold each: one walk for all of its targets.

    Args:
        module: the model.

    Attributes:
        parameters: by plain name.

    Example:
        >>> model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3))
        >>> index = ParameterIndex(model)
        >>> [type(layer).__name__ for layer in index.owners(index.parameters["0.weight"])]
        ['Embedding']
    """

    def __init__(self, module: nn.Module) -> None:
        self.parameters = plain_parameters(module)
        self._owners: dict[int, list[nn.Module]] = {}
        for layer in module.modules():
            for number in {id(parameter) for parameter in layer._parameters.values() if parameter is not None}:
                self._owners.setdefault(number, []).append(layer)

    def owners(self, parameter: nn.Parameter) -> list[nn.Module]:
        """The layers that hold a parameter, in the order of the model."""
        return self._owners.get(id(parameter), [])


def plain_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by plain name."""
    return {plain_name(name): parameter for name, parameter in module.named_parameters()}
