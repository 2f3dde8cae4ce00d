"""Several readers of one stream of chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Full, Queue
from typing import TypeAlias

from torch import Tensor

Reader: TypeAlias = Callable[[Iterator[Tensor]], object]
_Feed: TypeAlias = "Queue[Tensor | None]"


def share_pass(chunks: Iterable[Tensor], readers: Sequence[Reader]) -> list[object]:
    """Lets every reader iterate over the same chunks while they are read once.

    Each reader runs in a thread of its own and is at most two chunks ahead of the slowest, so that memory is bounded.

    Args:
        chunks: that nobody changes.
        readers: called with an iterator over them.

    Returns:
        What each reader returns.

    Raises:
        Exception: whatever reading the chunks, or the first reader to fail, raised.

    Example:
        >>> import torch
        >>> share_pass(iter([torch.ones(2), torch.ones(3)]), [lambda them: sum(map(len, them)), lambda them: None])
        [5, None]
    """
    feeds: list[_Feed] = [Queue(maxsize=1) for _ in readers]
    with ThreadPoolExecutor(max(1, len(readers))) as pool:
        futures = [pool.submit(reader, iter(feed.get, None)) for reader, feed in zip(readers, feeds, strict=True)]
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
    """Waits for room, but not for a reader that has stopped."""
    while not future.done():
        try:
            feed.put(chunk, timeout=0.1)
        except Full:
            continue
        return
