"""An error in any hook of the Hugging Face callback costs one warning, and no bit of the weights."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from injection import Injection, code_of, methods_of, tracing
from loops import SETTINGS, TABLE, Contrasted, Named
from small_models import BATCH, pair_batches, seeded
from torch import nn

pytest.importorskip("accelerate")
transformers = pytest.importorskip("transformers")

from lightning_normdyn.integrations.hugging_face import STATE_FILE, NormDynamicsTrainerCallback  # noqa: E402

STEPS = 6
AT_SETUP = {"__init__", "on_train_begin"}
INNER = {"_switch_off", "_finish", "_keep", "_send", "_restore"}


class InOrder(transformers.Trainer):
    """Reads its data as it is."""

    def get_train_dataloader(self):
        return torch.utils.data.DataLoader(self.train_dataset, batch_size=BATCH, collate_fn=self.data_collator)


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.3, weight_decay=0.02)


def trained(folder, callback=None, **options):
    """Trains a few steps with a checkpoint in between; the trainer."""
    net = seeded(Contrasted)
    arguments = {
        "output_dir": str(folder),
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "save_strategy": "steps",
        "save_steps": 3,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    trainer = InOrder(
        model=Named(net),
        args=transformers.TrainingArguments(**arguments),
        train_dataset=[{"pairs": pair} for batch in pair_batches(STEPS) for pair in batch],
        optimizers=(sgd(net), None),
        callbacks=None if callback is None else [callback],
    )
    trainer.train(**options)
    return trainer


def assert_same_weights(trainer, undisturbed):
    state = trainer.model.state_dict()
    assert not [name for name, value in undisturbed.items() if not torch.equal(state[name], value)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("undisturbed")).model.state_dict()


@pytest.fixture
def ours(monkeypatch):
    """What the callback said."""
    monkeypatch.setattr(logging.getLogger("lightning_normdyn.caution"), "disabled", True)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        yield lambda: [
            str(warning.message)
            for warning in record
            if "NormDynamicsTrainerCallback" in str(warning.message) and " at step " not in str(warning.message)
        ]


HOOKS = [
    pytest.param(name, marks=[] if name == "on_step_end" else pytest.mark.exhaustive)
    for name in methods_of(NormDynamicsTrainerCallback)
    if name not in AT_SETUP | INNER
]


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_that_fails_costs_one_warning(tmp_path, undisturbed, ours, name):
    callback = NormDynamicsTrainerCallback(**SETTINGS)
    with tracing(Injection(code_of(vars(NormDynamicsTrainerCallback)[name]))) as injection:
        trainer = trained(tmp_path, callback)
        assert callback.verdicts is not None
        callback.close()
    assert injection.was_raised
    assert_same_weights(trainer, undisturbed)
    (message,) = ours()
    assert f"InjectedError: {name}" in message


@pytest.mark.parametrize(
    "content", [pytest.param(b"", marks=pytest.mark.exhaustive), pytest.param(b"no file", marks=pytest.mark.slow), None]
)
def test_a_state_that_cannot_be_read_costs_one_warning(tmp_path, undisturbed, ours, content):
    """``None`` cuts the file in half."""
    trained(tmp_path, NormDynamicsTrainerCallback(**SETTINGS))
    file = tmp_path / "checkpoint-3" / STATE_FILE
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content is None else content)
    trainer = trained(tmp_path, NormDynamicsTrainerCallback(**SETTINGS), resume_from_checkpoint=str(file.parent))
    assert_same_weights(trainer, undisturbed)
    (message,) = ours()
    assert "the checkpoint's norm statistics cannot be used" in message
    assert f"'{file}' cannot be read" in message


def grow(model, optimizer):
    """What ``model.resize_token_embeddings`` does to a model of transformers, and the optimizer with it."""
    layer = model.net.encoder[0]
    new = nn.Embedding(layer.num_embeddings + 4, layer.embedding_dim)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[: layer.num_embeddings] = layer.weight
    model.net.encoder[0] = new
    optimizer.param_groups[0]["params"] = [
        new.weight if p is layer.weight else p for p in optimizer.param_groups[0]["params"]
    ]


class Grows(transformers.TrainerCallback):
    def on_step_begin(self, args, state, control, model=None, optimizer=None, **objects):
        if state.global_step == 3:
            grow(model, getattr(optimizer, "optimizer", optimizer))


def test_a_vocabulary_that_grows_in_mid_run_is_followed(tmp_path, ours):
    weights = []
    for callbacks in ([], [NormDynamicsTrainerCallback(targets=[TABLE], every_n_steps=1)]):
        net = seeded(Contrasted)
        trainer = InOrder(
            model=Named(net),
            args=transformers.TrainingArguments(
                output_dir=str(tmp_path), per_device_train_batch_size=BATCH, num_train_epochs=1, report_to="none",
                use_cpu=True, disable_tqdm=True, save_strategy="no",
            ),
            train_dataset=[{"pairs": pair} for batch in pair_batches(STEPS) for pair in batch],
            optimizers=(sgd(net), None),
            callbacks=[Grows(), *callbacks],
        )  # fmt: skip
        trainer.train()
        weights.append(trainer.model.net.table.weight.detach())
    assert torch.equal(*weights)
    assert ours() == [
        f"NormDynamicsTrainerCallback: '{TABLE}': another parameter, of shape (34, 8) (before: (30, 8)) from step 4 "
        "on; followed, with statistics that start afresh there"
    ]
    logged = [entry for entry in trainer.state.log_history if f"normdyn/{TABLE}/norm_mean" in entry]
    assert [entry["step"] for entry in logged] == [1, 2, 3, 4, 5, 6]
    met = torch.cat(pair_batches(STEPS)[3:]).unique()
    expected = float(weights[0].double().norm(dim=1)[met].mean())
    assert logged[-1][f"normdyn/{TABLE}/norm_mean"] == pytest.approx(expected, rel=1e-5)
