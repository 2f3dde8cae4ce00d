"""``normdyn audit`` from files and models: what it writes, and the one sentence of each refusal."""

import gzip
import html
import json
import math
import re
from itertools import pairwise
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from small_transformers import write_bert

from lightning_normdyn import cli as commands
from lightning_normdyn.cli.main import main

ROWS, ASKED, DIM = 120, 40, 6


@pytest.fixture
def files(tmp_path):
    """Documents whose norms carry relevance, with ids, texts, covariates, queries and judgements."""
    generator = np.random.default_rng(0)
    documents = generator.normal(size=(ROWS, DIM))
    documents *= (np.exp(0.5 * generator.normal(size=ROWS)) / np.linalg.norm(documents, axis=1))[:, None]
    queries = generator.normal(size=(ASKED, DIM))
    ids = [f"d{row}" for row in range(ROWS)]
    np.savez(tmp_path / "documents.npz", ids=np.array(ids), vectors=documents.astype(np.float16))
    np.savez(tmp_path / "queries.npz", ids=np.array([f"q{row}" for row in range(ASKED)]), vectors=queries)
    words = [" ".join(["word"] * (1 + row % 7) + [f"rare{row}"]) for row in range(ROWS)]
    lines = [f"{id}\t{text}" for id, text in zip(ids, words, strict=True)]
    (tmp_path / "texts.tsv.gz").write_bytes(gzip.compress("\n".join(reversed(lines)).encode()))
    best = np.argsort(-(queries @ documents.T), axis=1)[:, :3]
    pairs = [f"q{query}\td{document}\t1" for query, row in enumerate(best[:-1]) for document in row]
    (tmp_path / "qrels.tsv").write_text("\n".join([*pairs, "q0\tunknown\t1"]))
    norms = np.linalg.norm(documents, axis=1)
    table = [f"{id}\t{norm}\t{'big' if norm > 1 else 'small'}" for id, norm in zip(ids, norms, strict=True)]
    (tmp_path / "covariates.tsv").write_text("\n".join(["id\tdepth\tsize", *table]))
    return tmp_path


def audit(*words):
    return main(["audit", *map(str, words)])


def numbers(folder="audit"):
    return json.loads((Path(folder) / "audit.json").read_text(encoding="utf-8"))


def page_text(file):
    """The page without its tags."""
    return html.unescape(re.sub(r"<[^>]+>", "", Path(file).read_text(encoding="utf-8")))


def test_files_are_put_together_by_their_ids(files, capsys):
    of_files = ["--embeddings", "documents.npz", "--column", "vectors", "--texts", "texts.tsv.gz"]
    asked = ["--queries", "queries.npz", "--judgements", "qrels.tsv", "--covariates", "covariates.tsv"]
    assert audit(*of_files, *asked, "--out", "here") == 0
    said = capsys.readouterr()
    assert "Page: here/audit.html" in said.out
    hubs = numbers("here")["ranking"]["hubs"]
    assert hubs["sentence"] in " ".join(line.removeprefix("- ") for line in said.out.splitlines())
    assert f"{hubs['listed'][0]['id']} in {hubs['listed'][0]['by_cosine']} by cosine and " in hubs["sentence"]
    assert hubs["listed"][0]["text"].endswith(f"rare{hubs['listed'][0]['document']}")
    assert html.escape(hubs["listed"][0]["text"]) in Path("here/audit.html").read_text(encoding="utf-8")
    assert said.err == ""
    found = numbers("here")
    assert found["finding"] in said.out
    assert found["ranking"]["calibration"]["significant"]
    assert found["ranking"]["queries"] == ASKED
    assert found["ranking"]["judged"] == ASKED - 1
    assert found["correlations"]["depth"]["r"] > 0.99
    assert set(found["correlations"]) == {"word frequency", "depth", "length"}
    assert {one["group"] for one in found["groups"]} == {"big", "small"}
    longest = found["longest"][0]
    assert longest["text"].endswith(f"rare{longest['id'][1:]}")  # the texts came in another order
    assert any("1 judgements of unknown documents" in note for note in found["notes"])
    assert any("1 of 40 queries" in note for note in found["notes"])
    assert sorted(file.name for file in Path("here").iterdir()) == ["audit.html", "audit.json"]


