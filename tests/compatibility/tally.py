"""The outside tally: norms and gradients of one tensor in a training that nobody observes, in float64."""

from __future__ import annotations

import numpy as np
import torch


class Tally:
    """Sums up a training step by step, by hooks of its own and nothing of the package's.

    Args:
        rows: maps what the tapped module returned to a tensor ``[..., d]``, and a mask ``[...]`` or ``None``.
    """

    def __init__(self, rows=lambda output: (output, None)):
        self._rows = rows
        self._vectors, self._gradients = [], []
        self.steps = []

    def attach(self, module):
        module.register_forward_hook(self._hear)

    def _hear(self, module, args, output):
        if not torch.is_grad_enabled():
            return
        tensor, mask = self._rows(output)

        def matrix(values):
            values = values.detach().double().reshape(-1, tensor.shape[1] if tensor.ndim == 4 else tensor.shape[-1])
            return values.numpy().copy()

        number = len(self._vectors)
        chosen = np.ones(len(matrix(tensor)), bool) if mask is None else mask.bool().flatten().numpy().copy()
        self._vectors.append((matrix(tensor), chosen))
        self._gradients.append(np.zeros_like(self._vectors[-1][0]))

        def note(gradient):
            self._gradients[number] += matrix(gradient)

        tensor.register_hook(note)

    def end_step(self):
        """The optimizer has moved the weights."""
        vectors = np.concatenate([values for values, _ in self._vectors])
        chosen = np.concatenate([mask for _, mask in self._vectors])
        gradients = np.concatenate(self._gradients)
        norms = np.linalg.norm(vectors, axis=1)
        radial = (vectors * gradients).sum(1) / norms
        length = np.sqrt((gradients**2).sum())
        self.steps.append(
            {
                "norm_mean": norms[chosen].mean(),
                "norm_p50": np.quantile(norms[chosen], 0.5),
                "norm_cv": norms[chosen].std() / norms[chosen].mean(),
                "gradient_norm": length,
                "radial_fraction": np.sqrt((radial**2).sum()) / length,
            }
        )
        self._vectors, self._gradients = [], []


class TableTally:
    """The same of a table: norms of the rows that were met, and its gradient."""

    def __init__(self, name):
        self._name = name
        self._gradient, self._met = 0, False
        self.steps = []

    def attach(self, module):
        self._parameter = dict(module.named_parameters())[self._name]
        self._parameter.register_hook(self._note)

    def _note(self, gradient):
        self._gradient = self._gradient + gradient.detach().to_dense().double().numpy()

    def end_step(self):
        """The optimizer has moved the weights."""
        self._met = self._met | (self._gradient != 0).any(1)
        norms = np.linalg.norm(self._parameter.detach().double().numpy(), axis=1)[self._met]
        self.steps.append(
            {
                "norm_mean": norms.mean(),
                "norm_p50": np.quantile(norms, 0.5),
                "norm_cv": norms.std() / norms.mean(),
                "gradient_norm": np.sqrt((self._gradient**2).sum()),
            }
        )
        self._gradient = 0


class ByHandTally:
    """The same of one table of a training that is made again by hand, in float64, beside the one that is observed."""

    def __init__(self, table):
        self._table = table
        self.steps = []

    def attach(self, training):
        self._training = training

    def step(self, ids):
        """Makes the step that was made."""
        self._training.step(ids)
        names = ("norm_mean", "norm_p50", "norm_cv", "gradient_norm", "radial_fraction")
        step = self._training.steps[-1][self._table]
        self.steps.append({name: float(step[name]) for name in names})
