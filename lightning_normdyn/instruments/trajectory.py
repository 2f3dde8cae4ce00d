"""The trajectory of a table's norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.capture.table import TableStep
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.instruments.base import CadencedInstrument, Need, Readings
from lightning_normdyn.instruments.met_rows import MetRows

_QUANTILES = {"norm_p05": 0.05, "norm_p50": 0.50, "norm_p95": 0.95}
_MOST_SORTED = 2**20


class NormTrajectory(CadencedInstrument):
    """Summarises the norms of the tracked rows that were met, and keeps snapshots of all rows for the history.

    Args:
        every_n_steps: cadence, in optimizer steps.
        met_rows: knows which rows were met; observes before this does.
    """

    def __init__(self, every_n_steps: int, met_rows: MetRows) -> None:
        super().__init__(every_n_steps)
        self._met_rows = met_rows
        self._snapshots = Snapshots(self.every_n_steps)

    def need(self, step: int) -> Need:
        """Norms, on the cadence."""
        return Need.NORMS if self.is_due(step) else Need.NOTHING

    def observe(self, step: int, table_step: TableStep) -> None:
        """Summarises the norms after the step."""
        norms = table_step.norms
        if not self._met_rows.covers_all:
            norms = norms.where(self._met_rows.met, torch.nan)
        weights = table_step.target.sample.weights
        summary = summarise_norms(norms) if weights is None else summarise_sample(norms, weights.to(norms.device))
        self._readings = summary | {"norm_min": _smallest(norms)}
        if self._snapshots.take(step):
            self._columns = {"norm": table_step.norms}

    def state_dict(self) -> dict[str, Any]:
        """When the last snapshot was taken."""
        return {"last_snapshot": self._snapshots.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self._snapshots.last = state["last_snapshot"]


def _smallest(norms: Tensor) -> Tensor:
    """Infinity, which is not logged, where there is none."""
    return norms.nan_to_num(torch.inf, torch.inf).amin()


def summarise_norms(norms: Tensor) -> Readings:
    """Mean, coefficient of variation and quantiles of norms ``[n]``; NaN norms are left out, not spread.

    Nothing where there are no norms: an expert without tokens, or an empty batch.

    Of more than 2^20 norms every second, third, ... enters, and the ranks of a sharded table exchange samples of them.
    Means and quantiles survive both; a sum, a count, a minimum or a maximum would not, and has no place here.

    Example:
        >>> {name: round(float(value), 3) for name, value in summarise_norms(torch.tensor([1.0, 3.0])).items()}
        {'norm_mean': 2.0, 'norm_cv': 0.5, 'norm_p05': 1.1, 'norm_p50': 2.0, 'norm_p95': 2.9}
    """
    if not norms.numel():
        return {}
    norms = norms.float()
    if norms.numel() >= _MOST_SORTED:
        norms = norms[:: 1 + norms.numel() // _MOST_SORTED]
    count = (norms == norms).sum()  # NaN is not
    mean = norms.nansum() / count
    spread = (norms - mean).square_().nanmean().sqrt()
    return {"norm_mean": mean, "norm_cv": spread / mean, **_quantiles(norms, count)}


def _quantiles(norms: Tensor, count: Tensor) -> Readings:
    """Quantiles as of :func:`torch.nanquantile`, which counts again.

    Args:
        norms: ``[n]``, float32.
        count: how many of them are not NaN.
    """
    levels = most_precise(torch.tensor(list(_QUANTILES.values()), dtype=norms.dtype, device=norms.device))
    ordered, _ = norms.sort()  # NaN last
    ranks = (levels * (count - 1)).clamp_(min=0)
    below = ranks.long()
    weights = (ranks - below).to(norms.dtype)
    quantiles = ordered.index_select(0, below).lerp_(ordered.index_select(0, ranks.ceil_().long()), weights)
    return dict(zip(_QUANTILES, quantiles.unbind(), strict=True))


def summarise_sample(norms: Tensor, weights: Tensor) -> Readings:
    """The same of a table, from norms ``[n]`` of rows that each stand for several of it; NaN norms are left out.

    A quantile is the smallest norm that at least this share of the rows does not exceed.

    Args:
        norms: of the sampled rows, ``[n]``.
        weights: how many rows each stands for, ``[n]``.

    Example:
        >>> summary = summarise_sample(torch.tensor([1.0, 3.0]), torch.tensor([3.0, 1.0]))
        >>> {name: round(float(value), 3) for name, value in summary.items()}
        {'norm_mean': 1.5, 'norm_cv': 0.577, 'norm_p05': 1.0, 'norm_p50': 1.0, 'norm_p95': 3.0}
    """
    norms, order = most_precise(norms).sort()  # NaN last
    weights = weights.to(norms)[order].where(~norms.isnan(), 0)
    counted, total = norms.nan_to_num(0), weights.sum()
    mean = (weights * counted).sum() / total
    spread = ((weights * (counted - mean).square()).sum() / total).sqrt()
    levels = torch.tensor(list(_QUANTILES.values()), dtype=norms.dtype, device=norms.device)
    places = torch.searchsorted(weights.cumsum(0), levels * total).clamp(max=len(norms) - 1)
    return {
        "norm_mean": mean,
        "norm_cv": spread / mean,
        **dict(zip(_QUANTILES, norms[places], strict=True)),
    }


_PER_DOUBLING = 256


class Snapshots:
    """Thins out as a run goes on.

    Two are never nearer than 1/256 of the run so far, so their number grows with the logarithm of its length.

    Args:
        every_n_steps: cadence at which one may be taken.

    Example:
        >>> snapshots = Snapshots(10)
        >>> [step for step in (1, 10, 20, 25, 30) if snapshots.take(step)]
        [1, 10, 20, 30]
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self.last = 0

    def take(self, step: int) -> bool:
        """Whether to take one after this step; notes it if so."""
        if step != 1 and step - self.last < max(self.every_n_steps, step // _PER_DOUBLING):
            return False
        self.last = step - step % self.every_n_steps  # the first step is an extra
        return True
