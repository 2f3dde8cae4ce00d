"""Triples come back as they were written."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from small_files import rows, write

from lightning_normdyn.datasets import MalformedFileError
from lightning_normdyn.datasets.formats import read_triples

NAME = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=4)
FACTS = st.lists(st.tuples(NAME, NAME, NAME), min_size=1, max_size=12)
SPELLINGS = st.sampled_from(["valid", "validation", "dev", "val"])
ENDINGS = st.sampled_from([".txt", ".tsv", ".txt.gz", ".tsv.gz"])


def named(graph):
    return {
        split: [
            (graph.entities[head], graph.relations[relation], graph.entities[tail])
            for head, relation, tail in facts.tolist()
        ]
        for split, facts in graph.triples.items()
    }


@settings(max_examples=60)
@given(train=FACTS, validation=FACTS, test=FACTS, spelling=SPELLINGS, ending=ENDINGS, header=st.booleans())
def test_round_trip(train, validation, test, spelling, ending, header):
    written = {"train": train, "validation": validation, "test": test}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # repeated facts and unknown names are wanted here
        for name, facts in zip(("train", spelling, "test"), written.values(), strict=True):
            # A mark in front of a first name would be taken for a byte-order mark of the file.
            content = rows(*([("head", "relation", "tail")] if header else []), *facts)
            write(Path(folder) / f"{name}{ending}", "\ufeff" + content)
        graph = read_triples(folder)
    assert named(graph) == written
    flat = [name for facts in written.values() for head, _, tail in facts for name in (head, tail)]
    assert graph.entities == list(dict.fromkeys(flat))


def test_only_training_need_be_there(tmp_path):
    write(tmp_path / "train.txt", "a\tr\tb\r\n\r\n")
    graph = read_triples(tmp_path)
    assert named(graph) == {"train": [("a", "r", "b")]}
    assert (graph.entities, graph.relations) == (["a", "b"], ["r"])


def test_what_spoils_an_evaluation_is_counted_and_kept(tmp_path):
    write(tmp_path / "train.txt", "a\tr\tb\na\tr\tb\n")
    write(tmp_path / "test.txt", "b\tr\ta\na\tr\tb\na\tr\tc\nc\ts\tb\n")
    with pytest.warns(UserWarning, match="repeated facts") as caught:
        graph = read_triples(tmp_path)
    assert [len(facts) for facts in graph.triples.values()] == [2, 4]
    assert str(caught[0].message).split(": ", 1)[1] == (
        "1 repeated facts, kept (first: fact 2 of train.txt); "
        "1 facts of evaluation that training has too, kept (first: fact 2 of test.txt); "
        "2 facts of evaluation with an entity that training lacks, kept (first: fact 3 of test.txt); "
        "1 facts of evaluation with a relation that training lacks, kept (first: fact 4 of test.txt)"
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.txt": "a\tr\tb\na b c\n"}, r"train\.txt, line 2: expected 3 columns, got 1"),
        ({"train.txt": "a\tr\tb\na\tr\tb\tx\n"}, r"train\.txt, line 2: expected 3 columns, got 4"),
        ({"train.txt": "a\t \tb\n"}, r"line 1: expected head, relation and tail, got an empty name"),
        ({"train.txt": "head\trelation\ttail\n"}, r"train\.txt: expected triples, got none"),
        ({"train.txt": b"a\tr\t\xe9\n"}, r"train\.txt, line 1: expected UTF-8 text"),
        ({"train.txt": "a\tr\tb\n", "train.tsv": "a\tr\tb\n"}, r"expected one file of train\.txt, train\.tsv, .*, got"),
        ({"test.txt": "a\tr\tb\n"}, r"expected train\.txt or train\.tsv, got test\.txt"),
        ({"facts.nt": ""}, r"expected files such as train\.txt or train\.tsv or .*, got facts\.nt"),
    ],
)
def test_malformed_files_are_refused(tmp_path, files, message):
    for name, content in files.items():
        write(tmp_path / name, content)
    with pytest.raises(MalformedFileError, match=message):
        read_triples(tmp_path)


FACTS_HERE = [("Ada", "knows", "Bo"), ("Bo", "likes", "Cy d")]
SPACELESS = [("Ada", "knows", "Bo"), ("Bo", "likes", "Cy")]


def swapped(facts):
    return [(head, tail, relation) for head, relation, tail in facts]


LAYOUTS = {
    "commas": ("train.csv", "".join(f'{h},{r},"{t}"\n' for h, r, t in FACTS_HERE), FACTS_HERE, "hrt"),
    "named commas": ("train.csv", "head,relation,tail\n" + rows(*FACTS_HERE, by=","), FACTS_HERE, "hrt"),
    "commas in .txt": ("train.txt", rows(*SPACELESS, by=","), SPACELESS, "hrt"),
    "spaces": ("train.txt", rows(*SPACELESS, by=" "), SPACELESS, "hrt"),
    "several spaces": ("train.txt.gz", rows(*SPACELESS, by="   "), SPACELESS, "hrt"),
    "other order": ("train.tsv", rows(*swapped(FACTS_HERE)), FACTS_HERE, "htr"),
    "named order": ("train.tsv", rows(("source", "target", "relation"), *swapped(FACTS_HERE)), FACTS_HERE, "hrt"),
    "N-Triples": (
        "train.nt",
        "# a comment\n" + "".join(f"<{h}> <{r}> <{t}> .\n" for h, r, t in FACTS_HERE),
        FACTS_HERE,
        "hrt",
    ),
    "N-Triples in .txt": (
        "train.txt",
        '<a> <says> "one \\"two\\" . three"@en .\n_:b1 <at> "4"^^<int> . # ends\n',
        [("a", "says", '"one \\"two\\" . three"@en'), ("_:b1", "at", '"4"^^<int>')],
        "hrt",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_other_owners(tmp_path, name):
    file, content, facts, order = LAYOUTS[name]
    write(tmp_path / file, content)
    assert named(read_triples(tmp_path, order=order)) == {"train": facts}


@pytest.mark.parametrize("more", [("0.97",), ("2014-01-03",), ("17", "0")])
def test_columns_behind_the_third_are_left_out_and_said(tmp_path, more):
    write(tmp_path / "train.txt", rows(*((*fact, *more) for fact in FACTS_HERE)))
    said = r"2 facts with further columns \(times, scores\), which are left out \(first: train\.txt, line 1\)"
    with pytest.warns(UserWarning, match=said):
        assert named(read_triples(tmp_path)) == {"train": FACTS_HERE}


def test_numbers_of_open_ke_get_their_names(tmp_path):
    write(tmp_path / "train2id.txt", "2\n0 1 0\n1\t2\t1\n")
    write(tmp_path / "valid2id.txt", "1\n1 0 0\n")
    assert named(read_triples(tmp_path)) == {
        "train": [("0", "0", "1"), ("1", "1", "2")],
        "validation": [("1", "0", "0")],
    }
    write(tmp_path / "entity2id.txt", "3\nAda\t0\nBo\t1\nCy d\t2\n")
    write(tmp_path / "relation2id.txt", "2\nknows\t0\nlikes\t1\n")
    assert named(read_triples(tmp_path)) == {"train": FACTS_HERE, "validation": [("Bo", "knows", "Ada")]}
    write(tmp_path / "train2id.txt", "3\n0 1 0\n1\t2\t1\n")
    with pytest.raises(
        MalformedFileError, match=r"train2id\.txt, line 1: expected 3 facts, as the first line says, got 2"
    ):
        read_triples(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "train.nt",
            "<a> <b> <c>\n",
            r"train\.nt, line 1: expected an N-Triple, .* got '<a> <b> <c>'; write head, rel",
        ),
        ("train.txt", "a b\n", r"line 1: expected 3 columns, or up to 5 .*, got 2; write head, relation and tail on"),
        ("train.txt", "a b c d e f\n", r"line 1: expected 3 columns, or up to 5 .*, got 6"),
        ("train.txt", "a b c\na b c d\n", r"line 2: expected 3 columns, got 4"),
        ("train.csv", "a,b,c\na,,c\n", r"line 2: expected head, relation and tail, got an empty name"),
        ("train2id.txt", "0 1 0\n", r"expected the number of facts on the first line, got '0 1 0'"),
    ],
)
def test_other_layouts_gone_wrong_are_refused(tmp_path, file, content, message):
    write(tmp_path / file, content)
    with pytest.raises(MalformedFileError, match=message):
        read_triples(tmp_path)
    with pytest.raises(ValueError, match="order: expected one of hrt, htr, got 'rht'"):
        read_triples(tmp_path, order="rht")
