"""A checkpoint or a model that is damaged, cut short or of something else is one sentence that names the file."""

import shutil
from pathlib import Path

import pytest
import torch
from small_transformers import write_bert

from lightning_normdyn.cli.main import main

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.logger=false", "--trainer.enable_model_summary=false"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A corpus and a checkpoint of a few steps on it."""
    folder = tmp_path_factory.mktemp("trained")
    text = folder / "text.txt"
    words = [a + b for a in "abcdefghij" for b in "klmnop"]
    generator = torch.Generator().manual_seed(0)
    places = [(60 * torch.rand(40, generator=generator) ** 2).long() for _ in range(100)]
    text.write_text("\n\n".join(" ".join(words[place] for place in line) for line in places))
    words = ["fit", "--config", "tokens.yaml", f"--data.text=[{text}]", "--trainer.max_steps=3", *QUIET]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
        assert main([*words, "--trainer.enable_checkpointing=true"]) == 0
    return text, next(folder.rglob("*.ckpt"))


def half(content, _):
    return content[: len(content) // 2]


def changed(**entries):
    """The checkpoint with other entries; ``None`` leaves one out."""

    def change(_, checkpoint):
        merged = checkpoint | entries
        torch.save({name: value for name, value in merged.items() if value is not None}, "changed")
        return Path("changed").read_bytes()

    return change


def foreign(content):
    def change(*_):
        torch.save(content, "foreign")
        return Path("foreign").read_bytes()

    return change


UNREADABLE = {
    "empty": lambda *_: b"",
    "half": half,
    "garbage": lambda *_: bytes(range(256)) * 40,
    "text": lambda *_: b"hello there\n",
    "a tensor": foreign(torch.zeros(3)),
    "a list": foreign([1, 2]),
    "weights alone": foreign({"table.weight": torch.zeros(3, 2)}),
    "an object": changed(path=Path("x")),
    "no version": changed(**{"pytorch-lightning_version": None}),
    "no weights": changed(state_dict=None),
}
NOT_TO_GO_ON_WITH = {
    "no optimizer": changed(optimizer_states=None),
    "another optimizer": changed(optimizer_states=[{}]),
    "no schedulers": changed(lr_schedulers=None),
    "empty loops": changed(loops={}),
    "odd callbacks": changed(callbacks=3),
    "hyperparameters of another model": changed(hyper_parameters={"colour": 3}),
}


def said(words, capsys):
    """The sentence of a command that ends as a usage error."""
    capsys.readouterr()
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("normdyn", "Traceback"))]
    assert len(lines) == 1
    return lines[0]


def damaged(trained, damage):
    text, checkpoint = trained
    Path("damaged.ckpt").write_bytes(damage(checkpoint.read_bytes(), torch.load(checkpoint, weights_only=True)))
    return text


@pytest.mark.parametrize("command", ["fit", "predict"])
@pytest.mark.parametrize("damage", UNREADABLE)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_checkpoint_is_named(trained, command, damage, capsys):
    text = damaged(trained, UNREADABLE[damage])
    words = [command, "--config", "tokens.yaml", f"--data.text=[{text}]", "--ckpt_path", "damaged.ckpt", *QUIET]
    sentence = said(words, capsys)
    assert sentence.startswith("normdyn: ckpt_path: expected ")
    assert "'damaged.ckpt'" in sentence


@pytest.mark.parametrize("damage", NOT_TO_GO_ON_WITH)
@pytest.mark.filterwarnings("ignore")
def test_what_no_training_can_go_on_with_is_named(trained, damage, capsys):
    text = damaged(trained, NOT_TO_GO_ON_WITH[damage])
    words = ["fit", "--config", "tokens.yaml", f"--data.text=[{text}]", "--ckpt_path", "damaged.ckpt", *QUIET]
    sentence = said(words, capsys)
    assert sentence.startswith("normdyn: ckpt_path: expected ")
    assert "'damaged.ckpt'" in sentence


@pytest.mark.filterwarnings("ignore")
def test_so_is_one_that_advice_is_asked_for(trained, capsys):
    damaged(trained, half)
    Path("{odd}").mkdir()
    shutil.move("damaged.ckpt", "{odd}/damaged.ckpt")
    words = ["advise", "--config", "sts.yaml", "--ckpt_path", "{odd}/damaged.ckpt", "--trainer.limit_val_batches=1"]
    assert "'{odd}/damaged.ckpt'" in said(words, capsys)


@pytest.mark.filterwarnings("ignore")
def test_one_from_the_network_runs_no_code(trained, monkeypatch):
    """Of a URL, Lightning itself would unpickle anything."""
    loads = []

    def load(url, **options):
        loads.append((url, options["weights_only"]))
        raise OSError("no network here")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", load)
    url = "https://localhost/last.ckpt"
    main(["predict", "--config", "tokens.yaml", f"--data.text=[{trained[0]}]", "--ckpt_path", url, *QUIET])
    assert loads == [(url, True)]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8}
    return write_bert(tmp_path_factory.mktemp("bert"), ["a", "b"], **sizes)


MODEL_DAMAGES = {
    "half": lambda folder: (folder / "model.safetensors").write_bytes(half(_weights(folder), None)),
    "garbage": lambda folder: (folder / "model.safetensors").write_bytes(bytes(range(256))),
    "no JSON": lambda folder: (folder / "config.json").write_text("{"),
    "another JSON": lambda folder: (folder / "config.json").write_text("[1]"),
    "other modules": lambda folder: (folder / "modules.json").write_text('{"a": 3}'),
    "nameless modules": lambda folder: (folder / "modules.json").write_text('[{"a": 3}]'),
}


def _weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("damage", MODEL_DAMAGES)
@pytest.mark.filterwarnings("ignore")
def test_so_is_a_model_that_is_audited(bert, damage, capsys):
    shutil.copytree(bert, "model")
    MODEL_DAMAGES[damage](Path("model"))
    Path("texts.txt").write_text("a\nb\na b\n")
    sentence = said(["audit", "--model", "model", "--texts", "texts.txt"], capsys)
    assert sentence.startswith("normdyn: model: ")
    assert "'model" in sentence
