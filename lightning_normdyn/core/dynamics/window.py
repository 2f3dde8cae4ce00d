"""Running sums over a window of a table's training, and the observed and predicted norms at its end."""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.balance import Flow
from lightning_normdyn.core.dynamics.budget import UpdateSums
from lightning_normdyn.core.dynamics.equilibrium import equilibrium_norm
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.core.dynamics.law import ObservedMean
from lightning_normdyn.core.dynamics.law_inputs import OptimizerMemory
from lightning_normdyn.core.dynamics.moments import RowMoments
from lightning_normdyn.core.dynamics.norm_errors import NormErrors
from lightning_normdyn.core.dynamics.norm_resets import NormResets
from lightning_normdyn.core.dynamics.rates import EffectiveTrace
from lightning_normdyn.core.dynamics.rule import EquilibriumRule


class _Span(TypedDict):
    steps: float
    readings: Tensor


class WindowFit(NamedTuple):
    """What a window says about every tracked row. Tensors are ``[rows]``, float64; norms, never their squares.

    Attributes:
        norm: observed at the end of the window.
        mean_norm: observed on average over it, by the mean that the law predicts.
        rms_norm: the same as root mean square, which is what the balance equation is about.
        second_moment: ``V²`` from the gradients.
        second_moment_stderr: its standard error.
        update_probability: share of steps in which the row got a gradient.
        kurtosis: ``E[s⁴]/E[s²]²`` over those.
        equilibrium_norm: the closed form, from gradients and hyper-parameters alone; compare with ``mean_norm``.
        transient_norm: the recursion from the norm at the window's start through the window's own learning rates;
            compare with ``norm``.
        balance_norm: the balance equation fed with the measured growth and drift: bookkeeping, not a prediction.
        stationarity: 1 - |net change of R²| / gross flow, over all rows: 1 has settled, 0 moves one way; no dimension.
        equilibrium_errors: what chance does to ``mean_norm`` and ``equilibrium_norm``; ``None`` where nobody knows.
        transient_errors: the same of ``norm`` and ``transient_norm``.
    """

    norm: Tensor
    mean_norm: Tensor
    rms_norm: Tensor
    second_moment: Tensor
    second_moment_stderr: Tensor
    update_probability: Tensor
    kurtosis: Tensor
    equilibrium_norm: Tensor
    transient_norm: Tensor
    balance_norm: Tensor
    stationarity: Tensor
    equilibrium_errors: NormErrors | None
    transient_errors: NormErrors | None


