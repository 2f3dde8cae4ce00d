"""Targets that show nothing by the end of the first window are named once, with the likely reason."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import BaseFinetuning
from small_models import Lit, PairTable, pair_batches, seeded
from torch import nn

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.capture.targets import find_targets
from lightning_normdyn.instruments import NormObserver

STEPS, WINDOW = 12, 6


class Parts(nn.Module):
    """One part of each kind, and one that is as it should be."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.encoder = nn.Linear(6, 4)
        self.teacher = nn.Linear(6, 4)
        self.direct = nn.Linear(6, 4)
        self.members = nn.ModuleList([nn.Linear(6, 4)])
        self.unused, self.spare = nn.Linear(6, 4), nn.Linear(6, 4)
        self.detached = nn.Linear(6, 4)
        self.idle = nn.Embedding(20, 6)
        self.rare = nn.Linear(6, 4)
        self.calls = 0

    def encode(self, ids):
        return self.encoder(self.embed(ids))

    def forward(self, ids):
        self.calls += 1
        rows = self.embed(ids)
        with torch.no_grad():
            self.teacher(rows)
        self.detached(rows).detach()
        vectors = self.encoder(rows) + self.direct.forward(rows) + self.members[0](rows)
        return (vectors + self.rare(rows) if self.calls % 4 == 2 else vectors).square().mean()


def cautions(targets, steps=STEPS, **options):
    torch.manual_seed(0)
    model = Parts()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"targets": targets, "every_n_steps": 4, "window": WINDOW, "probe": False} | options
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        said_after = []
        with NormObserver(model, optimizer, total_steps=steps, **settings):
            for _ in range(steps):
                optimizer.zero_grad()
                model(torch.randint(20, (8,))).backward()
                optimizer.step()
                said_after.append(len(record))
    texts = [str(entry.message) for entry in record if ": warning (" not in str(entry.message)]
    return [text for text in texts if "never seen" in text or "no gradient came back" in text], said_after


REASONS = {
    "teacher": "under no_grad alone",
    "direct": "its weights have gradients, but it was not called itself",
    "members": "member by member",
    "unused": "it was not called, and its weights have no gradient",
    "detached": "their norms alone are measured: they are detached",
    "idle.weight": "no gradient reached it, since nothing on the way to the loss looks up its rows",
    "rare": "not in a step that was measured; set every_n_steps to fewer",
    "encode": "calls of a method are not heard; give its inputs as probe=",
}


@pytest.mark.parametrize("target", REASONS)
def test_the_reason_is_said_once_after_the_first_window(target):
    (text,), said_after = cautions([target])
    assert f"'{target}', after {WINDOW} steps: " in text
    assert REASONS[target] in text
    assert said_after[WINDOW - 2] < said_after[WINDOW - 1]


def test_targets_that_are_seen_are_not_named():
    assert cautions(["encoder", "embed.weight"])[0] == []


def test_targets_of_one_reason_share_a_line():
    (text,), _ = cautions(["unused", "encoder", "spare"])
    assert f"'unused', 'spare', after {WINDOW} steps: never seen" in text


def test_a_run_that_ends_before_its_first_window_says_so_at_the_end():
    (text,), _ = cautions(["unused"], steps=3)
    assert "'unused', after 3 steps: never seen" in text


def test_a_table_that_moves_inside_of_backward_is_told_apart():
    """An optimizer that steps as soon as a gradient is there and drops it, as torch's own recipe does."""
    torch.manual_seed(0)
    table = nn.Embedding(20, 6)
    outer = torch.optim.SGD(table.parameters(), lr=0.1)

    def step_now(parameter):
        with torch.no_grad():
            parameter -= 0.1 * parameter.grad
        parameter.grad = None

    table.weight.register_post_accumulate_grad_hook(step_now)

    def train():
        with NormObserver(table, outer, every_n_steps=4, window=WINDOW, total_steps=STEPS):
            for _ in range(STEPS):
                table(torch.randint(20, (8,))).square().sum().backward()
                outer.step()

    with pytest.warns(UserWarning, match="'weight', after 6 steps: never seen: .* inside of backward"):
        train()


def lit_parts():
    pl = pytest.importorskip("pytorch_lightning")

    class Module(pl.LightningModule):
        """The commonest module of all."""

        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(20, 6)
            self.encoder = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4))

        def encode(self, ids):
            return self.encoder(self.embed(ids))

        def training_step(self, batch, index):
            queries, documents = (F.normalize(self.encode(ids), dim=1) for ids in batch.T)
            return F.cross_entropy(10 * queries @ documents.T, torch.arange(len(batch)))

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.1)

    torch.manual_seed(0)
    return Module()


