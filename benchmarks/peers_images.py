"""Few-shot classes by easyfsl's Prototypical Networks, and images with captions by open_clip."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import torch
from peer_measures import episode_accuracies, recall_at_1
from peer_outcome import Outcome
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_normdyn.tasks.clip.clip import ImageTextData
from lightning_normdyn.tasks.contrast.contrast_data import Split
from lightning_normdyn.tasks.fewshot.fewshot import FewShotData

SPLITS: tuple[Split, Split] = ("validation", "test")
SHAPES = tuple((ways, shots) for ways in (5, 20) for shots in (1, 5))
"""Ways and shots that few-shot models are class_queries with; the first is what rates are chosen by."""


class FewShotTests:
    """The test episodes of every shape, of items that are encoded once.

    Args:
        source: of the classes.
        episodes: of each shape.
    """

    def __init__(self, source: Any, episodes: int = 1000) -> None:
        self.by_shape = {
            (ways, shots): FewShotData(source, evaluation_ways=ways, evaluation_shots=shots, episodes=episodes)
            for ways, shots in SHAPES
        }

    def items(self, split: Split) -> Tensor:
        """Images of a split."""
        images: Any = self.by_shape[SHAPES[0]].evaluation(split).queries
        return torch.stack(list(images))


def conv4(width: int = 64) -> nn.Sequential:
    """The four blocks of Snell et al. 2017 (arXiv 1703.05175, section 3.1): 64 numbers of an image of 28 x 28."""
    widths = [1, width, width, width, width]
    blocks = [
        nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
        for a, b in pairwise(widths)
    ]
    return nn.Sequential(*blocks, nn.Flatten())


def easyfsl_prototypes(data: FewShotData, *, seed: int, rate: float, epochs: int) -> Outcome:
    """The Prototypical Networks of easyfsl over the published encoder, by Adam, on the package's own episodes.

    The rate is halved after every third of the run, as the paper halves it every 2,000 episodes.
    """
    from easyfsl.methods import PrototypicalNetworks

    torch.manual_seed(seed)
    started = time.process_time()
    encoder = conv4()
    model = PrototypicalNetworks(encoder)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=rate)
    loader = data.train_dataloader()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, max(1, epochs * len(loader) // 3), gamma=0.5)
    for _ in range(epochs):
        for batch in loader:
            supports, queries = batch["documents"].float() / 255, batch["queries"].float() / 255
            ways, shots, class_queries = len(supports), supports.shape[1], queries.shape[1]
            model.process_support_set(supports.flatten(0, 1), torch.arange(ways).repeat_interleave(shots))
            scores = model(queries.flatten(0, 1))
            value = F.cross_entropy(scores, torch.arange(ways).repeat_interleave(class_queries))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            scheduler.step()
    seconds = time.process_time() - started
    encoder.eval()
    tests = FewShotTests(data.source)
    with torch.no_grad():
        items = {
            split: torch.cat([encoder(batch.float() / 255) for batch in tests.items(split).split(512)])
            for split in SPLITS
        }
    values = {
        f"accuracy, {ways}-way {shots}-shot": episode_accuracies(items["test"], shape.evaluation("test"))
        for (ways, shots), shape in tests.by_shape.items()
    }
    validation = episode_accuracies(items["validation"], tests.by_shape[SHAPES[0]].evaluation("validation"))
    return Outcome(sum(validation) / len(validation), values, seconds)


def open_clip_small(data: ImageTextData, *, seed: int, rate: float, epochs: int, dim: int, towers: str) -> Outcome:
    """open_clip's loss with a learnt scale, over a small model of its own or over the package's towers."""
    from open_clip import ClipLoss, get_tokenizer
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    from lightning_normdyn.tasks.encoders.image_text_towers import ApartTowers

    torch.manual_seed(seed)
    started = time.process_time()
    if towers == "ours":
        model: Any = _Towers(ApartTowers())
        tokenize: Any = list
    else:
        vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=16, head_width=16, image_size=32)
        text = CLIPTextCfg(context_length=24, width=dim, heads=4, layers=2)
        model, tokenize = CLIP(dim, vision, text), get_tokenizer("ViT-B-32", context_length=24)
    loader: DataLoader[Any] = data.train_dataloader()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.2},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-6)
    steps = epochs * len(loader)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.05, cycle_momentum=False)
    loss = ClipLoss()
    for _ in range(epochs):
        for batch in loader:
            images, texts, scale = model(batch["queries"].float() / 255, tokenize(batch["documents"]))
            value = loss(images, texts, scale)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            scheduler.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, 4.6052)
    seconds = time.process_time() - started
    model.eval()
    values = {split: _recall(data, split, model, tokenize) for split in SPLITS}
    validation = sum(values["validation"]) / len(values["validation"])
    return Outcome(validation, {"recall@1": values["test"]}, seconds)


class _Towers(nn.Module):
    """The package's towers with the outputs of a CLIP of open_clip."""

    def __init__(self, towers: Any) -> None:
        super().__init__()
        self.towers = towers
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        vectors: Tensor = self.towers.image(images)
        return F.normalize(vectors, dim=1) if normalize else vectors

    def encode_text(self, texts: list[str], normalize: bool = False) -> Tensor:
        vectors: Tensor = self.towers.encode_texts(texts)
        return F.normalize(vectors, dim=1) if normalize else vectors

    def forward(self, images: Tensor, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        return self.encode_image(images, True), self.encode_text(texts, True), self.logit_scale.exp()


@torch.no_grad()
def _recall(data: ImageTextData, split: Split, model: Any, tokenize: Any) -> list[float]:
    sides = data.evaluation(split)
    pixels = torch.stack([sides.queries[place] for place in range(len(sides.queries))]).float() / 255
    images = torch.cat([model.encode_image(batch, normalize=True) for batch in pixels.split(256)])
    texts = model.encode_text(tokenize(list(sides.documents)), normalize=True)
    return recall_at_1(images @ texts.T, sides)
