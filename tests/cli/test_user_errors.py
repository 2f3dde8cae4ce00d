"""Errors of a user's own code show the user's frames; those of configs and folders are one sentence."""

import re
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from written_history import history_of

from lightning_normdyn.cli.main import main

MODEL = """
import torch
from pytorch_lightning.demos.boring_classes import BoringModel


def scores_of(batch):
    raise {error}("shapes do not fit: 3 != 4")


class Shapes(BoringModel):
    def training_step(self, batch, batch_idx):
        return scores_of(batch)


class Picky(BoringModel):
    def __init__(self, width: int = 3):
        super().__init__()
        scores_of(width)
"""
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.logger=false", "--trainer.enable_checkpointing=false"]


@pytest.fixture
def own_code(tmp_path, monkeypatch, request):
    """A module of the user's own in the working folder, under a name that no other test imported."""
    name = f"shapes_{abs(hash(request.node.name))}"
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(error="ValueError"):
        (tmp_path / f"{name}.py").write_text(MODEL.format(error=error))
        return name

    return write


@pytest.mark.parametrize("error", ["ValueError", "OSError"])
@pytest.mark.filterwarnings("ignore")
def test_frames_of_the_users_own_code_are_shown(own_code, error, capsys):
    name = own_code(error)
    assert main(["fit", f"--model={name}.Shapes", "--trainer.fast_dev_run=true", *QUIET]) == 1
    printed = capsys.readouterr().err
    assert f'{name}.py", line 7, in scores_of' in printed
    assert f'{name}.py", line 12, in training_step' in printed
    assert f"{error}: shapes do not fit: 3 != 4" in printed
    assert "--debug" in printed
    assert "site-packages" not in printed


def test_so_are_those_of_a_constructor(own_code, capsys):
    name = own_code()
    assert main(["fit", f"--model={name}.Picky", *QUIET]) == 1
    printed = capsys.readouterr().err
    assert f'{name}.py", line 7, in scores_of' in printed
    assert "shapes do not fit: 3 != 4" in printed


STS = Path(__file__).parents[2] / "configs" / "sts.yaml"
TYPOS = {
    "temperature: 0.1|temprature: 0.1": "model.temprature: expected an option of lightning_normdyn.tasks.Sts, got "
    "one that it does not have (0.1); did you mean 'temperature'?",
    "tasks.Sts\n|tasks.Sst\n": "model: expected a class of lightning_normdyn.tasks, got 'Sst'; did you mean 'Sts'?",
    "max_epochs:|max_epoch:": "trainer.max_epoch: expected an option of normdyn {} or of LightningCLI; did you mean "
    "'trainer.max_epochs'?",
    "normalization: cosine|normalization: cosin": "model.normalization: expected one of cosine, dot, qnorm, dnorm, "
    "learnable, got 'cosin'; did you mean 'cosine'?",
    "every_n_steps: 10|every_n_step: 10": "trainer.callbacks.every_n_step: expected an option of "
    "lightning_normdyn.callbacks.NormDynamics, got one that it does not have (10); did you mean 'every_n_steps'?",
    "seed_everything: 0|seed_everything: [": "config: expected YAML, got ",
}
WORDS = {
    "--model.lr=abc": "model.lr: expected float, got 'abc'",
    "--trainer.max_epochs=two": "trainer.max_epochs: expected int, got 'two'",
    "--trainer.callbacks.init_args.windows=0.3": "trainer.callbacks.windows: expected an option of "
    "lightning_normdyn.callbacks.NormDynamics, got one that it does not have (0.3); did you mean 'window'?",
    "--modl.lr=1": "modl.lr: expected an option of normdyn {} or of LightningCLI, got 1; did you mean 'model.lr'?",
    "--model.encoder=SmallTextEncodr": "model.encoder: expected PretrainedTextEncoder, SmallTextEncoder, "
    "StaticTextEncoder, or a dotted path, got 'SmallTextEncodr'; did you mean 'SmallTextEncoder'?",
    "--trainer.callbacks.init_args.window=true": "trainer.callbacks.window: expected int or float, got 'true'",
    "--trainer.callbacks.init_args.every_n_steps=bad": "trainer.callbacks.every_n_steps: expected int, got 'bad'",
    "--trainer.callbacks.init_args.forecast_at=x": "trainer.callbacks.forecast_at: expected int or float, got 'x'",
    "--trainer.callbacks.init_args=3": "trainer.callbacks.init_args: expected options of "
    "lightning_normdyn.callbacks.NormDynamics by name, got '3'",
    "--trainer.callbacks=NormDynamic": "or a dotted path, got 'NormDynamic'; did you mean 'NormDynamics'?",
    "--trainer.callbacks.class_path=lightning_normdyn.callbacks.Nope": "trainer.callbacks: expected a class of "
    "lightning_normdyn.callbacks, got 'Nope'",
    "--model.init_args.lr=bad": "model.lr: expected float, got 'bad'",
    "--model.encoder=SmallTextEncoder --model.encoder.dim=bad": "model.encoder.dim: expected int, got 'bad'",
    "--optimizer=SGD --optimizer.lr=bad": "optimizer.lr: expected float, got 'bad'",
    "--trainer.precision=17": "trainer.precision: expected one of 64, 32, 16,",
    "--data=torch.nn.Linear": "data: expected a subclass of LightningDataModule, got 'torch.nn.Linear'",
    "--optimizer=torch.optim.Sdg": "optimizer: expected a class of torch.optim, got 'Sdg'",
    "--config=sst.yaml": "config: expected a file or one of clip.yaml, fewshot.yaml,",
    "--config=configs/sts.yaml": "got 'configs/sts.yaml'; did you mean the shipped 'sts.yaml'?",
}


