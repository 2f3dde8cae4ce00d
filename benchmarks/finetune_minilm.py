"""Which norms a pretrained encoder shall keep: five losses from the weights of all-MiniLM-L6-v2, each at its own best.

    python benchmarks/finetune_minilm.py MODEL DATA [--only STUDY ...] [--runs runs/finetune] [--out benchmarks/results]

MODEL is a local folder (or a name) of all-MiniLM-L6-v2, DATA holds scifact, banking77 and sts_benchmark. In the studies
``heads/...`` the features stay as they are and a residual head of one hidden layer trains on them, in ``layers/...``
the upper layers of the encoder train. Every variant starts from the same weights, and chooses temperature and learning
rate on validation among as many choices as any other, around the temperature at which its scores spread as those of
cosine; a temperature at the edge of the list is held against the next one beyond, once. Then the choice is trained with
all seeds. Runs that lie under ``--runs`` are not made again, and studies in ``--out`` stay beside new ones. Writes
``finetune_minilm.json`` and a dated table. Each study of heads takes four minutes of a core, and encoding its texts up
to five; ``heads/few_of_scifact`` three in all.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from finetune_sets import SETS, EncodedTexts, Split, TextSet, encode, measure
from finetune_table import tabulate
from overhead_table import machine
from torch import Tensor, nn

from lightning_normdyn.core.statistics.variant_comparison import compare_variants
from lightning_normdyn.losses import InfoNCE
from lightning_normdyn.losses.temperature import score_variance
from lightning_normdyn.tasks.contrast.schedules import decayed
from lightning_normdyn.tasks.encoders import PretrainedTextEncoder

VARIANTS = ("cosine", "dot", "qnorm", "dnorm", "learnable")
COSINE = (1.0, 1.0)
WARMUP, EVALUATED = 0.1, 64


class Study(NamedTuple):
    """What trains on which set.

    Attributes:
        data: name of the set.
        below: layers of the encoder that stay as they are; ``None`` where a head trains on features.
        steps: of a training.
        batch: pairs a step.
        rates: peaks of the learning rate to choose from.
        temperatures: of cosine, to choose from.
        choosers: seeds that the choice is made with.
        seeds: of the trainings that are compared.
        elsewhere: sets that the trained encoder is measured on as well.
    """

    data: str
    below: int | None
    steps: int
    batch: int
    rates: tuple[float, ...]
    temperatures: tuple[float, ...]
    choosers: int
    seeds: int
    elsewhere: tuple[str, ...]


_HEAD: dict[str, Any] = {
    "below": None,
    "steps": 200,
    "batch": 128,
    "temperatures": (0.025, 0.05, 0.1, 0.2),
    "choosers": 1,
    "seeds": 5,
}
_LAYERS: dict[str, Any] = {"batch": 32, "rates": (1e-4,), "temperatures": (0.025, 0.05, 0.1), "choosers": 1, "seeds": 3}
_BOTH, _SLOW = (3e-4, 1e-3), (3e-4,)
STUDIES = {
    "heads/scifact": Study("scifact", **_HEAD, rates=_SLOW, elsewhere=("banking77", "sts_benchmark")),
    "heads/few_of_scifact": Study(
        "few_of_scifact", **{**_HEAD, "steps": 100}, rates=_SLOW, elsewhere=("sts_benchmark",)
    ),
    "heads/sts_benchmark": Study("sts_benchmark", **_HEAD, rates=_BOTH, elsewhere=("banking77",)),
    "heads/banking77": Study("banking77", **{**_HEAD, "seeds": 3}, rates=_SLOW, elsewhere=("sts_benchmark",)),
    "layers/scifact": Study("scifact", 4, 46, **_LAYERS, elsewhere=("sts_benchmark",)),
    "heads/titles": Study("titles", **_HEAD, rates=_SLOW, elsewhere=("banking77", "sts_benchmark")),
    "layers/sts_benchmark": Study("sts_benchmark", 4, 80, **_LAYERS, elsewhere=("banking77",)),
}


class Head(nn.Module):
    """A residual head on features, the identity at first."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        dim = features.shape[1]
        self.features = features
        self.first, self.second = nn.Linear(dim, dim), nn.Linear(dim, dim)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, places: Tensor) -> Tensor:
        """Embeddings of some texts, ``[b, d]``."""
        x = self.features[places]
        y: Tensor = x + self.second(nn.functional.gelu(self.first(x)))
        return y


