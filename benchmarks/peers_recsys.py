"""Recommendation by RecBole, by a SASRec written from the paper, and by EASE in closed form."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_measures import ndcg_at_10
from peer_outcome import Outcome
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_normdyn.tasks.contrast.contrast_data import Split
from lightning_normdyn.tasks.recsys.recsys import RecommendationData

SPLITS: tuple[Split, Split] = ("validation", "test")


def ease(data: RecommendationData, *, seed: int, rate: float) -> Outcome:
    """EASE (Steck 2019, arXiv 1905.03375): a linear map of items without its diagonal; ``rate`` is its penalty."""
    del seed
    started = time.process_time()
    train = torch.zeros(len(data.histories), len(data.interactions.item_ids))
    for user, history in enumerate(data.histories):
        train[user, history.items[: history.train_end]] = 1
    weights = ease_weights(train, rate)
    seconds = time.process_time() - started
    values = {}
    for split in SPLITS:
        past = torch.zeros(len(data.evaluation(split).queries), train.shape[1])
        for row, items in enumerate(pasts(data, split)):
            past[row, items] = 1
        values[split] = ndcg_at_10(past @ weights, data.evaluation(split))
    return _outcome(values, seconds)


def ease_weights(train: Tensor, penalty: float) -> Tensor:
    """Weights ``[items, items]`` of every item for every other; ``train`` is ``[users, items]``."""
    gram = train.T @ train
    gram.diagonal().add_(penalty)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    weights = inverse / -inverse.diagonal()
    return weights.fill_diagonal_(0)


def pasts(data: RecommendationData, split: Split) -> Iterator[Tensor]:
    """Items of each query's user before the one to be found."""
    for history in data.histories:
        first = history.train_end if split == "validation" else history.validation_end
        last = history.validation_end if split == "validation" else len(history.items)
        if 0 < first < last:
            yield history.items[:first]


class SASRec(nn.Module):
    """Self-attention over the last items (Kang and McAuley 2018, arXiv 1808.09781), one table for both sides."""

    def __init__(self, items: int, *, dim: int, length: int, blocks: int = 2, heads: int = 2, dropout: float = 0.5):
        super().__init__()
        self.items = nn.Embedding(items + 1, dim, padding_idx=0)
        self.places = nn.Embedding(length, dim)
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "before": nn.LayerNorm(dim),
                    "attention": nn.MultiheadAttention(dim, heads, dropout, batch_first=True),
                    "between": nn.LayerNorm(dim),
                    "feed": nn.Sequential(
                        nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim), nn.Dropout(dropout)
                    ),
                }
            )
            for _ in range(blocks)
        )
        self.last = nn.LayerNorm(dim)

    def forward(self, codes: Tensor) -> Tensor:
        """States ``[b, l, d]`` of histories ``[b, l]`` padded with 0 on the left."""
        length = codes.shape[1]
        is_item = (codes > 0).unsqueeze(-1)
        x = self.items(codes) * self.items.embedding_dim**0.5 + self.places.weight[-length:]
        x = self.dropout(x) * is_item
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        for block in self.blocks:
            queries = block["before"](x)
            x = queries + block["attention"](queries, x, x, attn_mask=later, need_weights=False)[0]
            hidden = block["between"](x)
            x = (hidden + block["feed"](hidden)) * is_item
        states: Tensor = self.last(x)
        return states


def sasrec(data: RecommendationData, *, seed: int, rate: float, dim: int, epochs: int, loss: str = "bce") -> Outcome:
    """The paper's training: the last 50 items of each user, Adam, batches of 128 users.

    ``bce`` is the paper's loss, each next item against one random item that the user never took; ``ce`` is the cross
    entropy over all items, which later work found to be what SASRec lacks (arXiv 2309.07602).
    """
    torch.manual_seed(seed)
    started = time.process_time()
    items, length = len(data.interactions.item_ids), data.history_length
    model = SASRec(items, dim=dim, length=length)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.98))
    histories = [1 + history.items[: history.train_end] for history in data.histories if history.train_end > 1]
    codes = torch.stack([_padded(items[:-1], length) for items in histories])
    targets = torch.stack([_padded(items[1:], length) for items in histories])
    has_item = torch.zeros(len(histories), items + 1, dtype=torch.bool)
    for row, history in enumerate(histories):
        has_item[row, history] = True
    for _ in range(epochs):
        for rows in torch.randperm(len(codes)).split(128):
            has_target = targets[rows] > 0
            states = model(codes[rows])[has_target]
            positives = targets[rows][has_target]
            if loss == "ce":
                value = F.cross_entropy(states @ model.items.weight[1:].T, positives - 1)
            else:
                users = rows[:, None].expand_as(has_target)[has_target]
                negatives = _negatives(has_item, users)
                logits = torch.stack([(states * model.items(choice)).sum(1) for choice in (positives, negatives)])
                value = F.binary_cross_entropy_with_logits(logits, torch.tensor([[1.0], [0.0]]).expand_as(logits))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    seconds = time.process_time() - started
    model.eval()
    values = {}
    for split in SPLITS:
        past = torch.stack([_padded(1 + items, length) for items in pasts(data, split)])
        with torch.no_grad():
            states = torch.cat([model(batch)[:, -1] for batch in past.split(256)])
            values[split] = ndcg_at_10(states @ model.items.weight[1:].T, data.evaluation(split))
    return _outcome(values, seconds)


