"""All diagnostics in one collection, ready to be logged at the end of a validation."""

from __future__ import annotations

from torchmetrics import MetricCollection

from lightning_normdyn.core.statistics.fisher import FisherForm
from lightning_normdyn.metrics.fisher import FisherConditionNumber
from lightning_normdyn.metrics.moments import CoefficientOfVariation, CohensD
from lightning_normdyn.metrics.norm_correlations import NormCorrelations


def norm_diagnostics(
    *covariates: str,
    form: FisherForm = "diagonal",
    temperature: float = 0.05,
    prefix: str = "normdyn/validation/",
) -> MetricCollection:
    """Effect size, variation, Fisher condition numbers and correlations, under the keys they are logged with.

    Call ``update`` with keywords, ``queries[n, d]``, ``documents[n, d]``, ``irrelevant[..., d]``, ``length[n]`` and
    one for each covariate; then ``self.log_dict(collection.compute())`` on every rank, whose values are
    those of all ranks already, and ``reset``. Where one of
    these does not exist, make a :class:`torchmetrics.MetricCollection` of the metrics that do without it.

    Args:
        covariates: names of what norms are correlated with, besides length.
        form: of the Fisher condition number.
        temperature: as in training.
        prefix: of every key.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> import torch
        >>> diagnostics = norm_diagnostics("frequency")
        >>> queries, documents, irrelevant = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0))
        >>> embeddings = {"queries": queries, "documents": documents, "irrelevant": irrelevant}
        >>> diagnostics.update(**embeddings, length=torch.arange(8), frequency=torch.arange(8) % 3)
        >>> [name for name in diagnostics.compute() if not name.endswith(("_low", "_high"))]
        ['normdyn/validation/cohens_d', 'normdyn/validation/fisher_cosine', 'normdyn/validation/fisher_dot',
         'normdyn/validation/fisher_qnorm', 'normdyn/validation/fisher_dnorm', 'normdyn/validation/fisher_qnorm_share',
         'normdyn/validation/correlation_frequency', 'normdyn/validation/partial_frequency',
         'normdyn/validation/correlation_length', 'normdyn/validation/partial_length',
         'normdyn/validation/query_norm_cv']
    """
    if not isinstance(prefix, str):
        raise ValueError(f"prefix: expected a text that keys begin with, got {prefix!r}; pass '' for none")
    return MetricCollection(
        {
            "cohens_d": CohensD(),
            "query_norm_cv": CoefficientOfVariation(),
            "fisher": FisherConditionNumber(form=form, temperature=temperature),
            "norm": NormCorrelations(*covariates),
        },
        prefix=prefix,
        compute_groups=False,  # torchmetrics finds groups by equal states, which equal covariates of one batch have too
    )