def test_shards_and_urls_are_audited_as_files_are(files):
    judged = ["--judgements", "qrels.tsv", "--covariates", "covariates.tsv"]
    words = ["--embeddings", "documents.npz", "--column", "vectors", "--queries", "queries.npz", *judged]
    assert audit(*words, "--out", "of-files") == 0
    for side, cuts in (("documents", (0, 50, 50, 120)), ("queries", (0, 7, 40))):
        archive = np.load(f"{side}.npz")
        Path(side).mkdir()
        for number, (start, end) in enumerate(pairwise(cuts)):
            columns = [archive["ids"][start:end].tolist(), list(archive["vectors"][start:end])]
            kind = pa.list_(pa.from_numpy_dtype(archive["vectors"].dtype))
            schema = pa.schema([("id", pa.string()), ("vectors", kind)])
            pq.write_table(pa.table(columns, schema=schema), f"{side}/part-{number}.parquet")
    memory = fsspec.filesystem("memory")
    for side in ("documents", "queries"):
        memory.put(side, f"/audited/{side}", recursive=True)
    for place in (".", "memory://audited"):
        words = ["--embeddings", f"{place}/documents", "--queries", f"{place}/queries", *judged]
        assert audit(*words, "--out", "of-shards", "--overwrite") == 0
        assert numbers("of-shards") == numbers("of-files") | {"name": "documents"}
    memory.rm("/audited", recursive=True)
    page = page_text("of-shards/audit.html")
    assert "normdyn audit --embeddings memory://audited/documents" in page


def test_the_page_names_its_command(files):
    words = ["--embeddings", "documents.npz", "--column", "vectors", "--out", "new folder"]
    assert audit(*words) == 0
    page = page_text("new folder/audit.html")
    assert "normdyn audit --embeddings documents.npz --column vectors --out 'new folder'" in page


def test_without_a_drawing_the_numbers_are_saved_and_the_code_is_1(files, undrawable, capsys):
    assert audit("--embeddings", "documents.npz", "--column", "vectors", "--out", "here") == 1
    printed = capsys.readouterr()
    assert printed.err == f"normdyn: {undrawable}; no page was written; --debug shows the traceback\n"
    assert printed.out == f"{numbers('here')['finding']}\nNumbers: here/audit.json\n"
    assert [file.name for file in Path("here").iterdir()] == ["audit.json"]
    record = commands.audit(embeddings="documents.npz", column="vectors", out="there")
    assert (record.page, str(record.drawing_error), record.exit_code) == (None, undrawable, 1)