class UpperLayers(nn.Module):
    """The upper layers of the encoder on the vectors of tokens that the lower ones gave, pooled by mean."""

    def __init__(self, encoder: PretrainedTextEncoder, below: int, texts: EncodedTexts) -> None:
        super().__init__()
        self.layers = copy.deepcopy(encoder.model.encoder.layer[below:])
        self.texts = texts

    def forward(self, places: Tensor) -> Tensor:
        """Embeddings of some texts, ``[b, d]``."""
        hidden, mask = self.texts.padded(places)
        with torch.autocast("cpu", torch.bfloat16):
            for layer in self.layers:
                hidden = layer(hidden, mask[:, None, None, :])
        hidden = hidden.float()
        pooled: Tensor = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return pooled

    @torch.no_grad()
    def embed(self, places: Tensor) -> Tensor:
        """The same of any number, from short to long."""
        lengths = self.texts.starts[places + 1] - self.texts.starts[places]
        order = lengths.argsort()
        parts = [self(places[part]) for part in order.split(EVALUATED)]
        return torch.cat(parts)[order.argsort()]


class Material:
    """Sets and what the encoder makes of them, each read when it is first wanted."""

    def __init__(self, model: str, data: Path, cache: Path) -> None:
        self.encoder = PretrainedTextEncoder(model, pooling="mean", max_length=128).eval()
        self._data, self._cache = data, cache
        self._sets: dict[str, TextSet] = {}
        self._encoded: dict[tuple[str, int], EncodedTexts] = {}

    def texts(self, name: str) -> TextSet:
        """A set."""
        if name not in self._sets:
            self._sets[name] = SETS[name](self._data)
        return self._sets[name]

    def encoded(self, name: str, below: int | None) -> EncodedTexts:
        """Its texts, encoded up to a layer."""
        depth = 4 if below is None else below
        key = (name, depth)
        if key not in self._encoded:
            start = time.perf_counter()
            self._encoded[key] = encode(self.texts(name).texts, self.encoder, depth, self._cache / f"{name}-{depth}.pt")
            print(f"{name} up to layer {depth}: {time.perf_counter() - start:.0f} s", flush=True)
        return self._encoded[key]

    def model(self, name: str, below: int | None) -> Head | UpperLayers:
        """What trains, from the weights that all variants start from."""
        texts = self.encoded(name, below)
        return Head(texts.features) if below is None else UpperLayers(self.encoder, below, texts)


class Choice(NamedTuple):
    """What one training has of its own."""

    variant: str
    temperature: float
    lr: float
    seed: int


def train(study: Study, material: Material, choice: Choice) -> dict[str, Any]:
    """Trains and measures; the values of single queries are by the score that trained and by cosine."""
    texts = material.texts(study.data)
    torch.manual_seed(choice.seed)
    model = material.model(study.data, study.below)
    loss = InfoNCE(normalization=choice.variant, temperature=choice.temperature)
    groups = [{"params": model.parameters()}, loss.parameter_group(lr=1e-2)]
    optimizer = torch.optim.AdamW(groups, lr=choice.lr, weight_decay=0.01)
    scheduler = decayed(optimizer, "cosine", study.steps, warmup=WARMUP)
    assert scheduler is not None
    model.train()
    batches = shuffled(texts.pairs, texts.ids, study)
    start = time.perf_counter()
    for _ in range(study.steps):
        pairs, ids = next(batches)
        queries, documents = model(pairs.T.flatten()).chunk(2)
        value = loss(queries, documents, query_ids=ids[:, 0], document_ids=ids[:, 1])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        scheduler.step()
    seconds = time.perf_counter() - start
    record = {"choice": choice._asdict(), "step_seconds": seconds / study.steps}
    exponents = tuple(float(gamma) for gamma in loss.similarity.exponents)
    record |= {"exponents": exponents, **evaluate(model.eval(), study, material, exponents)}
    return record | {"seconds": time.perf_counter() - start}


def shuffled(pairs: Tensor, ids: Tensor, study: Study) -> Iterator[tuple[Tensor, Tensor]]:
    """Full batches of pairs, epoch after epoch."""
    while True:
        order = torch.randperm(len(pairs))
        for rows in order.split(study.batch):
            if len(rows) == study.batch:
                yield pairs[rows], ids[rows]


