"""The sets that a pretrained encoder is fine-tuned on, each a pool of texts, and what the encoder makes of them.

Texts are encoded once and kept on disk: their features, and the vectors of their tokens below the layers that train.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.statistics.ranking import grade_ranking, ranking_ndcg
from lightning_normdyn.datasets import Judgements
from lightning_normdyn.datasets.formats import read_beir, read_sts
from lightning_normdyn.datasets.formats.labelled_text import read_labelled_texts
from lightning_normdyn.tasks.contrast.encoded import Encoded, Exponents
from lightning_normdyn.tasks.contrast.ranking_measures import rank_documents
from lightning_normdyn.tasks.encoders import PretrainedTextEncoder
from lightning_normdyn.tasks.sts import spearman_shares

TOKENS, TEXTS = 128, 32
PARTNERS = 4  # of each text of a class, drawn once
ALIKE = 3.0
RANKED = 10
MOST = (1_000, 2_000)  # queries and documents of a set that was not trained on


class Split(NamedTuple):
    """What is measured: positions of queries ``[n]`` and documents ``[m]`` among the texts, and judgements of them."""

    queries: Tensor
    documents: Tensor
    judgements: Judgements

    def thinned(self) -> Split:
        """Every few queries and documents of a large split; all of one whose judgements are pairs."""
        if len(self.judgements.grades) == len(self.queries) == len(self.documents):
            return self
        sides = [
            torch.linspace(0, len(side) - 1, min(len(side), most)).long()
            for side, most in zip(self[:2], MOST, strict=True)
        ]
        rows, columns = (
            (column[:, None] == places).any(1) for column, places in zip(self.judgements[:2], sides, strict=True)
        )
        pairs = [column[rows & columns] for column in self.judgements]
        places = [torch.searchsorted(*pair) for pair in zip(sides, pairs[:2], strict=True)]
        return Split(self.queries[sides[0]], self.documents[sides[1]], Judgements(*places, pairs[2]))


class TextSet(NamedTuple):
    """A pool of texts.

    Attributes:
        texts: all of them.
        pairs: positions of the texts of training pairs, ``[p, 2]``.
        ids: of both sides, ``[p, 2]``; equal ones are no negatives of each other.
        splits: ``validation`` and ``test``.
        measure: of a test: ``ndcg@10`` or ``spearman``.
        seen: which queries of the test have a relevant document that is relevant in training, bool ``[n]``.
    """

    texts: Sequence[str]
    pairs: Tensor
    ids: Tensor
    splits: dict[str, Split]
    measure: str = "ndcg@10"
    seen: Tensor | None = None

    def near(self, name: str) -> Split:
        """A split with the documents that some split wants and every fifth of all others, if it is of thousands."""
        split = self.splits[name]
        if self.measure != "ndcg@10" or len(split.documents) < MOST[1]:
            return split
        wanted = torch.zeros(len(split.documents), dtype=torch.bool)
        for each in self.splits.values():
            wanted[each.judgements.documents] = True
        wanted[::5] = True
        numbers = wanted.cumsum(0) - 1
        judged = split.judgements
        return Split(split.queries, split.documents[wanted], judged._replace(documents=numbers[judged.documents]))


def scifact(data: Path) -> TextSet:
    """Claims seek abstracts with their titles; a fifth of the training claims becomes a split of its own."""
    beir = read_beir(data / "scifact")
    return _claims(beir.documents.texts, beir.queries.texts, beir.judgements)


def few_of_scifact(data: Path) -> TextSet:
    """The same with every abstract that answers a claim, and every fifth of all others."""
    beir = read_beir(data / "scifact")
    is_kept = torch.zeros(len(beir.documents.texts), dtype=torch.bool)
    is_kept[::5] = True
    for judged in beir.judgements.values():
        is_kept[judged.relevant().documents] = True
    numbers = is_kept.cumsum(0) - 1
    judgements = {
        split: judged.relevant()._replace(documents=numbers[judged.relevant().documents])
        for split, judged in beir.judgements.items()
    }
    documents = [beir.documents.texts[place] for place in is_kept.nonzero().flatten().tolist()]
    return _claims(documents, beir.queries.texts, judgements)


def _claims(texts: Sequence[str], claims: Sequence[str], judgements: Mapping[str, Judgements]) -> TextSet:
    first_query = len(texts)
    train = judgements["train"].relevant()
    numbers = train.queries.unique()
    held = numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))[: len(numbers) // 5]]
    is_held = torch.isin(train.queries, held)
    documents = torch.arange(first_query)

    def split(judged: Judgements) -> Split:
        queries, places = judged.queries.unique(return_inverse=True)
        return Split(queries + first_query, documents, judged._replace(queries=places))

    test = judgements["test"].relevant()
    pairs = torch.stack((train.queries + first_query, train.documents), 1)[~is_held]
    splits = {"validation": split(Judgements(*(column[is_held] for column in train))), "test": split(test)}
    seen = torch.zeros(len(splits["test"].queries), dtype=torch.bool)
    seen[splits["test"].judgements.queries[torch.isin(test.documents, train.documents[~is_held])]] = True
    return TextSet([*texts, *claims], pairs, pairs, splits, seen=seen)


def titles(data: Path) -> TextSet:
    """Titles of scifact's abstracts seek the abstracts, which come without them."""
    with gzip.open(data / "scifact" / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        entries = [json.loads(line) for line in lines]
    heads, bodies = [entry["title"] for entry in entries], [entry["text"] for entry in entries]
    count = len(entries)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    train, validation, test = order.split([round(0.6 * count), round(0.1 * count), count - round(0.7 * count)])
    splits = {
        name: Split(
            places, torch.arange(count, 2 * count), Judgements(torch.arange(len(places)), places, _ones(places))
        )
        for name, places in {"validation": validation, "test": test}.items()
    }
    pairs = torch.stack((train, train + count), 1)
    return TextSet([*heads, *bodies], pairs, pairs, splits)


def banking77(data: Path) -> TextSet:
    """Questions to a bank seek questions of the same intent."""
    by_split = read_labelled_texts(data / "banking77")
    train, test = by_split["train"], by_split["test"]
    texts, labels = [*train.texts, *test.texts], torch.cat((train.labels, test.labels))
    order = torch.randperm(len(train.texts), generator=torch.Generator().manual_seed(0))
    held, documents = order[: len(order) // 5], order[len(order) // 5 :].sort().values
    queries = {"validation": held, "test": torch.arange(len(train.texts), len(texts))}
    splits = {
        name: Split(places, documents, _of_class(labels[places], labels[documents])) for name, places in queries.items()
    }
    generator = torch.Generator().manual_seed(1)
    partners = []
    for place in documents.tolist():
        alike = documents[(labels[documents] == labels[place]) & (documents != place)]
        partners += [(place, int(alike[i])) for i in torch.randint(len(alike), (PARTNERS,), generator=generator)]
    pairs = torch.tensor(partners)
    return TextSet(texts, pairs, labels[pairs], splits)


def sts_benchmark(data: Path) -> TextSet:
    """Sentences that are graded as alike; all graded pairs of the test are measured."""
    by_split = read_sts(data / "sts_benchmark")
    texts: dict[str, int] = {}

    def places(sentences: Sequence[str]) -> Tensor:
        return torch.tensor([texts.setdefault(sentence, len(texts)) for sentence in sentences])

    sides = {name: (places(part.first), places(part.second), part.grades) for name, part in by_split.items()}
    first, second, grades = sides["train"]
    pairs = torch.stack((first, second), 1)[grades > ALIKE]
    splits = {}
    for name, (first, second, grades) in sides.items():
        if name != "train":
            rows = torch.arange(len(first))
            splits[name if name == "test" else "validation"] = Split(first, second, Judgements(rows, rows, grades))
    return TextSet(list(texts), pairs, pairs, splits, measure="spearman")


SETS: dict[str, Callable[[Path], TextSet]] = {
    "banking77": banking77,
    "sts_benchmark": sts_benchmark,
    "scifact": scifact,
    "few_of_scifact": few_of_scifact,
    "titles": titles,
}


def _ones(places: Tensor) -> Tensor:
    return torch.ones(len(places))


def _of_class(queries: Tensor, documents: Tensor) -> Judgements:
    """All pairs of equal labels."""
    rows, columns = (queries[:, None] == documents).nonzero().unbind(1)
    return Judgements(rows, columns, _ones(rows))


def measure(kind: str, queries: Tensor, documents: Tensor, judgements: Judgements, exponents: Exponents) -> Tensor:
    """One value a query, whose mean is the measure, ``[n]``."""
    encoded = Encoded(queries, documents, judgements)
    if kind == "ndcg@10":
        return ranking_ndcg(grade_ranking(rank_documents(encoded, exponents, RANKED), judgements, len(queries)), RANKED)
    scaled = [
        side.double() / side.double().norm(dim=1, keepdim=True) ** exponent
        for side, exponent in zip((queries, documents), exponents, strict=True)
    ]
    return spearman_shares((scaled[0] * scaled[1]).sum(1), judgements.grades)


class EncodedTexts(NamedTuple):
    """What the encoder makes of all texts of a pool.

    Attributes:
        features: means over tokens, not normalised, ``[t, d]``.
        tokens: vectors of all tokens below the layers that train, one text after the other, float16 ``[sum, d]``.
        starts: where each text begins, ``[t + 1]``.
    """

    features: Tensor
    tokens: Tensor
    starts: Tensor

    def padded(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of some texts ``[b, longest, d]`` in float32, and which are there, bool ``[b, longest]``."""
        lengths = self.starts[places + 1] - self.starts[places]
        columns = torch.arange(int(lengths.max()))
        mask = columns < lengths[:, None]
        rows = (self.starts[places][:, None] + columns).where(mask, 0)
        return self.tokens[rows].float() * mask[..., None], mask


@torch.no_grad()
def encode(texts: Sequence[str], encoder: PretrainedTextEncoder, below: int, file: Path) -> EncodedTexts:
    """Encodes all texts, or takes what lies on disk.

    Args:
        texts: of a pool.
        encoder: pools by mean.
        below: layers whose output is kept; 0 for what the embeddings give.
        file: where it lies.
    """
    if file.is_file():
        return EncodedTexts(**torch.load(file, weights_only=True))
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    features, tokens, lengths = [], [], []
    for first in range(0, len(order), TEXTS):
        inputs = encoder.tokenize([texts[place] for place in order[first : first + TEXTS]])
        with torch.autocast("cpu", torch.bfloat16):
            hidden = [level.float() for level in encoder.model(**inputs, output_hidden_states=True).hidden_states]
        mask = inputs["attention_mask"].bool()
        features.append((hidden[-1] * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        tokens += [row[keep].half() for row, keep in zip(hidden[below], mask, strict=True)]
        lengths += mask.sum(1).tolist()
    back = torch.tensor(order).argsort()
    starts = torch.tensor([0, *(lengths[place] for place in back.tolist())]).cumsum(0)
    encoded = EncodedTexts(torch.cat(features)[back], torch.cat([tokens[place] for place in back.tolist()]), starts)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(encoded._asdict(), file)
    return encoded
