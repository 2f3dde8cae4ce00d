"""The Trainer of transformers gives Lightning's numbers, and trains the same weights with the callback as without."""

from __future__ import annotations

import pytest
import torch
from loops import SETTINGS, TABLE, Contrasted, Named, assert_alike, by_lightning, plainly
from small_models import BATCH, pair_batches, seeded
from small_transformers import bert_classifier

pytest.importorskip("accelerate")
transformers = pytest.importorskip("transformers")

from lightning_normdyn.history import read_run  # noqa: E402
from lightning_normdyn.integrations.hugging_face import STATE_FILE, NormDynamicsTrainerCallback  # noqa: E402

STEPS = 40


class InOrder(transformers.Trainer):
    """Reads its data as it is, in batches that do not change with the version of transformers."""

    def get_train_dataloader(self):
        return torch.utils.data.DataLoader(self.train_dataset, batch_size=BATCH, collate_fn=self.data_collator)


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9, weight_decay=0.02)


def adamw(net):
    table, *others = net.parameters()
    return torch.optim.AdamW([{"params": table, "weight_decay": 0.1}, {"params": others}], lr=0.01)


def trainer_of(net, configure, batches, folder, *, accumulate=1, clip=None, **options):
    arguments = {
        "output_dir": str(folder),
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "gradient_accumulation_steps": accumulate,
        "max_grad_norm": clip or 0.0,
        "lr_scheduler_type": "linear",
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_steps": 7,
    }
    return InOrder(
        model=Named(net),
        args=transformers.TrainingArguments(**arguments | options),
        train_dataset=[{"pairs": pair} for batch in batches for pair in batch],
        optimizers=(configure(net), None),
    )


def scalars(trainer):
    """What the callback logged, in order."""
    logged = [{k: v for k, v in entry.items() if "normdyn/" in k} for entry in trainer.state.log_history]
    return [entry for entry in logged if entry]


LOOPS = {
    "as it is": {},
    "accumulated": {"accumulate": 2},
    "clipped": {"clip": 0.3},
    "accumulated and clipped": {"accumulate": 2, "clip": 0.3},
}


@pytest.mark.parametrize("configure", [sgd, adamw])
@pytest.mark.parametrize("loop", LOOPS)
def test_it_logs_what_lightning_and_a_plain_loop_do(tmp_path, loop, configure):
    options = LOOPS[loop]
    batches = pair_batches(STEPS * options.get("accumulate", 1))
    expected = by_lightning(seeded(Contrasted), configure, batches, tmp_path / "pl", steps=STEPS, **options)
    plain = plainly(seeded(Contrasted), configure, batches, tmp_path / "plain", steps=STEPS, **options)
    trainer = trainer_of(seeded(Contrasted), configure, batches, tmp_path / "hf", **options)
    trainer.add_callback(NormDynamicsTrainerCallback(log=trainer.log, **SETTINGS))
    trainer.train()
    assert any("net.encoder/stationarity" in key for entry in expected for key in entry)
    assert_alike(scalars(trainer), expected)
    assert_alike(plain, expected)
    steps = [entry["step"] for entry in trainer.state.log_history if any("normdyn/" in key for key in entry)]
    assert steps[:3] == [1, 5, 10]
    assert steps[-1] == STEPS
    lengths = {
        name: len(read_run(folder)[TABLE].trajectory())
        for name, folder in (("lightning", next((tmp_path / "pl").rglob("normdyn")).parent), ("hf", tmp_path / "hf"))
    }
    assert lengths["hf"] == lengths["lightning"] > 0


class Noisy(torch.nn.Module):
    """With dropout and BatchNorm, so that whatever touches the random state or a buffer shows in the weights."""

    def __init__(self):
        super().__init__()
        self.net = Contrasted()
        self.net.encoder.insert(2, torch.nn.BatchNorm1d(self.net.table.embedding_dim))
        self.net.encoder.insert(3, torch.nn.Dropout(0.2))

    def forward(self, pairs):
        return self.net(pairs)


