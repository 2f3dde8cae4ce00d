"""What one temperature for all normalizations does to their comparison, and what ``temperature="auto"`` does to it.

    python benchmarks/auto_temperature.py SCIFACT [--seeds 3] [--steps 200]

SCIFACT is a folder in BEIR's layout. Texts become fixed features (logarithmic tf-idf, cut to 256 dimensions by a
truncated SVD, lengths as they come), which stand for a frozen encoder; a linear head a side is trained on the training
queries and NDCG@10 of the test queries is measured, for each normalization with the temperature of 0.05, with
``"auto"`` and with the best of a grid (by the test queries, as a bound). Prints a table in Markdown: means over seeds,
the leads of cosine, and the temperature that was found. Takes some five minutes of a core.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_normdyn.datasets.formats import read_beir
from lightning_normdyn.losses import InfoNCE
from lightning_normdyn.metrics import RankingNDCG

NORMALIZATIONS = ("cosine", "dot", "qnorm", "dnorm", "learnable")
GRID = (0.02, 0.05, 0.1, 0.3, 1.0, 3.0)
TERMS, DIM, BATCH = 8_000, 256, 64


class Features(NamedTuple):
    """Of all queries and documents, and which belong together: positions of both, ``[p, 2]``, by split."""

    queries: Tensor
    documents: Tensor
    pairs: dict[str, Tensor]


def features(folder: str) -> Features:
    """Reads the texts and reduces their terms."""
    texts = read_beir(folder)
    documents, queries = texts.documents.texts, texts.queries.texts
    pairs = {
        split: torch.stack((judged.queries, judged.documents), 1)[judged.grades > 0]
        for split, judged in texts.judgements.items()
    }
    counts = [Counter(re.findall(r"[a-z]{2,}", text.lower())) for text in (*documents, *queries)]
    frequency = Counter(term for count in counts[: len(documents)] for term in count)
    vocabulary = {term: at for at, (term, _) in enumerate(frequency.most_common(TERMS))}
    matrix = torch.zeros(len(counts), len(vocabulary))
    for row, count in enumerate(counts):
        for term, number in count.items():
            if term in vocabulary:
                weight = torch.tensor(len(documents) / frequency[term]).log()
                matrix[row, vocabulary[term]] = (1 + torch.tensor(float(number)).log()) * weight
    torch.manual_seed(0)
    _, _, directions = torch.svd_lowrank(matrix[: len(documents)], q=DIM, niter=2)
    reduced = matrix @ directions
    return Features(reduced[len(documents) :], reduced[: len(documents)], pairs)


def train(
    data: Features, normalization: str, temperature: float | str, *, seed: int, steps: int
) -> tuple[float, float]:
    """NDCG@10 of the test queries, and the temperature of the loss."""
    torch.manual_seed(seed)
    heads = nn.ModuleList([nn.Linear(DIM, 128, bias=False) for _ in range(2)])
    loss = InfoNCE(normalization=normalization, temperature=temperature)
    optimizer = torch.optim.AdamW([{"params": heads.parameters()}, loss.parameter_group(lr=1e-2)], lr=1e-3)
    pairs = data.pairs["train"]
    for _ in range(steps):
        query, document = pairs[torch.randperm(len(pairs))[:BATCH]].unbind(1)
        value = loss(heads[0](data.queries[query]), heads[1](data.documents[document]), document_ids=document)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    with torch.no_grad():
        loss.eval()
        return ndcg(loss, heads, data), float(loss.temperature)


def ndcg(loss: InfoNCE, heads: nn.ModuleList, data: Features) -> float:
    """Of the test queries over all documents."""
    pairs = data.pairs["test"]
    queries = pairs[:, 0].unique()
    scores = loss.similarity(heads[0](data.queries[queries]), heads[1](data.documents))
    grades = torch.zeros_like(scores, dtype=torch.long)
    grades[torch.searchsorted(queries, pairs[:, 0]), pairs[:, 1]] = 1
    indexes = torch.arange(len(queries))[:, None].expand_as(scores)
    return float(RankingNDCG(top_k=10)(scores, grades, indexes))


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    data = features(arguments.folder)
    rows = []
    for normalization in NORMALIZATIONS:
        runs = {
            temperature: [
                train(data, normalization, temperature, seed=seed, steps=arguments.steps)
                for seed in range(arguments.seeds)
            ]
            for temperature in (*GRID, "auto")
        }
        means = {temperature: statistics.fmean(run[0] for run in values) for temperature, values in runs.items()}
        best = max(GRID, key=means.__getitem__)
        rows.append((normalization, means[0.05], means["auto"], runs["auto"][0][1], means[best], best))
    print(
        "| normalization | at 0.05 | lead of cosine | auto | lead of cosine | auto's temperature | best of grid | at |"
    )
    print("| --- " * 8 + "|")
    first = rows[0]
    for name, fixed, auto, found, top, best in rows:
        print(
            f"| {name} | {fixed:.3f} | {first[1] - fixed:+.3f} | {auto:.3f} | {first[2] - auto:+.3f} | {found:.3g} | "
            f"{top:.3f} | {best} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
