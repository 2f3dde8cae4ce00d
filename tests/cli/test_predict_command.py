"""``normdyn predict`` writes both sides of a task with ids, as audit, advise and export take them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning.demos.boring_classes import BoringModel

from lightning_normdyn.cli import audit, export, predict
from lightning_normdyn.cli.main import main
from lightning_normdyn.datasets.embedding_file import EmbeddingFile

SMALL = ["--model.encoder.dim=16", "--model.encoder.buckets=500", "--trainer.enable_progress_bar=false"]


@pytest.fixture
def beir(tmp_path):
    """Texts with ids of their own; a query holds two words of its document."""
    words = [f"{a}{b}" for a in ("red", "blue", "green") for b in ("cat", "dog", "tree", "house")]
    texts = [
        " ".join(words[(place * step) % len(words)] for step in (1, 3, 5, 7)) + f" n{place}" for place in range(48)
    ]
    (tmp_path / "set/qrels").mkdir(parents=True)
    for name, kind, rows in (("corpus", "d", texts), ("queries", "q", [text[-12:] for text in texts])):
        lines = [json.dumps({"_id": f"{kind}{place}", "title": "", "text": text}) for place, text in enumerate(rows)]
        (tmp_path / "set" / f"{name}.jsonl").write_text("\n".join(lines))
    for split, places in (("train", range(24)), ("dev", range(24, 36)), ("test", range(36, 48))):
        judged = "".join(f"q{place}\td{place}\t1\n" for place in places)
        (tmp_path / "set/qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return ["--data.source", "BeirFolder", "--data.source.folder", "set"]


@pytest.mark.filterwarnings("ignore")
def test_a_text_task_goes_on_to_audit_advise_and_export(beir, capsys, caplog):
    words = ["--config", "retrieval.yaml", *beir, *SMALL]
    assert main(["fit", *words, "--data.batch_size=8", "--trainer.max_epochs=1"]) == 0
    printed = capsys.readouterr().out
    run = Path("runs/retrieval/version_0")
    assert f"Run folder: {run}" in printed
    assert (printed + caplog.text).count(f"normdyn report {run}") == 1
    (checkpoint,) = run.glob("checkpoints/*.ckpt")
    saved = ["predict", "--config", str(run / "config.yaml"), "--ckpt_path", str(checkpoint), "--out", "vectors"]
    assert main(saved) == 0
    printed = capsys.readouterr().out.replace("\n", " ")
    assert "normdyn audit --embeddings vectors/documents.npz --texts vectors/documents.tsv --queries" in printed
    documents, queries = np.load("vectors/documents.npz"), np.load("vectors/queries.npz")
    assert list(documents["ids"]) == [f"d{place}" for place in range(48)]
    assert list(queries["ids"]) == [f"q{place}" for place in range(36, 48)]
    assert documents["embeddings"].shape == (48, 16)
    assert Path("vectors/judgements.tsv").read_text().splitlines()[0] == "q36\td36\t1"

    files = {"queries": "vectors/queries.npz", "judgements": "vectors/judgements.tsv"}
    assert Path("vectors/documents.tsv").read_text().splitlines()[:1] == ["id\ttext"]
    assert Path("vectors/queries.tsv").read_text().splitlines()[1].startswith("q36\t")
    record = audit(embeddings="vectors/documents.npz", texts="vectors/documents.tsv", **files, out="page")
    assert record.page == Path("page/audit.html")
    assert record.audit.ranking is not None
    folded = export(embeddings="vectors/documents.npz", to="npy", out="folded.npy", alpha=0.5)
    assert folded.survey.rows == 48
    assert (
        main(
            [
                "advise",
                "--documents",
                "vectors/documents.npz",
                "--queries",
                files["queries"],
                "--judgements",
                files["judgements"],
            ]
        )
        == 0
    )

    capsys.readouterr()
    assert main(saved) == 2
    assert "exists already; pass --overwrite" in capsys.readouterr().err
    before = np.load("vectors/documents.npz")["embeddings"]
    untrained = predict(config=[str(run / "config.yaml")], out="vectors", split="validation", overwrite=True)
    assert untrained.rows[Path("vectors/queries.npz")] == 12
    assert not np.allclose(before, np.load("vectors/documents.npz")["embeddings"])
    assert "before any training" in untrained.notes[0]


@pytest.mark.filterwarnings("ignore")
def test_every_judged_pair_has_its_grade_and_its_texts(tmp_path, capsys):
    grades = [4.5, 3.0, 0.0, 5.0, 3.5, 1.0]
    header = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\tSemEval_set\n"
    rows = [
        f"{split}{place}\ta red {place} cat\ta blue {place} dog\t{grade}\tNEUTRAL\t{split}\n"
        for split in ("TRAIN", "TRIAL", "TEST")
        for place, grade in enumerate(grades)
    ]
    Path("sick.txt").write_text(header + "".join(rows))
    source = ["--data.source", "Sick", "--data.source.path", "sick.txt"]
    assert main(["predict", "--config", "sts.yaml", *source, SMALL[2], "--out", "pairs"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "measured by spearman, which is no ranking" in printed
    assert "Look at them: normdyn advise --config sts.yaml --data.source Sick" in printed
    judged = [line.split("\t") for line in Path("pairs/judgements.tsv").read_text().splitlines()]
    assert [(query, document, float(grade) + 3) for query, document, grade in judged] == [
        (str(place), str(place), grade) for place, grade in enumerate(grades)
    ]
    for name, text in (("queries", "a red 2 cat"), ("documents", "a blue 2 dog")):
        assert Path(f"pairs/{name}.tsv").read_text().splitlines()[3] == f"2\t{text}"


def test_help_has_no_empty_default(capsys):
    assert main(["predict", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "(default: )" not in printed
    assert "(default: embeddings)" in printed


@pytest.mark.filterwarnings("ignore")
def test_the_progress_bar_says_that_it_encodes(text, beir, capsys):
    words = ["--config", "retrieval.yaml", *beir, *SMALL[:2], "--trainer.limit_test_batches=1"]
    assert main(["predict", *words, "--out", "vectors"]) == 0
    printed = capsys.readouterr().out
    assert "Encoding" in printed
    assert "Testing" not in printed


class Predicting(BoringModel):
    """A user's own model with a predict step of its own."""

    def on_predict_end(self):
        Path("predicted").touch()


