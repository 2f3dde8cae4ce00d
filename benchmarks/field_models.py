"""Small models as people train them, and their data: what ``field_runs.py`` plants its faults in.

Others than those of ``planted_runs.py`` and ``held_out_runs.py``: this package's own tasks with tiny data, and the
usual losses of retrieval, recognition, recommendation and language, written in plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_normdyn.losses import InfoNCE
from lightning_normdyn.tasks.encoders import SmallTextEncoder
from lightning_normdyn.tasks.kg.kg import KnowledgeGraphCompletion
from lightning_normdyn.tasks.recsys.history_encoders import FIRST_ITEM, PADDING
from lightning_normdyn.tasks.recsys.recsys import Recommendation
from lightning_normdyn.tasks.sts import Sts

ENTITIES, RELATIONS = 150, 4
USERS, ITEMS, HISTORY = 80, 160, 12
TOKENS, PLACES = 256, 24
GENRES = 16


class Task(nn.Module):
    """A task of this package, trained by its loss alone: no trainer, no data module.

    Args:
        task: has its tables already.
    """

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """The task's own loss of a batch."""
        loss: Tensor = self.task.loss(batch)
        return loss


def graph_task(**options: Any) -> Task:
    """Completes a graph of a few relations; rows are ``task.scorer.entities.weight``."""
    task = KnowledgeGraphCompletion(dim=16, **options)
    task.make_tables(entities=ENTITIES, relations=RELATIONS)
    return Task(task)


def triples(generator: torch.Generator) -> dict[str, Any]:
    """Heads with directed relations, and tails that lie a step of the relation further."""
    heads = torch.randint(ENTITIES, (64,), generator=generator)
    relations = torch.randint(2 * RELATIONS, (64,), generator=generator)
    tails = (heads + 7 * relations + torch.randint(3, (64,), generator=generator)) % ENTITIES
    return {"queries": torch.stack((heads, relations), 1), "documents": tails}


def recommendation_task(**options: Any) -> Task:
    """Finds the next item of a history; rows are ``task.items.weight``."""
    task = Recommendation(dim=16, history_length=HISTORY, **options)
    task.make_tables(users=USERS, items=ITEMS)
    task.item_counts.fill_(1.0)
    return Task(task)


