"""Calls of formulas and statistics that make no sense: rules, moments, votes, rankings, tables of what norms carry."""

from collections.abc import Iterator
from functools import partial
from itertools import chain

import torch
from call_outcomes import INF, NAN, NOT_COUNT, NOT_POSITIVE, PAIRS, QN, RULE_OPTIMIZER, BadCall, D, Q, each
from torch import nn

from lightning_normdyn import core, retrieval

X, Y = torch.rand(20) + 0.1, torch.rand(20) + 0.1
RULE = core.equilibrium_rule(RULE_OPTIMIZER)
TABLE = RULE_OPTIMIZER.param_groups[0]["params"][0]
MOMENT = torch.ones(4)


def _rules() -> Iterator[BadCall]:
    kind = "core: rules"
    bad_noise = {
        "second_moment": [-1.0, NAN, "1", [1.0]],
        "dim": [0, -1, 1.5, "3"],
        "update_probability": [-0.1, 1.5, NAN, "1", torch.ones(3), None],
    }
    noise = {"second_moment": MOMENT, "dim": 3, "update_probability": 0.5}
    yield from each(kind, RULE.predict, noise, **bad_noise, kurtosis=[0.0, -1.0, "1", torch.ones(3)])
    window = {**noise, "kurtosis": 1.0, "steps": 100}
    bad_window = {
        **bad_noise,
        "kurtosis": [0.5, -1.0, "1", torch.ones(3)],
        "steps": [-1, NAN, "9", None],
        "readings": [-1, "9"],
    }
    yield from each(kind, RULE.errors, window, **bad_window)
    yield from each(kind, RULE.judges, window, **bad_window)
    yield from each(
        kind,
        RULE.evolve,
        {"norm": MOMENT, **noise, "lrs": [0.1]},
        norm=[None, "1", -MOMENT, torch.ones(3)],
        lrs=[None, 0.1, "0.1", [NAN], [-0.1]],
        **bad_noise,
        accumulated=["1", torch.ones(3)],
        averages=["1", torch.ones(3)],
    )
    path = {"start": MOMENT, "end": MOMENT, **window, "lrs": [0.1]}
    yield from each(
        kind,
        RULE.path_errors,
        path,
        start=[None, -MOMENT, torch.ones(3)],
        end=[None, -MOMENT, torch.ones(3)],
        lrs=[None, 0.1, [NAN]],
        **bad_window,
    )
    yield from each(kind, RULE.at, {"lr": 0.1}, lr=[-0.1, "0.1"], nominal_lr=[0.1])
    yield from each(kind, RULE.at, {"nominal_lr": 0.1}, nominal_lr=[-0.1, "0.1"])
    yield from each(kind, RULE.steps_earlier, {"steps": 1}, steps=[-1, 1.5, "3", None])
    yield from each(kind, RULE.decay_for_norm, {"norm": 1.0, **noise}, norm=NOT_POSITIVE, **bad_noise)
    yield from each(kind, RULE.decay_for_turn, {"angle": 0.1}, angle=NOT_POSITIVE)
    yield from each(kind, RULE.angular_rate, noise, **bad_noise | {"dim": [0, -1, 1.5, "3"]})
    yield from each(kind, RULE.growth_power, {"radial_decay": MOMENT}, radial_decay=[None, "1"])
    yield from each(kind, RULE.averaged, {"trace": core.EffectiveTrace.constant(0.1, 0.1, 3)}, trace=[None, [0.1]])
    yield from each(kind, core.RateTrace.of, {"lrs": [0.1]}, lrs=[None, 0.1, "0.1", [NAN], [-0.1], [None]])
    constant = {"lr": 0.1, "steps": 3}
    yield from each(kind, core.RateTrace.constant, constant, lr=[-0.1, NAN, "1", None], steps=[-1, 1.5, "3", None])
    yield from each(
        kind,
        core.EffectiveTrace.constant,
        {**constant, "radial_decay": 0.1},
        lr=[-0.1, "1", None],
        radial_decay=["1", None],
        steps=[-1, 1.5, "3", None],
    )


