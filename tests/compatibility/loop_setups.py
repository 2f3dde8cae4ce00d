"""Rows of training loops that libraries bring along, and of plain ones around their models."""

from __future__ import annotations

import shutil
from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from setups import Setup, plainly
from tally import TableTally, Tally
from torch import nn
from trainings import BATCH, HALF, OPTIONS, STEPS

from lightning_normdyn.instruments import NormObserver

WORDS, NODES, ITEMS = 40, 60, 30


class OwnLoop:
    """What is done around a loop that a library runs, half of the steps at a time.

    Args:
        run: how the training is to be run.
        model: what is trained.
    """

    def __init__(self, run, model):
        self.run, self.model, self.observer, self.logged = run, model, None, []
        self.checkpoint = run.folder / "checkpoint.pt"
        if run.tally is not None:
            run.tally.attach(run.tapped(model))

    def listen(self, optimizer, **options):
        """Begins to hear the steps of an optimizer, from the checkpoint if there is one."""
        if self.run.tally is not None:
            optimizer.register_step_post_hook(lambda *_: self.run.tally.end_step())
        if self.run.target:
            log = lambda metrics, _: self.logged.append(metrics)  # noqa: E731
            options |= {"targets": [self.run.target], "total_steps": STEPS, "log": log}
            self.observer = NormObserver(self.model, optimizer, **OPTIONS, **options)
            if self.run.resumes:
                state = torch.load(self.checkpoint, weights_only=True)
                self.observer.load_state_dict(state["observer"])
                self.logged += state["logged"]
            self.observer.begin()

    def save(self, **parts):
        """Halfway."""
        observer = {} if self.observer is None else self.observer.state_dict()
        torch.save(parts | {"observer": observer, "logged": list(self.logged)}, self.checkpoint)

    def finish(self):
        if self.observer is not None:
            self.observer.finish()
        self.run.finish(self.model, self.logged)


def clip_model():
    from open_clip.model import CLIP

    return CLIP(
        embed_dim=8,
        vision_cfg={"layers": 1, "width": 16, "head_width": 8, "patch_size": 4, "image_size": 8},
        text_cfg={"context_length": 6, "vocab_size": WORDS, "width": 16, "heads": 2, "layers": 1},
        output_dict=True,
    )


def by_open_clip(run, accumulate=1):
    """By ``open_clip_train.train.train_one_epoch``, whose schedule is a function; an epoch is half of the steps."""
    from open_clip.loss import ClipLoss
    from open_clip_train.scheduler import cosine_lr
    from open_clip_train.train import train_one_epoch

    torch.manual_seed(0)
    loop = OwnLoop(run, clip_model())
    optimizer = torch.optim.AdamW(loop.model.parameters(), lr=1e-2, weight_decay=0.1)
    scheduler = cosine_lr(optimizer, 1e-2, 3, STEPS)
    if run.resumes:
        state = torch.load(loop.checkpoint, weights_only=True)
        loop.model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    loop.listen(optimizer, lrs=scheduler)
    args = SimpleNamespace(
        device="cpu", precision="fp32", distill=False, accum_freq=accumulate, skip_scheduler=False, horovod=False,
        grad_clip_norm=0.1, log_every_n_steps=100, rank=0, local_rank=0, log_local=False, world_size=1, wandb=False,
        batch_size=BATCH,
    )  # fmt: skip
    for epoch in (1,) if run.resumes else (0, 1):
        data = {"train": EpochData(HALF * accumulate)}
        train_one_epoch(loop.model, data, ClipLoss(), epoch, optimizer, None, scheduler, None, args)
        if epoch == 0:
            loop.save(model=loop.model.state_dict(), optimizer=optimizer.state_dict())
    loop.finish()


class EpochData:
    """Random images and texts, as open_clip's loop reads them."""

    def __init__(self, batches):
        self.num_batches, self.num_samples = batches, batches * BATCH
        self.dataloader = self

    def set_epoch(self, epoch):
        self._seed = epoch

    def __iter__(self):
        generator = torch.Generator().manual_seed(self._seed)
        for _ in range(self.num_batches):
            texts = torch.randint(1, WORDS, (BATCH, 6), generator=generator)
            yield torch.randn(BATCH, 3, 8, 8, generator=generator), texts


