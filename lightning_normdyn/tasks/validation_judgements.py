"""Judgements to choose by, where a source has none."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_normdyn.datasets import Judgements


def with_validation(judgements: Mapping[str, Judgements], share: float) -> dict[str, Judgements]:
    """Judgements with a validation split, taken from the training queries at even distances if there was none.

    Args:
        judgements: split to pairs.
        share: of the training queries, which then are judged by ``validation`` alone; the nearest of 1/2, 1/3, ....

    Example:
        >>> train = Judgements.of([(0, 5, 1.0), (1, 6, 1.0), (1, 7, 1.0), (2, 8, 1.0)])
        >>> split = with_validation({"train": train}, 0.5)
        >>> split["train"].documents, split["validation"].documents
        (tensor([5, 8]), tensor([6, 7]))
    """
    if "validation" in judgements or "train" not in judgements:
        return dict(judgements)
    train = judgements["train"]
    places = train.queries.unique(return_inverse=True)[1]
    every = round(1 / share)
    held = places % every == every - 1
    parts = {"train": ~held, "validation": held}
    return {**judgements, **{name: Judgements(*(column[part] for column in train)) for name, part in parts.items()}}
