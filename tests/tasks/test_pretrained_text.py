import json
import sys

import pytest
import torch
from small_transformers import SPECIALS, write_bert
from transformers import BertTokenizerFast, RobertaConfig, RobertaModel

from lightning_normdyn.tasks import Retrieval
from lightning_normdyn.tasks.encoders import PretrainedTextEncoder

WORDS = ["a", "file", "is", "open", "closed", "##s", "the"]
TEXTS = ["the file is open", "a", "files is closed the a file"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random BERT of 2 layers, saved as transformers saves it."""
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "intermediate_size": 32, "max_position_embeddings": 32}
    return write_bert(tmp_path_factory.mktemp("bert"), WORDS, initializer_range=0.5, **sizes)


def _alone(encoder, text):
    """Hidden states of one text without padding, and its embedding pooled by hand in float64."""
    tokens = encoder.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        return encoder.model(**tokens).last_hidden_state[0].double()


POOLED = {
    "mean": lambda hidden: sum(hidden) / len(hidden),
    "cls": lambda hidden: hidden[0],
    "max": lambda hidden: torch.tensor([max(column) for column in hidden.T.tolist()], dtype=torch.float64),
    "last": lambda hidden: hidden[-1],
}


@pytest.mark.parametrize("pooling", POOLED)
def test_padding_does_not_enter_the_embedding(folder, pooling):
    encoder = PretrainedTextEncoder(str(folder), pooling=pooling).eval()
    with torch.no_grad():
        embeddings = encoder.encode(TEXTS)
    expected = torch.stack([POOLED[pooling](_alone(encoder, text)) for text in TEXTS])
    torch.testing.assert_close(embeddings.double(), expected, rtol=1e-5, atol=1e-6)
    assert encoder.dim == embeddings.shape[1] == 16
    assert (embeddings.norm(dim=1) - 1).abs().min() > 0.1  # not normalised


def test_half_precision_is_pooled_in_float32(folder):
    encoder = PretrainedTextEncoder(str(folder)).bfloat16()
    assert encoder.encode(TEXTS).dtype == torch.float32


def test_cut_texts_are_counted(folder):
    encoder = PretrainedTextEncoder(str(folder), max_length=5)
    tokens = encoder.tokenize(["a file is", "a file is open", "the"])
    assert tokens["input_ids"].shape == (3, 5)
    assert (encoder.texts, encoder.truncated_texts) == (3, 1)
    assert PretrainedTextEncoder(str(folder), max_length=500).max_length == 32


def test_every_trained_parameter_has_a_gradient_and_dropout_is_on(folder):
    encoder = PretrainedTextEncoder(str(folder))
    encoder.encode(TEXTS).square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)
    assert encoder.model.training
    assert not any(p.requires_grad for p in PretrainedTextEncoder(str(folder), frozen=True).parameters())


def test_a_frozen_encoder_leaves_what_the_loss_learns_or_is_refused(folder) -> None:
    def optimizer(**options):
        encoder = PretrainedTextEncoder(str(folder), frozen=True)
        return Retrieval(encoder=encoder, schedule="constant", **options).configure_optimizers()

    (group,) = optimizer(normalization="learnable").param_groups
    assert sum(parameter.numel() for parameter in group["params"]) == 2
    for options in ({}, {"layer_decay": 0.9}):
        with pytest.raises(ValueError, match="encoder: expected parameters that train, got none: all of it is frozen"):
            optimizer(**options)


def _state(folder, tmp_path, *kinds, **modes):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    paths = ["", *[f"{n}_{kind}" for n, kind in enumerate(kinds)][1:]]
    modules = [
        {"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in zip(kinds, paths, strict=True)
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **modes}))
    return str(tmp_path)


def test_a_sentence_transformers_folder_says_how_it_pools(folder, tmp_path):
    stated = _state(
        folder,
        tmp_path,
        *("Transformer", "Pooling", "Normalize"),
        pooling_mode_cls_token=True,
        pooling_mode_mean_tokens=False,
    )
    with pytest.warns(UserWarning, match="final normalisation of .* is left out"):
        assert PretrainedTextEncoder(stated).pooling == "cls"
    with pytest.warns(UserWarning, match="left out"):
        assert PretrainedTextEncoder(stated, pooling="max").pooling == "max"


def test_what_a_folder_asks_for_and_is_not_there_is_refused(folder, tmp_path):
    stated = _state(folder, tmp_path, "Transformer", "Pooling", "CNN", pooling_mode_cls_token=True)
    with pytest.raises(ValueError, match=r"got .* with CNN; encode with SentenceTransformer\('.*--embeddings"):
        PretrainedTextEncoder(stated)
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "custom_st.Transformer", "path": ""}]))
    with pytest.raises(ValueError, match=r"custom_st.Transformer, which is code that came with the model"):
        PretrainedTextEncoder(stated)
    entries = [{"type": "Transformer", "path": ""}, {"type": "Pooling", "path": "1_Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(entries))
    for config, word in (({"pooling_mode": "median"}, "'median'"), ({"pooling_mode_top_tokens": True}, "_top_tokens")):
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=rf"^pooling: .*got .*{word}"):
            PretrainedTextEncoder(stated)


@pytest.mark.parametrize(
    ("options", "said"), [({"pooling": "sum"}, "pooling: expected"), ({"max_length": 0}, "max_length: expected")]
)
def test_bad_options_are_refused(folder, options, said):
    with pytest.raises(ValueError, match=said):
        PretrainedTextEncoder(str(folder), **options)


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"install lightning-normdyn\[text\]"):
        PretrainedTextEncoder("a/model")


def test_a_model_whose_positions_begin_behind_padding_cuts_before_they_end(tmp_path):
    """RoBERTa reserves the positions up to that of padding: 34 rows are 32 tokens."""
    config = RobertaConfig(
        vocab_size=len(SPECIALS + WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=34,
        pad_token_id=1,
    )
    RobertaModel(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(["[UNK]", "[PAD]", *SPECIALS[2:], *WORDS]))
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    encoder = PretrainedTextEncoder(str(tmp_path), max_length=1024).eval()
    assert encoder.max_length == 32
    with torch.no_grad():
        assert encoder.encode(["a file " * 100]).isfinite().all()
    assert encoder.truncated_texts == 1