def _moments() -> Iterator[BadCall]:
    kind = "core: moments and norms"
    yield from each(kind, core.RowMoments, {"rows": 3}, device=["nope", 3.5], cadences=[torch.ones(2), "a", [1, 1, 1]])
    rows = {"embedding": Q, "gradient": Q}
    vectors = {"embedding": [None, Q[0], Q[:, :2], Q.long(), "a"], "gradient": [None, Q[:2], Q.long(), [1.0]]}
    yield from each(
        kind,
        core.RowMoments(4).add,
        {**rows, "slots": torch.arange(4)},
        **vectors,
        slots=[torch.arange(3), torch.rand(4), [0, 1, 2, 3]],
    )
    yield from each(kind, core.RowMoments(4).add, rows, embedding=[Q[:3]], gradient=[torch.ones(5, 3)])
    yield from each(kind, core.RowMoments(4).merge, {"other": core.RowMoments(4)}, other=[None, core.RowMoments(3)])
    yield from each(
        kind,
        core.equilibrium_norm_stderr,
        {"second_moment": 1.0, "radial_decay": 0.1, "lr": 0.1, "second_moment_stderr": 0.1},
        second_moment=[-1.0, "1", None],
        radial_decay=["1", None, True],
        lr=[-0.1, "1", None],
        drift=["0", None],
        second_moment_stderr=[-1.0, "1", None],
        drift_stderr=[-1.0, "1", None],
    )
    yield from each(
        kind,
        core.adagrad_norm,
        {"norm": MOMENT, "before": MOMENT, "after": 2 * MOMENT, "lr": 0.1, "dim": 3},
        norm=[None, "1", -MOMENT, torch.ones(3)],
        before=[None, -MOMENT, torch.ones(3)],
        after=[None, 0.5 * MOMENT, torch.ones(3)],
        lr=[-0.1, NAN, "1", None],
        dim=[0, -1, 1.5, "3", None],
    )
    adagrad = torch.optim.Adagrad([TABLE], lr=0.1)
    bad = {"optimizer": [None, "sgd", nn.Linear(1, 1)], "table": [None, "a"]}
    yield from each(kind, core.accumulated_squares, {"optimizer": adagrad, "table": TABLE}, **bad)
    yield from each(
        kind,
        core.optimizer_memory,
        {"optimizer": adagrad, "table": TABLE},
        **bad,
        stride=[0, -1, 1.5, "3"],
        products=[3, "sum"],
    )
    errors = core.NormErrors(*(torch.full((20,), 0.01) for _ in range(5)))
    yield from each(
        kind,
        core.weighted_fit_log_log,
        {"predicted": X, "observed": Y, "errors": errors},
        predicted=[None, X[:3], "a"],
        observed=[None, Y[:3], [1.0]],
        errors=[None, X, core.NormErrors(*(torch.ones(3) for _ in range(5)))],
        accuracy=[-0.1, "0", None],
        judged=[torch.ones(3).bool(), X, [True] * 20],
    )
    yield from each(kind, core.norm_budget, {"before": Q, "after": Q}, before=["a"], after=[None], decay_update=["a"])
    yield from each(
        kind,
        core.split_radial_tangential,
        {"gradient": Q, "embedding": Q},
        gradient=[Q.long(), "a"],
        embedding=[Q.long(), None],
    )


def _votes() -> Iterator[BadCall]:
    linear = nn.Linear(3, 2)
    frozen = nn.Linear(3, 2).requires_grad_(False)
    good = {"encoder": linear, "probes": Q, "batch": D, "loss": lambda x: x.square().sum()}
    yield from each(
        "core: votes",
        core.kernel_votes,
        good,
        encoder=[None, "a", frozen, lambda x: x, torch.ones(2)],
        probes=[None, Q[:, :2], "a"],
        batch=[None, D[:, :2], "a", 3],
        loss=[None, "mse", torch.ones(2, 2), lambda x: x, lambda _: 3.0, lambda x: x.detach().sum()],
        parameters=[[], ["a"], 3],
    )


