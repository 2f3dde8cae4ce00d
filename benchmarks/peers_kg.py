"""Knowledge-graph completion by PyKEEN: ComplEx with 1-N scoring."""

from __future__ import annotations

import time
from typing import Any

import torch
from peer_measures import filtered_reciprocal_ranks
from peer_outcome import Outcome
from torch import Tensor

from lightning_normdyn.tasks.kg.kg import KnowledgeGraphData


def pykeen_complex(
    data: KnowledgeGraphData, *, seed: int, rate: float, weight_decay: float, dim: int, epochs: int, batch_size: int
) -> Outcome:
    """ComplEx under the cross entropy over all entities (1-N scoring), with inverse relations, by AdamW.

    Its L2 regulariser, which is on unless told otherwise, is left out: the decay is that of the other side. The mean is
    held against the reciprocal rank of PyKEEN's own evaluator.
    """
    from pykeen.evaluation import RankBasedEvaluator
    from pykeen.pipeline import pipeline

    started = time.process_time()
    graph = data.graph
    factories = {split: _factory(data, split) for split in graph.triples}
    result = pipeline(
        training=factories["train"],
        testing=factories["test"],
        validation=factories["validation"],
        model="ComplEx",
        model_kwargs={"embedding_dim": dim // 2, "regularizer_kwargs": {"weight": 0.0}},
        loss="crossentropy",
        optimizer="Adam",  # PyKEEN 1.11 makes its optimizer anew from its defaults, which torch's AdamW refuses
        optimizer_kwargs={
            "lr": rate,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": True,
            "betas": (0.9, 0.98),
        },
        training_loop="lcwa",
        training_kwargs={"num_epochs": epochs, "batch_size": batch_size, "use_tqdm": False},
        evaluation_kwargs={"use_tqdm": False},
        evaluator=RankBasedEvaluator,
        random_seed=seed,
        device="cpu",
        filter_validation_when_testing=True,
    )
    seconds = time.process_time() - started
    values = {
        split: filtered_reciprocal_ranks(_scores(result.model, data, split), data.evaluation(split))
        for split in ("validation", "test")
    }
    evaluator = result.metric_results.get_metric("both.realistic.inverse_harmonic_mean_rank")
    return Outcome(
        validation=sum(values["validation"]) / len(values["validation"]),
        values={"mrr": values["test"]},
        seconds=seconds,
        notes={"mrr by PyKEEN's evaluator": float(evaluator)},
    )


def _factory(data: KnowledgeGraphData, split: str) -> Any:
    from pykeen.triples import CoreTriplesFactory

    return CoreTriplesFactory(
        data.graph.triples[split].unique(dim=0),
        num_entities=len(data.graph.entities),
        num_relations=len(data.graph.relations),
        create_inverse_triples=split == "train",
    )


@torch.no_grad()
def _scores(model: Any, data: KnowledgeGraphData, split: str) -> Tensor:
    """Of all entities for every fact, asked for its tail, then for its head; ``[2n, m]``."""
    heads, relations, tails = data.directed(split)[: len(data.evaluation(split).queries) // 2].unbind(1)
    tail_scores = [model.predict_t(batch) for batch in torch.stack((heads, relations), 1).split(256)]
    head_scores = [model.predict_h(batch) for batch in torch.stack((relations, tails), 1).split(256)]
    return torch.cat([*tail_scores, *head_scores])
