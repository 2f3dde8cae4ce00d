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


def plain_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by plain name."""
    return {plain_name(name): parameter for name, parameter in module.named_parameters()}