@torch.no_grad()
def evaluate(model: nn.Module, study: Study, material: Material, exponents: tuple[float, float]) -> dict[str, Any]:
    """Of validation and test, and of the tests of other sets."""
    texts = material.texts(study.data)
    splits = texts.splits if study.below is None else {name: texts.near(name) for name in texts.splits}
    places = torch.cat([side for split in splits.values() for side in split[:2]]).unique()
    embedded = _embedded(model, places)

    def sides(split: Split) -> list[Tensor]:
        return [embedded[torch.searchsorted(places, side)] for side in split[:2]]

    record: dict[str, Any] = {}
    for name, split in splits.items():
        queries, documents = sides(split)
        record[name] = _measured(texts.measure, queries, documents, split, exponents)
    norms = [side.norm(dim=1) for side in (queries, documents)]
    record["norms"] = [[float(norm.mean()), float(norm.std() / norm.mean())] for norm in norms]
    for name in study.elsewhere:
        other = material.texts(name)
        split = other.splits["test"].thinned()
        moved = _moved(model, material.encoded(name, study.below))
        record[name] = _measured(other.measure, *(_embedded(moved, side) for side in split[:2]), split, exponents)
    return record


def _measured(
    kind: str, queries: Tensor, documents: Tensor, split: Split, exponents: tuple[float, float]
) -> dict[str, list[float]]:
    by_score = {"trained": exponents, "cosine": COSINE}
    return {
        score: [round(float(value), 5) for value in measure(kind, queries, documents, split.judgements, powers)]
        for score, powers in by_score.items()
    }


def _embedded(model: nn.Module, places: Tensor) -> Tensor:
    return model.embed(places) if isinstance(model, UpperLayers) else model(places)


def _moved(model: nn.Module, texts: EncodedTexts) -> nn.Module:
    """The same weights on the texts of another set."""
    moved = copy.copy(model)
    if isinstance(moved, UpperLayers):
        moved.texts = texts
    else:
        moved.features = texts.features
    return moved


class Runs:
    """Trainings of a study, appended to a file as they end."""

    def __init__(self, study: Study, material: Material, file: Path) -> None:
        self.study, self._material, self._file = study, material, file
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        self._records = {Choice(**record["choice"]): record for record in map(json.loads, lines)}

    def of(self, choice: Choice) -> dict[str, Any]:
        """A training, made if it is not there."""
        if choice not in self._records:
            record = train(self.study, self._material, choice)
            with self._file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(record) + "\n")
            self._records[choice] = record
            score = mean(record["test"]["trained"])
            print(f"{self._file.stem} {choice} test {score:.4f} {record['seconds']:.0f} s", flush=True)
        return self._records[choice]

    def validation(self, variant: str, temperature: float, lr: float) -> float:
        """Mean over the seeds that choose."""
        records = [self.of(Choice(variant, temperature, lr, seed)) for seed in range(self.study.choosers)]
        return mean([mean(record["validation"]["trained"]) for record in records])


def mean(values: Sequence[float]) -> float:
    """Of numbers."""
    return sum(values) / len(values)


def best(runs: Runs, variant: str, scale: float) -> dict[str, Any]:
    """Temperature and rate that are best on validation, and how flat the choice was.

    Args:
        runs: of the study.
        variant: whose.
        scale: how many times as far its scores spread at the start as those of cosine.
    """
    ladder = [rung * scale for rung in runs.study.temperatures]
    found = {(t, lr): runs.validation(variant, t, lr) for t in ladder for lr in runs.study.rates}
    place = ladder.index(max(found, key=lambda key: found[key])[0])
    if place in (0, len(ladder) - 1):
        beyond = ladder[place] / 2 if place == 0 else ladder[place] * 2
        found |= {(beyond, lr): runs.validation(variant, beyond, lr) for lr in runs.study.rates}
    temperature, lr = max(found, key=lambda key: found[key])
    ladder = sorted({t for t, _ in found})
    return {
        "temperature": temperature,
        "lr": lr,
        "of_cosine": temperature / scale,
        "at_edge": temperature in (ladder[0], ladder[-1]),
        "validation": {f"{t:.4g} {lr:g}": round(value, 4) for (t, lr), value in found.items()},
    }


@torch.no_grad()
def scales(study: Study, material: Material) -> dict[str, float]:
    """How many times as far the scores of each variant spread at the start as those of cosine."""
    texts = material.texts(study.data)
    features = material.encoded(study.data, study.below).features
    spread = {}
    for name in VARIANTS:
        similarity = InfoNCE(normalization=name).similarity
        powers = [float(gamma) for gamma in similarity.exponents]
        sides = [features[column][:512] for column in texts.pairs.T]
        scaled = [side / side.norm(dim=1, keepdim=True) ** power for side, power in zip(sides, powers, strict=True)]
        spread[name] = float(score_variance(*scaled).sqrt())
    return {name: value / spread["cosine"] for name, value in spread.items()}


