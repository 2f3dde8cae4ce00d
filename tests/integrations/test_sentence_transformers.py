"""Models of sentence-transformers: the right vectors, a probe of their inputs, and a section in the model's card."""

from __future__ import annotations

import runpy
import warnings

import numpy as np
import pytest
import torch

st = pytest.importorskip("sentence_transformers", exc_type=ImportError)
pytest.importorskip("datasets")

from code_blocks import block_under  # noqa: E402
from sentence_models import dataset, router_model, static_model, text_model, texts  # noqa: E402
from sentence_transformers.sentence_transformer import losses  # noqa: E402

from lightning_normdyn.history import read_run  # noqa: E402
from lightning_normdyn.instruments import NormObserver  # noqa: E402
from lightning_normdyn.integrations.hugging_face import NormDynamicsTrainerCallback  # noqa: E402
from lightning_normdyn.report import model_card_section, write_model_card_section  # noqa: E402

STEPS, BATCH = 8, 8
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of the libraries; ours count as elsewhere
    pytest.mark.filterwarnings("error:Norm(Dynamics|Observer)"),
]


def features_of(model, sentences):
    return model.preprocess(sentences) if hasattr(model, "preprocess") else model.tokenize(sentences)


def vectors_of(model, sentences, until):
    """What the first modules make of some texts in evaluation mode, one vector a text."""
    model.eval()
    with torch.no_grad():
        features = features_of(model, sentences)
        for module in list(model)[:until]:
            features = module(features)
    model.train()
    return features["sentence_embedding"].double().numpy()


def train(folder, model, targets, steps=STEPS, **options):
    """Trains in order; returns what was logged, step by step, and the texts of the first batch."""
    model.model_card_data.generate_widget_examples = False
    arguments = st.SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-2,
        weight_decay=0.1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    seen = []
    trainer = st.SentenceTransformerTrainer(
        model, arguments, train_dataset=dataset(STEPS * BATCH), loss=losses.MultipleNegativesRankingLoss(model)
    )
    collate = trainer.data_collator

    class Noting(type(collate)):
        def __call__(self, rows):
            seen.append(rows)
            return super().__call__(rows)

    collate.__class__ = Noting
    trainer.add_callback(NormDynamicsTrainerCallback(targets=targets, **{"every_n_steps": 1, "window": 4} | options))
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if any("normdyn/" in key for key in entry)]
    first = [row[column] for column in ("anchor", "positive") for row in seen[0]]
    return logged, first


def probe_norms(folder, target, step=STEPS):
    rows = read_run(folder)[target].trajectory()
    chosen = rows["step"].to_numpy() == step
    return rows["norm"].to_numpy()[chosen]


def test_the_probe_is_the_first_batch_as_it_came(tmp_path):
    """Its vectors at the end are those of the first texts in evaluation mode, before Normalize."""
    model = text_model(tmp_path / "model")
    logged, first = train(tmp_path, model, ["root"], probe_items=5)
    chosen = [*first[:5], *first[BATCH : BATCH + 5]]
    expected = np.linalg.norm(vectors_of(model, chosen, until=2), axis=1)
    np.testing.assert_allclose(probe_norms(tmp_path, "root"), expected, rtol=1e-5)
    last = {key: value for entry in logged for key, value in entry.items()}
    assert "normdyn/root/radial_decay_ratio" in last
    assert last["normdyn/root/radial_fraction"] < 1e-5  # a cosine sees no lengths


def test_a_probe_of_bags_is_cut_bag_by_bag(tmp_path):
    """A StaticEmbedding is given all ids in a row: of eight texts the first three are kept, each with its own words."""
    model = static_model(tmp_path)
    _, first = train(tmp_path, model, ["root"], probe_items=3)
    expected = np.linalg.norm(vectors_of(model, [*first[:3], *first[BATCH : BATCH + 3]], until=1), axis=1)
    np.testing.assert_allclose(probe_norms(tmp_path, "root"), expected, rtol=1e-5)


@pytest.mark.parametrize("make", [text_model, static_model])
@pytest.mark.parametrize("wraps", [dict, lambda features: [features]], ids=["features", "in a list"])
def test_a_probe_of_ones_own_texts(tmp_path, make, wraps):
    model, own = make(tmp_path / "model"), ["w1 w2 w3", "w4", "w5 w6"]
    train(tmp_path, model, ["root"], probe=wraps(features_of(model, own)), probe_items=2)
    expected = np.linalg.norm(vectors_of(model, own[:2], until=min(2, len(model))), axis=1)
    np.testing.assert_allclose(probe_norms(tmp_path, "root"), expected, rtol=1e-5)


