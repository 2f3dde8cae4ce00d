"""Every number and flag that a public function or class takes: what makes no sense is refused in one sentence."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, is_typeddict

import pytest
import torch

from lightning_normdyn import equilibrium_rule
from lightning_normdyn.callbacks import (
    EquilibriumFitMonitor,
    GradientSplitMonitor,
    HardNegativeMining,
    NormDynamics,
    NormTrajectoryMonitor,
    StepTime,
)
from lightning_normdyn.datasets import Judgements
from lightning_normdyn.instruments import NormObserver
from lightning_normdyn.levers import (
    CorrectedDecay,
    NormVariance,
    cut_init,
    equilibrium_init,
    repair_rows,
    scale_gradient,
    weight_decay_for,
)
from lightning_normdyn.losses import (
    AdaFace,
    ArcFace,
    ContrastiveMixin,
    CoSENT,
    CosFace,
    CosineMixin,
    DistillKLDiv,
    DNormMixin,
    DotMixin,
    FullSoftmax,
    GradedContrastive,
    InfoNCE,
    LearnableNormMixin,
    MagFace,
    MarginMSE,
    MaxSim,
    NormalizedSimilarity,
    NormFace,
    QNormMixin,
    SigmoidContrastive,
    SupCon,
    cached_loss,
    verify_loss,
)
from lightning_normdyn.metrics import (
    FisherConditionNumber,
    NormCorrelations,
    RankingHitRate,
    RankingMAP,
    RankingMRR,
    RankingNDCG,
    RankingRecall,
    norm_diagnostics,
)
from lightning_normdyn.retrieval import (
    AlphaSweep,
    CrossDomainLocalScaling,
    MiningSource,
    NegativeTable,
    NormAwareScore,
    QueryBankNormalization,
    abstention_table,
    calibrate,
    cluster_by_norm,
    compare_clusterings,
    compare_models,
    compare_temperatures,
    confidence_table,
    conformal_threshold,
    confound_report,
    detection_table,
    exact_top_k,
    explain_gain,
    export_vectors,
    filter_table,
    hubness,
    k_occurrences,
    likelihood_exponent,
    mine_hard_negatives,
    norm_aware_top_k,
    norm_weights,
    popularity_share,
    quantile_bands,
    recall_auroc,
    specificity_table,
    sweep_alpha,
    uncertainty_agreement,
)
from lightning_normdyn.retrieval.audit import audit_norms, direction_health

WINGS = ("callbacks", "instruments", "levers", "losses", "metrics", "retrieval", "retrieval.audit")
QUERIES = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
DOCUMENTS = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
LENGTH = torch.arange(8.0)
CLASSES = torch.arange(8) % 4
JUDGEMENTS = Judgements.of([(query, query, 1.0) for query in range(8)])
CONFIDENCES = {"max_similarity": LENGTH}
RULE = equilibrium_rule(torch.optim.AdamW([torch.ones(3, 4)], lr=1e-3, weight_decay=0.1))


def sweep_of(documents: torch.Tensor = DOCUMENTS) -> AlphaSweep:
    alphas = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    return AlphaSweep(alphas, torch.rand(3, 8, generator=torch.Generator().manual_seed(2)).double(), "ndcg@10")


def observer(**options: Any) -> NormObserver:
    table = torch.nn.Embedding(4, 2)
    return NormObserver(table, torch.optim.SGD(table.parameters(), lr=0.1), **options)


def cached(**options: Any) -> torch.Tensor:
    encoder = torch.nn.Linear(4, 4)
    sides = {"encode_query": encoder, "encode_document": encoder, "module": encoder}
    return cached_loss(InfoNCE(), QUERIES, DOCUMENTS, **{"chunk_size": 4, **sides, **options})


def on_module(mixin: type, **options: Any) -> object:
    return type("Module", (mixin, torch.nn.Module), {})(**({"loss": "distill_kl"} | options))


MIXINS = (ContrastiveMixin, CosineMixin, DotMixin, QNormMixin, DNormMixin, LearnableNormMixin)
HEADS = (AdaFace, ArcFace, CosFace, MagFace, NormFace)
CALLS: dict[str, Callable[..., object]] = {
    "callbacks.EquilibriumFitMonitor": EquilibriumFitMonitor,
    "callbacks.GradientSplitMonitor": GradientSplitMonitor,
    "callbacks.HardNegativeMining": HardNegativeMining,
    "callbacks.StepTime": StepTime,
    "callbacks.NormDynamics": NormDynamics,
    "callbacks.NormTrajectoryMonitor": NormTrajectoryMonitor,
    "instruments.NormObserver": observer,
    "levers.CorrectedDecay": lambda **options: CorrectedDecay(torch.optim.AdamW([torch.ones(3, 4)]), **options),
    "levers.NormVariance": NormVariance,
    "levers.cut_init": lambda **options: cut_init(torch.nn.Linear(2, 2), **options),
    "levers.equilibrium_init": lambda **options: equilibrium_init(torch.ones(3, 4), RULE, **options),
    "levers.repair_rows": lambda **options: repair_rows(torch.eye(8, 4), torch.tensor([0]), **options),
    "levers.scale_gradient": lambda **options: scale_gradient(QUERIES, **options),
    "levers.weight_decay_for": lambda **options: weight_decay_for(
        RULE, **({"dim": 4} | ({} if "target_angular_rate" in options else {"target_norm": 1.0}) | options)
    ),
    **{f"losses.{mixin.__name__}": partial(on_module, mixin) for mixin in MIXINS},
    **{f"losses.{head.__name__}": partial(head, num_classes=4, dim=2) for head in HEADS},
    "losses.CoSENT": CoSENT,
    "losses.DistillKLDiv": DistillKLDiv,
    "losses.FullSoftmax": FullSoftmax,
    "losses.GradedContrastive": GradedContrastive,
    "losses.InfoNCE": InfoNCE,
    "losses.MarginMSE": MarginMSE,
    "losses.MaxSim": MaxSim,
    "losses.NormalizedSimilarity": NormalizedSimilarity,
    "losses.SigmoidContrastive": SigmoidContrastive,
    "losses.SupCon": SupCon,
    "losses.cached_loss": cached,
    "losses.verify_loss": lambda **options: verify_loss(
        InfoNCE(), **({"ranks": 1, "precisions": ["float32"], "accumulate": 1} | options)
    ),
    "metrics.FisherConditionNumber": FisherConditionNumber,
    "metrics.NormCorrelations": NormCorrelations,
    "metrics.RankingHitRate": RankingHitRate,
    "metrics.RankingMAP": RankingMAP,
    "metrics.RankingMRR": RankingMRR,
    "metrics.RankingNDCG": RankingNDCG,
    "metrics.RankingRecall": RankingRecall,
    "metrics.norm_diagnostics": norm_diagnostics,
    "retrieval.CrossDomainLocalScaling": lambda **options: CrossDomainLocalScaling(DOCUMENTS, QUERIES, **options),
    "retrieval.MiningSource": lambda **options: MiningSource(list(QUERIES), list(DOCUMENTS), JUDGEMENTS, **options),
    "retrieval.NegativeTable": lambda **options: NegativeTable(**({"queries": 8, "num_negatives": 2} | options)),
    "retrieval.NormAwareScore": lambda **options: NormAwareScore("learnable", **({"gamma_document": 0.5} | options)),
    "retrieval.QueryBankNormalization": lambda **options: QueryBankNormalization(DOCUMENTS, QUERIES, **options),
    "retrieval.calibrate": lambda **options: calibrate(sweep_of(), **({"resamples": 20} | options)),
    "retrieval.cluster_by_norm": lambda **options: cluster_by_norm(QUERIES, **({"clusters": 2} | options)),
    "retrieval.compare_clusterings": lambda **options: compare_clusterings(
        QUERIES, CLASSES, **({"exponents": [1.0], "seeds": 2, "restarts": 1} | options)
    ),
    "retrieval.norm_weights": lambda **options: norm_weights(QUERIES, **options),
    "retrieval.compare_models": lambda **options: compare_models(
        sweep_of(), sweep_of(), **({"resamples": 20} | options)
    ),
    "retrieval.compare_temperatures": lambda **options: compare_temperatures(
        DOCUMENTS, CLASSES, LENGTH, **({"resamples": 20} | options)
    ),
    "retrieval.abstention_table": lambda **options: abstention_table(
        CONFIDENCES, LENGTH / LENGTH.amax(), **({"risk": 0.1} | options)
    ),
    "retrieval.conformal_threshold": lambda **options: conformal_threshold(LENGTH, **options),
    "retrieval.recall_auroc": lambda **options: recall_auroc(CONFIDENCES, DOCUMENTS, CLASSES, **options),
    "retrieval.confidence_table": lambda **options: confidence_table(
        CONFIDENCES, LENGTH, **({"resamples": 20} | options)
    ),
    "retrieval.confound_report": lambda **options: confound_report(
        sweep_of, DOCUMENTS, LENGTH, **({"resamples": 20} | options)
    ),
    "retrieval.detection_table": lambda **options: detection_table(CONFIDENCES, CONFIDENCES, **options),
    "retrieval.exact_top_k": lambda **options: exact_top_k(QUERIES, DOCUMENTS, **({"k": 2} | options)),
    "retrieval.explain_gain": lambda **options: explain_gain(
        sweep_of(), sweep_of(), sweep_of(), **({"resamples": 20} | options)
    ),
    "retrieval.export_vectors": lambda **options: export_vectors(
        DOCUMENTS, normalization="learnable", **({"gamma_document": 0.5} | options)
    ),
    "retrieval.filter_table": lambda **options: filter_table(
        QUERIES, DOCUMENTS, JUDGEMENTS, **({"resamples": 20} | options)
    ),
    "retrieval.hubness": lambda **options: hubness(DOCUMENTS, **options),
    "retrieval.k_occurrences": lambda **options: k_occurrences(CLASSES.unsqueeze(1), **({"documents": 8} | options)),
    "retrieval.likelihood_exponent": lambda **options: likelihood_exponent(
        DOCUMENTS, torch.ones(4), torch.eye(4).repeat(2, 1), **options
    ),
    "retrieval.mine_hard_negatives": lambda **options: mine_hard_negatives(
        QUERIES, DOCUMENTS, JUDGEMENTS, **({"normalization": "learnable", "gamma_document": 0.5} | options)
    ),
    "retrieval.norm_aware_top_k": lambda **options: norm_aware_top_k(
        QUERIES, DOCUMENTS, normalization="learnable", **({"k": 2, "gamma_document": 0.5} | options)
    ),
    "retrieval.popularity_share": lambda **options: popularity_share(
        CLASSES.unsqueeze(1), **({"documents": 8} | options)
    ),
    "retrieval.quantile_bands": lambda **options: quantile_bands(LENGTH, **options),
    "retrieval.specificity_table": lambda **options: specificity_table(
        LENGTH + 1, {"depth": LENGTH}, LENGTH, **({"resamples": 20} | options)
    ),
    "retrieval.sweep_alpha": lambda **options: sweep_alpha(
        QUERIES, DOCUMENTS, JUDGEMENTS, normalization="learnable", **({"gamma_document": 0.5} | options)
    ),
    "retrieval.uncertainty_agreement": lambda **options: uncertainty_agreement(
        CONFIDENCES, DOCUMENTS.abs(), **({"resamples": 20} | options)
    ),
    "retrieval.audit.direction_health": lambda **options: direction_health(DOCUMENTS, **options),
    "retrieval.audit.audit_norms": lambda **options: audit_norms(lambda: [DOCUMENTS], **({"rows": 8} | options)),
}
NOT_THE_USERS = {
    "instruments.EquilibriumFit",  # made by an observation, of options that it has checked
    "instruments.GradientSplit",
    "instruments.NormTrajectory",
    "instruments.OutputWatch",
    "instruments.TableWatch",
    "losses.SummedLoss",  # of losses that have checked theirs; it takes none of its bases' options
    "retrieval.Hubness",  # records of what was measured
    "retrieval.Popularity",
    "retrieval.audit.Audit",
    "retrieval.audit.DirectionHealth",
    "retrieval.audit.LastLayer",
    "retrieval.audit.Saturation",
}
COUNTS_FROM_ZERO = {"queue_size", "extremes", "rows", "seed", "range_min", "start_step", "warmup_steps"}
MAY_BE_NEGATIVE = {
    "alpha",
    "alpha_query",
    "exponent",
    "gamma_query",
    "gamma_document",
    "power",
    "bias",
    "max_score",
    "min_score",
}
MAY_BE_ZERO = {
    "lower_margin",
    "norm_weight",
    *MAY_BE_NEGATIVE,
    "weight",
    "momentum",
    "second_moment",
    "update_probability",
    "label_smoothing",
    "margin",
    "absolute_margin",
    "relative_margin",
    "guide_margin",
    "guide_relative_margin",
    "negative_margin",
    "prior",
}
MAY_HAVE_NO_RESAMPLES = {  # whose intervals are then NaN, as they say
    "metrics.NormCorrelations",
    "retrieval.compare_temperatures",
    "retrieval.confidence_table",
    "retrieval.filter_table",
    "retrieval.specificity_table",
    "retrieval.uncertainty_agreement",
}


def public_callables() -> Iterator[tuple[str, object]]:
    for wing in WINGS:
        module = importlib.import_module(f"lightning_normdyn.{wing}")
        for name in module.__all__:
            item = getattr(module, name)
            if callable(item) and item.__module__.startswith("lightning_normdyn") and not is_typeddict(item):
                yield f"{wing}.{name}", item


def arguments_of(function: Any) -> dict[str, str]:
    """Argument to ``count``, ``number``, ``extent`` or ``flag``, for those that are one."""
    kinds = {}
    classes = [
        cls for cls in getattr(function, "__mro__", [function]) if cls.__module__.startswith("lightning_normdyn")
    ]
    for constructor in classes:
        for parameter in inspect.signature(constructor).parameters.values():
            annotation = inspect.formatannotation(parameter.annotation).strip("'")
            words = set(re.split(r" \| ", annotation)) - {"None", "Tensor"}
            kind = {
                frozenset({"int"}): "count",
                frozenset({"float"}): "number",
                frozenset({"int", "float"}): "extent",
                frozenset({"bool"}): "flag",
            }.get(frozenset(words))
            if kind is not None:
                kinds[parameter.name] = kind
    return kinds


def wrong_values(name: str, argument: str, kind: str) -> Iterator[object]:
    if kind == "flag":
        yield from ("no", 1, None)
        return
    yield from (True, "3", math.nan, math.inf)
    if kind in ("count", "extent"):
        yield from (2.5, -1)
        if argument not in COUNTS_FROM_ZERO and not (argument == "resamples" and name in MAY_HAVE_NO_RESAMPLES):
            yield 0
        return
    if argument not in MAY_BE_NEGATIVE and argument not in ("second_moment", "update_probability"):
        yield -1.0
    if argument not in MAY_BE_ZERO:
        yield 0.0


CASES = [
    pytest.param(name, argument, value, id=f"{name}({argument}={value!r})")
    for name, function in public_callables()
    if name in CALLS
    for argument, kind in arguments_of(function).items()
    for value in wrong_values(name, argument, kind)
]


def test_every_public_callable_with_a_number_is_tried() -> None:
    with_numbers = {name for name, function in public_callables() if arguments_of(function)}
    assert with_numbers - NOT_THE_USERS == set(CALLS)
    assert len(CASES) > 500


@pytest.mark.parametrize("name", CALLS)
def test_the_call_works_with_nothing_wrong(name: str) -> None:
    CALLS[name]()


@pytest.mark.parametrize(("name", "argument", "value"), CASES)
def test_a_wrong_value_is_refused_in_one_sentence_that_names_it(name: str, argument: str, value: object) -> None:
    with pytest.raises((ValueError, TypeError)) as refusal:
        CALLS[name](**{argument: value})
    message = str(refusal.value)
    assert re.match(rf"{argument}\b.*: expected .*, got ", message), message
    assert "\n" not in message
    assert ". " not in message.replace("...", "")
