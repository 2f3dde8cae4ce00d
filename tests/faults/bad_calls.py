"""Calls of public functions and classes with arguments that make no sense: kind, call, what the error has to name."""

import tempfile
from collections.abc import Iterator
from itertools import chain

import torch
from bad_direction_calls import DIRECTION_CALLS
from bad_record_calls import INTERACTIONS, RECORD_CALLS
from bad_statistic_calls import STATISTIC_CALLS
from bad_task_calls import TASK_CALLS
from call_outcomes import INF, NAN, NOT_COUNT, NOT_FLAG, NOT_POSITIVE, PAIRS, QN, RULE_OPTIMIZER, BadCall, D, Q, each
from torch import nn

import lightning_normdyn as normdyn
from lightning_normdyn import core, levers, losses, metrics, retrieval
from lightning_normdyn.callbacks import (
    EquilibriumFitMonitor,
    GradientSplitMonitor,
    HardNegativeMining,
    NormDynamics,
    NormTrajectoryMonitor,
    StepTime,
)
from lightning_normdyn.datasets import GradedPairs, Interactions, Judgements, KnowledgeGraph, LabelledTexts, Texts
from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.instruments import NormObserver


def _losses() -> Iterator[BadCall]:
    kind = "losses: settings"
    soft = (losses.DistillKLDiv, losses.MarginMSE, losses.GradedContrastive)
    for make in (losses.InfoNCE, losses.SigmoidContrastive, losses.FullSoftmax, losses.SupCon, losses.MaxSim, *soft):
        yield from each(
            kind,
            make,
            {},
            temperature=NOT_POSITIVE,
            chunk_size=NOT_COUNT,
            normalization=["cos", 3, ["dot"]],
            max_scale=[0, NAN, "1"],
            gather=["no", 1],
            process_group=["data", 3],
            check_finite=["no"],
            learnable_temperature=["no"],
            reduction=["average", None, 1],
        )
    yield from each(
        kind,
        losses.InfoNCE,
        {},
        label_smoothing=[-0.1, 1, NAN, "0.1"],
        margin=[-1, INF, "0.3"],
        relative_margin=[-0.1, 1.5, NAN],
        decoupled=["no"],
        prior=[-0.1, 1, NAN, "0.1"],
        guide_margin=[-0.1, INF, "0"],
        guide_relative_margin=[-0.1, NAN],
        negative_margin=[-0.1, NAN, "0"],
        negative_share=[0, -1, NAN, "95%"],
        hardness=["hard", None, True],
        hardness_strength=NOT_POSITIVE,
        prefixes=[[], "64", [2, 1], [2, 2], [0], [1.5], 64],
        prefix_weights=[[1.0]],
        with_metrics=["yes"],
    )
    yield from each(
        kind, losses.InfoNCE, {"prefixes": [1, 2]}, prefix_weights=[[1.0], [1.0, -1.0], [0.0, 0.0], [NAN, 1.0], "ab", 2]
    )
    yield from each(
        kind,
        losses.InfoNCE,
        {},
        queue_size=[-1, 1.5, "3"],
        direction=["both", 3],
        same_side=["all", True],
        symmetric=NOT_FLAG,
        joint=["no", "ours", 1],
        queue_positives=["no", True],
        shared_hard_negatives=["no", 1],
        fused=["no"],
    )
    yield from each(kind, losses.FullSoftmax, {}, share_documents=["no", 1])
    yield from each(kind, losses.InfoNCE().parameter_group, {}, lr=[0, -1.0, NAN, INF, "0.1"])
    yield from each(kind, losses.SigmoidContrastive, {}, bias=[NAN, INF, "0"], learnable_bias=["no"])
    table = {"num_classes": 6, "dim": 3}
    for head in (losses.NormFace, losses.CosFace, losses.ArcFace, losses.MagFace, losses.AdaFace):
        yield from each(
            kind,
            head,
            table,
            num_classes=[1, *NOT_COUNT],
            dim=NOT_COUNT,
            temperature=NOT_POSITIVE,
            sample=[1.5, *NOT_POSITIVE],
            seed=[-1, 0.5, "3"],
            normalization=["dot"],
        )
    yield from each(kind, losses.CosFace, table, margin=[-0.1, 28.6, NAN, INF, "0.3"])
    yield from each(kind, losses.ArcFace, table, margin=[-0.1, 28.6, NAN, "0.5", None])
    yield from each(kind, losses.AdaFace, table, margin=[-0.1, 4], concentration=NOT_POSITIVE, momentum=[-0.1, 1, NAN])
    yield from each(
        kind,
        losses.MagFace,
        table,
        lower_norm=[200.0, *NOT_POSITIVE],
        upper_norm=[1.0, *NOT_POSITIVE],
        lower_margin=[0.9, -0.1, "0.4"],
        upper_margin=[0.1, 4, NAN],
        norm_weight=[-1, NAN, "35"],
    )
    yield from each(kind, losses.NormalizedSimilarity, {}, normalization=["cos", None], shared_gamma=["no"])
    kind = "losses: batches"
    batches = {
        "queries": [Q[0], Q[:0], Q.long(), QN, None, [[1.0]], Q.numpy(), Q[:, :0], Q[None], Q.to(torch.complex64)],
        "documents": [D[0], D[:2], D.long(), D[:, :2], None, "d", torch.full_like(D, INF)],
        "labels": [torch.arange(3), torch.arange(6.0), torch.arange(6) - 9, [0] * 6],
        "positives": [torch.arange(4), torch.full((4, 1), 9), [[0]] * 4, torch.zeros(4, 1)],
        "query_ids": [torch.arange(3), list("abcd"), torch.rand(4)],
        "document_ids": [torch.arange(3), list("abcdef")],
        "weights": [
            torch.rand(3),
            torch.ones(4).long(),
            -torch.ones(4),
            torch.full((4,), NAN),
            torch.zeros(4),
            [1.0] * 4,
        ],
        "temperatures": [torch.rand(3), torch.zeros(4), torch.full((4,), INF), torch.ones(4).long(), 0.05],
        "query_guides": [torch.randn(4, 2), torch.randn(3, 2), [[1.0]] * 4],
        "hard_negatives": [D, torch.randn(4, 2, 5), torch.full((4, 2, 3), NAN), torch.ones(4, 2, 3).long()],
    }
    for make in (losses.InfoNCE, losses.SigmoidContrastive):
        yield from each(kind, make(), {"queries": Q, "documents": D}, **batches)
    for options in ({}, {"symmetric": True}):
        yield BadCall(
            kind,
            f"InfoNCE({options}) of one pair",
            lambda o=options: losses.InfoNCE(**o)(Q[:1], D[:1]),
            "documents|queries",
        )
    yield from each(
        kind,
        losses.FullSoftmax(),
        {"queries": Q, "documents": D, "targets": torch.arange(4)},
        queries=[Q[0], QN, Q[:, :2]],
        documents=[D[0], D[:, :2], None],
        targets=[torch.arange(3), torch.arange(4) + 9, torch.rand(4), None],
        weights=[torch.rand(3), -torch.ones(4), torch.zeros(4), 1.0],
        temperatures=[torch.rand(3), torch.zeros(4), "0.05"],
    )
    guides = {"queries": Q, "documents": D, "query_guides": torch.randn(4, 2), "document_guides": torch.randn(6, 2)}
    yield from each(
        kind,
        losses.InfoNCE(),
        guides,
        query_guides=[torch.randn(3, 2), torch.randn(4), torch.ones(4, 2).long()],
        document_guides=[torch.randn(4, 2), torch.randn(6, 3), None],
        hard_negative_guides=[torch.randn(4, 1, 2)],
    )
    yield from each(
        kind,
        losses.SupCon(),
        {"embeddings": D, "labels": torch.arange(6) // 2},
        embeddings=[D[0], D.long(), None, torch.full_like(D, NAN)],
        labels=[torch.arange(3), torch.rand(6), torch.arange(6) - 3, [0] * 6, None],
    )
    yield from each(
        kind,
        losses.MagFace(6, 3, lower_norm=0.01),
        {"embeddings": D, "labels": torch.arange(6)},
        embeddings=[D[0], D.long(), D[:, :2], D[:0], None, torch.full_like(D, NAN)],
        labels=[torch.arange(3), torch.rand(6), torch.arange(6) - 3, torch.arange(6) + 1, [0] * 6, None],
        weights=[torch.rand(3), -torch.ones(6), torch.zeros(6), [1.0] * 6],
    )
    yield from each(kind, losses.MaxSim, {}, symmetric=["no", 1], length_normalize=["yes", None])
    yield from each(
        kind,
        losses.MaxSim(),
        {"queries": Q[:, None], "documents": D[:, None]},
        queries=[Q, D[:, None].long(), None, torch.full((4, 1, 3), NAN)],
        documents=[D[:, None, :2], D[:3, None], D, None, torch.full((6, 1, 3), INF)],
        query_mask=[torch.rand(4, 1), torch.zeros(4, 1).bool(), torch.ones(6, 1).bool(), [[True]] * 4],
        document_mask=[torch.full((6, 1), 2), torch.ones(6).bool(), torch.zeros(6, 1).long()],
        document_lengths=[torch.ones(6).long()],
        document_ids=[torch.arange(4), torch.rand(6), list("abcdef")],
        weights=[torch.rand(3), -torch.ones(4), torch.zeros(4), 1.0],
    )
    yield from each(
        kind,
        losses.MaxSim(),
        {"queries": Q[:, None], "documents": D, "document_lengths": torch.ones(6).long()},
        document_lengths=[None, torch.ones(4).long(), torch.tensor([6, 0]), torch.rand(6), [1] * 6],
        document_mask=[torch.ones(6).bool()],
    )
    for make in (losses.DistillKLDiv, losses.MarginMSE):
        yield from each(
            kind,
            make,
            {},
            teacher_temperature=NOT_POSITIVE,
            teacher_normalization=["learnable", None, 3],
            with_metrics=["no"],
        )
        listed, scores = torch.tensor([[0, 4, 5]] * 4), torch.rand(4, 3)
        yield from each(
            kind,
            make(),
            {"queries": Q, "documents": D, "listed": listed, "teacher_scores": scores},
            listed=[None, listed[0], listed + 1, listed.float(), listed > 0, listed[:, :1], listed.tolist()],
            teacher_scores=[None, scores[0], scores[:, :2], scores.long(), scores * NAN, scores + INF, "ab"],
            teacher_queries=[Q],
            positives=[listed],
        )
    pair = losses.InfoNCE()
    yield from each(
        kind,
        losses.SummedLoss,
        {"losses": {"a": (1.0, pair)}},
        losses=[
            None,
            {},
            [pair],
            {"a": pair},
            {"a": (1.0, None)},
            {"a b": (1.0, pair)},
            {"a": (-1.0, pair)},
            {"a": (0.0, pair)},
            {"a": (1.0, pair), "b": (1.0, pair)},
        ],
    )
    yield from each(kind, losses.DistillKLDiv, {}, candidates=["all", None, 1], symmetric=[True], direction=["both"])
    yield from each(
        kind,
        losses.DistillKLDiv(candidates="in_batch"),
        {"queries": Q, "documents": D, "teacher_queries": Q, "teacher_documents": D},
        teacher_queries=[None, Q[:2], Q[:, :2], Q.long(), Q * NAN, [1.0]],
        teacher_documents=[None, D[:2], D[:, :2], D.long(), D + INF],
        teacher_hard_negatives=[D],
        teacher_scores=[torch.rand(4, 6)],
    )
    grades = torch.rand(4, 6)
    yield from each(
        kind,
        losses.GradedContrastive(symmetric=True),
        {"queries": Q, "documents": D, "grades": grades},
        grades=[
            None,
            grades[0],
            grades[:2],
            grades[:, :3],
            grades.to(torch.complex64),
            -grades,
            grades * NAN,
            grades + INF,
            1.0,
        ],
        labels=[torch.arange(6)],
    )
    yield from each(kind, losses.GradedContrastive, {}, symmetric=["no"], direction=["both"])
    yield from each(
        kind, losses.CoSENT, {}, temperature=NOT_POSITIVE, normalization=["cos"], reduction=["sum", "none", None]
    )
    yield from each(
        kind,
        losses.CoSENT(),
        {"queries": Q, "documents": D[:4], "grades": grades[:, 0]},
        documents=[D, D[:3], D[:4, :2], None, D[:4] * NAN],
        grades=[grades[:3, 0], grades, grades[:, 0] * NAN, list("abcd"), None],
    )
    linear = nn.Linear(3, 2)
    cached = {
        "loss": losses.InfoNCE(),
        "query_inputs": Q,
        "document_inputs": D,
        "encode_query": linear,
        "encode_document": linear,
        "module": linear,
        "chunk_size": 2,
    }
    yield from each(
        kind,
        losses.cached_loss,
        cached,
        chunk_size=NOT_COUNT,
        loss=[None, "infonce", lambda q, d: q * d.mean()],
        module=[None, "m"],
        query_inputs=[None, Q[:0]],
        encode_query=[None],
        document_inputs=[None, D[:0]],
        encode_document=[None, "a"],
    )
    yield from each(
        "losses: verification",
        losses.verify_loss,
        {"loss": losses.InfoNCE(), "ranks": 1, "precisions": ["float32"], "accumulate": 1, "pairs": 4},
        loss=[None, "infonce", 0.05],
        reference=["infonce", 0.05],
        normalization=["cos", None],
        temperature=NOT_POSITIVE,
        symmetric=NOT_FLAG,
        ranks=NOT_COUNT,
        precisions=[None, "float32", [], ["float16"], [32]],
        accumulate=NOT_COUNT,
        pairs=[*NOT_COUNT, 2, 6],
    )


def _metrics() -> Iterator[BadCall]:
    kind = "metrics: settings"
    for make in (
        metrics.RankingNDCG,
        metrics.RankingMRR,
        metrics.RankingRecall,
        metrics.RankingMAP,
        metrics.RankingHitRate,
    ):
        yield from each(kind, make, {}, top_k=NOT_COUNT)
    yield from each(
        kind,
        metrics.FisherConditionNumber,
        {},
        form=["round", 3],
        temperature=NOT_POSITIVE,
        pairs=[0, 1.5, -1],
        resamples=[-1, 1.5, "3"],
        symmetric=["no"],
    )
    yield from each(
        kind, metrics.NormCorrelations, {}, kind=["kendall", 3], resamples=[-1, 1.5], level=[0, 1, 95, NAN, "0.9"]
    )
    yield from each(kind, metrics.norm_diagnostics, {}, form=["round"], temperature=[0, NAN], prefix=[3])
    kind = "metrics: updates"
    yield from each(kind, metrics.CoefficientOfVariation().update, {"queries": Q}, queries=[None, [1.0], Q.long()])
    yield from each(
        kind,
        metrics.CohensD().update,
        {"documents": Q, "irrelevant": D},
        documents=[None, [1.0], Q.long()],
        irrelevant=[None],
    )
    yield from each(
        kind,
        metrics.NormCorrelations("age").update,
        {"documents": Q, "length": torch.rand(4), "age": torch.rand(4)},
        documents=[None, Q[0], Q.long()],
        length=[torch.rand(3), None],
        age=[torch.rand(3), None],
    )
    yield from each(
        kind,
        metrics.FisherConditionNumber().update,
        {"queries": Q, "documents": D[:4]},
        queries=[Q[0], Q[:, :2], None, Q.long()],
        documents=[D[0], D[:3], None],
    )
    ranking = {
        "preds": torch.rand(6),
        "target": torch.tensor([1, 0, 1, 0, 1, 0]),
        "indexes": torch.tensor([0, 0, 0, 1, 1, 1]),
    }
    yield from each(
        kind,
        metrics.RankingNDCG().update,
        ranking,
        preds=[torch.rand(5), None, torch.full((6,), NAN)],
        target=[torch.ones(5), None, torch.full((6,), NAN)],
        indexes=[torch.arange(5), torch.rand(6), None],
    )


def _core() -> Iterator[BadCall]:
    kind = "core: statistics"
    x, y = torch.rand(20), torch.rand(20)
    yield from each(
        kind,
        core.correlate,
        {"x": x, "y": y},
        x=[None, x.view(4, 5)],
        y=[[1.0], y[:5]],
        kind=["kendall"],
        resamples=[-1, 1.5],
        level=[0, 1.5, 95, NAN],
        controls=[torch.rand(3, 1)],
    )
    yield from each(
        kind, core.cohens_d, {"relevant": x, "irrelevant": y}, relevant=[None, torch.rand(2, 2)], irrelevant=[[1.0]]
    )
    yield from each(
        kind,
        core.fisher_condition_number,
        {"queries": Q, "documents": D[:4], "gamma_query": 1.0, "gamma_document": 1.0},
        queries=[Q[0], Q[:, :2], None, Q.long()],
        documents=[D[0], D[:3]],
        temperature=NOT_POSITIVE,
        pairs=[0, 1.5],
        gamma_query=[NAN, "1"],
        gamma_document=[INF],
    )
    yield from each(
        kind,
        core.recommend_normalization,
        {"queries": Q, "documents": D[:4]},
        form=["round"],
        temperature=[0, NAN],
        pairs=[0],
        resamples=[-1, 1.5],
        level=[0, 2, NAN],
    )
    yield from each(
        kind, core.fit_log_log, {"predicted": x, "observed": y}, predicted=[x[:3], None, "a"], observed=[x.view(4, 5)]
    )
    yield from each(
        kind,
        core.near_dead_rows,
        {"norms": x, "dim": 4},
        norms=[None, x.view(4, 5), torch.full((5,), NAN)],
        dim=[0, -1, 1.5],
    )
    yield from each(kind, core.coefficient_of_variation, {"norms": x}, norms=[None, "a"])
    yield from each(
        kind,
        core.measure_named,
        {"name": "ndcg@10"},
        name=["", "ndcg", "ndcg@0", "nope@3", "ndcg@x", 3, None],
        argument="measure|name",
    )
    ranked = core.grade_ranking(
        torch.tensor([[0, 1], [1, 0]]), (torch.tensor([0, 1]), torch.tensor([0, 1]), torch.ones(2)), 2
    )
    for measure in (core.ranking_ndcg, core.ranking_recall):
        yield from each(kind, measure, {"ranked": ranked, "top_k": 2}, top_k=[0, -1, 1.5, "3"])
    yield from each(kind, core.ranking_ndcg, {"ranked": ranked, "top_k": 2}, gain=["cubic"])
    yield from each(
        kind,
        core.grade_ranking,
        {
            "indices": torch.tensor([[0, 1]]),
            "judgements": (torch.tensor([0]), torch.tensor([1]), torch.ones(1)),
            "n_queries": 1,
        },
        indices=[torch.tensor([0, 1]), torch.rand(1, 2), None],
        n_queries=[0, -1, 5],
        depth=[0, -1, 1.5],
        judgements=[None, (torch.tensor([0]),)],
    )
    kind = "core: dynamics"
    yield from each(
        kind,
        core.split_radial_tangential,
        {"gradient": Q, "embedding": Q},
        gradient=[Q[:, :2], None],
        embedding=[Q[:2], "a"],
    )
    yield from each(
        kind, core.norm_budget, {"before": Q, "after": Q}, before=[Q[:2], None], after=[Q[:, :2]], decay_update=[Q[:2]]
    )
    yield from each(
        kind,
        core.similarity_scores,
        {"queries": Q, "documents": D, "gamma_query": 1.0, "gamma_document": 1.0},
        queries=[Q[:, :2], None, Q[0]],
        documents=[D[0], [1.0]],
        gamma_query=["1", NAN],
        gamma_document=[None],
    )
    yield from each(
        kind,
        core.equilibrium_norm,
        {"second_moment": 1.0, "radial_decay": 0.1, "lr": 0.1},
        second_moment=[-1.0, "1", None],
        radial_decay=["1", None, True],
        lr=[-0.1, "1", None],
        drift=["0", None],
    )
    yield from each(
        kind,
        core.forecast_norm,
        {"norm": torch.ones(2), "second_moment": torch.ones(2), "radial_decay": 0.1, "lrs": [0.1]},
        norm=[torch.ones(3), None, -torch.ones(2)],
        second_moment=[None],
        lrs=["0.1", [NAN], [-0.1], None, 0.1],
        drift=[torch.ones(3), "1", None],
        radial_decay=[torch.ones(3), "1", None],
    )
    yield from each(
        kind,
        core.relaxation_steps,
        {"lr": 0.1, "radial_decay": 0.1, "family": "sgd"},
        lr=[-1.0, "1", None],
        radial_decay=["1", None],
        family=["lion9", None, 3],
    )
    yield from each(
        kind,
        core.equilibrium_rule,
        {"optimizer": RULE_OPTIMIZER},
        optimizer=[None, "sgd", nn.Linear(1, 1)],
        group=[5, -9, "0", 1.5],
    )
    yield from each(kind, core.safe_norm, {"x": Q}, x=[None, [1.0], Q.long()], dim=[5, "0"], keepdim=["no", None])
    yield from each(kind, core.RowMoments, {"rows": 3}, rows=[-1, 1.5, "3"])
    yield from each(kind, core.scale_gradient, {"embedding": Q}, embedding=[None, Q.long()], power=[NAN, INF, "1"])


def _levers() -> Iterator[BadCall]:
    kind = "levers"
    rule = core.equilibrium_rule(RULE_OPTIMIZER)
    table = RULE_OPTIMIZER.param_groups[0]["params"][0]
    yield from each(
        kind,
        levers.weight_decay_for,
        {"rule": rule, "target_norm": 1.0, "second_moment": 1.0},
        rule=[None, "sgd"],
        target_norm=NOT_POSITIVE[:5],
        second_moment=[-1.0, NAN, 0.0, "1"],
        dim=[0, 1.5, -1],
        update_probability=[-0.1, 1.5, NAN, "1"],
    )
    yield from each(
        kind,
        levers.weight_decay_for,
        {"rule": rule, "target_angular_rate": 0.1},
        target_angular_rate=[0, -1.0, NAN, "1"],
        target_norm=[1.0],
    )
    yield BadCall(kind, "weight_decay_for(rule)", lambda: levers.weight_decay_for(rule), "target_norm")
    yield from each(
        kind,
        levers.equilibrium_init,
        {"table": table, "rule": rule, "second_moment": 1.0},
        table=[None, table[0], table.long()],
        rule=[None],
        second_moment=[-1.0, NAN, None, torch.ones(2)],
        update_probability=[-1.0, 2.0, NAN, torch.ones(2)],
    )
    yield from each(
        kind, levers.cut_init, {"module": nn.Linear(2, 2)}, module=[None, nn.ReLU(), torch.ones(2)], factor=NOT_POSITIVE
    )
    yield from each(kind, levers.NormVariance, {}, weight=[-1.0, NAN, "1", None], momentum=[-0.1, 1.0, NAN, "1"])
    yield BadCall(kind, "NormVariance()()", lambda: levers.NormVariance()(), "embeddings")
    yield BadCall(kind, "NormVariance()(None)", lambda: levers.NormVariance()(None), "embeddings")
    yield BadCall(kind, "NormVariance()(vector)", lambda: levers.NormVariance()(torch.tensor(1.0)), "embeddings")
    good = torch.randn(20, 3)
    yield from each(
        kind,
        levers.repair_rows,
        {"table": good, "rows": torch.tensor([1])},
        table=[None, good[0], good.long()],
        rows=[torch.tensor([99]), torch.rand(2), "a", torch.arange(20)],
        method=["nope", 3],
        neighbours=NOT_COUNT,
        output=[good[:3], "a"],
        generator=[3],
    )
    yield from each(
        kind, levers.CorrectedDecay, {"optimizer": RULE_OPTIMIZER}, optimizer=[None, "sgd"], peak_lr=NOT_POSITIVE[:5]
    )
    adamw = torch.optim.AdamW([nn.Parameter(torch.randn(6, 3))], lr=0.1)
    weight = adamw.param_groups[0]["params"][0]
    yield from each(
        kind,
        levers.decay_by_frequency,
        {"optimizer": adamw, "table": weight, "update_probability": torch.full((6,), 0.5)},
        optimizer=[None, RULE_OPTIMIZER],
        table=[None, torch.ones(6, 3)],
        update_probability=[torch.ones(3), None, torch.zeros(6), torch.full((6,), 2.0), torch.full((6,), NAN)],
        second_moment=[torch.ones(3), -torch.ones(6), "1"],
    )


def _retrieval() -> Iterator[BadCall]:
    kind = "retrieval: search"
    exponents = {"alpha": [NAN, INF, "1"], "gamma_document": [NAN, "1", 0.5], "normalization": ["cos", 3]}
    yield from each(
        kind,
        retrieval.export_vectors,
        {"documents": D},
        documents=[D[0], None, D.long(), torch.full_like(D, NAN)],
        dtype=["float16", torch.int32],
        **exponents,
    )
    search = {"queries": Q, "documents": D, "k": 2}
    bad = {
        "queries": [Q[0], Q[:, :2], None, QN],
        "documents": [D[0], None, torch.full_like(D, NAN)],
        "k": NOT_COUNT,
        "chunk_size": NOT_COUNT,
        "backend": ["gpu", 3],
        "excluded_pairs": [3, (torch.arange(2),), (torch.tensor([9]), torch.tensor([0]))],
    }
    yield from each(kind, retrieval.exact_top_k, search, **bad)
    yield from each(kind, retrieval.norm_aware_top_k, search, alpha_query=[NAN, "1"], **exponents, **bad)
    learnable = {"normalization": "learnable", "gamma_document": 0.5}
    gammas = {"gamma_query": [NAN, "1"], "gamma_document": [INF, "1", None]}
    yield from each(kind, retrieval.NormAwareScore, learnable, **gammas)
    yield from each(kind, retrieval.norm_aware_top_k, search | learnable, **gammas)
    yield from each(kind, retrieval.export_vectors, {"documents": D} | learnable, **gammas)
    yield from each(kind, retrieval.NormAwareScore, {}, alpha_query=[NAN, "1"], **exponents)
    yield from each(
        kind,
        retrieval.rescaled,
        {"vectors": Q, "norms": torch.ones(4)},
        vectors=[Q[0], None],
        norms=[torch.ones(3), None],
    )
    yield from each(
        kind,
        retrieval.QueryBankNormalization,
        {"documents": D, "bank": Q},
        bank=[Q[:0], Q[:, :2], None],
        beta=[NAN, INF, "1"],
        documents=[D[0], None],
    )
    yield from each(
        kind,
        retrieval.CrossDomainLocalScaling,
        {"documents": D, "bank": Q},
        bank=[Q[:, :2], None],
        documents=[None, D[0]],
        neighbours=NOT_COUNT,
    )
    kind = "retrieval: exponent"
    sweep = {"queries": Q, "documents": D, "judgements": PAIRS}
    yield from each(
        kind,
        retrieval.sweep_alpha,
        sweep,
        queries=[Q[0], Q[:, :2], None],
        documents=[D[0], None],
        judgements=[
            None,
            Judgements(torch.tensor([9]), torch.tensor([0]), torch.ones(1)),
            Judgements(torch.tensor([0]), torch.tensor([99]), torch.ones(1)),
            Judgements(torch.arange(2), torch.arange(3), torch.ones(3)),
        ],
        alphas=[[], [NAN], "0", [0.5]],
        measure=["", "ndcg", "nope@3", 3],
        normalization=["cos"],
        chunk_size=NOT_COUNT,
        excluded_pairs=[3, (torch.arange(2),), (torch.tensor([9]), torch.tensor([0]))],
    )
    yield from each(kind, retrieval.sweep_alpha, sweep | learnable, **gammas)
    swept = retrieval.sweep_alpha(
        torch.randn(12, 3), torch.randn(12, 3), Judgements(torch.arange(12), torch.arange(12), torch.ones(12))
    )
    yield from each(
        kind,
        retrieval.calibrate,
        {"sweep": swept},
        folds=[0, 1, 1.5, 99],
        resamples=[-1, 0, 1.5],
        level=[0, 1, 95, NAN],
        strata=[{"a": [1]}, 3],
        sweep=[None],
    )
    yield from each(
        kind,
        retrieval.likelihood_exponent,
        {"cosines": torch.rand(4, 5), "norms": torch.rand(5), "relevance": torch.eye(4, 5)},
        cosines=[torch.rand(5), None],
        norms=[torch.rand(3), -torch.rand(5), None],
        relevance=[torch.eye(3), -torch.ones(4, 5)],
        level=[0, 95],
    )
    yield from each(
        kind,
        retrieval.residual_norms,
        {"norms": torch.rand(9), "length": torch.rand(9)},
        norms=[torch.rand(3), None],
        length=[torch.rand(3), torch.full((9,), NAN)],
        controls=[3, {"age": torch.rand(3)}],
        fitted_rows=[torch.rand(9), torch.ones(3, dtype=torch.bool)],
    )
    yield from each(
        kind,
        retrieval.quantile_bands,
        {"values": torch.rand(9)},
        values=[None, torch.rand(3, 3)],
        bands=[0, -1, 1.5],
    )
    kind = "retrieval: uses"
    confidences = {"max_similarity": torch.rand(9), "norm": torch.rand(9)}
    yield from each(
        kind,
        retrieval.confidence_table,
        {"confidences": confidences, "loss": torch.rand(9)},
        confidences=[{}, {"a": torch.rand(9)}, {"max_similarity": torch.rand(3)}, None],
        loss=[torch.rand(3), None, torch.full((9,), INF)],
        baseline=["nope", 3],
        resamples=[-1, 1.5],
        level=[0, 95],
        generator=[3],
    )
    yield from each(
        kind,
        retrieval.detection_table,
        {"in_distribution": confidences, "out_of_distribution": confidences},
        in_distribution=[{}, None, {"norm": torch.rand(3)}],
        out_of_distribution=[{}, {"other": torch.rand(3)}],
        baseline=["nope"],
        level=[95],
    )
    logits, labels = torch.randn(20, 3), torch.randint(3, (20,))
    yield from each(
        kind,
        retrieval.compare_temperatures,
        {"logits": logits, "labels": labels, "norms": torch.rand(20) + 0.1},
        logits=[logits[0], None],
        labels=[labels[:3], labels + 9, torch.rand(20)],
        norms=[torch.rand(3), -torch.ones(20)],
        bins=NOT_COUNT,
        resamples=[-1],
        level=[95],
        generator=[3],
    )
    yield from each(
        kind,
        retrieval.filter_table,
        {**sweep},
        shares=[[], [0.0], [1.5], "0.5"],
        measures=[[], ["nope"], "ndcg@10"],
        candidates=[0, -1, 1.5],
        judgements=[None],
        queries=[None, Q[0]],
        documents=[None, D[:, :2]],
        resamples=[-1, "3"],
        level=[0, 95],
        generator=[3],
    )
    yield from each(
        kind,
        retrieval.label_entropy,
        {"soft_labels": torch.full((4, 2), 0.5)},
        soft_labels=[torch.rand(4), -torch.rand(4, 2), None, torch.full((4, 2), NAN)],
    )
    yield from each(
        kind,
        retrieval.specificity_table,
        {"norms": torch.rand(9), "values": {"a": torch.rand(9)}, "length": torch.rand(9)},
        norms=[torch.rand(3), None],
        values=[{"a": torch.rand(3)}, None, {"a": None}],
        length=[torch.rand(3)],
        level=[95],
        resamples=[-1, "3"],
        generator=[3],
    )


MINING = {
    "range_min": [-1, 1.5, "2"],
    "range_max": [0, 1.5, "9"],
    "max_score": [NAN, "0.8"],
    "min_score": [NAN, INF],
    "absolute_margin": [-0.1, NAN, "0.1"],
    "relative_margin": [-0.1, INF, True],
    "sampling_strategy": ["tpo", None, 3],
    "seed": [-1, "a"],
}


def _mining() -> Iterator[BadCall]:
    kind = "retrieval: mining"
    search = {"queries": Q, "documents": D, "positives": [0] * len(Q)}
    yield from each(
        kind,
        retrieval.mine_hard_negatives,
        search,
        queries=[Q[0], Q[:, :2], None, QN, [1.0]],
        documents=[D[0], None, torch.full_like(D, NAN), [D], iter([D])],
        positives=[None, 3, "abc", [0], [99] * len(Q), torch.ones(len(Q)), [[0], ["a"], [0], [0]]],
        num_negatives=NOT_COUNT,
        normalization=["cos", 3],
        alpha=[NAN, "1"],
        document_ids=[3, [1], [[1]] * len(D), "abc"],
        excluded_pairs=[3, (torch.arange(2),), (torch.tensor([9]), torch.tensor([0]))],
        chunk_size=NOT_COUNT,
        **MINING,
    )
    yield from each(
        kind,
        retrieval.mine_hard_negatives,
        search | {"normalization": "learnable", "gamma_query": 0.5, "gamma_document": 0.5},
        gamma_query=[NAN, "1"],
        gamma_document=[INF, "1", None],
    )
    yield from each(
        kind,
        retrieval.NegativeTable,
        {"queries": 2, "num_negatives": 1},
        queries=NOT_COUNT,
        num_negatives=NOT_COUNT,
    )
    yield from each(
        kind,
        retrieval.MiningSource,
        {"queries": ["a", "b"], "documents": ["c", "d", "e"], "positives": [0, 1]},
        queries=[3, [], "ab"],
        documents=[None, 3],
        positives=[None, [0], [7, 0]],
        num_negatives=[0, 1.5, "2", 9],
        query_ids=[3, ["a"], ["a", "a"]],
        document_ids=[["a"], [1, 2, 3]],
        collate=[3, "list"],
        excluded_pairs=[3, (torch.tensor([9]), torch.tensor([0]))],
    )


def _callbacks() -> Iterator[BadCall]:
    kind = "callbacks"
    yield from each(
        kind,
        HardNegativeMining,
        {},
        every_n_steps=NOT_COUNT,
        start_step=[-1, 1.5],
        source=[3, "data"],
        batch_size=NOT_COUNT,
        normalization=["cos", 3],
        save=NOT_FLAG,
        **MINING,
    )
    yield from each(kind, StepTime, {}, warmup_steps=[-1, 1.5], steps=NOT_COUNT)
    shared = {
        "every_n_steps": NOT_COUNT,
        "targets": ["", [], 3, [3], None],
        "max_tracked_rows": [0, -1, 1.5],
        "row_counts": [3, "missing.npy"],
        "save_history": ["no", 1],
    }
    for make in (NormDynamics, NormTrajectoryMonitor, GradientSplitMonitor, EquilibriumFitMonitor):
        yield from each(kind, make, {}, **shared)
    yield from each(
        kind,
        NormDynamics,
        {},
        window=[0, -1, 1.5, NAN, "0.2", True],
        forecast_at=[0, -1, 1.5, NAN],
        fit_every_n_steps=[0, 1.5],
        lrs=[3, "cosine"],
        probe_items=[0, -1],
        instruments=[3, [3], ["nope"]],
    )
    shared = {"instruments": [3, [3]], "names": [3, True]}
    yield from each(kind, NormTrajectoryMonitor, {}, **shared)
    yield from each(kind, GradientSplitMonitor, {}, **shared)
    shared |= {"probe": [3, True], "on_alert": [3, "print"]}
    yield from each(kind, NormDynamics, {}, **{name: shared[name] for name in ("names", "probe", "on_alert")})
    yield from each(
        kind,
        EquilibriumFitMonitor,
        {},
        window=[0, 1.5],
        forecast_at=[0, NAN],
        fit_every_n_steps=[0, 1.5],
        lrs=[3],
        probe_items=[0, "3"],
        **shared,
    )
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    good = {"model": model, "optimizer": optimizer}
    yield from each(
        kind,
        NormObserver,
        good,
        model=[None, "model"],
        optimizer=[None, "sgd", []],
        total_steps=[0, -1, 1.5, "9"],
        targets=["nope", [], 3],
        every_n_steps=[0, 1.5],
        scheduler=[3],
        log=[3],
    )


def _files() -> Iterator[BadCall]:
    kind = "records and files"
    yield from each(kind, Texts, {"ids": ["a"], "texts": ["b"]}, ids=[["a", "b"], ["a", "a"]], texts=[["b", "c"], "b"])
    yield from each(
        kind,
        GradedPairs,
        {"first": ["a"], "second": ["b"], "grades": torch.ones(1)},
        first=[["a", "b"]],
        second=[[]],
        grades=[torch.ones(3), torch.tensor([NAN])],
    )
    yield from each(
        kind,
        LabelledTexts,
        {"texts": ["a"], "labels": torch.tensor([0]), "classes": ["x"]},
        texts=[["a", "b"]],
        labels=[torch.tensor([3]), torch.tensor([0.5])],
        classes=[[]],
    )
    yield from each(
        kind,
        Interactions,
        INTERACTIONS,
        users=[torch.tensor([3])],
        items=[torch.tensor([3])],
        ratings=[torch.ones(2)],
    )
    yield from each(
        kind,
        KnowledgeGraph,
        {"entities": ["a"], "relations": ["r"], "triples": {"train": torch.zeros(1, 3).long()}},
        triples=[{"train": torch.full((1, 3), 9)}, {"train": torch.zeros(1, 2).long()}, {}],
    )
    yield from each(kind, EmbeddingFile, None, file=["absent.npy", "", 3, None, tempfile.gettempdir()])
    yield from each(kind, normdyn.read_run, None, log_dir=["absent", "", 3, None])
    yield from each(kind, normdyn.write_report, None, log_dir=["absent", 3, None])


GENERATORS = (_losses, _metrics, _core, _levers, _retrieval, _mining, _callbacks, _files)
WRITTEN_APART = (*STATISTIC_CALLS, *DIRECTION_CALLS, *RECORD_CALLS, *TASK_CALLS)
CALLS = [*chain.from_iterable(generator() for generator in GENERATORS), *WRITTEN_APART]
