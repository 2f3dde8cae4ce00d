"""``normdyn audit --model``: prompts, limits, precision and names, in what is encoded and in what is said."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_transformers import write_bert
from transformers import AutoModel, AutoTokenizer

from lightning_normdyn.cli.main import main
from lightning_normdyn.tasks.encoders import PretrainedTextEncoder

WORDS = ["a", "file", "is", "open", "closed", "##s", "the", "query", "passage", ":"]
TEXTS = [f"{'a ' * (1 + row % 5)}file {'is ' * (row % 3)}open the {WORDS[row % 7]}" for row in range(40)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a model, a set in BEIR's layout and its texts, which is where commands run."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    write_bert(tmp_path / "model", WORDS, initializer_range=0.5, max_position_embeddings=32)
    (tmp_path / "model" / "modules.json").write_text(
        json.dumps(
            [
                {"type": "sentence_transformers.base.modules.transformer.Transformer", "path": ""},
                {"type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling", "path": "1_Pooling"},
            ]
        )
    )
    (tmp_path / "model" / "1_Pooling").mkdir()
    (tmp_path / "model" / "1_Pooling" / "config.json").write_text('{"embedding_dimension": 16, "pooling_mode": "mean"}')
    (tmp_path / "model" / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "query: ", "document": "passage: "}, "default_prompt_name": None})
    )
    (tmp_path / "set" / "qrels").mkdir(parents=True)
    rows = [json.dumps({"_id": f"d{row}", "title": "", "text": text}) for row, text in enumerate(TEXTS)]
    (tmp_path / "set" / "corpus.jsonl").write_text("\n".join(rows))
    queries = [json.dumps({"_id": f"q{row}", "text": text[2:]}) for row, text in enumerate(TEXTS[:20])]
    (tmp_path / "set" / "queries.jsonl").write_text("\n".join(queries))
    (tmp_path / "set" / "qrels" / "test.tsv").write_text("\n".join(f"q{row}\td{row}\t1" for row in range(20)))
    return tmp_path


def audit(*words):
    return main(["audit", "--overwrite", "--beir", "set", "--model", *words])


def numbers():
    return json.loads(Path("audit/audit.json").read_text(encoding="utf-8"))


def notes():
    return numbers()["notes"]


def test_prompts_are_obeyed_said_and_set(place):
    assert audit("model", "--save", "own.npy") == 0
    with pytest.warns(UserWarning, match="comes before"):
        encoder = PretrainedTextEncoder("model").eval()
    expected = encoder.encode_documents(TEXTS).detach().numpy()
    np.testing.assert_allclose(np.load("own.npy"), expected, rtol=1e-4, atol=1e-5)
    (note,) = [note for note in notes() if "comes before" in note]
    assert note.startswith("'query: ' comes before queries, 'passage: ' comes before documents, nothing before other")
    assert audit("model", "--save", "set.npy", "--document-prompt", "query", "--query-prompt", "") == 0
    np.testing.assert_allclose(np.load("set.npy"), encoder.encode_queries(TEXTS).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert any(note.startswith("'query: ' comes before documents, nothing before queries") for note in notes())


def test_queries_are_encoded_with_their_prompt(place, capsys):
    """A prompt of queries changes their ranking and no document."""
    assert audit("model", "--save", "one.npy") == 0
    one = numbers()
    assert audit("model", "--save", "two.npy", "--query-prompt", "closed : the closed ") == 0
    two = numbers()
    assert np.array_equal(np.load("one.npy"), np.load("two.npy"))
    assert one["ranking"]["calibration"] != two["ranking"]["calibration"]
    capsys.readouterr()
    assert audit("model", "--query-prompt", "question") == 2
    assert capsys.readouterr().err == (
        "normdyn: query_prompt: expected the name of a prompt (query, document) or a text, got 'question'; a text of "
        "one word ends in a colon or a space\n"
    )


def test_the_folders_length_is_said(place):
    (place / "model" / "sentence_bert_config.json").write_text('{"max_seq_length": 8, "do_lower_case": false}')
    assert audit("model") == 0
    (note,) = [note for note in notes() if "longer than" in note]
    assert note.endswith(
        "are longer than the 8 tokens that the model's folder sets (max_length sets others, 32 at most), and their "
        "ends were left out."
    )
    assert audit("model", "--max-length", "32") == 0
    assert not any("longer than" in note for note in notes())


def test_half_precision_is_encoded_in_float32_unless_asked(place):
    AutoModel.from_pretrained("model", dtype=torch.bfloat16).save_pretrained("half")
    for file in (place / "model").iterdir():
        if not (place / "half" / file.name).exists():
            (shutil.copytree if file.is_dir() else shutil.copy)(file, place / "half" / file.name)
    AutoTokenizer.from_pretrained("model").save_pretrained("half")
    assert audit("half", "--save", "half.npy") == 0
    assert any(note.startswith("Weights are stored in bfloat16 and are taken as float32, 0.00 GB") for note in notes())
    assert audit("half", "--save", "kept.npy", "--dtype", "auto") == 0
    assert not any("stored in" in note for note in notes())
    half, kept = np.load("half.npy"), np.load("kept.npy")
    assert 1e-4 < np.abs(half - kept).max() < 0.2


@pytest.mark.parametrize(
    "words", [["--query-prompt", "q: "], ["--max-length", "5"], ["--dtype", "auto"], ["--trust-remote-code"]]
)
def test_options_of_a_model_need_one(place, capsys, words):
    np.save("ready.npy", np.ones((40, 3)))
    assert main(["audit", "--embeddings", "ready.npy", *words]) == 2
    name = words[0].removeprefix("--").replace("-", "_")
    assert capsys.readouterr().err == f"normdyn: {name}: expected --model with it, got ready embeddings; leave it out\n"
