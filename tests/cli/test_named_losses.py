"""Every word that names a loss, in a module of a user's own and a configuration of the command line."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import yaml
from pytorch_lightning import LightningModule
from torch import nn
from torch.utils.data import DataLoader

from lightning_normdyn.cli.fit import NormdynCLI
from lightning_normdyn.cli.main import main
from lightning_normdyn.losses import ContrastiveMixin
from lightning_normdyn.losses.options import MixinLoss

WORDS = get_args(MixinLoss)
PAIRS, CLASSES, D = 128, 8, 16
METRIC = {"infonce": "accuracy", "distill_kl": "agreement", "margin_mse": "agreement"}


class TwoTowers(ContrastiveMixin, LightningModule):
    """Trains any of the losses; what a loss needs beyond the pairs comes with them."""

    def __init__(self, **contrastive):
        super().__init__(**contrastive)
        torch.manual_seed(0)
        self.query, self.document = nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)
        self.losses = []

    def training_step(self, batch, batch_idx):
        queries, documents = self.query(batch[0]), self.document(batch[1])
        loss = self.contrastive_loss(*self.arguments(queries, documents, batch[2]), **self.extras(documents))
        self.losses.append(float(loss.detach()))
        return loss

    def arguments(self, queries, documents, labels):
        if type(self.contrast).__name__ == "SupCon":
            return torch.cat((queries, documents)), labels.repeat(2)
        if type(self.contrast).__name__ == "MaxSim":
            return queries.view(-1, 2, D // 2), documents.view(-1, 2, D // 2)
        return queries, documents

    def extras(self, documents):
        n, name = len(documents), type(self.contrast).__name__
        if name in ("DistillKLDiv", "MarginMSE"):
            hard_negatives = documents.roll(1, 0)[:, None]
            return {"hard_negatives": hard_negatives, "teacher_scores": torch.tensor([1.0, 0.0]).expand(n, 2)}
        if name == "CoSENT":
            return {"grades": torch.linspace(0, 1, n)}
        return {"grades": torch.eye(n)} if name == "GradedContrastive" else {}

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(1)
        queries = torch.randn(PAIRS, D, generator=generator)
        documents = queries + torch.randn(PAIRS, D, generator=generator) / 3
        return DataLoader(list(zip(queries, documents, torch.arange(PAIRS) % CLASSES, strict=True)), batch_size=32)

    def configure_optimizers(self):
        towers = [*self.query.parameters(), *self.document.parameters()]
        return torch.optim.Adam([{"params": towers}, self.contrast.parameter_group(lr=0.03)], lr=1e-2)


def config(tmp_path, **init_args):
    trainer = {"max_epochs": 4, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    trainer |= {"enable_progress_bar": False, "enable_model_summary": False}
    file = tmp_path / "named.yaml"
    model = {"class_path": f"{__name__}.TwoTowers", "init_args": init_args}
    file.write_text(yaml.safe_dump({"model": model, "trainer": trainer}))
    return ["fit", "--config", str(file)]


@pytest.mark.parametrize("word", WORDS)
def test_a_loss_by_one_word_of_a_configuration_trains_and_logs(word, tmp_path):
    metrics = {"with_metrics": True} if word in METRIC else {}
    options = {"normalization": "learnable", "temperature": 0.2, "learnable_temperature": True, **metrics}
    cli = NormdynCLI(config(tmp_path, loss=word, **options))
    losses = cli.model.losses
    assert len(losses) == 16
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    logged = {name.removeprefix("normdyn/contrast/") for name in cli.trainer.callback_metrics}
    assert {"temperature", "gamma_query", "gamma_document"} <= logged
    assert ("bias" in logged) == (word == "sigmoid")
    assert METRIC.get(word) in {*logged, None}
    moved = [float(cli.trainer.callback_metrics[f"normdyn/contrast/{name}"]) for name in ("temperature", "gamma_query")]
    assert moved[0] != pytest.approx(0.2, rel=1e-3) or moved[1] != pytest.approx(0.5, rel=1e-3)


def test_a_wrong_word_is_answered_with_the_nearest_one(tmp_path, capfd):
    for word, meant in {
        "InfoNCE": "infonce",
        "max_sim": "maxsim",
        "sup_con": "supcon",
        "fullsoftmax": "full_softmax",
    }.items():
        with pytest.raises(
            ValueError, match=rf"^loss: expected one of infonce, .*got '{word}'; did you mean '{meant}'\?$"
        ):
            TwoTowers(loss=word)
    with pytest.raises(ValueError, match=r"^loss: expected one of .*, got 'triplet'$"):
        TwoTowers(loss="triplet")
    assert main(config(tmp_path, loss="max_sim")) == 2
    assert "max_sim" in (words := capfd.readouterr().err)
    assert all(word in words for word in WORDS)


@pytest.mark.parametrize("word", WORDS)
def test_what_means_nothing_to_a_loss_is_refused_by_name(word):
    option = {"hardness": "all_negatives"} if word != "infonce" else {"teacher_temperature": 2.0}
    with pytest.raises(ValueError, match=rf"^{min(option)}: it means nothing to "):
        TwoTowers(loss=word, **option)
