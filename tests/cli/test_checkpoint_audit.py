"""``normdyn audit --checkpoint``: near-dead rows of saved models by name, and none where there are none."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast as FastTokenizer,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from lightning_normdyn import audit as audit_command
from lightning_normdyn.cli.main import main

WORDS, DIM = 400, 32
DEAD = [17, 250, 399]
GPT2 = {"vocab_size": WORDS, "n_positions": 16, "n_embd": DIM, "n_layer": 1, "n_head": 2}
LLAMA = {
    "vocab_size": WORDS, "hidden_size": DIM, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2,
}  # fmt: skip
BERT = {
    "vocab_size": WORDS, "hidden_size": DIM, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 16,
}  # fmt: skip
MODELS = {
    "gpt2 (tied)": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
    "llama (untied)": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=False)),
    "bert (padding row)": lambda: BertForMaskedLM(BertConfig(**BERT)),
}


T5 = {"vocab_size": WORDS, "d_model": DIM, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2}
SAVED_NAMES = {
    "gpt2": (lambda: GPT2LMHeadModel(GPT2Config(**GPT2)), "transformer.wte.weight", "tied"),
    "llama": (MODELS["llama (untied)"], "model.embed_tokens.weight", "input"),
    "qwen2": (
        lambda: Qwen2ForCausalLM(Qwen2Config(**LLAMA, tie_word_embeddings=True)),
        "model.embed_tokens.weight",
        "tied",
    ),
    "gemma": (lambda: GemmaForCausalLM(GemmaConfig(**LLAMA, head_dim=16)), "model.embed_tokens.weight", "tied"),
    "bert": (lambda: BertModel(BertConfig(**BERT)), "embeddings.word_embeddings.weight", "input"),
    "t5": (lambda: T5ForConditionalGeneration(T5Config(**T5)), "shared.weight", "tied"),
}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def numbers(folder="audit"):
    return json.loads((Path(folder) / "audit.json").read_text(encoding="utf-8"))


def name_rows(folder):
    words = {("[UNK]" if row == 0 else f"word{row}"): row for row in range(WORDS - 10)}
    FastTokenizer(tokenizer_object=Tokenizer(WordLevel(words, unk_token="[UNK]"))).save_pretrained(folder)


@pytest.mark.parametrize("name", MODELS)
def test_healthy_models_raise_no_alarm(name, capsys):
    MODELS[name]().save_pretrained("model")
    assert main(["audit", "--checkpoint", "model"]) == 0
    tables = numbers()["tables"]
    assert [table["near_dead"] for table in tables] == [0] * len(tables)
    kinds = {"gpt2 (tied)": ["tied"], "llama (untied)": ["output", "input"], "bert (padding row)": ["tied"]}[name]
    assert [table["kind"] for table in tables] == kinds
    assert {table["dim"] for table in tables} == {DIM}
    assert "no row is near dead" in capsys.readouterr().out


@pytest.mark.parametrize("shards", ["one file", "shards", "pickled"])
@pytest.mark.parametrize("name", MODELS)
def test_planted_rows_are_found_by_name(name, shards, capsys):
    model = MODELS[name]()
    with torch.no_grad():
        model.get_input_embeddings().weight[DEAD] *= 1e-7
    if shards == "pickled":
        model.config.save_pretrained("model")
        torch.save(model.state_dict(), "model/pytorch_model.bin")
    else:
        model.save_pretrained("model", max_shard_size="20KB" if shards == "shards" else "5GB")
        assert len(list(Path("model").glob("*.safetensors"))) > 1 - (shards == "one file") * 0.5
    name_rows("model")
    assert main(["audit", "--checkpoint", "model"]) == 0
    printed = capsys.readouterr()
    found = numbers()
    (damaged,) = [table for table in found["tables"] if table["kind"] != "output"]
    norms = {row: math.hypot(*model.get_input_embeddings().weight[row].tolist()) for row in DEAD}
    assert sorted(damaged["near_dead_rows"]) == DEAD
    assert [row["row"] for row in damaged["listed"]] == sorted(norms, key=norms.__getitem__)
    for row in damaged["listed"]:
        assert row["token"] == (f"row {row['row']}" if row["row"] >= WORDS - 10 else f"word{row['row']}")
        assert row["norm"] == pytest.approx(norms[row["row"]], rel=1e-5)
    others = torch.tensor([row for row in range(WORDS) if row not in DEAD])
    lengths = model.get_input_embeddings().weight.detach().double().norm(dim=1)[others]
    middle = float(lengths[lengths > 0].median())
    assert damaged["median"] == pytest.approx(middle, rel=0.01)
    assert damaged["spike"] == pytest.approx((damaged["median"] / min(norms.values())) ** 2, rel=1e-4)
    assert "'word17'" in printed.out
    assert "free" not in found["finding"]
    assert found["finding"].startswith(f"'{damaged['name']}'")
    page = Path("audit/audit.html").read_text(encoding="utf-8")
    assert "word17" in page
    assert "repair_rows" in page
    assert all(not table["near_dead"] for table in found["tables"] if table is not damaged)


@pytest.mark.parametrize(("dtype", "shards"), [("bfloat16", "8KB"), ("float16", "5GB")])
@pytest.mark.parametrize("name", SAVED_NAMES)
def test_half_precision_under_the_names_of_each_family(name, dtype, shards):
    make, table_name, kind = SAVED_NAMES[name]
    model = make().to(getattr(torch, dtype))
    with torch.no_grad():
        model.get_input_embeddings().weight[DEAD] *= 1e-3
    model.save_pretrained("model", max_shard_size=shards)
    name_rows("model")
    (found,) = [table for table in audit_command(checkpoint="model").audit.tables if table.kind != "output"]
    norms = {row: math.hypot(*model.get_input_embeddings().weight[row].tolist()) for row in DEAD}
    assert (found.name, found.kind, found.dtype) == (table_name, kind, dtype)
    assert [row.token for row in found.listed[:2]] == [
        f"row {row}" if row >= WORDS - 10 else f"word{row}" for row in sorted(norms, key=norms.__getitem__)[:2]
    ]
    assert [row.norm for row in found.listed] == pytest.approx(sorted(norms.values()), rel=1e-5)
    assert sorted(found.near_dead_rows) == DEAD


def test_pickled_shards_and_a_shard_that_is_missing(capsys):
    model = MODELS["llama (untied)"]()
    with torch.no_grad():
        model.get_input_embeddings().weight[DEAD] *= 1e-7
    model.config.save_pretrained("m")
    names = sorted(model.state_dict())
    shards = {f"pytorch_model-0000{part + 1}-of-00002.bin": names[part::2] for part in range(2)}
    for shard, held in shards.items():
        torch.save({name: model.state_dict()[name] for name in held}, f"m/{shard}")
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    Path("m/pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (found,) = [table for table in audit_command(checkpoint="m").audit.tables if table.kind == "input"]
    assert sorted(found.near_dead_rows) == DEAD
    Path("m/pytorch_model-00002-of-00002.bin").unlink()
    assert main(["audit", "--checkpoint", "m", "--overwrite"]) == 2
    assert (
        "expected all its shards, 'pytorch_model-00002-of-00002.bin' too, got none; download" in capsys.readouterr().err
    )


def test_eight_bit_floats():
    table = torch.randn(WORDS, DIM)
    table[DEAD] *= 0.01
    save_file({"wte.weight": table.to(torch.float8_e4m3fn)}, "wte.safetensors")
    (found,) = audit_command(checkpoint="wte.safetensors").audit.tables
    assert (sorted(found.near_dead_rows), found.dtype) == (DEAD, "float8_e4m3fn")


def test_a_lightning_checkpoint():
    table, head = torch.nn.Embedding(WORDS, DIM), torch.nn.Linear(DIM, DIM)
    with torch.no_grad():
        table.weight[DEAD] = 0.0
    state = {f"net.items.{k}": v for k, v in table.state_dict().items()}
    state |= {f"net.head.{k}": v for k, v in head.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 1, "pytorch-lightning_version": "2.5.0"}, "last.ckpt")
    record = audit_command(checkpoint="last.ckpt")
    (found,) = record.audit.tables
    assert (record.numbers, record.page) == (Path("audit/audit.json"), Path("audit/audit.html"))
    assert (found.name, found.near_dead_rows, found.zeros) == ("net.items.weight", tuple(DEAD), 3)
    assert found.listed[0].meaning.startswith("zero")


def test_rows_that_left_the_range_of_half_precision():
    table = torch.randn(WORDS, DIM).half()
    table[DEAD[:1]] *= 1e-5
    table[DEAD[1:2]] *= 2e-3
    save_file({"wte.weight": table}, "wte.safetensors")
    found = audit_command(checkpoint="wte.safetensors").audit.tables[0]
    assert [row.meaning.partition(":")[0] for row in found.listed] == ["out of the range of its dtype", "near dead"]


def test_a_table_may_be_named():
    matrices = {"first.weight": torch.randn(WORDS, DIM), "second.weight": torch.randn(WORDS, DIM)}
    matrices["second.weight"][5] *= 1e-6
    save_file(matrices, "model.safetensors")
    (found,) = audit_command(checkpoint=".", column="second.weight").audit.tables
    assert (found.name, found.near_dead_rows) == ("second.weight", (5,))


class Hostile:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("hostile"),)


def _write_nothing(folder):
    (folder / "config.json").write_text("{}")


def _write_hostile(folder):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"wte.weight": Hostile()}))


def _write_saved_hostile(folder):
    torch.save({"wte.weight": Hostile()}, folder / "pytorch_model.bin")


def _write_small(folder):
    save_file({"conv.weight": torch.randn(4, 4)}, folder / "model.safetensors")


def _write_cut(folder):
    save_file({"wte.weight": torch.randn(40, 4)}, folder / "model.safetensors")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:100])


def _write_nan(folder):
    save_file({"wte.weight": torch.full((40, 4), math.nan)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            _write_nothing,
            "m: expected model.safetensors, model.safetensors.index.json or pytorch_model.bin, got nei",
        ),
        (_write_hostile, "m/pytorch_model.bin: expected weights and plain values, got a file that torch does not load"),
        (_write_saved_hostile, "got a file that torch does not load so (Unsupported global: "),
        (_write_small, "m: expected a table of embeddings, got the matrices conv.weight 4 x 4; name one with --column"),
        (_write_cut, "m/model.safetensors: expected a whole .safetensors file, got one that cannot be read"),
        (_write_nan, "wte.weight: expected finite numbers, got NaN or infinity in 40 of 40 rows"),
        (lambda folder: folder.rmdir(), "cannot use 'm' (No such file or directory)"),
    ],
)
def test_refusals_are_one_sentence_and_nothing_is_written(write, message, capsys):
    Path("m").mkdir()
    write(Path("m"))
    assert main(["audit", "--checkpoint", "m"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not Path("audit").exists()
    assert not Path("hostile").exists()


def test_a_file_of_before_torch_1_6_is_read():
    table = torch.randn(WORDS, DIM)
    table[DEAD] *= 1e-6
    torch.save({"wte.weight": table}, "old.bin", _use_new_zipfile_serialization=False)
    assert main(["audit", "--checkpoint", "old.bin"]) == 0
    assert sorted(numbers()["tables"][0]["near_dead_rows"]) == DEAD


def test_a_checkpoint_stands_alone(capsys):
    assert main(["audit", "--checkpoint", "m", "--embeddings", "a.npy"]) == 2
    assert "expected --checkpoint alone, got --embeddings beside it" in capsys.readouterr().err