def _statistics() -> Iterator[BadCall]:
    kind = "core: statistics"
    yield from each(
        kind,
        core.norm_correlations,
        {"norms": X, "length": Y},
        norms=[None, X[:3], X.view(4, 5)],
        length=[None, Y[:3], [1.0]],
        covariates=[{"age": Y[:3]}, {"length": Y}, {"age": None}, [Y], 3, {"age": [1.0] * 20}],
        kind=["kendall", 3],
        resamples=[-1, 1.5, "3"],
        level=[0, 1, 95, NAN, "0.9"],
        generator=[3],
    )
    ranked = core.grade_ranking(
        torch.tensor([[0, 1], [1, 0]]), (torch.tensor([0, 1]), torch.tensor([0, 1]), torch.ones(2)), 2
    )
    for measure in (core.ranking_mrr, core.ranking_map, core.ranking_hit_rate, core.ranking_ndcg, core.ranking_recall):
        yield from each(kind, measure, {"ranked": ranked, "top_k": 2}, ranked=[None, torch.ones(2, 2)], top_k=NOT_COUNT)
    yield from each(
        kind,
        core.fisher_condition_number,
        {"queries": Q, "documents": D[:4], "gamma_query": 1.0, "gamma_document": 1.0},
        queries=[QN],
        symmetric=["no", 1],
        documents=[torch.full((4, 3), INF)],
    )
    yield from each(
        kind,
        core.recommend_normalization,
        {"queries": Q, "documents": D[:4]},
        queries=[QN, None, Q[0]],
        documents=[D[0], D[:3], None],
        symmetric=["no", 1],
        generator=["a"],
    )
    yield from each(
        kind,
        core.correlate,
        {"x": X, "y": Y},
        generator=[0, "a"],
        controls=["a", torch.rand(20)],
        resamples=["3"],
        level=["0.9"],
        kind=[3, None],
    )
    yield from each(
        kind,
        core.decode_embeddings,
        {"codes": torch.zeros(3, 2, dtype=torch.int8), "precision": "int8", "ranges": torch.tensor([[0.0, 0], [1, 1]])},
        codes=[None, [[1]], Q, torch.zeros(3, dtype=torch.int8), torch.zeros(3, 2, dtype=torch.uint8)],
        precision=["int4", None, 8],
        ranges=[None, Q, "a", torch.full((2, 2), NAN), torch.tensor([[1.0, 1], [0, 0]])],
    )
    yield from each(kind, core.scale_gradient, {"embedding": Q}, embedding=["a", Q[0, 0]], power=[None, True])


