"""Retrieval sets as the hub has them, in a folder or by name: what is read is what BEIR's own layout gives."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_normdyn.datasets import MalformedFileError
from lightning_normdyn.datasets.formats import read_beir, read_judged_texts
from lightning_normdyn.tasks.sources import BeirFolder

DOCUMENTS = [("d1", "One", "first text"), ("d2", None, "second"), ("d3", "", "third")]
QUERIES = [("q1", "what?"), ("q2", "who?")]
JUDGEMENTS = {"test": [("q1", "d2", 1), ("q2", "d1", 0)], "train": [("q2", "d3", 2)]}


def contents(texts):
    """All that is read, in a form that compares."""
    judged = {
        split: [
            (texts.queries.ids[query], texts.documents.ids[document], grade)
            for query, document, grade in zip(*(column.tolist() for column in pairs), strict=True)
        ]
        for split, pairs in texts.judgements.items()
    }
    documents = list(zip(texts.documents.ids, texts.documents.texts, strict=True))
    return documents, list(zip(texts.queries.ids, texts.queries.texts, strict=True)), judged


EXPECTED = (
    [("d1", "One first text"), ("d2", "second"), ("d3", "third")],
    QUERIES,
    {"train": [("q2", "d3", 2.0)], "test": [("q1", "d2", 1.0), ("q2", "d1", 0.0)]},
)


def parquet(file, names, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = list(zip(*rows, strict=True))
    pq.write_table(pa.table(dict(zip(names, map(list, columns), strict=True))), file)


def jsonl(file, names, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))


def tsv(file, names, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join("\t".join(map(str, row)) + "\n" for row in ([names] if names else []) + list(rows)))


PAIR = ("query-id", "corpus-id", "score")


def as_beir_hub(folder):
    """BeIR/NAME of today: Parquet in folders by config, shards numbered; judgements in a repository of their own."""
    names = ("_id", "title", "text")
    parquet(folder / "corpus" / "corpus-00000-of-00002.parquet", names, DOCUMENTS[:2])
    parquet(folder / "corpus" / "corpus-00001-of-00002.parquet", names, DOCUMENTS[2:])
    parquet(folder / "queries" / "queries-00000-of-00001.parquet", names, [(id, "", text) for id, text in QUERIES])


def as_beir_judgements(folder):
    for split, rows in JUDGEMENTS.items():
        tsv(folder / f"{split}.tsv", PAIR, rows)


def as_mteb(folder, prefix=""):
    """mteb/NAME: JSON lines with a card that names configs, the judgements' being the default."""
    jsonl(folder / f"{prefix}corpus.jsonl", ("_id", "title", "text"), DOCUMENTS)
    jsonl(folder / f"{prefix}queries.jsonl", ("_id", "text"), QUERIES)
    for split, rows in JUDGEMENTS.items():
        jsonl(folder / "qrels" / f"{prefix}{split}.jsonl", PAIR, rows)


def as_new_mteb(folder):
    """The layout that mteb 2 writes: Parquet by config, ids named id."""
    parquet(folder / "corpus" / "corpus-00000-of-00001.parquet", ("id", "title", "text"), DOCUMENTS)
    parquet(folder / "queries" / "queries-00000-of-00001.parquet", ("id", "text"), QUERIES)
    parquet(folder / "data" / "test-00000-of-00001.parquet", PAIR, JUDGEMENTS["test"])
    parquet(folder / "data" / "train-00000-of-00002.parquet", PAIR, JUDGEMENTS["train"])
    parquet(folder / "data" / "train-00001-of-00002.parquet", PAIR, JUDGEMENTS["train"])


def card(folder, **configs):
    lines = ["---", "license: mit", "configs:"]
    for name, files in configs.items():
        lines += [f"- config_name: {name.replace('_', '-')}", "  data_files:"]
        for split, path in files.items():
            lines += [f"  - split: {split}", f"    path: {path}"]
    (folder / "README.md").write_text("\n".join([*lines, "---", "# A set"]))


def test_folders_of_every_layout_read_alike(tmp_path):
    as_beir_hub(tmp_path / "beir")
    for split, rows in JUDGEMENTS.items():
        (tmp_path / "beir" / "qrels").mkdir(exist_ok=True)
        tsv(tmp_path / "beir" / "qrels" / f"{split}.txt", None, [(q, 0, d, grade) for q, d, grade in rows])
    as_mteb(tmp_path / "mteb")
    as_new_mteb(tmp_path / "new")
    flat = tmp_path / "flat"
    parquet(flat / "corpus.parquet", ("_id", "title", "text"), DOCUMENTS)
    parquet(flat / "queries.parquet", ("_id", "text"), QUERIES)
    for split, rows in JUDGEMENTS.items():
        parquet(flat / "qrels" / f"{split}.parquet", PAIR, rows)
    for name in ("beir", "mteb", "flat"):
        assert contents(read_beir(tmp_path / name)) == EXPECTED
        assert contents(read_judged_texts(tmp_path / name)) == EXPECTED
    with pytest.warns(UserWarning, match="1 repeated judgements, kept once"):
        assert contents(read_beir(tmp_path / "new")) == EXPECTED


@pytest.mark.parametrize("ending", ["jsonl", "txt", "tsv", "parquet"])
def test_one_file_of_judgements_is_the_test_split(tmp_path, ending):
    as_beir_hub(tmp_path)
    names = ("query_id", "doc_id", "relevance")
    {"jsonl": jsonl, "parquet": parquet}.get(ending, tsv)(tmp_path / f"qrels.{ending}", names, JUDGEMENTS["test"])
    assert contents(read_beir(tmp_path))[2] == {"test": EXPECTED[2]["test"]}


