"""An instrument of a user's own, outside the package: the effective rank of whatever vectors it is shown."""

from __future__ import annotations

import torch

from lightning_normdyn.instruments import Instrument


class EffectiveRank(Instrument):
    """The exponential of the entropy of the singular values (Roy and Vetterli 2007), and how often it was measured.

    Args:
        centred: whether to take the mean vector off first.
    """

    quantities = ("effective_rank", "effective_rank_looks")

    def __init__(self, centred: bool = False) -> None:
        self.centred = centred
        self.looks = 0

    def measure(self, look):
        self.looks += 1
        vectors = look.vectors - look.vectors.mean(0) if self.centred else look.vectors
        spectrum = torch.linalg.svdvals(vectors.double())
        shares = spectrum / spectrum.sum()
        return {"effective_rank": torch.special.entr(shares).sum().exp(), "effective_rank_looks": self.looks}

    def state_dict(self):
        return {"looks": self.looks}

    def load_state_dict(self, state):
        self.looks = state["looks"]
