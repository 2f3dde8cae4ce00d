"""A world of words whose vectors are known, as a model of sentence-transformers: relevant documents are long or not."""

from __future__ import annotations

from typing import NamedTuple

import torch
from sentence_models import sentence_model
from torch import Tensor

QUERIES, DOCUMENTS, WIDTH = 40, 240, 12


class World(NamedTuple):
    """Text ``q3`` has the third query's vector, ``d3`` the third document's; the third document answers it."""

    queries: Tensor
    documents: Tensor
    judged: dict[str, dict[str, int]]

    @property
    def query_texts(self):
        return {f"q{row}": f"q{row}" for row in range(len(self.queries))}

    @property
    def document_texts(self):
        return {f"d{row}": f"d{row}" for row in range(len(self.documents))}

    def model(self, normalize=False):
        """An EmbeddingBag of the vectors, with a final Normalize if wanted."""
        from sentence_transformers.sentence_transformer import modules as models
        from tokenizers import Tokenizer, models as token_models, pre_tokenizers

        words = ["[UNK]", *self.query_texts, *self.document_texts]
        tokenizer = Tokenizer(token_models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        weights = torch.cat([torch.zeros(1, WIDTH), self.queries, self.documents])
        table = models.StaticEmbedding(tokenizer, embedding_weights=weights.numpy())
        return sentence_model([table, *([models.Normalize()] if normalize else [])])


def planted_world(long_answers=True, seed=0):
    """Answers lie near their queries among others as near; twice as long as those, where norms are to help."""
    draw = torch.Generator().manual_seed(seed)
    queries = torch.randn(QUERIES, WIDTH, generator=draw)
    answers = queries + 0.8 * torch.randn(QUERIES, WIDTH, generator=draw)
    others = queries.repeat(DOCUMENTS // QUERIES - 1, 1)
    others = others + 0.8 * torch.randn(len(others), WIDTH, generator=draw)
    lengths = 1 + 0.2 * torch.rand(DOCUMENTS, 1, generator=draw)
    if long_answers:
        lengths[:QUERIES] *= 2
    documents = torch.nn.functional.normalize(torch.cat([answers, others]), dim=1) * lengths
    judged = {f"q{row}": {f"d{row}": 2, f"d{row + QUERIES}": 1} for row in range(QUERIES)}
    return World(queries, documents, judged)


def ranked_ndcg(world, alpha, k=10):
    """Mean ndcg of the cosine times ``|d|^alpha``, a loop over float64 numbers, query by query."""
    total = 0.0
    for row, query in enumerate(world.queries.double()):
        scores = []
        for document in world.documents.double():
            norm = float(document.square().sum()) ** 0.5
            scores.append(float(query @ document) / float(query.norm()) / norm * norm**alpha)
        order = sorted(range(len(scores)), key=lambda place: -scores[place])[:k]
        grades = world.judged[f"q{row}"]
        discounts = [1 / torch.tensor(rank + 2.0).log2().item() for rank in range(k)]
        gained = sum(grades.get(f"d{place}", 0) * weight for place, weight in zip(order, discounts, strict=True))
        best = sum(g * w for g, w in zip(sorted(grades.values(), reverse=True), discounts, strict=False))
        total += gained / best
    return total / len(world.queries)