def _retrieval() -> Iterator[BadCall]:
    kind = "retrieval: uses"
    documents, queries = torch.randn(12, 3), torch.randn(12, 3)
    yield from each(
        kind,
        retrieval.baseline_scores,
        {"documents": documents, "bank": queries},
        documents=[None, documents[0], documents.long()],
        bank=[queries[:0], queries[:, :2], "a"],
    )
    yield from each(
        kind,
        retrieval.retrieval_confidences,
        {"queries": queries, "documents": documents},
        queries=[None, queries[0], queries[:, :2], queries.long(), QN],
        documents=[None, documents[:1], documents[0], [1.0, 2.0]],
    )
    yield from each(
        kind,
        retrieval.classification_confidences,
        {"embeddings": queries, "similarities": torch.rand(12, 4)},
        embeddings=[None, queries[:3], queries[0], queries.long()],
        similarities=[None, torch.rand(12), torch.rand(12, 1), torch.rand(3, 4), "a"],
    )
    shares = torch.full((12, 2), 0.5)
    shares[:, 0] = torch.linspace(0.1, 0.9, 12)
    shares[:, 1] = 1 - shares[:, 0]
    yield from each(
        kind,
        retrieval.uncertainty_agreement,
        {"confidences": {"norm": torch.rand(12)}, "soft_labels": shares},
        confidences=[{}, None, {"norm": torch.rand(3)}, {"norm": None}, torch.rand(12)],
        soft_labels=[torch.rand(12), -shares, None, shares[:3]],
        resamples=[-1, 1.5, "3"],
        level=[0, 95, NAN],
        generator=[3],
    )
    labels = torch.arange(12) % 3
    yield from each(
        kind,
        retrieval.recall_auroc,
        {"confidences": {"norm": torch.rand(12)}, "embeddings": documents, "labels": labels},
        confidences=[{}, None, {"norm": torch.rand(3)}, {"norm": torch.full((12,), NAN)}],
        embeddings=[None, documents[0], documents[:1], documents.long()],
        labels=[None, labels[:3], labels.float(), "a"],
        level=[0, 95, NAN],
    )
    yield from each(
        kind,
        retrieval.conformal_threshold,
        {"confidence": torch.rand(12)},
        confidence=[None, torch.rand(3, 4), torch.rand(0), torch.full((12,), NAN)],
        coverage=[0, 1, 90, NAN, "0.9"],
    )
    yield from each(
        kind,
        retrieval.abstention_table,
        {"confidences": {"norm": torch.rand(12)}, "loss": torch.rand(12), "risk": 0.1},
        confidences=[{}, None, {"norm": torch.rand(3)}, {"norm": torch.full((12,), NAN)}],
        loss=[None, torch.rand(3), torch.rand(12) + 1, -torch.rand(12), torch.full((12,), NAN), torch.tensor(1.0)],
        risk=[0, 1, 10, NAN, None],
        level=[0, 95, NAN],
    )
    kind = "retrieval: exponent"
    yield from each(
        kind, retrieval.length_norms, {"length": torch.rand(9)}, length=[None, "a", -torch.rand(9), torch.rand(3, 3)]
    )
    sweep_of = partial(retrieval.sweep_alpha, queries, judgements=PAIRS)
    yield from each(
        kind,
        retrieval.confound_report,
        {"sweep_of": sweep_of, "documents": documents, "length": torch.rand(12) + 1, "folds": 2, "resamples": 20},
        sweep_of=[None, 3, lambda _: 3],
        documents=[None, documents[0], documents.long()],
        length=[None, torch.rand(3), torch.full((12,), NAN), -torch.rand(12)],
        covariates=[{"age": torch.rand(3)}, {"age": None}, 3],
        controls=["age", ["age"], 3],
        folds=[0, 1, 1.5, 99],
        resamples=[-1, 0, 1.5],
        level=[0, 95, NAN],
        generator=[3],
    )
    swept = retrieval.sweep_alpha(queries, documents, PAIRS)
    yield from each(
        kind,
        retrieval.explain_gain,
        {"norm": swept, "residual": swept, "length": swept, "folds": 2, "resamples": 20},
        norm=[None, 3],
        residual=[None, swept._replace(values=swept.values[:, :2])],
        length=[None, swept._replace(measure="mrr@10")],
        predicted=[3, swept._replace(measure="mrr@10")],
        correlations=[3],
        controls=["length", 3],
        folds=[0, 1, 1.5, 99],
        resamples=[-1, 0, 1.5],
        level=[0, 95, NAN],
        generator=[3],
    )
    yield from each(
        kind,
        retrieval.calibrate,
        {"sweep": swept, "folds": 2, "resamples": 20},
        strata=[{"a": [1]}, {"a": 3}, "a"],
        generator=[3],
    )
    yield from each(
        kind,
        retrieval.compare_models,
        {"before": swept, "after": swept, "folds": 2, "resamples": 20},
        before=[None, 3],
        after=[None, swept._replace(values=swept.values[:, :2]), swept._replace(measure="mrr@10")],
        folds=[0, 1, 1.5, 99],
        resamples=[-1, 0, 1.5],
        level=[0, 95, NAN],
        generator=[3],
    )
    yield from each(
        kind,
        retrieval.predicted_norms,
        {"norms": torch.rand(9), "length": torch.rand(9)},
        norms=[None, -torch.rand(9), torch.rand(3, 3)],
        length=[None, "a", torch.rand(3), -torch.rand(9), torch.full((9,), NAN)],
        controls=[3, {"age": None}, {"age": torch.rand(3)}],
        fitted_rows=[torch.ones(3, dtype=torch.bool), torch.rand(9), 3],
    )
    yield from each(
        kind,
        retrieval.sweep_alpha,
        {"queries": queries, "documents": documents, "judgements": PAIRS},
        owners=[3, torch.rand(12), -torch.ones(12, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)],
    )
    yield from each(
        kind, retrieval.scoring_verdict, {"norm": retrieval.calibrate(swept, folds=2, resamples=20)}, norm=[None, 3],
        confounds=[3, "length"],
    )  # fmt: skip
    kind = "retrieval: search"
    for make in (
        lambda **options: retrieval.QueryBankNormalization(documents, queries)(**options),
        lambda **options: retrieval.CrossDomainLocalScaling(documents, queries)(**options),
    ):
        yield from each(kind, make, {"queries": queries}, queries=[None, queries[0], queries[:, :2], queries.long()])


STATISTIC_CALLS = list(
    chain.from_iterable(generator() for generator in (_rules, _moments, _votes, _statistics, _retrieval))
)
