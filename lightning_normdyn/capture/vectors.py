"""Which vectors a module gives: the tensor of its output whose rows are embeddings, without those of padding."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

TEXT_VECTORS, TOKEN_VECTORS = "sentence_embedding", "token_embeddings"
"""What sentence-transformers calls one vector a text, and one a token, in the dict that its modules hand on."""
_TOKEN_MASKS = ("attention_mask",)
"""Arguments that are 1 or True where there is a token (transformers)."""
_PADDING_MASKS = ("src_key_padding_mask", "key_padding_mask", "padding_mask")
"""Arguments that are True, or minus infinity, where there is none (torch)."""
_CONVOLUTIONS = (nn.modules.conv._ConvNd, nn.BatchNorm2d, nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d)


class HeardCall(NamedTuple):
    """A call of a module that has returned.

    Attributes:
        module: what was called.
        args: positional arguments as they came; a mapping among them is a copy, since the module may write into it.
        kwargs: those with names.
        output: what it returned.
        written: what the modules inside of it wrote last, by key, where it hands a mapping on to them.

    Example:
        >>> import torch
        >>> features = {"token_embeddings": torch.ones(2, 5, 3)}
        >>> pooled = features | {"sentence_embedding": torch.ones(2, 3)}
        >>> HeardCall(nn.Identity(), (features,), {}, pooled).tensor().shape
        torch.Size([2, 3])
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    written: Mapping[str, Tensor] | None = None

    def tensor(self, key: str | None = None) -> Tensor | None:
        """The tensor of embeddings as the module returned it; ``None`` if there is none.

        Of a mapping that modules hand on, only what this module wrote counts, and of that one vector a text.

        Args:
            key: of the embeddings in the mapping that the module returned; ``None`` for those that it wrote.
        """
        output = self.output
        if self.written is not None:
            output = _text_vectors_first(self.written) if key is None else self.written.get(key)
        elif isinstance(output, Mapping):
            output = _text_vectors_first(written(output, self._given())) if key is None else output.get(key)
        elif key is not None:
            return None
        return find_vectors(output, self.module)

    def rows(self, tensor: Tensor) -> Tensor:
        """A tensor of embeddings as rows of a matrix, ``[n, d]``, without those of padding."""
        return unpadded_rows(as_vectors(tensor), self.module, self.args, self.kwargs, self.output)

    def _given(self) -> list[Mapping[str, Any]]:
        return [item for item in (*self.args, *self.kwargs.values()) if isinstance(item, Mapping)]


