"""LightningCLI: the shipped configuration runs, and its parts can be swapped from the command line."""

import re
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.demos.boring_classes import BoringModel

from lightning_normdyn.cli.fit import NormdynCLI
from lightning_normdyn.cli.main import main
from lightning_normdyn.history import read_run
from lightning_normdyn.report.kit.figure import drawing_style, new_axes
from lightning_normdyn.tasks.tokens.corpus import load_corpus
from lightning_normdyn.tasks.tokens.vocabulary import count_vocabulary

CONFIG = str(Path(__file__).parents[2] / "configs" / "tokens.yaml")
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
NO_FILES = ["--trainer.logger=false", "--trainer.enable_checkpointing=false"]


def fit(*words):
    return NormdynCLI(["fit", *words, *QUIET])


def tokens(text, *words):
    return ["--config", CONFIG, "--data.text", f"[{text}]", "--trainer.max_steps=8", *words]


class Sized(BoringModel):
    """A user's own model with an argument of its own."""

    def __init__(self, num_embeddings: int = 7):
        super().__init__()
        self.num_embeddings = num_embeddings


def test_the_shipped_configuration_trains_logs_and_resumes(text):
    cli = fit(*tokens(text))
    assert cli.model.table.weight.shape == (60, 64)
    assert cli.trainer.global_step == 8
    assert list(read_run("runs/tokens/version_0")) == ["table.weight"]
    assert list(Path("runs/tokens/tensorboard").rglob("events.out.tfevents.*"))
    (checkpoint,) = Path("runs").rglob("*.ckpt")
    with pytest.warns(UserWarning, match="The dirpath has changed"):
        resumed = fit(*tokens(text, f"--ckpt_path={checkpoint}", "--trainer.max_steps=10"))
    assert resumed.trainer.global_step == 10
    assert resumed.datamodule.state_dict() == {"drawn": 10}


def test_optimizer_schedule_and_callbacks_are_swapped_by_words(text):
    swaps = (
        "--optimizer=torch.optim.RMSprop",
        "--optimizer.lr=0.5",
        "--lr_scheduler=torch.optim.lr_scheduler.StepLR",
        "--lr_scheduler.step_size=2",
        "--trainer.callbacks=lightning_normdyn.callbacks.NormTrajectoryMonitor",
    )
    with pytest.warns(UserWarning, match="configure_optimizers` will be overridden"):
        cli = fit(*tokens(text, *NO_FILES), *swaps)
    (optimizer,) = cli.trainer.optimizers
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * 0.1**4)
    names = {type(callback).__name__ for callback in cli.trainer.callbacks}
    assert "NormTrajectoryMonitor" in names
    assert "NormDynamics" not in names


def test_the_models_own_recipe_is_chosen_by_a_word(text):
    cli = fit(*tokens(text, *NO_FILES), "--model.optimizer=adamw", "--model.schedule=constant")
    assert isinstance(cli.trainer.optimizers[0], torch.optim.AdamW)
    assert cli.trainer.lr_scheduler_configs == []


class LateLayer(BoringModel):
    """Makes a layer when the trainer asks for it, as a model that waits for its data or its strategy."""

    def configure_model(self):
        self.late = torch.nn.Linear(2, 2)

    def forward(self, inputs):
        return self.late(super().forward(inputs))


SGD = ("--optimizer=torch.optim.SGD", "--optimizer.lr=0.1")