def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(20, (8, 2), generator=generator) for _ in range(STEPS)]


def test_embed_encoder_and_a_method_that_encodes(fit):
    """A table, an encoder whose inputs are computed, and the method around both, on a probe: each is followed."""
    from lightning_normdyn.callbacks import NormDynamics

    module, probe = lit_parts(), torch.arange(12)
    callback = NormDynamics(
        targets=["embed.weight", "encoder", "encode"], probe={"encode": probe}, every_n_steps=3, window=WINDOW
    )
    with pytest.warns(UserWarning, match="inputs of 'encoder' require grad"):
        trainer = fit(module, batches(), callback)
    with torch.no_grad():
        norms = module.eval().encode(probe).double().norm(dim=1)
    table = module.embed.weight.detach().double().norm(dim=1)
    met = torch.stack(batches()).unique()
    assert trainer.logger.of("embed.weight")[STEPS]["norm_mean"] == pytest.approx(float(table[met].mean()), rel=1e-6)
    assert trainer.logger.of("encoder")[STEPS]["norm_mean"] > 0
    assert trainer.logger.of("encode")[STEPS]["radial_decay"] > 0
    from lightning_normdyn.history import read_run

    rows = read_run(trainer.default_root_dir)["encode"].trajectory()
    last = rows["norm"].to_numpy()[rows["step"].to_numpy() == STEPS]
    assert last == pytest.approx(norms.numpy(), rel=1e-5)


def test_a_plain_string_names_one_target(fit):
    from lightning_normdyn.callbacks import NormDynamics

    trainer = fit(lit_parts(), batches(), NormDynamics(targets="embed.weight", every_n_steps=3))
    assert trainer.logger.of("embed.weight")


def test_a_method_that_every_module_has_is_none(fit):
    from lightning_normdyn.callbacks import NormDynamics

    with pytest.raises(ValueError, match=r"'parameters' matches no parameter or submodule.*or 'root' for the model"):
        fit(lit_parts(), batches(), NormDynamics(targets=["parameters"]))


class Thawed(BaseFinetuning):
    """Trains the table from the second epoch on, with a parameter group of its own."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net.table)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net.table, optimizer, lr=0.1)


class ScaledPairs(PairTable):
    """Pairs of rows, and a scale that is trained from the start."""

    def __init__(self):
        super().__init__("dot")
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, pairs):
        return self.scale * super().forward(pairs)


def test_a_table_that_is_frozen_at_first_is_followed_from_when_it_is_trained(fit):
    """'auto' starts without it and says so."""

    def configure(net):
        return torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)

    callback = NormDynamics(every_n_steps=1)
    with pytest.warns(UserWarning, match="'auto' found no embedding table that is trained now") as said:
        trainer = fit(Lit(seeded(ScaledPairs), configure), pair_batches(6), Thawed(), callback, max_epochs=2)
    assert sum("found no embedding table" in str(warning.message) for warning in said) == 1
    logged = trainer.logger.of("net.table.weight")
    assert min(step for step, values in logged.items() if "norm_mean" in values) == 7
    met = torch.stack([batch.flatten().bincount(minlength=30) for batch in pair_batches(6)]).sum(0) > 0
    norms = trainer.lightning_module.net.table.weight.detach().double().norm(dim=1)[met]
    assert logged[12]["norm_mean"] == pytest.approx(float(norms.mean()), rel=1e-6)


def test_a_frozen_table_that_its_optimizer_holds_is_followed_from_when_it_is_trained():
    net, logged = seeded(ScaledPairs), {}
    net.table.requires_grad_(False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    observer = NormObserver(net, optimizer, every_n_steps=1, log=lambda m, step: logged.update({step: m}))
    with pytest.warns(UserWarning, match="'auto' found no embedding table that is trained now"):
        observer.begin()
    for number, batch in enumerate(pair_batches(12)):
        net.table.requires_grad_(number >= 6)
        optimizer.zero_grad()
        net(batch).backward()
        optimizer.step()
        assert bool(logged) is (number >= 6)
    growth = logged[max(logged)]["normdyn/table.weight/norm_mean"]
    observer.finish()
    met = torch.stack([batch.flatten().bincount(minlength=30) for batch in pair_batches(12)[6:]]).sum(0) > 0
    assert growth == pytest.approx(float(net.table.weight.detach().double().norm(dim=1)[met].mean()), rel=1e-6)


def test_a_model_without_any_table_is_refused_all_the_same():
    with pytest.raises(ValueError, match="'auto' found no embedding table and no contrastive loss"):
        find_targets(nn.Linear(3, 2))
