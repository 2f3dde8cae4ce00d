"""The data of the token task: skip-gram pairs of real text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.object_checks import check_path, check_texts
from lightning_normdyn.tasks.tokens.corpus import Corpus, load_corpus
from lightning_normdyn.tasks.tokens.vocabulary import Vocabulary, count_vocabulary


class TokenPairs(LightningDataModule):
    """Skip-gram pairs of token ids from text files or, without any, from the standard library's documentation.

    Words outside the vocabulary are dropped before pairs are formed. Pairs are drawn uniformly and with replacement
    from all (centre, context) pairs inside a document; a pair may meet itself in a batch. The drawing has its own
    generator: the global ones are never touched. Every rank draws its own stream, and a checkpoint, mid-epoch or not,
    restores its position on all of them.

    Args:
        text: UTF-8 text files, plain or ``.gz``; each paragraph is a document.
        vocabulary_size: keep this many of the most frequent words, or all where the text has fewer.
        window: the largest distance between a centre and its context.
        batch_size: pairs per step and rank.
        steps_per_epoch: steps after which Lightning counts an epoch; the stream itself has no end.
        seed: chooses the stream.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(
        self,
        text: list[str] | None = None,
        *,
        vocabulary_size: int = 2000,
        window: int = 3,
        batch_size: int = 256,
        steps_per_epoch: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_count(
            vocabulary_size=vocabulary_size, window=window, batch_size=batch_size, steps_per_epoch=steps_per_epoch
        )
        check_count(2, vocabulary_size=vocabulary_size, hint="a word by itself has no context")
        check_count(0, seed=seed)
        if text is not None:
            check_texts(text=text)
            if not len(text):
                raise ValueError("text: expected at least one file, got none; leave it out for Python's documentation")
            check_path("text file", text=text[0])
        self.text = text
        self.vocabulary_size = vocabulary_size
        self.window = window
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        self._position = 0
        self._stream: PairStream | None = None

    @cached_property
    def corpus(self) -> Corpus:
        """The documents, read on first use."""
        return load_corpus(self.text)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words in use; a word's place is its id."""
        return count_vocabulary(self.corpus.documents, size=self.vocabulary_size)

    @property
    def table_rows(self) -> int:
        """The rows that a table needs: the words in use, which may be fewer than were asked for."""
        return len(self.vocabulary.words)

    @cached_property
    def pairs(self) -> SkipGrams:
        """All pairs that may be drawn."""
        return SkipGrams(self.vocabulary.encode(self.corpus.documents), window=self.window)

    def setup(self, stage: str) -> None:
        """Reads the corpus, so that its errors come before training."""
        _ = self.pairs

    def train_dataloader(self) -> PairStream:
        """The stream of this rank, from where the last one was left."""
        stream = PairStream(
            self.pairs,
            batch_size=self.batch_size,
            steps_per_epoch=self.steps_per_epoch,
            seed=self.seed,
            rank=0 if self.trainer is None else self.trainer.global_rank,
        )
        stream.load_state_dict(self.state_dict())
        self._stream = stream
        return stream

    def state_dict(self) -> dict[str, Any]:
        """The position of the stream, the same on every rank."""
        return {"drawn": self._position} if self._stream is None else self._stream.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Moves the next stream to a saved position."""
        self._position = state_dict["drawn"]
        self._stream = None


class PairStream:
    """Batches of skip-gram pairs; batch number t of a rank depends on ``(seed, rank, t)`` alone.

    So the position is one integer, every rank draws a stream of its own, and a checkpoint that one rank writes
    restores them all. Lightning takes it as it is: it has a length, needs no worker processes and no sampler.

    Args:
        pairs: what to draw from, uniformly and with replacement.
        batch_size: pairs per batch.
        steps_per_epoch: batches per pass of a ``for`` loop; the next pass goes on where the last one ended.
        seed: chooses the stream.
        rank: chooses the part of it that belongs to one process.
    """

    def __init__(
        self, pairs: SkipGrams, *, batch_size: int = 256, steps_per_epoch: int = 1000, seed: int = 0, rank: int = 0
    ) -> None:
        self.pairs = pairs
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        self.rank = rank
        self.position = 0
        self._generator = torch.Generator()

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for _ in range(self.steps_per_epoch):
            self.position += 1
            yield self.batch(self.position - 1)

    def batch(self, number: int) -> dict[str, Tensor]:
        """Draws one batch.

        Args:
            number: its place in the stream, from 0.

        Returns:
            ``{"queries": ids[batch_size], "documents": ids[batch_size]}``.
        """
        # Hashed, because torch's CPU generator reads 32 bits of a seed and neighbouring seeds start alike.
        digest = hashlib.blake2b(f"{self.seed}/{self.rank}/{number}".encode(), digest_size=4).digest()
        self._generator.manual_seed(int.from_bytes(digest, "little"))
        queries, documents = self.pairs.draw(self.batch_size, self._generator)
        return {"queries": queries, "documents": documents}

    def state_dict(self) -> dict[str, int]:
        """The position: how many batches were drawn."""
        return {"drawn": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Moves to a saved position."""
        self.position = state_dict["drawn"]


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
        check_count(window=window)
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
        pair_numbers = numbers // 2
        left = torch.searchsorted(self._pairs_up_to, pair_numbers, right=True)
        # Counted backwards from the last pair that starts at this token; every order within a token is as good.
        later = self.tokens[left + self._pairs_up_to[left] - pair_numbers]
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
