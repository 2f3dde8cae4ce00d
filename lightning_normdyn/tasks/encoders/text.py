"""Base class of text encoders: tokenize on the CPU, embed on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import Parameter


class TextEncoder(nn.Module):
    """Texts to embeddings in two steps, so that what is trained sees tensors alone.

    A subclass overrides both methods, sets :attr:`dim`, and counts in :attr:`truncated_texts` the texts whose end it
    left out; :attr:`texts` counts all.
    """

    dim: int
    texts: int = 0
    truncated_texts: int = 0

    def tokenize(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """Keyword arguments of :meth:`forward` for ``b`` texts, on the CPU."""
        raise NotImplementedError

    def forward(self, **tokens: Tensor) -> Tensor:
        """Embeddings ``[b, dim]``, not normalised."""
        raise NotImplementedError

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``[b, dim]`` of texts, on the encoder's own device."""
        device = next(self.parameters()).device
        embeddings: Tensor = self(**{name: tokens.to(device) for name, tokens in self.tokenize(texts).items()})
        return embeddings

    def encode_queries(self, texts: Sequence[str]) -> Tensor:
        """The same of queries, where an encoder treats them in another way."""
        return self.encode(texts)

    def encode_documents(self, texts: Sequence[str]) -> Tensor:
        """The same of documents."""
        return self.encode(texts)

    def layer_parameters(self) -> list[list[Parameter]]:
        """All parameters by layer, the lowest first; one list of all where layers cannot be told apart."""
        return [list(self.parameters())]
