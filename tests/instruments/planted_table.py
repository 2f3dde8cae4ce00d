"""A table trained on planted noise: every row gets random gradients without radial part, at a rate of its own."""

import numpy as np
import torch
from torch import nn

from lightning_normdyn import NormObserver


def zipf(rows=300, rarest=0.011):
    """Chances of a gradient from 1 down to the rarest, as those of words are."""
    return torch.arange(1, rows + 1, dtype=torch.float64) ** (np.log(rarest) / np.log(rows))


class PlantedTable(nn.Module):
    """Rows x whose gradients are of length s/|x|, s² of mean ``sizes`` and with E[s⁴]/E[s²]² = 1 or 2.

    ``touched`` holds the rows of each step so far.
    """

    def __init__(self, probability, dim, seed, kurtosis=1, start=1.0):
        super().__init__()
        self.probability, self.dim, self.kurtosis = probability, dim, kurtosis
        self.touched = []
        self.sizes = torch.ones(len(probability))
        self.generator = torch.Generator().manual_seed(seed)
        self.table = nn.Embedding(len(probability), dim)
        rows = torch.randn(len(probability), dim, generator=self.generator)
        self.table.weight.data.copy_(nn.functional.normalize(rows) * start)

    def forward(self):
        """A loss whose gradient is the planted one, through the embedding layer."""
        chance = torch.rand(len(self.probability), generator=self.generator, dtype=torch.float64)
        rows = (chance < self.probability).nonzero().squeeze(1)
        self.touched.append(rows)
        x = self.table(rows)
        with torch.no_grad():
            squared = x.square().sum(1, keepdim=True)
            size = self.sizes[rows].unsqueeze(1)
            if self.kurtosis == 2:
                size = size * torch.empty_like(size).exponential_(generator=self.generator)
            direction = torch.randn(len(x), self.dim, generator=self.generator)
            direction -= x * (x * direction).sum(1, keepdim=True) / squared
            direction *= (size / squared).sqrt() / direction.norm(dim=1, keepdim=True)
        return (x * direction).sum()


def observe_planted(model, optimizer, steps, scheduler=None, **options):
    """The last logged value of each quantity of the table, after so many steps of a plain loop."""
    logged = {}
    watch = NormObserver(
        model,
        optimizer,
        total_steps=steps,
        scheduler=scheduler,
        log=lambda metrics, _step: logged.update(metrics),
        **options,
    )
    with watch:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            model().backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
    return {key.rsplit("/", 1)[1]: value for key, value in logged.items()}