def histories(offered: int = ITEMS) -> Callable[[torch.Generator], dict[str, Any]]:
    """Walks over the first ``offered`` items, the first of them more often, padded on the left."""

    def draw(generator: torch.Generator) -> dict[str, Any]:
        users = torch.randint(USERS, (24,), generator=generator)
        starts = (torch.rand(24, 1, generator=generator).square() * offered).long()
        steps = torch.randint(1, 4, (24, HISTORY + 1), generator=generator).cumsum(1)
        items = (starts + steps) % offered
        codes, targets = items[:, :-1] + FIRST_ITEM, items[:, 1:].clone()
        is_padding = torch.arange(HISTORY) < torch.randint(HISTORY // 2, (24, 1), generator=generator)
        codes[is_padding], targets[is_padding] = PADDING, -1
        return {"queries": torch.cat((users[:, None], codes), 1), "documents": targets}

    return draw


def sentence_task(**options: Any) -> Task:
    """Finds the text that means the same; rows are those of ``task.towers.document.table.weight``."""
    return Task(Sts(encoder=SmallTextEncoder(dim=24, buckets=300, hidden=32, dropout=0.0), **options))


def sentences(generator: torch.Generator) -> dict[str, Any]:
    """Texts of five words of one subject, and others of the same subject."""
    subjects = torch.randperm(40, generator=generator)[:32]
    words = torch.randint(8, (2, 32, 5), generator=generator)
    texts = [
        [" ".join(f"w{subject}x{word}" for word in line) for subject, line in zip(subjects.tolist(), side, strict=True)]
        for side in words.tolist()
    ]
    return {"queries": texts[0], "documents": texts[1], "query_ids": subjects, "document_ids": subjects}


class Retriever(nn.Module):
    """A table of passages under a loss of pairs, as a bag-of-words retriever has it.

    Args:
        loss: of queries and documents ``[n, d]``.
        dim: length of a row.
        norm: at which rows start; ``None`` for torch's own start.
    """

    def __init__(self, loss: nn.Module | Callable[..., Tensor], *, dim: int = 24, norm: float | None = 1.0) -> None:
        super().__init__()
        self.table = nn.Embedding(TOKENS, dim)
        self.loss = loss
        if norm is not None:
            rescale(self.table.weight, norm)

    def forward(self, pairs: Tensor) -> Tensor:
        """The loss of pairs of rows ``[n, 2]``."""
        queries, documents = self.table(pairs).unbind(1)
        loss: Tensor = self.loss(queries, documents)
        return loss


def neighbours(*, reach: int = 6, used: int = TOKENS, steepness: float = 0.5) -> Callable[[torch.Generator], Tensor]:
    """Pairs of the ``used`` first rows that lie close together, by a power law of their numbers."""
    frequency = torch.arange(1, used + 1).double().pow(-steepness)

    def draw(generator: torch.Generator) -> Tensor:
        queries = torch.multinomial(frequency, 64, replacement=True, generator=generator)
        shifts = torch.randint(reach, (64,), generator=generator)
        return torch.stack((queries, (queries // reach * reach + shifts) % used), 1)

    return draw


class Masked(nn.Module):
    """A masked language model of one block, with a table of tokens, one of places, and the first one as output.

    Args:
        dim: of all vectors.
        places: rows of the table of places.
        spread: of the tables at the start.
        is_normalized: whether vectors of tokens are brought to one length before the block.
    """

    def __init__(
        self, dim: int = 32, *, places: int = PLACES, spread: float = 0.02, is_normalized: bool = False
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(TOKENS, dim), nn.Embedding(places, dim)
        self.block = nn.TransformerEncoderLayer(dim, 2, 2 * dim, 0.0, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(dim)
        self.is_normalized = is_normalized
        for table in (self.tokens, self.places):
            nn.init.normal_(table.weight, std=spread)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross entropy of the token at the masked place of each text."""
        tokens, masked = batch
        inputs = tokens.scatter(1, masked[:, None], 0)
        vectors = self.tokens(inputs)
        if self.is_normalized:
            vectors = vectors * (vectors.square().mean(-1, keepdim=True) + 1e-12).rsqrt()
        vectors = vectors + self.places.weight[: tokens.shape[1]]
        states = self.norm(self.block(vectors)).take_along_dim(masked[:, None, None], 1).squeeze(1)
        return F.cross_entropy(states @ self.tokens.weight.T, tokens.take_along_dim(masked[:, None], 1).squeeze(1))


def texts(*, length: int = 8, rare: float = 0.0) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    """Texts that count on from where they begin, each with a place to be masked.

    Args:
        length: of a text.
        rare: share of the texts whose first token is one of the last sixteen, which else never occur.
    """

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        starts = 1 + torch.randint(TOKENS - 32 - 3 * length, (32, 1), generator=generator)
        tokens = starts + 3 * torch.arange(length) + torch.randint(2, (32, length), generator=generator)
        is_rare = torch.rand(32, generator=generator) < rare
        tokens[is_rare, 0] = TOKENS - 1 - torch.randint(16, (int(is_rare.sum()),), generator=generator)
        return tokens, torch.randint(1, length, (32,), generator=generator)

    return draw


class Faces(nn.Module):
    """A face recogniser's head: softmax over cosines with an additive margin of the angle (ArcFace).

    Args:
        people: rows of ``head``.
        dim: length of a row.
        scale: of the cosines.
        margin: added to the angle of the right one.
    """

    def __init__(self, people: int = 100, dim: int = 24, *, scale: float = 16.0, margin: float = 0.2) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, dim))
        self.head = nn.Parameter(0.2 * torch.randn(people, dim))
        self.scale, self.margin = scale, margin

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of images ``[n, 32]`` and whose they are."""
        images, people = batch
        cosines = F.normalize(self.backbone(images), dim=-1) @ F.normalize(self.head, dim=-1).T
        angles = cosines.clamp(-1 + 1e-6, 1 - 1e-6).acos()
        margins = self.margin * F.one_hot(people, len(self.head))
        return F.cross_entropy(self.scale * (angles + margins).cos(), people)


def faces(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy images of people."""
    prototypes = torch.randn(100, 32, generator=torch.Generator().manual_seed(11))
    people = torch.randint(100, (48,), generator=generator)
    return prototypes[people] + 0.7 * torch.randn(48, 32, generator=generator), people


class Clicks(nn.Module):
    """Whether a user clicks: the sum of the bags of what he saw, a layer, and a logistic loss.

    Args:
        dim: length of a row of ``bags``.
        options: of :class:`torch.nn.EmbeddingBag`.
    """

    def __init__(self, dim: int = 16, **options: Any) -> None:
        super().__init__()
        self.bags = nn.EmbeddingBag(TOKENS, dim, mode="sum", **options)
        self.layers = nn.Sequential(nn.Linear(dim, 32), nn.ReLU(), nn.Linear(32, 1))
        nn.init.uniform_(self.bags.weight, -(TOKENS**-0.5), TOKENS**-0.5)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of what was seen ``[n, 6]`` and whether it was clicked ``[n]``."""
        seen, clicked = batch
        return F.binary_cross_entropy_with_logits(self.layers(self.bags(seen)).squeeze(-1), clicked)


def clicks(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What was seen, the first rows more often, and clicks that go by hidden tastes."""
    tastes = torch.randn(TOKENS, generator=torch.Generator().manual_seed(12))
    seen = (torch.rand(96, 6, generator=generator).pow(2.0) * TOKENS).long()
    return seen, (tastes[seen].sum(1) + torch.randn(96, generator=generator) > 0).float()


class Codes(nn.Module):
    """A vector-quantised autoencoder: each input is coded by the nearest row of ``codebook``.

    Args:
        codes: rows of the codebook.
        dim: length of a row.
        spread: of the codebook at the start.
    """

    def __init__(self, codes: int = 64, dim: int = 12, *, spread: float = 1.0) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(GENRES, dim), nn.Linear(dim, GENRES)
        self.codebook = nn.Embedding(codes, dim)
        nn.init.normal_(self.codebook.weight, std=spread)

    def forward(self, inputs: Tensor) -> Tensor:
        """Reconstruction, codebook and commitment losses of inputs ``[n, GENRES]``."""
        latents = self.encoder(inputs)
        codes = self.codebook(torch.cdist(latents.detach(), self.codebook.weight.detach()).argmin(1))
        decoded = self.decoder(latents + (codes - latents).detach())
        commitment = F.mse_loss(latents, codes.detach())
        return F.mse_loss(decoded, inputs) + F.mse_loss(codes, latents.detach()) + 0.25 * commitment


def blobs(generator: torch.Generator) -> Tensor:
    """Points around a dozen places."""
    places = 3 * torch.randn(12, GENRES, generator=torch.Generator().manual_seed(13))
    return places[torch.randint(12, (64,), generator=generator)] + 0.5 * torch.randn(64, GENRES, generator=generator)


class Triplets(nn.Module):
    """Metric learning: a table of items under a margin of distances, of vectors brought to length 1 or not.

    Args:
        distance: of two lots of vectors.
        is_normalized: whether vectors are brought to length 1 first.
        dim: length of a row.
    """

    def __init__(self, distance: Callable[[Tensor, Tensor], Tensor], *, is_normalized: bool, dim: int = 20) -> None:
        super().__init__()
        self.items = nn.Embedding(TOKENS, dim)
        self.distance, self.is_normalized = distance, is_normalized

    def forward(self, batch: Tensor) -> Tensor:
        """The loss of anchors, positives and negatives ``[n, 3]``."""
        vectors = self.items(batch)
        vectors = F.normalize(vectors, dim=-1) if self.is_normalized else vectors
        anchors, positives, negatives = vectors.unbind(1)
        return F.relu(0.3 + self.distance(anchors, positives) - self.distance(anchors, negatives)).mean()


def triplets(*, may_coincide: bool = False) -> Callable[[torch.Generator], Tensor]:
    """Items, others of their eight, and others of all; with doubles in the data, the item itself at times."""

    def draw(generator: torch.Generator) -> Tensor:
        anchors = torch.randint(TOKENS, (64,), generator=generator)
        shifts = torch.randint(0 if may_coincide else 1, 8, (64,), generator=generator)
        positives = anchors // 8 * 8 + (anchors + shifts) % 8
        return torch.stack((anchors, positives, torch.randint(TOKENS, (64,), generator=generator)), 1)

    return draw


class Cooccurrence(nn.Module):
    """GloVe: dot products and biases go by the logarithm of how often two words meet."""

    def __init__(self, dim: int = 20) -> None:
        super().__init__()
        self.words, self.contexts = nn.Embedding(TOKENS, dim), nn.Embedding(TOKENS, dim)
        self.biases = nn.Parameter(torch.zeros(2, TOKENS))
        for table in (self.words, self.contexts):
            nn.init.uniform_(table.weight, -0.5 / dim, 0.5 / dim)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The weighted squares of words with contexts ``[n, 2]`` and counts ``[n]``."""
        pairs, counts = batch
        words, contexts = pairs.unbind(1)
        scores = (self.words(words) * self.contexts(contexts)).sum(1) + self.biases[0, words] + self.biases[1, contexts]
        return ((counts / 100).clamp(max=1).pow(0.75) * (scores - counts.log()).square()).mean()


def cooccurrences(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pairs of words, and how often they meet: more often near each other and for small numbers."""
    pairs = torch.randint(TOKENS, (128, 2), generator=generator)
    gap, rank = (pairs[:, 0] - pairs[:, 1]).abs(), pairs.sum(1)
    return pairs, 1 + 500 * (-gap / 20).exp() / (1 + rank / 50)


class Signs(nn.Module):
    """SigLIP in plain torch: a logistic loss of each pair, with a learnt logarithm of the scale and a learnt bias."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale, self.bias = nn.Parameter(torch.tensor(2.3)), nn.Parameter(torch.tensor(-4.0))

    def forward(self, queries: Tensor, documents: Tensor) -> Tensor:
        """The loss of queries and documents ``[n, d]``."""
        scores = self.log_scale.exp() * F.normalize(queries, dim=-1) @ F.normalize(documents, dim=-1).T + self.bias
        return -F.logsigmoid((2 * torch.eye(len(scores)) - 1) * scores).sum() / len(scores)


def infonce(temperature: float = 0.1, **options: Any) -> InfoNCE:
    """The cosine InfoNCE of this package."""
    return InfoNCE(normalization="cosine", temperature=temperature, **options)


@torch.no_grad()
def rescale(weight: Tensor, norm: float) -> None:
    """Gives all rows one norm."""
    weight.copy_(norm * F.normalize(weight, dim=-1))
