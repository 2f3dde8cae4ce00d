"""Which classes take part in a training step of a softmax over many."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from lightning_normdyn.core.number_checks import check_count, check_positive
from lightning_normdyn.losses.learnt import OwnNumbers


class ClassSample(OwnNumbers):
    """Which classes take part in a training step: those of the batch, and some of the others, drawn anew each time.

    The draw depends on the seed and the number of steps alone, so that all ranks make the same one and a resumed run
    goes on as it would have (Partial FC, arXiv 2203.15565).

    Args:
        sample: share of the classes without an embedding in the batch that take part.
        seed: of the draws.

    Example:
        >>> ClassSample(0.5, 0).draw(torch.tensor([3, 3]), 7).tolist()
        [1, 2, 3, 6]
    """

    steps: Tensor

    def __init__(self, sample: float, seed: int) -> None:
        super().__init__()
        check_positive(sample=sample, hint="1 takes all classes")
        if sample > 1:
            raise ValueError(f"sample: expected a share of the classes, up to 1, got {sample!r}; 0.1 is common")
        check_count(0, seed=seed)
        self.sample, self.seed = float(sample), int(seed)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def reset_parameters(self) -> None:
        """Starts counting steps anew."""
        self.steps.zero_()

    @property
    def is_partial(self) -> bool:
        """Whether some classes are left out."""
        return self.sample < 1

    def draw(self, labels: Tensor, num_classes: int) -> Tensor:
        """The classes of the next step in ascending order, int64, and counts it.

        Args:
            labels: of the embeddings of all ranks.
            num_classes: how many there are.
        """
        is_wanted = torch.zeros(num_classes, dtype=torch.bool)
        is_wanted[labels.cpu()] = True
        others = (~is_wanted).nonzero().squeeze(1)
        # Torch looks at 32 bits of a seed alone.
        seed = random.Random(f"{self.seed} {int(self.steps)}").getrandbits(32)
        generator = torch.Generator().manual_seed(seed)
        size = max(1, round(self.sample * len(others)))
        is_wanted[others[torch.randperm(len(others), generator=generator)[:size]]] = True
        self.steps += 1
        return is_wanted.nonzero().squeeze(1).to(labels.device)