@pytest.mark.filterwarnings("ignore")
def test_other_peoples_models_predict_by_themselves(capsys):
    words = [f"--model={__name__}.Predicting", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]
    assert main(["predict", *words]) == 0
    assert Path("predicted").exists()
    assert "LightningCLI ran its predict_step" in capsys.readouterr().out
    assert not Path("embeddings").exists()


@pytest.mark.filterwarnings("ignore")
def test_tables_go_by_their_words_and_entities(text, tmp_path, caplog, capfd):
    state = torch.get_rng_state()
    record = predict(config=["tokens.yaml"], out="words", overrides=[f"--data.text=[{text}]"])
    assert "Seed set" not in caplog.text + "".join(capfd.readouterr())
    assert torch.equal(torch.get_rng_state(), state)
    assert list(record.rows.values()) == [60]
    words = np.load("words/documents.npz")["ids"]
    assert len(set(words)) == 60
    assert set(words) <= set(Path(text).read_text().split())
    export(embeddings="words/documents.npz", to="parquet", out="words.parquet")

    for split in ("train", "valid", "test"):
        facts = [f"e{place}\tis\te{(place * 5 + 1) % 20}" for place in range(20)]
        (tmp_path / f"{split}.txt").write_text("\n".join(facts))
    graph = ["--data.source=TripleFolder", "--data.source.folder=.", "--trainer.enable_progress_bar=false"]
    predict(config=["kg.yaml"], out="entities", overrides=graph)
    entities = np.load("entities/documents.npz")
    assert sorted(entities["ids"]) == sorted(f"e{place}" for place in range(20))
    judged = {"queries": "entities/queries.npz", "judgements": "entities/judgements.tsv"}
    record = audit(embeddings="entities/documents.npz", **judged)
    assert record.audit.ranking is not None
    assert record.audit.ranking.queries == 40


ODD_IDS = ["a\tb", "a\nb", " a", "a\u2028b", ""]


@pytest.mark.parametrize("id", ODD_IDS)
@pytest.mark.filterwarnings("ignore")
def test_ids_that_no_line_can_hold_are_refused(beir, capsys, id):
    corpus = Path("set/corpus.jsonl")
    corpus.write_text(corpus.read_text().replace('"d0"', json.dumps(id)))
    assert main(["predict", "--config", "retrieval.yaml", *beir, *SMALL]) == 2
    assert not Path("embeddings").exists()
    assert repr(id) in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_ids_come_back_as_they_were_however_long_one_is(beir):
    """One of a hundred thousand letters, and one in another alphabet; what numpy would take for it is far larger."""
    ids = {"d1": "x" * 100_000, "d2": "документ 2 ü"}
    corpus = Path("set/corpus.jsonl")
    for short, long in ids.items():
        corpus.write_text(corpus.read_text().replace(f'"{short}"', json.dumps(long)))
    predict(config=["retrieval.yaml"], overrides=[*beir, *SMALL])
    expected = [ids.get(f"d{place}", f"d{place}") for place in range(48)]
    assert EmbeddingFile("embeddings/documents.npz").ids == expected
    assert Path("embeddings/documents.npz").stat().st_size < 1_000_000
    files = {"queries": "embeddings/queries.npz", "judgements": "embeddings/judgements.tsv"}
    assert (
        audit(embeddings="embeddings/documents.npz", texts="embeddings/documents.tsv", **files).audit.ranking
        is not None
    )
    export(embeddings="embeddings/documents.npz", to="parquet", out="folded.parquet")
    assert EmbeddingFile("folded.parquet").ids == expected