def summary(runs: Runs, material: Material) -> dict[str, Any]:
    """A study: choices, trainings, comparisons."""
    study = runs.study
    texts = material.texts(study.data)
    scale = scales(study, material)
    choices = {variant: best(runs, variant, scale[variant]) for variant in VARIANTS}
    records = {
        variant: [runs.of(Choice(variant, choice["temperature"], choice["lr"], seed)) for seed in range(study.seeds)]
        for variant, choice in choices.items()
    }
    features = material.encoded(study.data, study.below).features
    test = texts.splits["test"] if study.below is None else texts.near("test")
    start = measure(texts.measure, features[test.queries], features[test.documents], test.judgements, COSINE)
    return {
        "study": study._asdict(),
        "measure": texts.measure,
        "pairs": len(texts.pairs),
        "documents": len(test.documents),
        "choices": choices,
        "start": float(start.nanmean()),
        "start_norms": [
            float(features[side].norm(dim=1).std() / features[side].norm(dim=1).mean()) for side in test[:2]
        ],
        "step_seconds": mean([record["step_seconds"] for each in records.values() for record in each]),
        "norms": {name: [record["norms"] for record in each] for name, each in records.items()},
        "exponents": [record["exponents"] for record in records["learnable"]],
        "test": compared(records, "test", "trained"),
        "by_cosine": compared(records, "test", "cosine"),
        "unseen": None if texts.seen is None else compared(records, "test", "trained", ~texts.seen),
        "seen": None if texts.seen is None else compared(records, "test", "trained", texts.seen),
        "elsewhere": {
            name: {score: compared(records, name, score) for score in ("trained", "cosine")}
            | {"start": _start(material, name, study.below)}
            for name in study.elsewhere
        },
    }


def _start(material: Material, name: str, below: int | None) -> float:
    texts, features = material.texts(name), material.encoded(name, below).features
    test = texts.splits["test"].thinned()
    values = measure(texts.measure, features[test.queries], features[test.documents], test.judgements, COSINE)
    return float(values.nanmean())


def compared(
    records: dict[str, list[dict[str, Any]]], split: str, score: str, rows: Tensor | None = None
) -> dict[str, Any]:
    """All variants beside cosine, and the smallest gain that would have been seen in four of five tries."""
    values = {
        name: torch.tensor([record[split][score] for record in each], dtype=torch.float64)
        for name, each in records.items()
    }
    if rows is not None:
        values = {name: table[:, rows] for name, table in values.items()}
    comparison = compare_variants(values)
    visible = {name: 2.8 * _error(table - values["cosine"]) for name, table in values.items() if name != "cosine"}
    return {
        "queries": comparison.queries,
        "seeds": comparison.seeds,
        "recommended": comparison.recommended,
        "confidence": comparison.confidence,
        "visible": visible,
        "scores": {name: result.numbers() for name, result in comparison.scores.items()},
    }


def _error(gaps: Tensor) -> float:
    """Standard error of a mean gap ``[seeds, n]``, over queries and over seeds."""
    seeds, queries = gaps.shape
    of_queries = gaps.mean(0).var() / queries
    of_seeds = gaps.mean(1).var() / seeds if seeds > 1 else 0.0
    return float((of_queries + of_seeds) ** 0.5)


def main() -> None:
    """Trains what is missing, and writes what came out of the studies that are whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--runs", type=Path, default=Path("runs/finetune"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    material = Material(arguments.model, arguments.data, arguments.runs / "encoded")
    report: dict[str, Any] = {"date": datetime.date.today().isoformat(), "machine": machine(), "studies": {}}
    file = arguments.out / "finetune_minilm.json"
    if file.is_file():
        report["studies"] = json.loads(file.read_text(encoding="utf-8"))["studies"]
    for name in arguments.only:
        runs = Runs(STUDIES[name], material, arguments.runs / f"{name.replace('/', '-')}.jsonl")
        report["studies"][name] = summary(runs, material)
        print(name, json.dumps(report["studies"][name]["test"]["scores"], indent=1), flush=True)
        file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (arguments.out / "finetune_minilm.md").write_text(tabulate(report), encoding="utf-8")


if __name__ == "__main__":
    main()
