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
        ({"train.txt": "a\tr\tb\tx\n"}, r"train\.txt, line 1: expected 3 columns, got 4"),
        ({"train.txt": "a\t \tb\n"}, r"line 1: expected head, relation and tail, got an empty name"),
        ({"train.txt": "head\trelation\ttail\n"}, r"train\.txt: expected triples, got none"),
        ({"train.txt": b"a\tr\t\xe9\n"}, r"train\.txt, line 1: expected UTF-8 text"),
        ({"train.txt": "a\tr\tb\n", "train.tsv": "a\tr\tb\n"}, r"expected one file of train\.txt, train\.tsv, got"),
        ({"test.txt": "a\tr\tb\n"}, r"expected train\.txt or train\.tsv, got test\.txt"),
        ({"facts.nt": ""}, r"expected files such as train\.txt or train\.tsv, got facts\.nt"),
    ],
)
def test_malformed_files_are_refused(tmp_path, files, message):
    for name, content in files.items():
        write(tmp_path / name, content)
    with pytest.raises(MalformedFileError, match=message):
        read_triples(tmp_path)