def written(output: Mapping[str, Any], given: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a module wrote into a mapping that it hands on.

    Args:
        output: the mapping as the module returned it.
        given: the mappings as they came.

    Example:
        >>> written({"input_ids": 1, "sentence_embedding": 2}, [{"input_ids": 1}])
        {'sentence_embedding': 2}
    """
    return {key: value for key, value in output.items() if not any(mapping.get(key) is value for mapping in given)}


def _text_vectors_first(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    return {TEXT_VECTORS: mapping[TEXT_VECTORS], **mapping} if TEXT_VECTORS in mapping else mapping


def find_vectors(output: Any, module: nn.Module | None = None) -> Tensor | None:
    """The tensor that was returned, or the first one of vectors ``[..., d]`` among several; ``None`` if none is.

    Args:
        output: what the module returned.
        module: the module; what has four dimensions is no tensor of vectors where it has convolutions.

    Example:
        >>> import torch
        >>> find_vectors((torch.tensor(0.5), torch.ones(3, 2))).shape
        torch.Size([3, 2])
        >>> find_vectors(torch.ones(8, 16, 7, 7), nn.Conv2d(3, 16, 3)) is None  # a map of channels
        True
    """
    return next((member for member in _members(output) if _is_vectors(member, module)), None)


def _members(output: Any) -> Iterator[Any]:
    members = output.values() if isinstance(output, Mapping) else output
    yield from members if isinstance(output, (Mapping, list, tuple)) else [output]


def _is_vectors(member: Any, module: nn.Module | None) -> bool:
    if not isinstance(member, Tensor) or not member.is_floating_point() or member.ndim < 2:
        return False
    vectors = as_vectors(member)
    return vectors.shape[-1] != 1 and not (vectors.ndim >= 4 and _has_convolutions(module))


def _has_convolutions(module: nn.Module | None) -> bool:
    return module is not None and any(isinstance(child, _CONVOLUTIONS) for child in module.modules())


def as_vectors(tensor: Tensor) -> Tensor:
    """A tensor of embeddings as ``[..., d]``: what a backbone pools to ``[n, C, 1, 1]`` is ``[n, C]``.

    Example:
        >>> import torch
        >>> as_vectors(torch.ones(8, 16, 1, 1)).shape
        torch.Size([8, 16])
    """
    while tensor.ndim > 2 and tensor.shape[-1] == 1:
        tensor = tensor.squeeze(-1)
    return tensor


def unpadded_rows(
    vectors: Tensor, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any = None
) -> Tensor:
    """The vectors as rows of a matrix, ``[n, d]``, without those of padding.

    Args:
        vectors: what the module returned, ``[..., d]``.
        module: the module.
        args: what it was called with; a mask of the vectors' shape ``[...]`` among it tells.
        kwargs: the same, by name.
        output: what it returned; a mask in a mapping that is handed on goes before one that came.

    Example:
        >>> import torch
        >>> mask = torch.tensor([[1, 1, 0]])
        >>> unpadded_rows(torch.ones(1, 3, 5), nn.Identity(), (), {"attention_mask": mask}).shape
        torch.Size([2, 5])
        >>> unpadded_rows(torch.ones(1, 3, 5), nn.Identity(), ({"attention_mask": mask},), {}).shape
        torch.Size([2, 5])
    """
    rows = vectors.reshape(-1, vectors.shape[-1])
    if vectors.ndim < 3:
        return rows
    arguments = arguments_by_name(module, args) | dict(kwargs)
    mappings = [item for item in (output, *args) if isinstance(item, Mapping)]
    for name in (*_TOKEN_MASKS, *_PADDING_MASKS):
        for mask in (*(mapping.get(name) for mapping in mappings), arguments.get(name)):
            if isinstance(mask, Tensor) and mask.shape == vectors.shape[:-1]:
                is_token = mask > 0 if name in _TOKEN_MASKS else mask == 0
                return rows[is_token.reshape(-1).to(rows.device)]
    return rows


def arguments_by_name(module: nn.Module, args: tuple[Any, ...]) -> dict[str, Any]:
    """Positional arguments by name; none where they cannot be told."""
    signature = signature_of(module) if args else None
    try:
        return {} if signature is None else dict(signature.bind_partial(*args).arguments)
    except TypeError:
        return {}


def signature_of(module: nn.Module) -> inspect.Signature | None:
    """What a module's ``forward`` takes, which a compiled module hides; ``None`` where it cannot be told."""
    try:
        return inspect.signature(getattr(module, "_orig_mod", module).forward)
    except (TypeError, ValueError):
        return None


def describe_output(output: Any) -> str:
    """What came instead of vectors, for an error.

    Example:
        >>> import torch
        >>> describe_output(torch.ones(3)), describe_output("text")
        ('shape (3,)', 'a str')
        >>> describe_output({"logits": torch.ones(3, 1)})
        'a dict of logits (3, 1)'
        >>> describe_output(torch.ones(8, 16, 7, 7))
        'shape (8, 16, 7, 7), as of a map of channels, which a pooling module makes one vector an item of'
    """
    if isinstance(output, Tensor):
        is_map = as_vectors(output).ndim >= 4
        advice = ", as of a map of channels, which a pooling module makes one vector an item of" if is_map else ""
        return f"shape {tuple(output.shape)}{advice}"
    kind = f"a {type(output).__name__}"
    if not isinstance(output, Mapping):
        return kind
    return f"{kind} of " + ", ".join(
        f"{key} {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
        for key, value in output.items()
    )