def test_a_beir_folder_with_ready_embeddings(files):
    for name, kind, count in (("corpus", "d", ROWS), ("queries", "q", ASKED)):
        rows = [json.dumps({"_id": f"{kind}{row}", "title": "", "text": f"text {row}"}) for row in range(count)]
        (files / f"{name}.jsonl").write_text("\n".join(rows))
    (files / "qrels").mkdir()
    judged = [line for line in (files / "qrels.tsv").read_text().split("\n") if "unknown" not in line]
    (files / "qrels/test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    # Without ids, in the folder's order.
    for name in ("documents", "queries"):
        np.save(files / f"{name}.npy", np.load(files / f"{name}.npz")["vectors"])
    assert audit("--embeddings", "documents.npy", "--beir", files, "--queries", "queries.npy") == 0
    without_ids = numbers()
    assert (
        audit(
            "--embeddings",
            "documents.npz",
            "--beir",
            files,
            "--queries",
            "queries.npz",
            "--column",
            "vectors",
            "--overwrite",
        )
        == 0
    )
    assert without_ids["ranking"]["calibration"] == numbers()["ranking"]["calibration"]
    assert without_ids["ranking"]["calibration"]["significant"]
    assert without_ids["longest"] == numbers()["longest"]


def test_without_ids_the_order_counts_even_where_ids_are_numbers(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(ROWS, DIM)) * np.linspace(1, 3, ROWS)[:, None]
    ids = np.random.default_rng(1).permutation(ROWS)
    asked = vectors[:ASKED]
    np.save("documents.npy", vectors)
    np.save("queries.npy", asked)
    Path("texts.tsv").write_text("\n".join(f"{id}\trow {row}" for row, id in enumerate(ids)))
    rows = [json.dumps({"_id": str(id), "title": "", "text": f"row {row}"}) for row, id in enumerate(ids)]
    Path("corpus.jsonl").write_text("\n".join(rows))
    Path("queries.jsonl").write_text("\n".join(json.dumps({"_id": str(q), "text": "a"}) for q in range(ASKED)[::-1]))
    Path("qrels").mkdir()
    # The query of row q goes by ASKED - 1 - q, and its document is that of the same row.
    judged = [f"{ASKED - 1 - q}\t{ids[q]}\t1" for q in range(ASKED)]
    Path("qrels/test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    longest = int(np.linalg.norm(vectors, axis=1).argmax())
    of_beir = ["--beir", ".", "--queries", "queries.npy"]
    for words in (["--texts", "texts.tsv"], of_beir):
        assert audit("--embeddings", "documents.npy", *words, "--overwrite") == 0
        first = numbers()["longest"][0]
        assert (first["row"], first["id"], first["text"]) == (longest, str(ids[longest]), f"row {longest}")
    assert numbers()["ranking"]["calibration"]["baseline"] == 1.0


def test_an_image_that_cannot_be_opened_is_said_where_it_would_be_shown(tmp_path):
    Path("images").mkdir()
    for place in range(30):
        Image.new("L", (4, 4), 8 * place).save(f"images/{place:02}.png")
    Path("images/29.png").write_bytes(b"broken")
    np.save("vectors.npy", np.random.default_rng(0).normal(size=(30, DIM)) * np.arange(1, 31)[:, None] ** 2)
    assert audit("--embeddings", "vectors.npy", "--images", "images") == 0
    shown = {one["id"]: one.get("text") for one in numbers()["longest"]}
    assert shown.pop("29.png") == "cannot be opened"
    assert set(shown.values()) == {None}
    page = Path("audit/audit.html").read_text(encoding="utf-8")
    assert "<p>cannot be opened</p>" in page
    assert page.count("data:image/jpeg") == 23


@pytest.mark.parametrize("texts", [True, False])
def test_lengths_that_are_not_known_of_all_are_noted(files, texts, capsys):
    rows = [f"d{row}\t{'NA' if row in (4, 9) else row + 1}" for row in range(ROWS)]
    Path("lengths.tsv").write_text("\n".join(["id\tlength", *rows]))
    words = ["--embeddings", "documents.npz", "--column", "vectors", "--covariates", "lengths.tsv"]
    assert audit(*words, *(["--texts", "texts.tsv.gz"] if texts else [])) == 0
    instead = "the number of letters of each text of texts.tsv.gz is" if texts else "no length is"
    said = f"The column 'length' of lengths.tsv lacks 2 of 120 items and was left out; {instead} used instead."
    assert said in numbers()["notes"]
    assert said in " ".join(capsys.readouterr().out.split())
    assert ("length" in numbers()["correlations"]) == texts


def test_it_is_said_which_length_is_meant(files, capsys):
    rows = "\n".join(["id\tlength", *(f"d{row}\t{row + 1}" for row in range(ROWS))])
    Path("lengths.tsv").write_text(rows)
    judged = Path("qrels.tsv").read_text().splitlines()
    Path("qrels.tsv").write_text("\n".join(judged[:-1]))  # without the unknown document, which advise warns of
    letters = "Length is the number of letters of each text of texts.tsv.gz."
    asked = ["--queries", "queries.npz", "--judgements", "qrels.tsv"]
    sources = {
        letters: ["--texts", "texts.tsv.gz"],
        "Length is the column 'length' of lengths.tsv.": ["--covariates", "lengths.tsv"],
        "Length is the column 'length' of lengths.tsv, not the letters of texts.tsv.gz.": [
            *("--texts", "texts.tsv.gz", "--covariates", "lengths.tsv")
        ],
    }
    for sentence, words in sources.items():
        assert audit("--embeddings", "documents.npz", "--column", "vectors", *words, *asked, "--overwrite") == 0
        assert f"- {sentence}\n" in capsys.readouterr().out
        assert sentence in numbers()["notes"]
        assert sentence in page_text("audit/audit.html")
        advise = ["advise", "--documents", "documents.npz", "--column", "vectors", *words, *asked]
        assert main(advise) == 0
        assert f"{sentence}\n" in capsys.readouterr().out


def test_empty_texts_are_said_on_the_page(files, recwarn):
    rows = [f"d{row}\t{'' if row in (3, 8) else 'some words'}" for row in range(ROWS)]
    Path("some.tsv").write_text("\n".join(rows))
    assert audit("--embeddings", "documents.npz", "--column", "vectors", "--texts", "some.tsv") == 0
    note = "2 of 120 texts are empty: what their vectors say is the model's, not a document's."
    assert note in numbers()["notes"]
    assert note in html.unescape(Path("audit/audit.html").read_text(encoding="utf-8"))


def test_a_first_column_that_names_no_ids_is_said_where_embeddings_have_none(tmp_path, capsys):
    np.save("rows.npy", np.random.default_rng(0).normal(size=(40, DIM)))
    rows = [f"{row}\t{row % 7}" for row in reversed(range(40))]
    for header, notes in (("depth\tage", 1), ("row\tage", 0), ("doc_id\tage", 0), ("Document-ID\tage", 0)):
        Path("about.tsv").write_text("\n".join([header, *rows]))
        assert audit("--embeddings", "rows.npy", "--covariates", "about.tsv", "--overwrite") == 0
        assert sum("was taken for numbers of rows, from 0 on" in note for note in numbers()["notes"]) == notes
    np.savez("named.npz", ids=np.arange(40).astype(str), vectors=np.load("rows.npy"))
    Path("about.tsv").write_text("\n".join(["depth\tage", *rows]))
    assert audit("--embeddings", "named.npz", "--covariates", "about.tsv", "--overwrite") == 0
    assert not numbers()["notes"]  # the file's own ids


def test_columns_by_which_nothing_can_be_compared_are_said(files):
    rows = [
        (f"d{row}", f"title {row}", "web", "?" if row == 5 else row, "a" if row % 2 else "b") for row in range(ROWS)
    ]
    lines = ["\t".join(map(str, row)) for row in rows]
    Path("about.tsv").write_text("\n".join(["id\ttitle\tsource\tdepth\tside", *lines]))
    assert audit("--embeddings", "documents.npz", "--column", "vectors", "--covariates", "about.tsv") == 0
    notes = numbers()["notes"]
    assert [note.split("'")[1] for note in notes] == ["title", "source", "depth"]
    assert notes[0] == (
        "The column 'title' has 120 different values for 120 items, and no group of 10 or more beside as many others, "
        "so nothing is compared by it."
    )
    assert notes[1].startswith("The column 'source' has 1 different value for 120 items, and no group of 10 or more b")
    assert notes[2].endswith("nothing is compared by it; '?' in it is no number: write NA for what is unknown.")
    assert {group["column"] for group in numbers()["groups"]} == {"side"}


def test_controls_are_columns_of_numbers_and_may_be_several(files, capsys):
    table = [f"d{row}\t{row % 7}\t{'NA' if row == 5 else row}\t{'a' if row % 2 else 'b'}" for row in range(ROWS)]
    Path("more.tsv").write_text("\n".join(["id\tage\tplace\tkind", *table]))
    words = ["--embeddings", "documents.npz", "--column", "vectors", "--covariates", "more.tsv"]
    texts = ["--texts", "texts.tsv.gz"]
    assert audit(*words, *texts, "--control", "age", "--control", "place") == 0
    assert numbers()["controls"] == ["length", "age", "place"]
    assert any("'place' is unknown for 1 of 120 items" in note for note in numbers()["notes"])
    page = html.unescape(Path("audit/audit.html").read_text(encoding="utf-8"))
    assert "with length and age and place held fixed" in page
    assert audit(*words, *texts, "--control", "kind", "--overwrite") == 2
    assert "control: expected a column of numbers of --covariates (age, place), got 'kind'" in capsys.readouterr().err
    assert audit(*words, "--control", "age", "--overwrite") == 2
    assert "control: expected lengths, which 'age' is held fixed beside" in capsys.readouterr().err


def test_a_model_is_compared_with_an_earlier_one(files, capsys):
    """Before, half of the dimensions; in another order, by id."""
    order = np.random.default_rng(5).permutation(ROWS)
    for side, count in (("documents", ROWS), ("queries", ASKED)):
        archive = np.load(f"{side}.npz")
        places = order[order < count]
        np.savez(f"old-{side}.npz", ids=archive["ids"][places], vectors=archive["vectors"][places, : DIM // 2])
    judged = ["--queries", "queries.npz", "--judgements", "qrels.tsv", "--column", "vectors"]
    earlier = ["--before", "old-documents.npz", "--before-queries", "old-queries.npz"]
    assert audit("--embeddings", "documents.npz", *judged, *earlier) == 0
    said = " ".join(capsys.readouterr().out.split())
    comparison = numbers()["comparison"]
    assert comparison["sentence"] in said
    assert comparison["sentence"].startswith("The second model is better: by cosine ndcg@10 goes from ")
    assert comparison["after"]["baseline"] == pytest.approx(numbers()["ranking"]["calibration"]["baseline"])
    page = html.unescape(Path("audit/audit.html").read_text(encoding="utf-8"))
    assert "<h2>Before and after</h2>" in page
    assert "ndcg@10 before and after: 39 queries, paired" in page
    assert audit("--embeddings", "old-documents.npz", "--queries", "old-queries.npz", *judged[2:], "--out", "old") == 0
    assert comparison["before"]["baseline"] == pytest.approx(numbers("old")["ranking"]["calibration"]["baseline"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--before", "b.npy"], "before: expected --before-queries beside it"),
        (["--before-queries", "b.npy"], "before-queries: expected --before beside it"),
        (["--before", "b.npy", "--before-queries", "c.npy"], "before: expected queries and judgements"),
    ],
)
def test_half_an_earlier_model_is_refused(files, words, message, capsys):
    assert audit("--embeddings", "documents.npz", "--column", "vectors", *words) == 2
    assert message in capsys.readouterr().err


def test_an_earlier_model_of_other_items_is_refused(files, capsys):
    judged = ["--queries", "queries.npz", "--judgements", "qrels.tsv", "--column", "vectors"]
    np.save("few.npy", np.ones((ASKED - 1, DIM)))
    np.save("wide.npy", np.ones((ASKED, DIM + 1)))
    np.savez("strange.npz", ids=np.array([f"x{row}" for row in range(ROWS)]), vectors=np.ones((ROWS, DIM)))
    for documents, queries, message in (
        ("documents.npz", "few.npy", "few.npy: expected 40 vectors, of the items that are audited, got 39"),
        ("documents.npz", "wide.npy", "before-queries: expected vectors of the length of --before, 6, got 7"),
        (
            "strange.npz",
            "queries.npz",
            "strange.npz: expected the ids of the items that are audited, got none for 'd0'",
        ),
    ):
        earlier = ["--before", documents, "--before-queries", queries]
        assert audit("--embeddings", "documents.npz", *judged, *earlier) == 2
        assert message in capsys.readouterr().err
        assert not Path("audit").exists()


def test_documents_of_several_chunks_go_by_the_best(files, capsys):
    """Every document is two vectors, of which the second is turned away from all queries."""
    archive = np.load("documents.npz")
    away = -10 * np.load("queries.npz")["vectors"].mean(0) + 0 * archive["vectors"]
    ids = archive["ids"].tolist()
    chunks = [f"{id}#{part}" for part in (1, 2) for id in ids]
    np.savez("chunks.npz", ids=np.array(chunks), vectors=np.concatenate([archive["vectors"], away.astype(np.float16)]))
    Path("chunks.tsv").write_text("\n".join(["chunk-id\tdocument", *(f"{one}\t{one.split('#')[0]}" for one in chunks)]))
    judged = ["--queries", "queries.npz", "--judgements", "qrels.tsv", "--column", "vectors"]
    assert audit("--embeddings", "chunks.npz", *judged, "--chunks", "chunks.tsv") == 0
    found = numbers()
    assert found["ranking"]["judged"] == ASKED - 1
    assert found["distribution"]["rows"] == 2 * ROWS
    hub = found["ranking"]["hubs"]["listed"][0]
    assert hub["id"] == f"d{hub['document']}"  # the document and none of its vectors
    assert "240 vectors are chunks of 120 documents: rankings go by the best chunk of each." in found["notes"]
    Path("broken.tsv").write_text("d0#1\td0\n")
    Path("twice.tsv").write_text("d0#1\td0\nd0#1\td1\n")
    capsys.readouterr()
    for words, message in (
        (["--chunks", "broken.tsv"], "broken.tsv: expected a document for every vector, got none for 'd1#1'"),
        (["--chunks", "twice.tsv"], "twice.tsv, line 2: expected one document a chunk, got 'd0#1' of 'd0' and of 'd1'"),
        (["--chunks", "chunks.tsv", "--before", "a.npy", "--before-queries", "b.npy"], "expected no --before with it"),
    ):
        assert audit("--embeddings", "chunks.npz", *judged, *words, "--out", "other") == 2
        assert message in capsys.readouterr().err
    assert audit("--embeddings", "chunks.npz", "--column", "vectors", "--chunks", "chunks.tsv", "--out", "other") == 2
    assert "chunks: expected --queries and --judgements" in capsys.readouterr().err


def test_zero_queries_are_noted(files):
    queries = np.load("queries.npz")["vectors"]
    queries[[0, 8]] = 0
    # The other matrix is not taken: queries have the documents' column too.
    np.savez("zeros.npz", other=queries[:, :2], ids=np.array([f"q{row}" for row in range(ASKED)]), vectors=queries)
    asked = ["--queries", "zeros.npz", "--judgements", "qrels.tsv"]
    assert audit("--embeddings", "documents.npz", "--column", "vectors", *asked) == 0
    assert any(note.startswith("2 of 40 queries are zero vectors") for note in numbers()["notes"])
    assert numbers()["ranking"]["judged"] == ASKED - 3


def test_graded_pairs_are_cautioned_against(files):
    """Every query with one document, in grades from 0 to 5, as STS has them."""
    asked = ["--embeddings", "documents.npz", "--column", "vectors", "--queries", "queries.npz", "--judgements"]
    Path("pairs.tsv").write_text("\n".join(f"q{row}\td{row}\t{row % 6}" for row in range(ASKED)))
    Path("answers.tsv").write_text("\n".join(f"q{row}\td{row}\t1" for row in range(ASKED)))
    assert audit(*asked, "pairs.tsv", "--out", "pairs") == audit(*asked, "answers.tsv", "--out", "answers") == 0
    cautions = [[note for note in numbers(folder)["notes"] if "similarity" in note] for folder in ("pairs", "answers")]
    assert [len(notes) for notes in cautions] == [1, 0]


def broken(files, change):
    """The files with one thing wrong, and the words to audit them with."""
    vectors = np.load(files / "documents.npz")["vectors"].astype(np.float32)
    ids = [f"d{row}" for row in range(ROWS)]
    words = ["--embeddings", "wrong.npz", "--column", "vectors"]
    if change == "nan":
        vectors[[5, 9]] = math.nan
    elif change == "duplicates":
        ids[7] = "d3"
    elif change == "zeros":
        vectors[:] = 0
    np.savez(files / "wrong.npz", ids=np.array(ids), vectors=vectors)
    if change == "dims":
        np.save(files / "narrow.npy", np.ones((ASKED, 2)))
        words += ["--queries", "narrow.npy", "--judgements", "qrels.tsv"]
    elif change == "strangers":
        (files / "other.tsv").write_text("q0\tx1\t1\nq1\tx2\t1")
        words += ["--queries", "queries.npz", "--judgements", "other.tsv"]
    elif change == "few":
        (files / "few.tsv").write_text("q0\td1\t1\nq1\td2\t1")
        words += ["--queries", "queries.npz", "--judgements", "few.tsv"]
    elif change == "nan queries":
        np.save(files / "bad.npy", np.full((ASKED, DIM), np.nan))
        words += ["--queries", "bad.npy", "--judgements", "qrels.tsv"]
    elif change == "texts":
        (files / "two.tsv").write_text("d0\tone\nd1\ttwo\n")
        words += ["--texts", "two.tsv"]
    elif change == "covariates":
        (files / "bad.tsv").write_text("id\tdepth\nd0\t1\nd0\t2\n")
        words += ["--covariates", "bad.tsv"]
    elif change == "infinite":
        (files / "bad.tsv").write_text("id\tdepth\nd0\t1\nunknown\t2\nd1\t inf\n")
        words += ["--covariates", "bad.tsv"]
    return words


REFUSALS = {
    "nan": "wrong.npz: expected finite numbers, got NaN or infinity in 2 of 120 rows, the first being row 5",
    "duplicates": "wrong.npz: expected each id once, got 'd3' in rows 3 and 7",
    "zeros": "embeddings: expected vectors with a direction, got 120 that are all zero",
    "dims": "queries: expected vectors of the documents' length, 6, got 2",
    "strangers": "other.tsv: expected judgements of queries and documents of this set, got none",
    "few": "judgements: expected 5 or more queries with a relevant document",
    "nan queries": "bad.npy: expected finite numbers, got NaN or infinity in row 0",
    "texts": "two.tsv: expected an item for every id of wrong.npz, got none for 'd2'",
    "covariates": "bad.tsv, line 3: expected one row an id, got 'd0' again",
    "infinite": "bad.tsv, line 4: expected finite numbers in 'depth', got 'inf'; write NA for what is unknown",
}


@pytest.mark.parametrize("change", REFUSALS)
def test_each_refusal_is_one_sentence_and_nothing_is_written(files, change, capsys):
    assert audit(*broken(files, change)) == 2
    said = capsys.readouterr().err
    assert REFUSALS[change] in said
    assert len(said.strip().split("\n")) == 1
    assert not Path("audit").exists()


def test_too_few_queries_are_refused_with_what_was_left_out(files, capsys):
    Path("strangers.tsv").write_text("q1\td1\t1\nq2\tunknown\t1\nstranger\td3\t1\n")
    words = ["--queries", "queries.npz", "--judgements", "strangers.tsv"]
    assert audit("--embeddings", "documents.npz", "--column", "vectors", *words) == 2
    refusal = capsys.readouterr().err
    assert "1 judgements of unknown documents, left out (first: strangers.tsv, line 2); 1 judgements of unkn" in refusal
    np.save("zeros.npy", np.zeros((ROWS, DIM), dtype=np.float32))
    Path("rows.tsv").write_text("".join(f"{row}\td{row}\t1\n" for row in range(ROWS)))
    words = ["--queries", "zeros.npy", "--judgements", "rows.tsv"]
    assert audit("--embeddings", "documents.npz", "--column", "vectors", *words) == 2
    refusal = capsys.readouterr().err
    assert "got 0. 120 of 120 queries are zero vectors, score all documents alike and are in no ranking" in refusal
    assert main(["advise", "--documents", "zeros.npy", "--queries", "zeros.npy"]) == 2
    assert "120 of 120 queries are zero vectors" in capsys.readouterr().err


def test_blank_lines_are_empty_texts_where_embeddings_have_rows_for_them(tmp_path, capsys):
    texts = ["" if row % 10 == 4 else "a" * (row + 1) for row in range(30)]
    vectors = np.random.default_rng(0).normal(size=(30, DIM))
    np.save("rows.npy", vectors)
    np.save("fewer.npy", vectors[[bool(text) for text in texts]])
    Path("texts.txt").write_text("".join(f"{text}\n" for text in texts))
    assert audit("--embeddings", "rows.npy", "--texts", "texts.txt") == 0
    assert capsys.readouterr().err == ""
    shown = {item["row"]: item.get("text", "") for side in ("longest", "shortest") for item in numbers()[side]}
    assert shown == {row: texts[row] for row in shown}
    assert "3 of 30 texts are empty: what their vectors say is the model's, not a document's." in numbers()["notes"]
    assert audit("--embeddings", "fewer.npy", "--texts", "texts.txt", "--overwrite") == 0  # as before
    assert numbers()["notes"] == ["Length is the number of letters of each text of texts.txt."]


def test_one_vector_is_no_finding(tmp_path, capsys):
    np.save("one.npy", np.ones((1, DIM)))
    assert audit("--embeddings", "one.npy") == 0
    assert capsys.readouterr().out.startswith("A single norm says nothing: give more vectors.")


OPTIONS = {
    "expected either --model or --embeddings, got neither": [],
    "expected either --model or --embeddings, got both": ["--model", "m", "--embeddings", "e.npy"],
    "expected one of --texts, --images and --beir with --model, got none": ["--model", "m"],
    "expected --judgements with --queries": ["--embeddings", "e.npy", "--queries", "q.npy"],
    "expected --queries with --judgements": ["--embeddings", "e.npy", "--judgements", "j.tsv"],
    "expected --model, whose embeddings are kept": ["--embeddings", "e.npy", "--save", "s.npy"],
    "expected a file of embeddings beside --beir": ["--embeddings", "e.npy", "--beir", "b", "--queries", "q.txt"],
    "expected a file of embeddings, got none": ["--embeddings", "e.npy"],
    "batch_size: expected --model with it, got ready embeddings": ["--embeddings", "e.npy", "--batch-size", "32"],
    "measure: expected queries and judgements, whose rankings are measured by 'mrr@10', got none; leave it out": [
        *("--embeddings", "e.npy", "--measure", "mrr@10"),
    ],
    "expected --checkpoint alone, got --queries and --measure beside it": [
        *("--checkpoint", "m", "--queries", "q.npy", "--measure", "mrr@10"),
    ],
    "control: expected columns beside 'length', which is held fixed anyway": [
        *("--embeddings", "documents.npz", "--column", "vectors", "--texts", "texts.tsv.gz"),
        *("--covariates", "covariates.tsv", "--control", "length"),
    ],
}


@pytest.mark.parametrize("message", OPTIONS)
def test_options_that_do_not_fit_are_refused(files, message, capsys):
    assert audit(*OPTIONS[message]) == 2
    assert message in capsys.readouterr().err


def test_unit_length_is_said_first_and_zero_rows_are_listed(tmp_path, capsys):
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[4] = 0
    np.save(tmp_path / "unit.npy", vectors.astype(np.float16))
    assert audit("--embeddings", "unit.npy") == 0
    assert capsys.readouterr().out.startswith("The vectors are already of length one: there is nothing to find")
    assert numbers()["zeros"] == [{"row": 4, "id": "4", "norm": 0.0}]


@pytest.fixture
def bert(tmp_path):
    """A random BERT of one layer, saved as sentence-transformers saves it, with a step to length one at its end."""
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    folder = write_bert(tmp_path / "bert", ["a", "file", "is", "open"], initializer_range=0.5)
    kinds = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return folder


def test_a_folder_that_holds_no_model_is_refused(tmp_path, capsys):
    Path("texts.txt").write_text("a\nb\n")
    for name, message in (("./nowhere", "got nothing of that name at ./nowhere"), (".", "without config.json")):
        assert audit("--model", name, "--texts", "texts.txt") == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


def test_a_model_of_texts_is_audited_before_its_last_normalisation(bert, capsys):
    texts = ["a file", "is open " * 20, "a", "open file is a", "file " * 5] * 5
    Path("texts.txt").write_text("\n".join(texts))
    assert audit("--model", bert, "--texts", "texts.txt", "--save", "kept/vectors.npy", "--batch-size", 4) == 0
    found = numbers()
    assert found["saturation"]["last_layer"] == {
        "name": "LayerNorm", "is_norm": True, "pooling": "mean", "normalised": True,
    }  # fmt: skip
    assert any("taken off" in note for note in found["notes"])
    assert any("20.0% of the texts are longer" in note for note in found["notes"])
    kept = np.load("kept/vectors.npy")
    assert kept.shape == (25, 16)
    np.testing.assert_allclose(kept[:5], kept[20:], atol=1e-5)
    assert found["longest"][0]["norm"] == pytest.approx(np.linalg.norm(kept, axis=1).max(), rel=1e-5)
    assert [file.name for file in Path("kept").iterdir()] == ["vectors.npy"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_of_images_shows_them(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    }
    model = tmp_path / "clip"
    model.mkdir()
    (model / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    torch.save(open_clip.CLIP(**config).state_dict(), model / "open_clip_pytorch_model.bin")
    for place in range(24):
        file = tmp_path / "images" / ("red" if place % 2 else "blue") / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.radial_gradient("L").convert("RGB").rotate(15 * place).resize((20 + place, 24)).save(file)
    assert audit("--model", model, "--images", "images") == 0
    found = numbers()
    assert found["distribution"]["rows"] == 24
    assert {one["group"] for one in found["groups"]} == {"red", "blue"}
    assert found["longest"][0]["id"].endswith(".png")
    page = Path("audit/audit.html").read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 24
