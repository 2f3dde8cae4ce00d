"""The setups of the compatibility table: a library, a kind of model, a loop. A row is one entry of ``SETUPS``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import sentence_models
import torch
import torch.nn.functional as F
from tally import ByHandTally, TableTally, Tally
from trainings import BATCH, STEPS, by_hugging_face, by_plain_loop, under_torchrec


@dataclass(frozen=True)
class Setup:
    """One row of the table.

    Attributes:
        library: the package that is tried, by the name under which it is imported.
        kind: what is trained and how, in words.
        train: takes a :class:`trainings.Run` and runs it.
        target: what is observed.
        tapped: gives, of the model, what the tally listens to.
        tally: makes the tally.
        others: further packages that it needs.
        warning: what the observer is to say, once; empty for nothing.
        marks: of pytest.
    """

    library: str
    kind: str
    train: Callable[[Any], object]
    target: str
    tapped: Callable[[Any], Any]
    tally: Callable[[], Any] = Tally
    others: Sequence[str] = ()
    warning: str = ""
    marks: Sequence[Any] = ()


def text(output):
    return output["sentence_embedding"], None


def tokens(output):
    return output["token_embeddings"], output["attention_mask"]


def sentence_trainer(folder, make_model, loss, router=None, extra=None, **arguments):
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer import losses

    model = make_model(folder / "model")
    if router is not None:
        arguments["router_mapping"] = router
    model.model_card_data.generate_widget_examples = False
    return SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(**arguments),
        train_dataset=sentence_models.dataset(STEPS * BATCH * 2, **extra or {}),
        loss=loss(losses, model),
    )


def multi_vector_trainer(folder, **arguments):
    late = pytest.importorskip("sentence_transformers.multi_vector_encoder")  # from 6 on
    from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss

    model = sentence_models.multi_vector_model(folder / "model")
    model.model_card_data.generate_widget_examples = False
    return late.MultiVectorEncoderTrainer(
        model,
        late.MultiVectorEncoderTrainingArguments(**arguments),
        train_dataset=sentence_models.dataset(STEPS * BATCH * 2),
        loss=MultiVectorMultipleNegativesRankingLoss(model),
    )


def by_sentences(make_model, loss=lambda losses, model: losses.MultipleNegativesRankingLoss(model), **options):
    def train(run):
        arguments = {name: options[name] for name in options if name not in ("router", "extra")}
        trainer = partial(
            sentence_trainer,
            make_model=make_model,
            loss=loss,
            router=options.get("router"),
            extra=options.get("extra"),
        )
        by_hugging_face(run, trainer, **arguments)

    return train


def cached(losses, model):
    return losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=3)


def matryoshka(losses, model):
    return losses.MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), [16, 8])


def cosine(losses, model):
    return losses.CoSENTLoss(model)


class Backbone(torch.nn.Module):
    """A backbone that ends in ``[n, C, 1, 1]``, as lightly's examples have it, and a projection head under its loss."""

    def __init__(self):
        super().__init__()
        layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)]
        self.backbone = torch.nn.Sequential(*layers)
        self.head = torch.nn.Linear(8, 6)

    def forward(self, views):
        from lightly.loss import NTXentLoss

        return NTXentLoss()(*(self.head(self.backbone(view).flatten(start_dim=1)) for view in views))


class TimmViews(torch.nn.Module):
    """A network of timm without its classifier, one vector an image."""

    def __init__(self):
        import timm

        super().__init__()
        self.body = timm.create_model("test_resnet.r160_in1k", pretrained=False, num_classes=0)

    def forward(self, views):
        queries, documents = (F.normalize(self.body(view), dim=1) for view in views)
        return F.cross_entropy(10 * queries @ documents.T, torch.arange(len(queries)))


class Metric(torch.nn.Module):
    """An embedder under a loss of PyTorch Metric Learning, whose class weights are part of the loss."""

    def __init__(self):
        from pytorch_metric_learning.losses import NTXentLoss

        super().__init__()
        self.embedder = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8))
        self.loss = NTXentLoss()

    def forward(self, batch):
        inputs, labels = batch
        return self.loss(self.embedder(inputs), labels)


def images(size=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, BATCH, 3, size, size, generator=generator) for _ in range(STEPS)]


def labelled(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(16, 12, generator=generator), torch.arange(4).repeat(4)) for _ in range(STEPS)]


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)


def plainly(make, batches, **options):
    return lambda run: by_plain_loop(run, lambda _: make(), batches(), adamw, **options)


