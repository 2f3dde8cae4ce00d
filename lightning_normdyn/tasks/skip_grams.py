"""All (centre, context) pairs of a corpus, numbered and never stored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class SkipGrams:
    """Every ordered pair of tokens at most ``window`` places apart inside one document.

    Pair ``2k`` and pair ``2k + 1`` are the two directions of the same two places. Memory is two integers per token,
    whatever the window.

    Args:
        documents: token ids, one sequence per document.
        window: the largest distance between a centre and its context.

    Raises:
        ValueError: if ``window`` is not positive, or no document has two tokens.

    Example:
        >>> pairs = SkipGrams([[5, 6, 7]], window=1)
        >>> centres, contexts = pairs.take(torch.arange(len(pairs)))
        >>> list(zip(centres.tolist(), contexts.tolist()))
        [(5, 6), (6, 5), (6, 7), (7, 6)]
    """

    def __init__(self, documents: Sequence[Sequence[int]], *, window: int) -> None:
        if window < 1:
            raise ValueError(f"window: expected a positive distance, got {window}")
        lengths = torch.tensor([len(document) for document in documents], dtype=torch.int64)
        self.tokens = torch.tensor([token for document in documents for token in document], dtype=torch.int64)
        ends = lengths.cumsum(0).repeat_interleave(lengths)
        following = ends - torch.arange(len(self.tokens)) - 1
        # Entry i: how many unordered pairs start at token i or before it.
        self._pairs_up_to = following.clamp(max=window).cumsum(0)
        if len(self) == 0:
            raise ValueError(
                "text: no document holds two words of the vocabulary, so there is no pair to learn from; pass longer "
                "paragraphs or raise vocabulary_size"
            )

    def __len__(self) -> int:
        return 2 * int(self._pairs_up_to[-1]) if len(self._pairs_up_to) else 0

    def take(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Looks up pairs by number.

        Args:
            numbers: ``[n]``, from 0 to ``len(self) - 1``.

        Returns:
            Token ids of the centres ``[n]`` and of their contexts ``[n]``.
        """
        unordered = numbers // 2
        left = torch.searchsorted(self._pairs_up_to, unordered, right=True)
        # Counted backwards from the last pair that starts at this token; every order within a token is as good.
        later = self.tokens[left + self._pairs_up_to[left] - unordered]
        earlier = self.tokens[left]
        forwards = numbers % 2 == 0
        return torch.where(forwards, earlier, later), torch.where(forwards, later, earlier)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws pairs uniformly, with replacement.

        Args:
            count: how many.
            generator: the source of chance; the global one is never touched.

        Returns:
            Token ids of the centres ``[count]`` and of their contexts ``[count]``.
        """
        return self.take(torch.randint(len(self), (count,), generator=generator))
