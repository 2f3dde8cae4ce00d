"""The layers of a sentence-transformers model behind its pooling: Dense, LayerNorm, Normalize and Dropout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from lightning_normdyn.core.dynamics.geometry import at_least_float32
from lightning_normdyn.tasks.encoders.model_files import ModelFiles, damaged
from lightning_normdyn.tasks.encoders.sentence_modules import Module


class DenseLayer(nn.Module):
    """A linear layer, its activation, and the input added to it where the model says so.

    Args:
        config: ``in_features``, ``out_features``, and as far as it is there ``bias``, ``activation_function`` and
            ``use_residual``.

    Raises:
        ValueError: if the activation is no module of torch.nn.
        KeyError: if a size is missing.

    Example:
        >>> layer = DenseLayer({"in_features": 2, "out_features": 3, "activation_function": "torch.nn.ReLU"})
        >>> layer(Tensor([[1.0, -1.0]])).shape
        torch.Size([1, 3])
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, self.dim = int(config["in_features"]), int(config["out_features"])
        self.linear = nn.Linear(width, self.dim, bias=bool(config.get("bias", True)))
        self.activation = _activation(config.get("activation_function", "torch.nn.Tanh"))
        self.residual: nn.Module | None = None
        if config.get("use_residual", False):
            self.residual = nn.Identity() if width == self.dim else nn.Linear(width, self.dim, bias=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings ``[b, out_features]`` of ``[b, in_features]``."""
        outputs: Tensor = self.activation(self.linear(embeddings))
        return outputs if self.residual is None else outputs + self.residual(embeddings)


class UnitLength(nn.Module):
    """Divides embeddings by their length, where a model does so before further layers."""

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings of length one, zeros as they are."""
        return nn.functional.normalize(embeddings, dim=-1)


class SentenceLayers(nn.ModuleList):
    """The layers in their order.

    Args:
        files: of the model.
        modules: which layers.
        width: of what is pooled.

    Attributes:
        dim: length of an embedding.

    Raises:
        ValueError: if a layer's configuration or weights are damaged, or do not fit what comes before.
    """

    def __init__(self, files: ModelFiles, modules: Iterable[Module], width: int) -> None:
        layers: list[nn.Module] = []
        for module in modules:
            layers.append(_layer(files, module, width))
            width = getattr(layers[-1], "dim", width)
        super().__init__(layers)
        self.dim = width

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings ``[b, dim]`` of what is pooled ``[b, width]``, in float32 at least."""
        if not len(self):
            return embeddings
        outputs = embeddings.to(next(self.parameters(), embeddings).dtype)
        for layer in self:
            outputs = layer(outputs)
        return at_least_float32(outputs)


def _layer(files: ModelFiles, module: Module, width: int) -> nn.Module:
    if module.kind == "Normalize":
        return UnitLength()
    place = f"{files.model}/{module.path}/config.json"
    try:
        if module.kind == "Dropout":
            return nn.Dropout(float(module.config.get("dropout", 0.2)))
        layer = DenseLayer(module.config) if module.kind == "Dense" else nn.LayerNorm(int(module.config["dimension"]))
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(place, error) from error
    input_width = layer.linear.in_features if isinstance(layer, DenseLayer) else layer.normalized_shape[0]
    if input_width != width:
        raise ValueError(
            f"model: expected {module.kind} of {files.model} to take the {width} numbers that come before it, got one "
            f"for {input_width}; leave pooling out, so that the model's own is taken"
        )
    weights = {name.removeprefix("norm."): tensor for name, tensor in files.tensors(module.path).items()}
    try:
        layer.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except RuntimeError as error:
        raise damaged(f"{files.model}/{module.path}", error) from error
    return layer


def _activation(name: str) -> nn.Module:
    kind = getattr(nn, name.rpartition(".")[2], None) if name.startswith("torch.nn.") else None
    if not isinstance(kind, type) or not issubclass(kind, nn.Module):
        raise ValueError(f"expected an activation of torch.nn, got {name!r}")
    layer = kind()
    assert isinstance(layer, nn.Module)
    return layer