@pytest.mark.parametrize("command", ["fit", "grid", "advise"])
@pytest.mark.parametrize("typo", TYPOS)
def test_a_typo_in_a_config_is_one_sentence(command, typo, capsys):
    wrong, right = reversed(typo.split("|"))
    Path("typo.yaml").write_text(STS.read_text().replace(right, wrong))
    assert main([command, "--config", "typo.yaml"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"normdyn: {TYPOS[typo].format(command)}")
    assert printed.count("\n") == 1


@pytest.mark.parametrize("command", ["fit", "grid", "advise"])
@pytest.mark.parametrize("word", WORDS)
def test_a_typo_in_a_word_is_one_sentence(command, word, capsys):
    assert main([command, "--config", "sts.yaml", *word.split(" ")]) == 2
    printed = capsys.readouterr().err
    assert WORDS[word].format(command) in printed
    assert printed.count("\n") == 1


def test_what_lightning_says_of_its_trainers_options_is_one_sentence(capsys):
    assert main(["fit", "--config", "sts.yaml", "--trainer.reload_dataloaders_every_n_epochs=-1"]) == 2
    assert "normdyn: `reload_dataloaders_every_n_epochs` should be an int >= 0, got -1; " in capsys.readouterr().err


LINES = STS.read_text().splitlines()
EPOCHS, RATE = (next(number for number, line in enumerate(LINES, 1) if key in line) for key in ("max_epochs:", "  lr:"))
TEXTS = {
    "a tab": (lambda text: text.replace("  max_epochs", "\tmax_epochs"), f"expected YAML, got a tab .*, line {EPOCHS}"),
    "indentation": (
        lambda text: text.replace("  max_epochs", "    max_epochs"),
        f"expected YAML, got .*, line {EPOCHS}, column",
    ),
    "a key twice": (
        lambda text: f"{text}\nmodel: 3\n",
        f"expected each key once, got 'model' again .*, line {len(LINES) + 2}",
    ),
    "an inner key twice": (
        lambda text: text.replace("    lr:", "    lr: 1\n    lr:"),
        f"expected each key once, got 'lr' again .*, line {RATE + 1}",
    ),
    "a list": (lambda _: "[1, 2]", "expected keys such as model, .* got a list"),
    "nothing": (lambda _: "", "expected keys such as model, .* got nothing"),
    "a word": (lambda _: "hello", "expected keys such as model, .* got 'hello'"),
    "Latin": (lambda text: f"# caf\udce9\n{text}", "expected UTF-8 text, got byte 0xe9 .*, line 1"),
    "zeros": (lambda _: "\0\0", "expected YAML, got character 0x0"),
}


@pytest.mark.parametrize("command", ["fit", "grid", "advise", "predict"])
@pytest.mark.parametrize("mistake", TEXTS)
def test_a_config_that_no_parser_reads_as_it_is_meant_is_named(command, mistake, capsys):
    change, sentence = TEXTS[mistake]
    Path("wrong.yaml").write_text(change(STS.read_text()), encoding="utf-8", errors="surrogateescape")
    assert main([command, "--config", "wrong.yaml"]) == 2
    printed = capsys.readouterr().err
    assert re.match(rf"normdyn: config: {sentence}", printed)
    assert "'wrong.yaml'" in printed
    assert printed.count("\n") == 1


TYPES = {
    "model: 3": "model: expected the path of a class, or its class_path and init_args, got 3",
    "model:\n  class_path: 3": "model: expected the path of a class, or its class_path and init_args, got ",
    "model:\n  class_path: lightning_normdyn.tasks.Sts\n  init_args: [1]": "model.init_args: expected options of "
    "lightning_normdyn.tasks.Sts by name",
    "model:\n  class_path: nope.Nope": "model: expected the path of a class, got 'nope.Nope', but there is no module",
    "trainer: hello": "trainer: ",
}


@pytest.mark.parametrize("content", TYPES)
def test_a_value_of_another_type_is_named(content, capsys):
    Path("wrong.yaml").write_text(content)
    assert main(["fit", "--config", "wrong.yaml"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"normdyn: {TYPES[content]}")
    assert printed.count("\n") == 1


def test_a_wrong_path_of_an_encoder_is_named(capsys):
    words = ["--model.encoder", "PretrainedTextEncoder", "--model.encoder.model", "/nowhere/model"]
    assert main(["fit", "--config", "sts.yaml", *words]) == 2
    printed = capsys.readouterr().err
    assert "normdyn: model: expected a folder, got nothing of that name at '/nowhere/model'" in printed


def test_a_model_that_the_hub_does_not_know_is_named(monkeypatch, capsys):
    transformers = pytest.importorskip("transformers")
    unreachable = Mock(side_effect=OSError("We couldn't connect to the hub"))
    monkeypatch.setattr(transformers.utils.hub, "cached_file", unreachable)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", unreachable)
    Path("texts.txt").write_text("a\nb\n")
    assert main(["audit", "--model", "nope", "--texts", "texts.txt"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("normdyn: model: expected a folder or a name on the model hub, got 'nope'")
    assert printed.count("\n") == 1


UNUSABLE = {
    "demo": ["--steps", "5", "--out", "file/below"],
    "reproduce": ["--quick", "--out", "file/below"],
    "audit": ["--embeddings", "vectors.npy", "--out", "file/below"],
    "export": ["--embeddings", "vectors.npy", "--to", "npy", "--out", "file/below/x.npy"],
    "grid": ["--config", "sts.yaml", "--out", "file/below"],
    "predict": ["--config", "sts.yaml", "--out", "file/below"],
    "configs": ["sts.yaml", "--out", "file/below"],
    "report": ["run", "--out", "file/below/report.html"],
    "fit": ["--config", "tokens.yaml", "--data.text=[text.txt]", "--trainer.max_steps=3"],
}


@pytest.mark.parametrize("command", UNUSABLE)
@pytest.mark.filterwarnings("ignore")
def test_a_folder_that_cannot_be_written_is_one_sentence(command, text, capsys):
    np.save("vectors.npy", np.random.default_rng(0).normal(size=(50, 4)))
    history_of("run", "table").describe({"kind": "table", "rows": 3})
    for name in ("file", "runs"):
        Path(name).write_text("in the way")
    assert main([command, *UNUSABLE[command]]) == 2
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("normdyn", "Trace", "["))]
    assert len(printed) == 1
    assert "runs" in printed[0] if command == "fit" else "file/below" in printed[0]
    assert "Errno" not in printed[0]


def test_an_audit_is_not_overwritten_in_silence_and_that_is_said_first(capsys):
    np.save("vectors.npy", np.random.default_rng(0).normal(size=(50, 4)))
    words = ["audit", "--embeddings", "vectors.npy"]
    assert main(words) == 0
    page = Path("audit/audit.html")
    page.write_text("mine")
    capsys.readouterr()
    Path("vectors.npy").write_bytes(b"damaged")
    assert main(words) == 2  # before anything is read
    assert "'audit/audit.html' exists already; pass --overwrite" in capsys.readouterr().err
    assert page.read_text() == "mine"


OUTPUTS = {
    "advise": ["--queries", "vectors.npy", "--documents", "vectors.npy", "--json"],
    "audit": ["--model", "nope", "--texts", "texts.txt", "--save"],
    "report": ["run", "--out"],
}


@pytest.mark.parametrize("command", OUTPUTS)
def test_a_file_that_cannot_be_written_is_said_before_anything_is_read(command, monkeypatch, capsys):
    """What is read is damaged, which nobody gets to see."""
    Path("vectors.npy").write_bytes(b"damaged")
    Path("file").write_text("in the way")
    Path("folder.npy").mkdir()
    for place in ("file/below/out.npy", "folder.npy"):
        assert main([command, *OUTPUTS[command], place]) == 2
        printed = capsys.readouterr().err
        assert f"'{Path(place).parent if 'below' in place else place}'" in printed
        assert f"{OUTPUTS[command][-1][2:]}: " in printed
        assert printed.count("\n") == 1