class FitWindow:
    """Running sums from which a window is judged when it closes: 65 bytes a row of a float32 table.

    Args:
        norms: norms at the start, ``[rows]``.
        observed_mean: how to average norms over time, :attr:`EquilibriumRule.observed_mean`.
        cadences: every how many steps each row is read, see :class:`RowMoments`.
        memory: what the optimizer has in store of the rows at the start.
    """

    def __init__(
        self,
        norms: Tensor,
        observed_mean: ObservedMean,
        cadences: Tensor | None = None,
        memory: OptimizerMemory | None = None,
    ) -> None:
        self.memory = memory or OptimizerMemory()
        self.observed_mean = observed_mean
        self.start, self._norm_dtype = most_precise(norms), norms.dtype
        self.moments = RowMoments(len(norms), norms.device, cadences=cadences)
        self.rates = EffectiveTrace()
        self.samples = 0
        self._squares = torch.zeros_like(self.start)
        self._logs = torch.zeros_like(self.start)
        self._growth = torch.zeros_like(self.start)
        self.resets = NormResets()

    def sample(self, sums: UpdateSums) -> None:
        """Takes the quiet terms, norm and growth, from one step of all rows.

        Args:
            sums: what the step did to them, ``[rows]`` each.
        """
        self.resets.sample(sums.before.sqrt().to(self._norm_dtype), sums.after.sqrt().to(self._norm_dtype))
        self.samples += 1
        self._squares += sums.after
        if self.observed_mean == "geometric":
            self._logs += sums.after.log() / 2
        self._growth += sums.growth

    def close(self, norms: Tensor, rule: EquilibriumRule, dim: int) -> WindowFit:
        """Judges the window.

        Args:
            norms: norms at its end, ``[rows]``.
            rule: the optimizer's law; its own learning rate and decay are replaced by the window's.
            dim: length of an embedding.

        Returns:
            Observed and predicted norms. Predictions are NaN where the optimizer has no known law.
        """
        end, moments = most_precise(norms), self.moments
        v2, p, kurtosis = moments.second_moment, moments.update_probability, moments.kurtosis
        has_law = rule.family is not None
        settled_rule = rule.averaged(self.rates)
        no_norms = torch.full_like(end, torch.nan)
        at_start = rule.steps_earlier(self.rates.steps)
        transient = (
            at_start.evolve(self.start, v2, dim, p, lrs=self.rates, kurtosis=kurtosis, **self.memory._asdict())
            if at_start.path_is_known(**self.memory._asdict())
            else no_norms
        )
        span: _Span = {"steps": self.rates.steps, "readings": moments.readings}
        balance, stationarity = self._balance(end, settled_rule)
        return WindowFit(
            norm=end,
            mean_norm=self._mean_norm(end),
            rms_norm=(self._squares / self.samples).sqrt() if self.samples else end,
            second_moment=v2,
            second_moment_stderr=moments.second_moment_stderr,
            update_probability=p,
            kurtosis=kurtosis,
            equilibrium_norm=settled_rule.predict(v2, dim, p, kurtosis=kurtosis) if has_law else no_norms,
            transient_norm=transient,
            balance_norm=balance if rule.decay_is_separable else no_norms,
            stationarity=stationarity,
            equilibrium_errors=settled_rule.errors(v2, dim, p, kurtosis, **span) if has_law else None,
            transient_errors=at_start.path_errors(self.start, transient, v2, dim, p, kurtosis, lrs=self.rates, **span)
            if has_law
            else None,
        )

    def _mean_norm(self, end: Tensor) -> Tensor:
        if not self.samples:
            return end
        if self.observed_mean == "geometric":
            return (self._logs / self.samples).exp()
        return (self._squares / self.samples).sqrt()

    def _balance(self, end: Tensor, rule: EquilibriumRule) -> tuple[Tensor, Tensor]:
        """The root of the balance equation with telescoped drift, and the stationarity."""
        lr, samples = self.rates.mean, max(self.samples, 1)
        squared, growth = self._squares / samples, self._growth / samples
        change = (end.square() - self.start.square()) / max(self.rates.steps, 1)
        flow = Flow(change, 2 * lr * rule.radial_decay * squared, growth, lr)
        v2 = growth * squared / (lr**2 or torch.nan)
        return equilibrium_norm(v2, rule.radial_decay, lr, flow.drift), flow.stationarity

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers, for a checkpoint."""
        return {
            "observed_mean": self.observed_mean,
            "start": self.start.clone(),
            "samples": self.samples,
            "sums": torch.stack((self._squares, self._logs, self._growth)),
            "moments": self.moments.state_dict(),
            "rates": self.rates.state_dict(),
            "resets": self.resets.state_dict(),
            "memory": list(self.memory),
        }

    def load_state_dict(self, state: dict[str, Any], rule: EquilibriumRule) -> None:
        """Takes back what :meth:`state_dict` gave; nominal rates of an earlier release are taken as under this rule."""
        self.observed_mean, self.samples = state["observed_mean"], state["samples"]
        self.start.copy_(state["start"])
        for total, state_total in zip((self._squares, self._logs, self._growth), state["sums"], strict=True):
            total.copy_(state_total)
        self.moments.load_state_dict(state["moments"])
        self.memory = OptimizerMemory.from_state(state.get("memory", ()), self.start.device)
        if "resets" in state:  # no earlier release looked for them
            self.resets.load_state_dict(state["resets"], self.start.device)
        self.rates.load_state_dict(state["rates"], lr_gain=rule.lr_gain, radial_decay=rule.radial_decay)
