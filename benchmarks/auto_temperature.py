"""What one temperature for all normalizations does to their comparison, and what ``temperature="auto"`` does to it.

    python benchmarks/auto_temperature.py SCIFACT [--model MODEL] [--seeds 3] [--steps 400] [--out benchmarks/results]

SCIFACT is a folder in BEIR's layout, MODEL a local folder (or a name) of an encoder such as all-MiniLM-L6-v2, whose
tokens are pooled by mean and not normalised. Without one, texts become logarithmic tf-idf, cut to 256 dimensions by a
truncated SVD. Features are fixed; a linear head a side trains on four fifths of the training queries. NDCG@10 of the
test queries over all documents is measured for each normalization at the temperature of 0.05, at ``"auto"`` and at the
one of a grid that is best for the fifth of the training queries that was held back. Writes ``auto_temperature.json``
and a dated table, ``auto_temperature.md``. Takes ten minutes of a core, half of them to encode.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from overhead_table import machine
from torch import Tensor, nn

from lightning_normdyn.core.statistics.interval import bootstrap_intervals
from lightning_normdyn.datasets.formats import read_beir
from lightning_normdyn.losses import InfoNCE
from lightning_normdyn.metrics import RankingNDCG
from lightning_normdyn.tasks.encoders import PretrainedTextEncoder

NORMALIZATIONS = ("cosine", "dot", "qnorm", "dnorm", "learnable")
GRID = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
USUAL = 0.05
TERMS, SVD_DIM, HEAD_DIM, BATCH, TEXTS = 8_000, 256, 128, 64, 32


class Features(NamedTuple):
    """Of all queries and documents, and which belong together: positions of both, ``[p, 2]``, by split."""

    queries: Tensor
    documents: Tensor
    pairs: dict[str, Tensor]


class Score(NamedTuple):
    """NDCG@10 of the queries of both splits, ``[n]``, and the temperature that the loss had."""

    validation: Tensor
    test: Tensor
    temperature: float


def features(folder: str, model: str | None) -> Features:
    """Reads the texts and makes vectors of them; a fifth of the training queries becomes a split of its own."""
    texts = read_beir(folder)
    documents, queries = list(texts.documents.texts), list(texts.queries.texts)
    pairs = {
        split: torch.stack((judged.queries, judged.documents), 1)[judged.grades > 0]
        for split, judged in texts.judgements.items()
    }
    numbers = pairs["train"][:, 0].unique()
    shuffled = numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))]
    is_validation = torch.isin(pairs["train"][:, 0], shuffled[: len(shuffled) // 5])
    pairs |= {"validation": pairs["train"][is_validation], "train": pairs["train"][~is_validation]}
    vectors = tf_idf(documents + queries, len(documents)) if model is None else encoded(documents + queries, model)
    return Features(vectors[len(documents) :], vectors[: len(documents)], pairs)


def encoded(texts: list[str], model: str) -> Tensor:
    """Means over the tokens of a pretrained encoder, 256 of each text at most, with their lengths."""
    encoder = PretrainedTextEncoder(model, pooling="mean", max_length=256).eval()
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    vectors: list[Tensor] = []
    with torch.no_grad():
        for first in range(0, len(order), TEXTS):
            vectors.append(encoder(**encoder.tokenize([texts[row] for row in order[first : first + TEXTS]])))
            print(f"\rencoded {first:,} of {len(texts):,}", end="", flush=True)
    print()
    return torch.cat(vectors)[torch.tensor(order).argsort()]


def tf_idf(texts: list[str], number: int) -> Tensor:
    """Logarithmic term frequencies, weighed by the first ``number`` texts and reduced."""
    counts = [Counter(re.findall(r"[a-z]{2,}", text.lower())) for text in texts]
    frequency = Counter(term for count in counts[:number] for term in count)
    vocabulary = {term: place for place, (term, _) in enumerate(frequency.most_common(TERMS))}
    matrix = torch.zeros(len(counts), len(vocabulary))
    for row, count in enumerate(counts):
        for term, occurrences in count.items():
            if term in vocabulary:
                weight = torch.tensor(number / frequency[term]).log()
                matrix[row, vocabulary[term]] = (1 + torch.tensor(float(occurrences)).log()) * weight
    torch.manual_seed(0)
    _, _, directions = torch.svd_lowrank(matrix[:number], q=SVD_DIM, niter=2)
    return matrix @ directions


def train(data: Features, normalization: str, temperature: float | str, *, seed: int, steps: int) -> Score:
    """Trains two heads and measures them."""
    torch.manual_seed(seed)
    dim = data.queries.shape[1]
    heads = nn.ModuleList([nn.Linear(dim, HEAD_DIM, bias=False) for _ in range(2)])
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
        splits = (ndcg(loss, heads, data, split) for split in ("validation", "test"))
        return Score(*splits, temperature=float(loss.temperature))


def ndcg(loss: InfoNCE, heads: nn.ModuleList, data: Features, split: str) -> Tensor:
    """Of the queries of a split over all documents, ``[n]``."""
    pairs = data.pairs[split]
    queries = pairs[:, 0].unique()
    scores = loss.similarity(heads[0](data.queries[queries]), heads[1](data.documents))
    grades = torch.zeros_like(scores, dtype=torch.long)
    grades[torch.searchsorted(queries, pairs[:, 0].contiguous()), pairs[:, 1]] = 1
    metric = RankingNDCG(top_k=10)
    metric.update(scores, grades, torch.arange(len(queries))[:, None].expand_as(scores))
    return metric.per_query()[1]


def measure(data: Features, arguments: argparse.Namespace) -> dict[str, Any]:
    """All normalizations at all temperatures."""
    report: dict[str, Any] = {"normalizations": {}}
    cosine: dict[str, Tensor] = {}
    for name in NORMALIZATIONS:
        runs = {
            temperature: [
                train(data, name, temperature, seed=seed, steps=arguments.steps) for seed in range(arguments.seeds)
            ]
            for temperature in dict.fromkeys((USUAL, *GRID, "auto"))
        }
        validation = {key: float(torch.stack([run.validation for run in each]).mean()) for key, each in runs.items()}
        best = max(GRID, key=lambda temperature: validation[temperature])
        columns = {"usual": USUAL, "auto": "auto", "best": best}
        test = {word: torch.stack([run.test for run in runs[key]]) for word, key in columns.items()}
        cosine = cosine or test
        report["normalizations"][name] = {
            "ndcg": {word: [round(float(values), 4) for values in each.mean(1)] for word, each in test.items()},
            "lead_of_cosine": {word: lead(cosine[word], each) for word, each in test.items() if name != "cosine"},
            "auto": [round(run.temperature, 4) for run in runs["auto"]],
            "best": best,
            "validation": {str(key): round(value, 4) for key, value in validation.items()},
        }
        print(name, report["normalizations"][name], flush=True)
    return report


def lead(cosine: Tensor, other: Tensor) -> dict[str, Any]:
    """By how much cosine is ahead, with a paired bootstrap over test queries, and the leads of single seeds."""
    gaps = (cosine - other).double()
    mean = gaps.mean(0)[:, None]
    interval = bootstrap_intervals(lambda counts: counts @ mean / counts.sum(1, keepdim=True), len(mean))[0]
    return {
        "mean": round(interval.value, 4),
        "interval": [round(interval.low, 4), round(interval.high, 4)],
        "seeds": [round(float(gap), 4) for gap in gaps.mean(1)],
    }


def tabulate(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    hardware = report["machine"]
    lines = [
        f"# One temperature for all normalizations, {report['date']}",
        "",
        f"`python benchmarks/auto_temperature.py {report['command']}`; {hardware['cpu']}, {hardware['cores']} cores; "
        f"Python {hardware['python']}, torch {hardware['torch']}.",
        "",
        f"scifact; fixed features of {report['features']}, mean length {report['length']:.2f}; a linear head a side, "
        f"{HEAD_DIM} dimensions, {report['steps']} steps of {BATCH} pairs, {report['seeds']} seeds. NDCG@10 of the 300 "
        "test queries over 5,183 documents, means over seeds, and in brackets the lead of cosine with its 95% interval "
        "(paired bootstrap over test queries; seeds are averaged, so it holds no spread of seeds). 'Own best' is the "
        f"temperature of {', '.join(f'{t:g}' for t in GRID)} with the best NDCG@10 on 161 held-back training queries.",
        "",
        "| normalization | at 0.05 | at `auto` | which found | at its own best | which is |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in report["normalizations"].items():
        cells = {word: _cell(row, word) for word in ("usual", "auto", "best")}
        lines.append(
            f"| {name} | {cells['usual']} | {cells['auto']} | {min(row['auto']):.3g} to {max(row['auto']):.3g} | "
            f"{cells['best']} | {row['best']:g} |"
        )
    lines += [
        "",
        "Spread of the leads over single seeds: "
        + "; ".join(
            f"{name} " + ", ".join(f"{min(e['seeds']):+.3f} to {max(e['seeds']):+.3f}" for e in _leads(row))
            for name, row in report["normalizations"].items()
            if row["lead_of_cosine"]
        )
        + " (at 0.05, at `auto`, at the own best). One data set, one encoder, heads without depth, one learning rate: "
        "this tells what a shared temperature does to a comparison, and not which normalization is better elsewhere.",
        "",
    ]
    return "\n".join(lines)


def _cell(row: dict[str, Any], word: str) -> str:
    mean = sum(row["ndcg"][word]) / len(row["ndcg"][word])
    if not row["lead_of_cosine"]:
        return f"{mean:.3f}"
    gap = row["lead_of_cosine"][word]
    return f"{mean:.3f} [{gap['mean']:+.3f}: {gap['interval'][0]:+.3f} to {gap['interval'][1]:+.3f}]"


def _leads(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [row["lead_of_cosine"][word] for word in ("usual", "auto", "best")]


def main() -> None:
    """Trains, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--model", help="an encoder; tf-idf without one")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    data = features(arguments.folder, arguments.model)
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "command": "SCIFACT"
        + (" --model MODEL" if arguments.model else "")
        + f" --seeds {arguments.seeds} --steps {arguments.steps}",
        "features": "all-MiniLM-L6-v2" if arguments.model else "tf-idf, reduced",
        "length": float(data.documents.norm(dim=1).mean()),
        "steps": arguments.steps,
        "seeds": arguments.seeds,
    }
    report |= measure(data, arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "auto_temperature.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "auto_temperature.md").write_text(tabulate(report), encoding="utf-8")
    print(tabulate(report))


if __name__ == "__main__":
    main()
