"""Skip-gram pairs for several experiments, read once per process."""

from __future__ import annotations

from functools import lru_cache

from lightning_normdyn.tasks.tokens.token_pairs import TokenPairs

_NO_END = 1_000_000


@lru_cache(maxsize=1)
def _read(text: tuple[str, ...] | None, seed: int) -> TokenPairs:
    data = TokenPairs(None if text is None else list(text), steps_per_epoch=_NO_END, seed=seed)
    data.setup("fit")
    return data


def words(text: list[str] | None, seed: int) -> TokenPairs:
    """Skip-gram pairs of a text, from the first pair on; the trainer's ``max_steps`` ends the stream.

    Args:
        text: text files, or None for the standard library's documentation.
        seed: chooses the stream.
    """
    data = _read(None if text is None else tuple(text), seed)
    data.load_state_dict({"drawn": 0})
    return data
