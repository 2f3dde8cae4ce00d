"""One pass over chunks that several consumers share, each in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Full, Queue
from typing import TypeAlias

from torch import Tensor

ChunkConsumer: TypeAlias = Callable[[Iterator[Tensor]], object]
_Feed: TypeAlias = "Queue[Tensor | None]"


def share_pass(chunks: Iterable[Tensor], consumers: Sequence[ChunkConsumer]) -> list[object]:
    """Lets every consumer iterate over the same chunks while they are read once.

    Each consumer runs in a thread of its own and is at most two chunks ahead of the slowest, so that memory is bounded.

    Args:
        chunks: that nobody changes.
        consumers: called with an iterator over them.

    Returns:
        What each consumer returns.

    Raises:
        Exception: whatever reading the chunks, or the first consumer to fail, raised.

    Example:
        >>> import torch
        >>> share_pass(iter([torch.ones(2), torch.ones(3)]), [lambda them: sum(map(len, them)), lambda them: None])
        [5, None]
    """
    feeds: list[_Feed] = [Queue(maxsize=1) for _ in consumers]
    with ThreadPoolExecutor(max(1, len(consumers))) as pool:
        futures = [pool.submit(consumer, iter(feed.get, None)) for consumer, feed in zip(consumers, feeds, strict=True)]
        try:
            for chunk in chunks:
                for feed, future in zip(feeds, futures, strict=True):
                    _hand_over(feed, chunk, future)
                if any(future.done() and future.exception() for future in futures):
                    break
        finally:
            for feed, future in zip(feeds, futures, strict=True):
                _hand_over(feed, None, future)
    return [future.result() for future in futures]


def _hand_over(feed: _Feed, chunk: Tensor | None, future: Future[object]) -> None:
    """Waits for room, but not for a consumer that has stopped."""
    while not future.done():
        try:
            feed.put(chunk, timeout=0.1)
        except Full:
            continue
        return