ST = "sentence_transformers"
HUGGING_FACE = ("transformers", "accelerate", "datasets")
SETUPS = [
    Setup(
        ST,
        "transformer, Normalize; in-batch negatives",
        by_sentences(sentence_models.text_model),
        "root",
        lambda model: model[1],
        lambda: Tally(text),
        HUGGING_FACE,
    ),
    Setup(
        ST,
        "transformer, Normalize; accumulated over two batches",
        by_sentences(sentence_models.text_model, gradient_accumulation_steps=2),
        "sentence_embedding",
        lambda model: model[1],
        lambda: Tally(text),
        HUGGING_FACE,
    ),
    Setup(
        ST,
        "transformer, Normalize; tokens without padding",
        by_sentences(sentence_models.text_model),
        "token_embeddings",
        lambda model: model[0],
        lambda: Tally(tokens),
        HUGGING_FACE,
    ),
    Setup(
        ST,
        "transformer, Normalize; cached loss (GradCache)",
        by_sentences(sentence_models.text_model, cached),
        "root",
        lambda model: model[1],
        lambda: Tally(text),
        HUGGING_FACE,
    ),
    Setup(
        ST,
        "transformer, Normalize; word table",
        by_sentences(sentence_models.text_model),
        "0.model.embeddings.word_embeddings.weight",
        lambda model: model,
        lambda: TableTally("0.model.embeddings.word_embeddings.weight"),
        HUGGING_FACE,
    ),
    Setup(
        ST,
        "transformer; Matryoshka loss",
        by_sentences(partial(sentence_models.text_model, normalize=False), matryoshka),
        "root",
        lambda model: model[1],
        lambda: Tally(text),
        HUGGING_FACE,
    ),
    Setup(
        ST,
        "transformer; graded pairs (CoSENT)",
        by_sentences(
            partial(sentence_models.text_model, normalize=False),
            cosine,
            extra={"score": [(number % 5) / 4 for number in range(STEPS * BATCH * 2)]},
        ),
        "root",
        lambda model: model[1],
        lambda: Tally(text),
        HUGGING_FACE,
    ),
    Setup(
        ST,
        "StaticEmbedding (EmbeddingBag), one vector a text",
        by_sentences(sentence_models.static_model),
        "root",
        lambda model: model[0],
        lambda: Tally(text),
        HUGGING_FACE,
    ),
    Setup(
        ST,
        "StaticEmbedding, its table",
        by_sentences(sentence_models.static_model),
        "0.embedding.weight",
        lambda model: model,
        lambda: TableTally("0.embedding.weight"),
        HUGGING_FACE,
    ),
    Setup(
        ST,
        "Router: queries static, documents by a transformer",
        by_sentences(sentence_models.router_model, router={"anchor": "query", "positive": "document"}),
        "root",
        lambda model: model[0],
        lambda: Tally(text),
        HUGGING_FACE,
    ),
    Setup(
        ST,
        "LoRA adapters of PEFT on a frozen transformer",
        by_sentences(sentence_models.adapted_model),
        "root",
        lambda model: model[1],
        lambda: Tally(text),
        (*HUGGING_FACE, "peft"),
    ),
    Setup(
        ST,
        "multi-vector model (late interaction), unmasked tokens before Normalize",
        lambda run: by_hugging_face(run, multi_vector_trainer),
        "root",
        lambda model: model[2],
        lambda: Tally(tokens),
        HUGGING_FACE,
    ),
    Setup(
        "lightly",
        "backbone that ends in [n, C, 1, 1], NT-Xent",
        plainly(Backbone, images),
        "backbone",
        lambda model: model.backbone,
    ),
    Setup(
        "timm",
        "small ResNet without a classifier",
        plainly(TimmViews, partial(images, 32)),
        "body",
        lambda model: model.body,
    ),
    Setup(
        "pytorch_metric_learning",
        "embedder, NT-Xent",
        plainly(Metric, labelled),
        "embedder",
        lambda model: model.embedder,
    ),
    *(
        Setup(
            "torchrec",
            f"row-wise table under DistributedModelParallel, {kind}",
            lambda run, kind=kind: under_torchrec(run, kind),
            "bags.embedding_bags.rows.weight",
            lambda model: model,
            partial(ByHandTally, "rows"),
            ("fbgemm_gpu",),
        )
        for kind in ("EXACT_ROWWISE_ADAGRAD", "EXACT_ADAGRAD", "EXACT_SGD")
    ),
]
