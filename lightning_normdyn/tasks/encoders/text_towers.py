"""Dual encoders of texts: one encoder for queries and documents, or a copy for each side."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lightning_normdyn.core.number_checks import check_flag
from lightning_normdyn.tasks.encoders.small_text import SmallTextEncoder
from lightning_normdyn.tasks.encoders.text import TextEncoder


def check_encoder(encoder: object) -> None:
    """Refuses what encodes nothing; ``None`` passes, which stands for the small one.

    Raises:
        ValueError: naming the argument and what came.
    """
    is_encoder = isinstance(encoder, nn.Module) and callable(getattr(encoder, "encode", None))
    if encoder is not None and not is_encoder:
        raise ValueError(f"encoder: expected a module with encode(), as those of tasks.encoders, got {encoder!r:.80}")


class TextTowers(nn.Module):
    """Two text encoders.

    Args:
        encoder: of documents; a :class:`SmallTextEncoder` if left out.
        shared_encoder: whether it encodes queries too; if not, queries get a copy of their own.

    Example:
        >>> towers = TextTowers(SmallTextEncoder(dim=8, buckets=100))
        >>> towers.query is towers.document
        True
    """

    def __init__(self, encoder: TextEncoder | None = None, *, shared_encoder: bool = True) -> None:
        super().__init__()
        check_encoder(encoder)
        check_flag(shared_encoder=shared_encoder)
        self.document = SmallTextEncoder() if encoder is None else encoder
        self.query = self.document if shared_encoder else copy.deepcopy(self.document)
        self._has_warned = False

    def encode_queries(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``[b, d]``, not normalised."""
        return _method(self.query, "encode_queries")(texts)

    def encode_documents(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``[b, d]``, not normalised."""
        return _method(self.document, "encode_documents")(texts)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``[b, d]`` of texts that are neither queries nor documents, by the encoder of documents."""
        return self.document.encode(texts)

    @property
    def truncated_share(self) -> float:
        """Share of the texts encoded so far whose end was left out."""
        towers = {id(tower): tower for tower in (self.query, self.document)}.values()
        return sum(tower.truncated_texts for tower in towers) / max(1, sum(tower.texts for tower in towers))

    def tell_truncation(self) -> None:
        """Warns, once, if the ends of texts were left out."""
        if self.truncated_share and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{self.truncated_share:.1%} of the texts are longer than the encoder takes, and their ends were left "
                "out; raise its max_words or max_length if the model allows",
                stacklevel=2,
            )


def _method(encoder: TextEncoder, name: str) -> Callable[[Sequence[str]], Tensor]:
    """A method of the encoder, ``encode`` where a module of somebody's own has no other."""
    method: Callable[[Sequence[str]], Tensor] = getattr(encoder, name, encoder.encode)
    return method