def test_bad_judgements_name_file_and_row(tmp_path):
    as_mteb(tmp_path)
    (tmp_path / "qrels" / "test.jsonl").write_text('{"query-id": "q1", "corpus-id": "d1", "score": "good"}\n')
    with pytest.raises(MalformedFileError, match=r"test\.jsonl, line 1: expected a number as a grade, got 'good'"):
        read_beir(tmp_path)
    (tmp_path / "qrels" / "test.jsonl").write_text('{"query-id": "q1", "score": 1}\n')
    with pytest.raises(MalformedFileError, match=r"test\.jsonl, line 1: expected a field 'corpus-id'"):
        read_beir(tmp_path)
    (tmp_path / "qrels" / "test.jsonl").unlink()
    parquet(tmp_path / "qrels" / "test.parquet", ("query-id", "corpus-id", "votes"), JUDGEMENTS["test"])
    with pytest.raises(
        MalformedFileError, match=r"test\.parquet: expected a column 'score', got the columns 'query-id'"
    ):
        read_beir(tmp_path)
    (tmp_path / "qrels" / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(MalformedFileError, match=r"test\.parquet: expected a whole Parquet file"):
        read_beir(tmp_path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of local folders: gives out the files that match the patterns, as a snapshot does."""
    repositories = tmp_path / "hub"
    wanted = []

    def snapshot_download(name, *, repo_type, allow_patterns):
        from huggingface_hub.utils import filter_repo_objects

        assert repo_type == "dataset"
        folder = repositories / name
        if not folder.is_dir():
            raise OSError("We couldn't connect to the hub")
        target = tmp_path / "cache" / name
        files = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
        for file in filter_repo_objects(files, allow_patterns=allow_patterns):
            wanted.append(f"{name}/{file}")
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / file, target / file)
        target.mkdir(parents=True, exist_ok=True)
        return str(target)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    repositories.mkdir()
    return repositories, wanted


def test_a_beir_set_by_name_takes_its_judgements_from_their_own_repository(hub):
    folder, wanted = hub
    as_beir_hub(folder / "BeIR" / "tiny")
    as_beir_judgements(folder / "BeIR" / "tiny-qrels")
    (folder / "BeIR" / "tiny" / "photos.zip").write_bytes(b"large")
    assert contents(BeirFolder("BeIR/tiny").read()) == EXPECTED
    assert not any("photos" in file for file in wanted)
    card(
        folder / "BeIR" / "tiny",
        corpus={"corpus": "corpus/corpus-*"},
        queries={"queries": "queries/queries-*"},
    )
    assert contents(read_judged_texts("BeIR/tiny")) == EXPECTED


def test_an_mteb_set_by_name_is_read_as_its_card_says(hub):
    folder, wanted = hub
    as_mteb(folder / "mteb" / "tiny")
    (folder / "mteb" / "tiny" / "qrels" / "dev.jsonl").write_text("not for this card")
    card(
        folder / "mteb" / "tiny",
        default={split: f"qrels/{split}.jsonl" for split in JUDGEMENTS},
        corpus={"corpus": "corpus.jsonl"},
        queries={"queries": "queries.jsonl"},
    )
    assert contents(read_judged_texts("mteb/tiny")) == EXPECTED
    assert not any("dev" in file for file in wanted)


def test_a_set_of_several_languages_asks_for_one(hub):
    folder, _ = hub
    as_mteb(folder / "mteb" / "many", prefix="de-")
    card(
        folder / "mteb" / "many",
        de={split: f"qrels/de-{split}.jsonl" for split in JUDGEMENTS},
        de_corpus={"corpus": "de-corpus.jsonl"},
        de_queries={"queries": "de-queries.jsonl"},
    )
    assert contents(read_judged_texts("mteb/many:de")) == EXPECTED
    for name in ("mteb/many", "mteb/many:fr"):
        with pytest.raises(ValueError, match=rf"beir: expected one of mteb/many:de, got '{name}'"):
            read_judged_texts(name)


def test_without_a_hub_a_set_is_refused_in_one_sentence(hub, tmp_path):
    with pytest.raises(
        ValueError, match=r"got 'BeIR/none': no such folder, and the hub cannot be reached .*name a folder"
    ) as said:
        read_judged_texts("BeIR/none")
    assert "\n" not in str(said.value)
    with pytest.raises(MalformedFileError, match="expected a folder, got nothing of that name"):
        read_judged_texts(tmp_path / "none")


def test_the_hubs_own_library_reads_the_same(tmp_path):
    """``datasets`` on a folder with a card: what it gives for each config is what is read here."""
    datasets = pytest.importorskip("datasets")
    as_mteb(tmp_path / "set")
    paths = {"corpus": "corpus.jsonl", "queries": "queries.jsonl"}
    card(
        tmp_path / "set",
        default={split: f"qrels/{split}.jsonl" for split in JUDGEMENTS},
        **{name: {name: path} for name, path in paths.items()},
    )
    options = {"cache_dir": str(tmp_path / "cache")}
    texts = read_beir(tmp_path / "set")
    corpus, queries = (datasets.load_dataset(str(tmp_path / "set"), name, **options)[name] for name in paths)
    assert list(corpus["_id"]) == texts.documents.ids
    assert [f"{row['title'] or ''} {row['text']}".strip() for row in corpus] == list(texts.documents.texts)
    assert list(queries["text"]) == list(texts.queries.texts)
    for split, rows in datasets.load_dataset(str(tmp_path / "set"), **options).items():
        assert [tuple(row[name] for name in PAIR) for row in rows] == contents(texts)[2][split]
