"""STS and SICK give the same pairs from every layout."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_files import rows, write

from lightning_normdyn.datasets import MalformedFileError
from lightning_normdyn.datasets.formats import read_sick, read_sts

PAIRS = [('A "quoted" plane', "a jet, airborne", 4.75), ("cats", "dogs", 0.5)]


def plain(pairs):
    return list(zip(pairs.first, pairs.second, pairs.grades.tolist(), strict=True))


def glue(pairs):
    named = ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score"]
    return rows(named, *((n, "g", "f", "y", n, "s", "s", *pair) for n, pair in enumerate(pairs)))


def original(pairs):
    endings = (), ("source",), ("source", "other")
    return rows(*(("g", "f", "y", n, s, a, b, *endings[n % 3]) for n, (a, b, s) in enumerate(pairs)))


def quoted(pairs):
    return "".join('"{}","{}",{}\r\n'.format(a.replace('"', '""'), b, score) for a, b, score in pairs)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dev.tsv.gz", "sentence1\tsentence2\tscore\n" + rows(*PAIRS)),
        ("validation.tsv", "\ufeff" + glue(PAIRS)),
        ("sts-dev.csv", original(PAIRS)),
        ("dev.tsv", rows(*PAIRS)),
        ("valid.csv", quoted(PAIRS)),
    ],
    ids=["plain", "GLUE", "original", "no names", "quoted"],
)
def test_sts_of_every_layout(tmp_path, name, content):
    write(tmp_path / name, content)
    found = read_sts(tmp_path)
    assert list(found) == ["validation"]
    assert plain(found["validation"]) == PAIRS


def test_a_split_without_scores_and_empty_sentences_are_reported(tmp_path):
    write(tmp_path / "train.tsv", glue([*PAIRS, ("", "x", 1.0)]))
    write(tmp_path / "test.tsv", "index\tsentence1\tsentence2\n0\ta\tb\n")
    with pytest.warns(UserWarning, match=r"1 pairs with an empty .*kept \(first: pair 3 of .*1 splits without a score"):
        assert list(read_sts(tmp_path)) == ["train"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.tsv", "a\tb\t1\na\tb\n", r"train\.tsv, line 2: expected 3 columns, got 2"),
        ("train.tsv", "a\tb\t1\na\tb\tsome\n", r"line 2: expected a number as a score, got 'some'"),
        ("train.tsv", "a\tb\tc\td\n", r"line 1: expected columns named sentence1.*got 4 columns"),
        ("train.tsv", "sentence1\tscore\na\t1\n", r"line 1: expected a column 'sentence2'"),
        ("train.tsv", "sentence1\tsentence2\tscore\n", r"train\.tsv: expected pairs of sentences, got none"),
        ("train.tsv", "", r"train\.tsv, line 1: expected pairs of sentences, got an empty file"),
        ("train.tsv", "sentence1\tsentence2\na\tb\n", r"expected a column 'score' in some split"),
        ("sts-train.csv", original(PAIRS) + "g\tf\ty\t1\t2\ta\n", r"line 3: expected 7 columns, got 6"),
        ("other.tsv", "a\tb\t1\n", r"expected files such as train\.tsv or train\.csv, got other\.tsv"),
    ],
)
def test_malformed_sts_is_refused(tmp_path, name, content, message):
    write(tmp_path / name, content)
    with pytest.raises(MalformedFileError, match=message):
        read_sts(tmp_path)


@pytest.mark.parametrize("score", ["score", "label", "similarity_score"])
def test_sts_as_parquet_of_the_hub(tmp_path, score):
    (tmp_path / "data").mkdir()
    names = {"train-00000-of-00002": PAIRS[:1], "train-00001-of-00002": PAIRS[1:], "validation-00000-of-00001": PAIRS}
    hidden = [(a, b, -1.0) for a, b, _ in PAIRS]
    for name, pairs in {**names, "test-00000-of-00001": hidden}.items():
        first, second, grades = map(list, zip(*pairs, strict=True))
        table = pa.table({"sentence1": first, "sentence2": second, score: grades})
        pq.write_table(table, tmp_path / "data" / f"{name}.parquet")
    with pytest.warns(UserWarning, match=r"1 splits without a score, left out \(first: test-00000-of-00001\.parquet"):
        found = read_sts(tmp_path)
    assert {split: plain(pairs) for split, pairs in found.items()} == {"train": PAIRS, "validation": PAIRS}
    pq.write_table(pa.table({"sentence1": ["a"], "sentence2": ["b"]}), tmp_path / "train.parquet")
    with pytest.raises(MalformedFileError, match=r"train\.parquet: expected a column 'score', got the columns 'sent"):
        read_sts(tmp_path)


def test_sts_files_named_by_language(tmp_path):
    for language, pairs in {"de": PAIRS, "en": PAIRS[:1]}.items():
        for split in ("train", "dev"):
            write(tmp_path / f"stsb-{language}-{split}.csv", quoted(pairs))
    found = read_sts(tmp_path, language="de")
    assert {split: plain(pairs) for split, pairs in found.items()} == {"train": PAIRS, "validation": PAIRS}
    for language in (None, "fr"):
        with pytest.raises(MalformedFileError, match=r"expected one language, got de, en in .*pass language, such as"):
            read_sts(tmp_path, language=language)
    for split in ("train", "dev"):
        (tmp_path / f"stsb-de-{split}.csv").unlink()
    assert plain(read_sts(tmp_path)["train"]) == PAIRS[:1]


NAMES = ("pair_ID", "sentence_A", "sentence_B", "entailment_label", "relatedness_score")


def test_sick_as_one_file_and_as_three(tmp_path):
    sets = ("TRAIN", "TEST", "TRIAL", "TRAIN")
    pairs = [(f"first {n}", f"second {n}", 1 + n / 4) for n in range(4)]
    labelled = [(n, a, b, "NEUTRAL", score) for n, (a, b, score) in enumerate(pairs)]
    whole = rows((*NAMES, "SemEval_set"), *((*row, name) for row, name in zip(labelled, sets, strict=True)))
    file = write(tmp_path / "one" / "SICK.txt", whole.replace("\n", "\r\n"))
    wanted = {"train": [pairs[0], pairs[3]], "validation": [pairs[2]], "test": [pairs[1]]}
    for number, name in ((0, "SICK_train"), (3, "SICK_train"), (2, "SICK_trial"), (1, "SICK_test_annotated")):
        old = (tmp_path / "three" / f"{name}.txt").read_text() if number == 3 else rows(NAMES)
        write(tmp_path / "three" / f"{name}.txt", old + rows(labelled[number]))
    for path in (file, file.parent, tmp_path / "three"):
        assert {split: plain(found) for split, found in read_sick(path).items()} == wanted


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            rows((*NAMES, "SemEval_set"), (1, "a", "b", "N", 3, "DEV")),
            r"line 2: expected SemEval_set to be .*got 'DEV'",
        ),
        (rows((*NAMES, "SemEval_set"), (1, "a", "b", "N", "x", "TEST")), r"line 2: expected a number as a score"),
        (rows((*NAMES, "SemEval_set"), (1, "a", "b", "N", 3)), r"line 2: expected 6 columns, got 5"),
        (rows(NAMES, (1, "a", "b", "N", 3)), r"line 1: expected a column named 'SemEval_set'"),
        (rows((*NAMES, "SemEval_set")), r"expected pairs of sentences, got none"),
    ],
)
def test_malformed_sick_is_refused(tmp_path, content, message):
    with pytest.raises(MalformedFileError, match=message):
        read_sick(write(tmp_path / "SICK.txt", content))


def test_a_folder_without_sick_is_refused(tmp_path):
    with pytest.raises(MalformedFileError, match=r"expected SICK\.txt or SICK_train\.txt, got neither"):
        read_sick(tmp_path)
