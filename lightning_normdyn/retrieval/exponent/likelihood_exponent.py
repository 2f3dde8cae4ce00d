"""Maximum-likelihood estimate of the exponent of document norms from scores and judgements."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, as_tensors
from lightning_normdyn.core.statistics.interval import Interval, check_level

_STEPS = 100
_CONVERGED = 1e-10
_LEAST_INFORMATION = 1e-12
# Of the trapezoid rule over log t, whose integrand falls off doubly exponentially; first, last and number of nodes.
_LOG_TIMES = (-16.0, 4.5, 96)
# So that neither a chance nor its complement leaves float64.
_EXPONENTS = (-700.0, 6.0)
_NORMAL = torch.distributions.Normal(torch.tensor(0.0), torch.tensor(1.0))


class LikelihoodExponent(NamedTuple):
    """A conditional logit of relevance on the norm-aware score.

    Attributes:
        alpha: exponent of the document norm, with an interval that lets queries differ in any way.
        scale: inverse temperature of scores with norms over their geometric mean, with an interval.
        queries: that had relevant documents and others to choose from.
    """

    alpha: Interval
    scale: Interval
    queries: int


def likelihood_exponent(
    cosines: ArrayLike, norms: ArrayLike, relevance: ArrayLike, *, level: float = 0.95
) -> LikelihoodExponent:
    """Fits the chances ``exp(scale · cos(q, d) · (|d| / gm)^alpha)`` with which documents become relevant to a query.

    gm is the geometric mean of the norms. Relevant documents count as the first r that were drawn without replacement
    by these chances, in an order that nobody knows (Plackett-Luce; with r = 1 a softmax over documents):
    ``P = integral over t of exp(-t) · prod over relevant d of (1 - exp(-t·w_d / W))``, w being a document's chance and
    W the sum over irrelevant ones (an exponential race: all relevant ones arrive before the first irrelevant one).
    Newton's method in float64; the interval is normal with the sandwich covariance over queries (White 1982). Compared
    with the best exponent of a sweep it has no grid and no interpolation and a shorter interval, but trusts the form
    of the score: where the two disagree, believe the sweep, which measures what a user sees.

    Args:
        cosines: of queries with documents, or with the candidates of each, ``[n, m]``.
        norms: of the documents ``[m]``, or of the candidates ``[n, m]``; a zero counts as the geometric mean.
        relevance: positive for relevant documents, 0 for others, ``[n, m]``; queries without either are left out.
        level: of the intervals.

    Returns:
        The fit; ends are infinite where the judgements do not determine a coefficient, NaN without usable queries.

    Raises:
        ValueError: if shapes do not fit, or something is not finite or negative.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> cosines, norms = torch.rand(500, 20, generator=draw), torch.randn(20, generator=draw).exp()
        >>> chance = (8 * cosines * norms.sqrt()).softmax(1)
        >>> relevance = torch.zeros(500, 20).scatter_(1, chance.multinomial(1, generator=draw), 1.0)
        >>> fit = likelihood_exponent(cosines, norms, relevance)
        >>> fit.alpha.low < 0.5 < fit.alpha.high, round(fit.alpha.value, 1)
        (True, 0.5)
    """
    cosines, norms, relevance = as_tensors(cosines=cosines, norms=norms, relevance=relevance)
    _check(cosines, norms, relevance)
    check_level(level)
    x, lengths, relevant = cosines.detach().cpu().double(), norms.detach().cpu().double(), relevance.cpu() > 0
    usable = relevant.any(1) & ~relevant.all(1)
    if not usable.any():
        no_interval = Interval(math.nan, math.nan, math.nan)
        return LikelihoodExponent(no_interval, no_interval, 0)
    positive = lengths > 0
    log_norms = lengths.where(positive, 1).log()
    middle = log_norms[positive].mean() if positive.any() else 0.0
    log_norms = ((log_norms - middle) * positive).expand_as(x)[usable]
    likelihoods = _Likelihoods(x[usable], log_norms, relevant[usable])
    parameters = _fit(likelihoods, torch.tensor([1 / float(x.std().clamp(min=1e-6)), 0.0], dtype=torch.float64))
    reach = _standard_errors(likelihoods, parameters) * float(_NORMAL.icdf(torch.tensor((1 + level) / 2)))
    scale, alpha = (
        Interval(value, value - far, value + far)
        for value, far in zip(parameters.tolist(), reach.tolist(), strict=True)
    )
    return LikelihoodExponent(alpha, scale, int(usable.sum()))


class _Likelihoods:
    """Log likelihood of every query as a function of scale and exponent."""

    def __init__(self, x: Tensor, log_norms: Tensor, relevant: Tensor) -> None:
        with torch.inference_mode(False):  # what was made in inference mode can never be differentiated
            x, log_norms, relevant = x.clone(), log_norms.clone(), relevant.clone()
            self._prepare(x, log_norms, relevant)

    def _prepare(self, x: Tensor, log_norms: Tensor, relevant: Tensor) -> None:
        self._x, self._log_norms, self._relevant = x, log_norms, relevant
        number = relevant.sum(1, keepdim=True)
        self._places = relevant.double().argsort(1, descending=True)[:, : int(number.max())]
        self._missing = torch.arange(self._places.shape[1]) >= number
        self._log_times = torch.linspace(*_LOG_TIMES, dtype=torch.float64)

    def __call__(self, parameters: Tensor) -> Tensor:
        """Of parameters ``[2]``, or ``[n, 2]`` with a pair for every query, the likelihoods ``[n]``."""
        scale, alpha = parameters.unsqueeze(-1).unbind(-2)
        z = scale * self._x * (alpha * self._log_norms).exp()
        irrelevant = z.masked_fill(self._relevant, -torch.inf).logsumexp(1, keepdim=True)
        odds = (z.gather(1, self._places) - irrelevant).unsqueeze(2)
        log_arrivals = (-torch.expm1(-(odds + self._log_times).clamp(*_EXPONENTS).exp())).log()
        joint = log_arrivals.masked_fill(self._missing.unsqueeze(2), 0).sum(1)
        step = self._log_times[1] - self._log_times[0]
        return (joint + self._log_times - self._log_times.exp()).logsumexp(1) + step.log()

    def derivatives(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of each query ``[n, 2]``, and minus the Hessian of the sum ``[2, 2]``."""
        with torch.inference_mode(False), torch.enable_grad():  # a validation step allows neither
            query_parameters = parameters.expand(len(self._x), 2).clone().requires_grad_()
            (gradients,) = torch.autograd.grad(self(query_parameters).sum(), query_parameters, create_graph=True)
            rows = [
                torch.autograd.grad(column.sum(), query_parameters, retain_graph=True)[0].sum(0)
                for column in gradients.unbind(1)
            ]
        return gradients.detach(), -torch.stack(rows)


