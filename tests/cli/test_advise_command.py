"""``normdyn advise`` on embeddings of files."""

import datetime
import json
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lightning_normdyn.cli.main import main
from lightning_normdyn.datasets import Judgements
from lightning_normdyn.retrieval import calibrate, sweep_alpha


@pytest.fixture
def embeddings(tmp_path):
    """Documents of which the longer is the relevant one wherever two point alike."""
    generator = np.random.default_rng(0)
    queries = generator.normal(size=(120, 8)).astype(np.float32)
    short = queries + 0.05 * generator.normal(size=queries.shape).astype(np.float32)
    long = 3 * (queries + 0.2 * generator.normal(size=queries.shape).astype(np.float32))
    np.save(tmp_path / "queries.npy", queries)
    np.savez(
        tmp_path / "documents.npz",
        embeddings=np.concatenate([long, short]),
        ids=np.array([f"d{place}" for place in range(240)]),
    )
    (tmp_path / "judged.tsv").write_text("".join(f"{place}\td{place}\t1\n" for place in range(120)))
    return ["advise", "--queries", "queries.npy", "--documents", "documents.npz"]


def test_lengths_that_decide_are_found(embeddings, capsys) -> None:
    assert main([*embeddings, "--judgements", "judged.tsv", "--json", "advice.json"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Norms help: take exponent ")
    assert "vectors of relevant documents are clearly longer" in " ".join(said.split())
    found = json.loads(Path("advice.json").read_text(encoding="utf-8"))
    assert found["scores"]["dot"]["mean"] > found["scores"]["cosine"]["mean"] + 0.05
    assert found["queries"] == 120
    assert main(embeddings) == 0  # document i answers query i: the same pairs
    assert unsigned(capsys.readouterr().out) == unsigned(said)
    origin = found["origin"]
    assert (origin["data"], origin["date"]) == ("queries.npy and documents.npz", datetime.date.today().isoformat())
    assert origin["command"] == f"normdyn {' '.join(embeddings)} --judgements judged.tsv --json advice.json"
    assert f"from queries.npy and documents.npz, by {origin['command']}." in " ".join(said.split())


def unsigned(text: str) -> str:
    """What was printed before the line that names data, command and date."""
    return text.partition("Made on ")[0]


def test_audit_advise_and_calibrate_say_the_same_of_the_same(embeddings, capsys) -> None:
    """With lengths and without, where norms help, where they do not, and where it is length."""
    archive, queries = np.load("documents.npz"), np.load("queries.npy")
    documents, ids = archive["embeddings"].astype(np.float64), archive["ids"]
    unit = documents / np.linalg.norm(documents, axis=1, keepdims=True)
    lengths = np.where(np.arange(240) < 120, 900, 100) + np.arange(240) % 17
    Path("lengths.tsv").write_text("id\tlength\n" + "".join(f"d{row}\t{lengths[row]}\n" for row in range(240)))
    shuffled = np.random.default_rng(3).permutation(lengths)
    Path("other.tsv").write_text("id\tlength\n" + "".join(f"d{row}\t{shuffled[row]}\n" for row in range(240)))
    worlds = {"norms": documents, "noise": 3 * unit * np.exp(0.002 * np.random.default_rng(1).normal(size=(240, 1)))}
    beginnings = {
        ("norms", None): "Norms help: take exponent",
        ("norms", "lengths.tsv"): "Length explains the gain: score by cos · (1 + length)^",
        ("norms", "other.tsv"): "Norms help: take exponent",
        ("noise", None): "No gain",
        ("noise", "lengths.tsv"): "Length helps and norms do not: score by cos · (1 + length)^",
        ("noise", "other.tsv"): "No gain",
    }
    for (world, table), beginning in beginnings.items():
        np.savez("tried.npz", embeddings=worlds[world].astype(np.float32), ids=ids)
        shared = ["--queries", "queries.npy", "--judgements", "judged.tsv"]
        shared += [] if table is None else ["--covariates", table]
        assert main(["audit", "--embeddings", "tried.npz", *shared, "--overwrite"]) == 0
        finding = json.loads(Path("audit/audit.json").read_text(encoding="utf-8"))
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == finding["finding"]
        listed = [line for line in printed[1:] if not line.startswith("Page: ")]
        assert listed[: len(finding["verdict"]["evidence"])] == [f"- {line}" for line in finding["verdict"]["evidence"]]
        assert all(line.startswith("- ") for line in listed)
        assert main(["advise", "--documents", "tried.npz", *shared, "--json", "advice.json"]) == 0
        advised_lines = capsys.readouterr().out.splitlines()
        assert (
            advised_lines[: 1 + len(finding["verdict"]["evidence"])]
            == printed[: 1 + len(finding["verdict"]["evidence"])]
        )
        assert all(note in advised_lines for note in finding["notes"])
        advised = json.loads(Path("advice.json").read_text(encoding="utf-8"))
        assert advised["scoring"] == finding["finding"]
        assert advised["verdict"] == finding["verdict"]
        assert finding["finding"].startswith(beginning), finding["finding"]
        if table is None:
            vectors = torch.from_numpy(worlds[world].astype(np.float32))
            judgements = Judgements.of((row, row, 1.0) for row in range(120))
            sentence = calibrate(sweep_alpha(torch.from_numpy(queries), vectors, judgements)).sentence
            assert sentence == " ".join((finding["finding"], *finding["verdict"]["evidence"]))
            assert not finding["notes"]
        else:
            assert "Spearman of norm and length" in finding["finding"]
            assert finding["notes"] == [f"Length is the column 'length' of {table}."]
        assert finding["finding"].count(". ") <= 1  # what to do and how sure, and the confound


def test_documents_of_several_chunks_go_by_the_best_as_in_the_audit(embeddings, capsys) -> None:
    archive = np.load("documents.npz")
    documents, ids = archive["embeddings"], archive["ids"]
    draw = np.random.default_rng(5)
    others = (0.8 * documents + 0.3 * draw.normal(size=documents.shape)).astype(np.float32)
    order = draw.permutation(480)
    chunk_ids = [[*(f"{id}#0" for id in ids), *(f"{id}#1" for id in ids)][row] for row in order]
    np.savez("chunks.npz", embeddings=np.concatenate([documents, others])[order], ids=np.array(chunk_ids))
    Path("chunks.tsv").write_text("".join(f"{id}\t{id.partition('#')[0]}\n" for id in chunk_ids))
    shared = ["--queries", "queries.npy", "--judgements", "judged.tsv"]
    words = ["advise", *shared, "--documents", "chunks.npz", "--chunks", "chunks.tsv", "--json", "advice.json"]
    assert main(words) == 0
    assert "480 vectors are chunks of 240 documents: rankings go by the best chunk of each." in capsys.readouterr().out
    advised = json.loads(Path("advice.json").read_text(encoding="utf-8"))
    assert main(["audit", "--embeddings", "chunks.npz", *shared, "--chunks", "chunks.tsv"]) == 0
    finding = json.loads(Path("audit/audit.json").read_text(encoding="utf-8"))
    assert (advised["scoring"], advised["verdict"]) == (finding["finding"], finding["verdict"])
    vectors = np.load("chunks.npz")["embeddings"].astype(np.float64)[order.argsort()]
    norms, queries = np.linalg.norm(vectors, axis=1), np.load("queries.npy").astype(np.float64)
    for name, power in (("cosine", 0), ("dot", 1)):
        scores = queries @ (vectors * norms[:, None] ** (power - 1)).T
        best = np.maximum(scores[:, :240], scores[:, 240:])
        ranks = (best > best[np.arange(120), np.arange(120)][:, None]).sum(1)
        ndcg = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0).mean()
        assert advised["scores"][name]["mean"] == pytest.approx(ndcg, rel=1e-6)
    relevant = np.isin(np.arange(480) % 240, np.arange(120))
    spread = np.sqrt((norms[relevant].var(ddof=1) + norms[~relevant].var(ddof=1)) / 2)
    d = (norms[relevant].mean() - norms[~relevant].mean()) / spread
    assert advised["diagnosis"]["cohens_d"] == pytest.approx(d, rel=1e-4)
    capsys.readouterr()
    for more, said in {
        ("--judgements", "judged.tsv", "--chunks", "judged.tsv"): "judged.tsv",
        ("--chunks", "chunks.tsv"): "chunks: expected --judgements, whose rankings go by documents, got none",
    }.items():
        assert main(["advise", *shared[:2], "--documents", "chunks.npz", *more]) == 2
        assert said in capsys.readouterr().err


def test_a_model_trained_with_qnorm_is_not_sent_to_qnorm(embeddings, capsys) -> None:
    words = [*embeddings, "--judgements", "judged.tsv", "--temperature", "1"]
    trainings = []
    for name in ("qnorm", "dnorm"):
        assert main([*words, "--normalization", name]) == 0
        trainings.append(" ".join(capsys.readouterr().out.split()))
    assert all(("Stay with qnorm" in trainings[0], "try qnorm next" not in trainings[0].lower()))
    assert "Try qnorm next" in trainings[1]


def test_shards_and_urls_are_advised_on_as_files_are(embeddings, capsys) -> None:
    judged = ["--judgements", "judged.tsv"]
    assert main([*embeddings, *judged]) == 0
    said = capsys.readouterr().out
    archive = np.load("documents.npz")
    Path("documents").mkdir()
    for number, rows in enumerate((slice(0, 100), slice(100, 101), slice(101, 240))):
        columns = {"id": archive["ids"][rows].tolist(), "v": archive["embeddings"][rows].tolist()}
        table = pa.table(columns, pa.schema([("id", pa.string()), ("v", pa.list_(pa.float32()))]))
        pq.write_table(table, f"documents/{number}.parquet")
    memory = fsspec.filesystem("memory")
    memory.put("queries.npy", "/advise/queries.npy")
    for documents in ("documents", Path("documents").absolute().as_uri()):
        words = ["advise", "--queries", "memory://advise/queries.npy", "--documents", documents]
        assert main([*words, *judged]) == 0
        assert unsigned(capsys.readouterr().out) == unsigned(said)
    memory.rm("/advise", recursive=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "got neither"),
        (["--config", "x.yaml", "--queries", "queries.npy"], "got both"),
        (["--queries", "queries.npy"], "expected both --queries and --documents"),
        (
            ["--queries", "queries.npy", "--documents", "narrow.npy"],
            "expected vectors of the queries' length, 8, got 3",
        ),
        (["--queries", "queries.npy", "--documents", "few.npy"], "at least 120 documents"),
        (["--queries", "queries.npy", "--documents", "nan.npy"], "NaN or infinity in row 7"),
        (["--queries", "queries.npy", "--documents", "none.npy"], "none.npy"),
        (["--queries", "queries.npy", "--documents", "few.npy", "--trainer.x", "1"], "no further options"),
    ],
)
def test_bad_input_is_one_sentence(embeddings, words, said, capsys) -> None:
    np.save("narrow.npy", np.ones((200, 3), np.float32))
    np.save("few.npy", np.ones((10, 8), np.float32))
    broken = np.ones((200, 8), np.float32)
    broken[7, 2] = np.nan
    np.save("nan.npy", broken)
    assert main(["advise", *words]) == 2
    assert said in capsys.readouterr().err