@pytest.mark.parametrize("clip", [None, 0.3])
def test_weights_are_bit_for_bit_those_without_the_callback(tmp_path, clip):
    trained = []
    for callbacks in ([], [NormDynamicsTrainerCallback(targets=["net.net.encoder"], every_n_steps=1)]):
        trainer = trainer_of(seeded(Noisy), sgd, pair_batches(20), tmp_path, clip=clip, seed=3)
        for callback in callbacks:
            trainer.add_callback(callback)
        trainer.train()
        trained.append(trainer.model.state_dict())
    assert scalars(trainer)
    for name, value in trained[0].items():
        assert torch.equal(value, trained[1][name]), name


def test_the_trainers_own_log_is_not_lost(tmp_path):
    """Its loss is logged in the steps in which it is due, whether or not the callback logs there too."""
    losses = []
    for observed in (False, True):
        trainer = trainer_of(seeded(Contrasted), sgd, pair_batches(20), tmp_path, logging_steps=5)
        if observed:
            trainer.add_callback(NormDynamicsTrainerCallback(log=trainer.log, **SETTINGS))
        trainer.train()
        losses.append([(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == [5, 10, 15, 20]


class Reporting(transformers.TrainerCallback):
    """What a logger of transformers sees."""

    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.append((state.global_step, dict(logs)))


def test_loggers_that_come_before_it_see_the_scalars(tmp_path):
    reporting = Reporting()
    trainer = trainer_of(seeded(Contrasted), sgd, pair_batches(10), tmp_path)
    trainer.add_callback(reporting)
    trainer.add_callback(NormDynamicsTrainerCallback(log=trainer.log, **SETTINGS))
    trainer.train()
    key = f"normdyn/{TABLE}/norm_mean"
    assert [step for step, logs in reporting.seen if key in logs] == [1, 5, 10]


@pytest.mark.parametrize("is_quiet", [True, False])
def test_scalars_go_to_the_reporters_and_a_line_a_target_to_the_console(tmp_path, capsys, is_quiet):
    """With the progress bar, which prints what is logged, and without it, where another callback does."""
    reporting, printed = Reporting(), []
    for observed in (False, True):
        trainer = trainer_of(seeded(Contrasted), sgd, pair_batches(40), tmp_path, disable_tqdm=is_quiet)
        trainer.add_callback(reporting)
        if observed:
            trainer.add_callback(NormDynamicsTrainerCallback(log=trainer.log, **SETTINGS))
        trainer.train()
        printed.append(capsys.readouterr())
    key = f"normdyn/{TABLE}/norm_mean"
    assert [step for step, logs in reporting.seen if key in logs] == [1, *range(5, 41, 5)]
    assert "normdyn/" not in printed[1].out + printed[1].err
    assert len(printed[1].out) == pytest.approx(len(printed[0].out), abs=40)  # times take more or fewer digits
    assert printed[1].err.count(f"NormDynamicsTrainerCallback: '{TABLE}': norms") == 1
    kinds = {type(callback) for callback in trainer.callback_handler.callbacks}
    assert kinds & {transformers.PrinterCallback, transformers.ProgressCallback}


def test_a_run_without_decay_says_so_on_the_console(tmp_path, capsys):
    """The Trainer's own default."""
    trainer = trainer_of(seeded(Contrasted), lambda _: None, pair_batches(10), tmp_path)
    trainer.add_callback(NormDynamicsTrainerCallback(log=trainer.log, **SETTINGS))
    trainer.train()
    assert f"'{TABLE}' under AdamW: no equilibrium without weight decay" in capsys.readouterr().err


def test_without_a_log_they_are_in_the_trainers_history(tmp_path):
    lent, alone = (trainer_of(seeded(Contrasted), sgd, pair_batches(10), tmp_path) for _ in range(2))
    lent.add_callback(NormDynamicsTrainerCallback(log=lent.log, **SETTINGS))
    alone.add_callback(NormDynamicsTrainerCallback(**SETTINGS))
    lent.train()
    alone.train()
    assert scalars(lent) == scalars(alone)


@pytest.mark.parametrize("keeps_state", [True, False])
def test_a_resumed_run_logs_what_an_unbroken_one_does(tmp_path, keeps_state):
    batches, options = pair_batches(STEPS), {"save_strategy": "steps", "save_steps": 13}
    whole = trainer_of(seeded(Contrasted), sgd, batches, tmp_path / "whole", **options)
    whole.add_callback(NormDynamicsTrainerCallback(log=whole.log, **SETTINGS))
    whole.train()
    checkpoint = tmp_path / "whole" / "checkpoint-26"
    if not keeps_state:
        (checkpoint / STATE_FILE).unlink()
    resumed = trainer_of(seeded(Contrasted), sgd, batches, tmp_path / "whole", **options)
    resumed.add_callback(NormDynamicsTrainerCallback(log=resumed.log, **SETTINGS))
    if keeps_state:
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert_alike(scalars(resumed), scalars(whole), rel=0)
    else:
        with pytest.warns(UserWarning, match="norm statistics start afresh"):
            resumed.train(resume_from_checkpoint=str(checkpoint))
        assert scalars(resumed)[-1].keys() < scalars(whole)[-1].keys()


def test_a_checkpoint_that_was_moved_is_resumed_as_the_warning_advises(tmp_path):
    batches, options = pair_batches(16), {"save_strategy": "steps", "save_steps": 8}
    whole = trainer_of(seeded(Contrasted), sgd, batches, tmp_path / "whole", **options)
    whole.add_callback(NormDynamicsTrainerCallback(log=whole.log, **SETTINGS))
    whole.train()
    moved = str((tmp_path / "whole" / "checkpoint-8").rename(tmp_path / "moved"))
    for arguments in ({}, {"resume_from_checkpoint": moved}):
        resumed = trainer_of(seeded(Contrasted), sgd, batches, tmp_path / f"again-{len(arguments)}", **arguments)
        resumed.add_callback(NormDynamicsTrainerCallback(log=resumed.log, **SETTINGS))
        if arguments:
            resumed.train(resume_from_checkpoint=moved)
        else:
            with pytest.warns(
                UserWarning, match=r"name the folder of the checkpoint in TrainingArguments\(resume_from_"
            ):
                resumed.train(resume_from_checkpoint=moved)
    assert_alike(scalars(resumed), scalars(whole), rel=0)


def test_a_training_that_failed_leaves_no_hook_after_close(tmp_path):
    class Failing(InOrder):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 3:
                raise KeyError("the user's own")
            return super().training_step(*args, **kwargs)

    trainer = trainer_of(seeded(Contrasted), sgd, pair_batches(10), tmp_path)
    trainer.__class__ = Failing
    callback = NormDynamicsTrainerCallback(**SETTINGS)
    trainer.add_callback(callback)
    with pytest.raises(KeyError):
        trainer.train()
    callback.close()
    model, optimizer = trainer.model, trainer.optimizer.optimizer
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in model.modules())
    assert not optimizer._optimizer_step_post_hooks | optimizer._optimizer_step_pre_hooks
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())


def test_what_is_out_of_range_fails_before_training():
    with pytest.raises(ValueError, match="every_n_steps: expected"):
        NormDynamicsTrainerCallback(every_n_steps=0)
    with pytest.raises(ValueError, match="targets: expected"):
        NormDynamicsTrainerCallback(targets=3)


class Tokenizer:
    """As much of a tokenizer as names of rows need."""

    def __len__(self):
        return 50

    def convert_ids_to_tokens(self, ids):
        return [f"token {number}" for number in ids]


def test_a_transformer_is_followed_by_its_names(tmp_path):
    """A model of transformers: its word embeddings by themselves, named by the tokenizer, its encoder on request."""
    model = bert_classifier(50)
    ids = torch.randint(50, (64, 6), generator=torch.Generator().manual_seed(0))
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no", max_steps=12
    )
    data = [{"input_ids": row, "labels": int(row[0]) % 2} for row in ids]
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data)
    table = "bert.embeddings.word_embeddings.weight"
    trainer.add_callback(NormDynamicsTrainerCallback(targets=[table, "bert.pooler"], probe=False, every_n_steps=4))
    trainer.callback_handler.processing_class = Tokenizer()
    trainer.train()
    assert read_run(tmp_path)[table].row_names()[49] == "token 49"
    last = next(entry for entry in reversed(scalars(trainer)) if f"normdyn/{table}/norm_mean" in entry)
    norms = model.get_input_embeddings().weight.detach()[1:].norm(dim=1)  # row 0 is padding, all others were met
    assert last[f"normdyn/{table}/norm_mean"] == pytest.approx(float(norms.mean()), rel=1e-6)
    assert "normdyn/bert.pooler/radial_fraction" in last
    assert 0 < last[f"normdyn/{table}/clip_ratio"] <= 1
