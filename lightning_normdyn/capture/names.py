"""Qualified names of parameters and modules without the wrappers of torch.compile, checkpointing and FSDP."""

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
        self._root = module
        self.parameters: dict[str, nn.Parameter] = {}
        self._full_names: dict[str, str] = {}
        for full_name, parameter in module.named_parameters():
            name = plain_name(full_name)
            self.parameters[name], self._full_names[name] = parameter, full_name
        self._owners: dict[int, list[nn.Module]] = {}
        for layer in module.modules():
            for number in {id(parameter) for parameter in layer._parameters.values() if parameter is not None}:
                self._owners.setdefault(number, []).append(layer)

    def owners(self, parameter: nn.Parameter) -> list[nn.Module]:
        """The layers that hold a parameter, in the order of the model."""
        return self._owners.get(id(parameter), [])

    def path(self, name: str) -> ParameterPath:
        """The way to a parameter, by its plain name."""
        return ParameterPath(self._root, self._full_names[name])


def plain_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by plain name."""
    return {plain_name(name): parameter for name, parameter in module.named_parameters()}


class ModulePath:
    """The way from a model to one of its modules, which may be another one later on.

    Args:
        root: the model.
        name: qualified name as torch gives it, wrappers included.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
        >>> path = ModulePath(model, "1")
        >>> model[1] = nn.ReLU()
        >>> path.module()
        ReLU()
    """

    def __init__(self, root: nn.Module, name: str) -> None:
        self._root = root
        self._parts = [part for part in name.split(".") if part]

    def module(self) -> nn.Module | None:
        """What is there now; ``None`` if there is nothing."""
        module: nn.Module | None = self._root
        for part in self._parts:
            if module is None:
                return None
            children = module._modules
            module = children[part] if part in children else None  # noqa: SIM401 - a scripted one has no get
        return module


class ParameterPath:
    """The way from a model to one of its parameters, which may be another one later on.

    Args:
        root: the model.
        name: qualified name as torch gives it, wrappers included.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 2))
        >>> path = ParameterPath(model, "0.weight")
        >>> model[0].weight = nn.Parameter(torch.zeros(4, 3))
        >>> path.parameter().shape
        torch.Size([4, 3])
    """

    def __init__(self, root: nn.Module, name: str) -> None:
        owner, _, self._name = name.rpartition(".")
        self._owner = ModulePath(root, owner)

    def parameter(self) -> nn.Parameter | None:
        """What is there now; ``None`` if there is no parameter, though perhaps something computed by that name."""
        owner = self._owner.module()
        return None if owner is None or self._name not in owner._parameters else owner._parameters[self._name]