def _fit(likelihoods: _Likelihoods, parameters: Tensor) -> Tensor:
    """Scale and exponent at the maximum: Newton steps, damped until the likelihood rises."""
    damping, likelihood = 1e-3, float(likelihoods(parameters).sum())
    for _ in range(_STEPS):
        gradients, information = likelihoods.derivatives(parameters)
        values, vectors = torch.linalg.eigh(information)
        curvature = values.abs().clamp(min=1e-12) * (1 + damping)
        step = vectors @ ((vectors.T @ gradients.sum(0)) / curvature)
        new_likelihood = float(likelihoods(parameters + step).sum())
        if new_likelihood >= likelihood:
            parameters, likelihood, damping = parameters + step, new_likelihood, max(damping / 10, 1e-9)
        else:
            damping = max(damping, 1.0) * 10
        if float((step.abs() / (1 + parameters.abs())).max()) < _CONVERGED:
            break
    return parameters


def _standard_errors(likelihoods: _Likelihoods, parameters: Tensor) -> Tensor:
    gradients, information = likelihoods.derivatives(parameters)
    if float(torch.linalg.eigvalsh(information)[0]) <= _LEAST_INFORMATION * float(information.diagonal().abs().max()):
        return torch.full_like(parameters, torch.inf)
    inverse = torch.linalg.inv(information)
    errors: Tensor = (inverse @ (gradients.T @ gradients) @ inverse).diagonal().sqrt()
    return errors


def _check(cosines: Tensor, norms: Tensor, relevance: Tensor) -> None:
    if cosines.ndim != 2 or relevance.shape != cosines.shape or norms.shape not in (cosines.shape, cosines.shape[1:]):
        raise ValueError(
            f"cosines, norms, relevance: expected [n, m], [m] or [n, m], and [n, m], got {tuple(cosines.shape)},"
            f" {tuple(norms.shape)} and {tuple(relevance.shape)}"
        )
    for name, x in (("cosines", cosines), ("norms", norms), ("relevance", relevance)):
        if not x.isfinite().all():
            raise ValueError(
                f"{name}: expected finite numbers, got NaN or infinity; leave those queries or documents out"
            )
    if (norms < 0).any() or (relevance < 0).any():
        raise ValueError("norms, relevance: expected nothing negative; take embeddings.norm(dim=-1) and grades from 0")