def test_a_router_is_probed_by_both_of_its_ways(tmp_path):
    """Queries and documents of the first batch, each by its own modules, and the choice kept with the inputs."""
    from sentence_transformers.sentence_transformer.modules import Router

    model = router_model(tmp_path / "model")
    assert isinstance(model[0], Router)
    queries, documents = zip(*texts(6), strict=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def features(sentences, task):
        kind = model.preprocess if hasattr(model, "preprocess") else model.tokenize
        return kind(list(sentences), task=task) | {"task": task}

    observer = NormObserver(
        model, optimizer, targets="root", every_n_steps=1, window=50, log_dir=tmp_path, total_steps=3
    )
    with observer:
        for _ in range(3):
            optimizer.zero_grad()
            ends = [
                model(features(*side))["sentence_embedding"] for side in ((queries, "query"), (documents, "document"))
            ]
            (1 - (ends[0] * ends[1]).sum(1)).mean().backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        sides = [model[0](features(*side)) for side in ((queries, "query"), (documents, "document"))]
    expected = torch.cat([side["sentence_embedding"] for side in sides]).norm(dim=1)
    np.testing.assert_allclose(probe_norms(tmp_path, "root", 3), expected, rtol=1e-5)


def test_each_module_is_followed_by_what_it_writes(tmp_path):
    """Tokens without padding, pooled texts, and ones after Normalize, which is said, as is what is called unheard."""
    model = text_model(tmp_path / "model", dropout=0.0)
    names = ["0", "1", "2", "root", "sentence_embedding", "token_embeddings", "0.token_embeddings", "0.model"]
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        logged, first = train(tmp_path, model, names, steps=5)
    model = text_model(tmp_path / "again", dropout=0.0)
    sides = [features_of(model, first[:BATCH]), features_of(model, first[BATCH:])]
    with torch.no_grad():
        outputs = [model[1](model[0](dict(side))) for side in sides]
    tokens = torch.cat([out["token_embeddings"][out["attention_mask"].bool()] for out in outputs]).norm(dim=1).mean()
    pooled = torch.cat([out["sentence_embedding"] for out in outputs]).norm(dim=1).mean()
    means = {name: logged[0].get(f"normdyn/{name}/norm_mean") for name in names}
    for name in ("0", "token_embeddings", "0.token_embeddings"):
        assert means[name] == pytest.approx(float(tokens), rel=1e-5), name
    for name in ("1", "root", "sentence_embedding"):
        assert means[name] == pytest.approx(float(pooled), rel=1e-5), name
    assert means["2"] == pytest.approx(1, rel=1e-6)
    assert means["0.model"] is None
    said = [str(entry.message) for entry in record if "NormDynamics" in str(entry.message)]
    assert len([text for text in said if "'2' normalizes what it is given, so its norms are all 1" in text]) == 1
    assert (
        len([text for text in said if "'0.model', after 5 steps: never seen: its weights have gradients" in text]) == 1
    )
    assert not [text for text in said if "require grad" in text and "'0'" in text]


def test_what_is_normalized_is_said_once(tmp_path, caplog):
    caplog.set_level("INFO", logger="lightning_normdyn")
    train(tmp_path, text_model(tmp_path / "model"), ["root", "token_embeddings"], steps=2)
    said = [record.message for record in caplog.records if "followed before it is normalized" in record.message]
    assert said == [
        "NormDynamicsTrainerCallback: 'root': followed before it is normalized by '2', after which norms are 1"
    ]


def test_a_key_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"output of '0\.sentence_embedding' is no mapping with embeddings"):
        train(tmp_path, text_model(tmp_path / "model"), ["0.sentence_embedding"])


def test_the_model_card_gets_a_section_once(tmp_path):
    model = text_model(tmp_path / "model")
    logged, _ = train(tmp_path, model, ["root", "0.model.embeddings.word_embeddings.weight"])
    model.save_pretrained(str(tmp_path / "saved"))
    card = tmp_path / "saved" / "README.md"
    written = card.read_text()
    for _ in range(2):
        write_model_card_section(card, tmp_path)
    text = card.read_text()
    assert text.count("### Norms of embeddings") == 1
    assert text.replace(text[text.index("<!-- normdyn: norms") : text.index("### Framework Versions")], "") == written
    assert model_card_section(tmp_path) in text
    (row,) = [line for line in text.splitlines() if line.startswith("| `root`")]
    last = [entry["normdyn/root/norm_p50"] for entry in logged if "normdyn/root/norm_p50" in entry]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert float(cells[1]) == pytest.approx(last[-1], rel=5e-3)
    assert float(cells[4]) == pytest.approx(last[0], rel=5e-3)
    assert cells[6] == str(STEPS)


def test_the_script_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = "docs/howto/sentence_transformers.md"
    script = tmp_path / "page.py"
    script.write_text(block_under(page, "Norms in sentence-transformers", "text"))
    runpy.run_path(str(script))
    assert "| `root` |" in (tmp_path / "trained" / "final" / "README.md").read_text()