def by_pykeen(run, model):
    """By PyKEEN's loop, which makes its optimizer anew and keeps its own checkpoints; an epoch is half of the steps."""
    from pykeen import models
    from pykeen.training import SLCWATrainingLoop, TrainingCallback
    from pykeen.triples import CoreTriplesFactory

    draw = partial(torch.randint, generator=torch.Generator().manual_seed(1))
    triples = torch.stack([draw(ITEMS, (400,)), draw(3, (400,)), draw(ITEMS, (400,))], 1).unique(dim=0)
    triples = triples[torch.randperm(len(triples), generator=torch.Generator().manual_seed(1))[: HALF * BATCH]]
    factory = CoreTriplesFactory(triples, num_entities=ITEMS, num_relations=3)
    net = getattr(models, model)(triples_factory=factory, embedding_dim=8, random_seed=0)
    loop = OwnLoop(run, net)

    class Listening(TrainingCallback):
        heard = None

        def pre_batch(self, **objects):
            if self.heard is not self.optimizer:
                self.heard = self.optimizer
                loop.listen(self.optimizer)

    training = SLCWATrainingLoop(
        model=net, triples_factory=factory, optimizer=torch.optim.Adagrad(net.parameters(), lr=0.1),
        automatic_memory_optimization=False,
    )  # fmt: skip
    options = {"checkpoint_directory": run.folder, "checkpoint_name": "pykeen.pt", "checkpoint_frequency": 0}
    halfway, listening = run.folder / "halfway.pt", Listening()
    if run.resumes:
        shutil.copy(halfway, run.folder / "pykeen.pt")
    for epoch in (2,) if run.resumes else (1, 2):
        training.train(
            factory,
            num_epochs=epoch,
            batch_size=BATCH,
            use_tqdm=False,
            callbacks=listening,
            pin_memory=False,
            **options,
        )
        if epoch == 1:
            shutil.copy(run.folder / "pykeen.pt", halfway)
            loop.save()
    loop.finish()


class Links(nn.Module):
    """A graph network under a loss of links against as many that are none."""

    def __init__(self, has_table=False):
        from torch_geometric.nn import GCN

        super().__init__()
        self.nodes = nn.Embedding(NODES, 8) if has_table else None
        draw = torch.Generator().manual_seed(1)
        self.register_buffer("features", torch.randn(NODES, 8, generator=draw))
        self.register_buffer("links", torch.randint(NODES, (2, 120), generator=draw))
        self.encoder = GCN(8, 16, 2, 8)

    def forward(self, negatives):
        inputs = self.features if self.nodes is None else self.nodes.weight
        vectors = self.encoder(inputs, self.links)
        scores = [(vectors[a] * vectors[b]).sum(1) for a, b in (self.links, negatives)]
        return F.softplus(-scores[0]).mean() + F.softplus(scores[1]).mean()


def negative_links():
    return list(torch.randint(NODES, (STEPS, 2, 120), generator=torch.Generator().manual_seed(2)))


class TwoTowers(nn.Module):
    """Users and items by tables and a layer each, under a softmax over the items of the batch."""

    def __init__(self):
        super().__init__()
        self.users, self.items = (
            nn.Sequential(nn.Embedding(rows, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)) for rows in (WORDS, ITEMS)
        )

    def forward(self, pairs):
        users, items = self.users(pairs[:, 0]), self.items(pairs[:, 1])
        return F.cross_entropy(users @ items.T, torch.arange(len(pairs)))


def pairs():
    return list(torch.randint(ITEMS, (STEPS, BATCH, 2), generator=torch.Generator().manual_seed(1)))


def whole(model):
    return model


CLIP, KEEN, GRAPH, TORCH = "open_clip", "pykeen", "torch_geometric", "torch"
ENTITIES = "entity_representations.0._embeddings.weight"
LOOP_SETUPS = [
    Setup(CLIP, "train_one_epoch, clipped, image tower", by_open_clip, "visual", lambda model: model.visual),
    Setup(
        CLIP,
        "train_one_epoch, accum_freq=2, image tower",
        partial(by_open_clip, accumulate=2),
        "visual",
        lambda model: model.visual,
    ),
    Setup(
        CLIP,
        "train_one_epoch, clipped, word table",
        by_open_clip,
        "token_embedding.weight",
        whole,
        partial(TableTally, "token_embedding.weight"),
    ),
    Setup(
        KEEN,
        "TransE, entities on the sphere",
        partial(by_pykeen, model="TransE"),
        ENTITIES,
        whole,
        partial(TableTally, ENTITIES),
    ),
    Setup(
        KEEN, "ComplEx, entities", partial(by_pykeen, model="ComplEx"), ENTITIES, whole, partial(TableTally, ENTITIES)
    ),
    Setup(
        GRAPH,
        "links by a GCN, its vectors",
        plainly(Links, negative_links, probe_items=NODES),
        "encoder",
        lambda model: model.encoder,
    ),
    Setup(
        GRAPH,
        "links by a GCN, table of nodes",
        plainly(partial(Links, has_table=True), negative_links),
        "nodes.weight",
        whole,
        partial(TableTally, "nodes.weight"),
    ),
    Setup(
        TORCH,
        "two towers, users' vectors",
        plainly(TwoTowers, pairs),
        "users",
        lambda model: model.users,
        Tally,
    ),
    Setup(
        TORCH,
        "two towers, table of items",
        plainly(TwoTowers, pairs),
        "items.0.weight",
        whole,
        partial(TableTally, "items.0.weight"),
    ),
]