@pytest.mark.parametrize("config", ["kg", "a user's own"])
def test_an_optimizer_by_words_trains_what_a_model_makes_late(tmp_path, config):
    """A knowledge graph's tables are made when the data is known, an optimizer of its own too."""
    for split, facts in {"train": "a\tr\tb\nb\tr\tc\n", "valid": "a\tr\tc\n", "test": "b\tr\ta\n"}.items():
        (tmp_path / f"{split}.txt").write_text(facts)
    words = {
        "kg": ["--config=kg.yaml", "--data.source=TripleFolder", f"--data.source.folder={tmp_path}", *NO_FILES],
        "a user's own": [f"--model={__name__}.LateLayer", "--trainer.limit_train_batches=1", *NO_FILES],
    }
    schedule = ("--lr_scheduler=torch.optim.lr_scheduler.StepLR", "--lr_scheduler.step_size=1")
    with pytest.warns(UserWarning, match="configure_optimizers` will be overridden"):
        cli = fit(*words[config], *SGD, *schedule, "--trainer.max_steps=2", "--trainer.limit_val_batches=0")
    (optimizer,) = cli.trainer.optimizers
    assert isinstance(optimizer, torch.optim.SGD)
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in cli.model.parameters()}
    assert len(trained) >= 2
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.1**cli.trainer.global_step)


def test_a_wrong_value_of_an_optimizer_by_words_is_one_sentence(capsys):
    words = [
        f"--model={__name__}.LateLayer",
        SGD[0],
        "--optimizer.momentum=-1",
        "--trainer.max_steps=1",
        *NO_FILES,
        *QUIET,
    ]
    with pytest.warns(UserWarning, match="configure_optimizers` will be overridden"):
        assert main(["fit", *words]) == 2
    assert capsys.readouterr().err.endswith("normdyn: Invalid momentum value: -1.0\n")


def test_other_peoples_models_run_and_keep_their_arguments():
    cli = fit(f"--model={__name__}.Sized", "--model.num_embeddings=9", "--trainer.fast_dev_run=true")
    assert isinstance(cli.model, LightningModule)
    assert cli.model.num_embeddings == 9


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data.text=[absent.txt]"], "text: there is no file 'absent.txt'; expected a UTF-8 text file, plain or .gz"),
        (["--data.window=0"], "window: expected a whole number, 1 or more, got 0"),
        (["--model.dim=0"], "dim: expected a whole number, 1 or more, got 0"),
        (["--trainer.callbacks.every_n_steps=0"], "every_n_steps: expected"),
    ],
)
def test_errors_of_constructors_are_one_sentence(text, capsys, words, sentence):
    assert main(["fit", *tokens(text), *words]) == 2
    assert f"\nnormdyn: {sentence}" in "\n" + capsys.readouterr().err


def test_a_model_without_the_data_that_it_needs_says_so(capsys):
    assert main(["fit", "--model=lightning_normdyn.tasks.TokenContrast"]) == 2
    assert "table_rows: expected the number of words, got None" in capsys.readouterr().err


class Drawing(Callback):
    """Draws at the end of training, as a callback of a user's own may."""

    def on_train_end(self, trainer, pl_module):
        with drawing_style():
            new_axes()


def test_a_callback_that_cannot_draw_ends_with_one_sentence_and_1(text, undrawable, capsys):
    assert main(["fit", *tokens(text), *QUIET, f"--trainer.callbacks+={__name__}.Drawing"]) == 1
    assert capsys.readouterr().err.endswith(
        f"normdyn: {undrawable}; no page was written; --debug shows the traceback\n"
    )
    assert list(read_run("runs/tokens/version_0")) == ["table.weight"]


def test_the_report_of_fit_names_rows_by_their_words(text):
    words = ["fit", "--config", "tokens.yaml", f"--data.text=[{text}]", "--data.batch_size=8", *QUIET]
    assert main([*words, "--trainer.max_steps=120"]) == 0
    run = Path("runs/tokens/version_0")
    assert main(["report", str(run)]) == 0
    vocabulary = count_vocabulary(load_corpus([text]).documents, size=2000).words
    words_drawn = re.findall(r">\s*([a-j][k-p])\s*<", (run / "report.html").read_text(encoding="utf-8"))
    assert words_drawn
    assert set(words_drawn) <= set(vocabulary)
    assert not re.search(r"\brow \d+", (run / "report.html").read_text(encoding="utf-8"))
    (run / "normdyn" / "row_names.json").unlink()
    assert main(["report", str(run)]) == 0
    assert re.search(r"\brow \d+", (run / "report.html").read_text(encoding="utf-8"))