def _negatives(has_item: Tensor, users: Tensor) -> Tensor:
    """An item of each user's that the user never took."""
    items = torch.randint(1, has_item.shape[1], users.shape)
    while bool((is_history := has_item[users, items]).any()):
        items[is_history] = torch.randint(1, has_item.shape[1], (int(is_history.sum()),))
    return items


def _padded(items: Tensor, length: int) -> Tensor:
    return F.pad(items[-length:], (max(0, length - len(items)), 0))


def recbole(
    data: RecommendationData, *, seed: int, rate: float, model: str, dim: int, epochs: int, options: dict[str, Any]
) -> Outcome:
    """A model of RecBole on the same histories, cut by RecBole itself, the last two items of each left out."""
    for name, kind in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        setattr(np, name, kind)  # RecBole 1.2 asks for names that NumPy 2 no longer has
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    with tempfile.TemporaryDirectory() as folder:
        _write_atomic(Path(folder), data)
        settings = {
            "data_path": folder,
            "USER_ID_FIELD": "user_id",
            "ITEM_ID_FIELD": "item_id",
            "TIME_FIELD": "timestamp",
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
            "MAX_ITEM_LIST_LENGTH": data.history_length,
            "metrics": ["NDCG"],
            "topk": [10],
            "valid_metric": "NDCG@10",
            "embedding_size": dim,
            "hidden_size": dim,
            "epochs": epochs,
            "learning_rate": rate,
            "seed": seed,
            "reproducibility": True,
            "use_gpu": False,
            "show_progress": False,
            "checkpoint_dir": folder,
            "eval_step": 0,
            **options,
        }
        config = Config(model=model, dataset="histories", config_dict=settings)
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        train, *evaluations = data_preparation(config, dataset)
        started = time.process_time()
        network = get_model(config["model"])(config, train.dataset)
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, network)
        trainer.fit(train, verbose=False, saved=False, show_progress=False)
        seconds = time.process_time() - started
        values = {
            split: ndcg_at_10(_full_scores(network, dataset, loader, data, split), data.evaluation(split))
            for split, loader in zip(SPLITS, evaluations, strict=True)
        }
    return _outcome(values, seconds)


def _write_atomic(folder: Path, data: RecommendationData) -> None:
    """Histories as RecBole reads them; a time is a place in the history, so that no two are equal."""
    (folder / "histories").mkdir()
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, history in enumerate(data.histories):
        lines += [f"{user}\t{item}\t{place}" for place, item in enumerate(history.items.tolist())]
    (folder / "histories" / "histories.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")


@torch.no_grad()
def _full_scores(network: Any, dataset: Any, loader: Any, data: RecommendationData, split: Split) -> Tensor:
    """Of all items for the queries of a split, in the order of the data module's."""
    network.eval()
    items = torch.tensor([int(token) for token in dataset.field2id_token["item_id"][1:]])
    by_user: dict[int, Tensor] = {}
    for batch in loader:
        interaction = batch[0]
        scores = network.full_sort_predict(interaction).view(len(interaction), -1)
        for code, row in zip(interaction["user_id"].tolist(), scores, strict=True):
            full = torch.full((len(data.interactions.item_ids),), -torch.inf)
            full[items] = row[1:]
            by_user[int(dataset.id2token("user_id", code))] = full
    users = [int(query[0]) for query in data.evaluation(split).queries]
    return torch.stack([by_user[user] for user in users])


def _outcome(values: dict[Split, list[float]], seconds: float) -> Outcome:
    validation = torch.tensor(values["validation"]).nanmean()
    return Outcome(float(validation), {"ndcg@10": values["test"]}, seconds)
