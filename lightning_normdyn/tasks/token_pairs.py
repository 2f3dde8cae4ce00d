"""The data of the token task: skip-gram pairs of real text."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from pytorch_lightning import LightningDataModule

from lightning_normdyn.core.positive import check_positive
from lightning_normdyn.tasks.corpus import Corpus, load_corpus
from lightning_normdyn.tasks.pair_stream import PairStream
from lightning_normdyn.tasks.skip_grams import SkipGrams
from lightning_normdyn.tasks.vocabulary import Vocabulary, count_vocabulary


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
        ValueError: if a number is not positive.
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
        check_positive(
            vocabulary_size=vocabulary_size, window=window, batch_size=batch_size, steps_per_epoch=steps_per_epoch
        )
        self.text = text
        self.vocabulary_size = vocabulary_size
        self.window = window
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        self._drawn = 0
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
        return {"drawn": self._drawn} if self._stream is None else self._stream.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Moves the next stream to a saved position."""
        self._drawn = state_dict["drawn"]
        self._stream = None
