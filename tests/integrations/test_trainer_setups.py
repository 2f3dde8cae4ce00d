"""The Trainer of transformers as people set it up: numbers are those of an outside tally, weights those without us."""

from __future__ import annotations

import pytest
import torch
from small_transformers import bert_classifier

pytest.importorskip("accelerate")
transformers = pytest.importorskip("transformers")

from lightning_normdyn.integrations.hugging_face import NormDynamicsTrainerCallback  # noqa: E402

STEPS, TABLE = 8, "bert.embeddings.word_embeddings.weight"
SETUPS = {
    "fused AdamW": {"optim": "adamw_torch_fused"},
    "bfloat16": {"bf16": True},
    "transformers' Adafactor": {"optim": "adafactor"},
    "clipped and accumulated": {"max_grad_norm": 0.1, "gradient_accumulation_steps": 2},
}


class Tally(transformers.TrainerCallback):
    """Norms of the rows that ever got a gradient, in float64, after each step."""

    def __init__(self):
        self.met, self.steps = torch.empty(0), []

    def on_pre_optimizer_step(self, args, state, control, model=None, **objects):
        touched = (model.get_input_embeddings().weight.grad != 0).any(1)
        self.met = touched | self.met if len(touched) == len(self.met) else touched

    def on_step_end(self, args, state, control, model=None, **objects):
        norms = model.get_input_embeddings().weight.detach().double().norm(dim=1)
        self.steps.append(float(norms[self.met].mean()))


class Growing(transformers.TrainerCallback):
    """Adds words to the vocabulary in mid-run."""

    def on_step_end(self, args, state, control, model=None, **objects):
        if state.global_step == STEPS // 2:
            model.resize_token_embeddings(40, mean_resizing=False)


def train(folder, *callbacks, **options):
    """A small BERT; returns its trainer and its tally."""
    torch.manual_seed(0)
    ids = torch.randint(30, (64, 6), generator=torch.Generator().manual_seed(0))
    defaults = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "max_steps": STEPS,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "per_device_train_batch_size": 4,
    }
    tally = Tally()
    trainer = transformers.Trainer(
        model=bert_classifier(30),
        args=transformers.TrainingArguments(**defaults | options),
        train_dataset=[{"input_ids": row, "labels": int(row[0]) % 2} for row in ids],
        callbacks=[tally, *callbacks],
    )
    trainer.train()
    return trainer, tally


def observing(**options):
    return NormDynamicsTrainerCallback(targets=[TABLE], every_n_steps=1, window=4, **options)


def read(trainer):
    key = f"normdyn/{TABLE}/norm_mean"
    return [entry[key] for entry in trainer.state.log_history if key in entry]


@pytest.mark.parametrize("setup", SETUPS)
def test_the_numbers_are_the_tallys_and_the_weights_the_same(tmp_path, setup, capsys):
    alone, tally = train(tmp_path, **SETUPS[setup])
    observed, _ = train(tmp_path, observing(), **SETUPS[setup])
    assert read(observed) == pytest.approx(tally.steps, rel=1e-6)
    for name, value in alone.model.state_dict().items():
        assert torch.equal(value, observed.model.state_dict()[name]), name
    reason = f"'{TABLE}' under Adafactor: Adafactor of transformers has no known law of the norm"
    assert (reason in capsys.readouterr().err) == ("Adafactor" in setup)


def test_a_table_that_grows_in_mid_run_is_followed(tmp_path):
    """By SGD: the state that AdamW has of the smaller one does not fit, which corrupts memory where it is fused."""
    with pytest.warns(UserWarning, match=f"'{TABLE}': .* from step 5 on; followed, with statistics that start afresh"):
        observed, tally = train(tmp_path, observing(), Growing(), optim="sgd")
    assert len(observed.model.get_input_embeddings().weight) == 40
    assert read(observed) == pytest.approx(tally.steps, rel=1e-6)
