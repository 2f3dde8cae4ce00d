"""What is read off sources, against small folders whose facts, names and pairs are written down by hand."""

import gc
import importlib
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from lightning_normdyn.datasets.standard_library.class_graph import class_graph, facts_of
from lightning_normdyn.datasets.standard_library.docstring_retrieval import docstring_retrieval
from lightning_normdyn.datasets.standard_library.library import read_library
from lightning_normdyn.datasets.standard_library.name_relatedness import name_relatedness
from lightning_normdyn.datasets.standard_library.name_uses import name_uses
from lightning_normdyn.datasets.standard_library.splits import in_digest_order, split_groups
from lightning_normdyn.datasets.standard_library.summaries import SplitDocstring, split_summary

PACKAGE = "lightning_normdyn.datasets.standard_library"
SHAPES = '''"""Shapes of the plane. They have an area.

Sides are lengths in metres, never negative.
"""
import math, zlib
import os.path as p
from . import errors
from .errors import *
from functools import lru_cache as cached

SIZE = len("four")

class Shape:
    """Something that has an area.

    Subclasses say how large it is.
    """
    def area(self, len):
        """Say how large it is.

        In square metres, as a float.
        """
        raise NotImplementedError

class Square(Shape):
    def area(self):
        if self.side < 0:
            raise errors.NegativeError(self.side)
        return math.pow(self.side, 2)

    class Corner(ValueError): pass

@cached
def unit():
    try:
        math = Square()
    except (KeyError, zlib.error) as problem:
        raise refused(problem) from None
    return [math.area for sum in p.join("a", "b") if sum]

def refused(cause):
    return NegativeError(cause)
'''
FILES = {
    "plane/__init__.py": "from .shapes import Square as Box\nfrom .shapes import unit\n",
    "plane/errors.py": "class NegativeError(ValueError):\n    def __init__(self): super().__init__(sum)\n",
    "plane/shapes.py": SHAPES,
    "user.py": "import plane\nclass Cube(plane.Box[int]):\n  def area(self):\n    global hidden\n    hidden = print\n",
    "broken.py": "def (",
    "not-a-name.py": "x = 1",
    "tests/test_it.py": "import user",
}
FACTS = {
    ("plane", "contains", "plane.errors"),
    ("plane", "contains", "plane.shapes"),
    ("plane.errors", "defines", "plane.errors.NegativeError"),
    ("plane.shapes", "defines", "plane.shapes.Shape"),
    ("plane.shapes", "defines", "plane.shapes.Square"),
    ("plane.shapes", "defines", "plane.shapes.unit"),
    ("plane.shapes", "defines", "plane.shapes.refused"),
    ("user", "defines", "user.Cube"),
    ("plane.errors.NegativeError", "has_method", ".__init__"),
    ("plane.shapes.Shape", "has_method", ".area"),
    ("plane.shapes.Square", "has_method", ".area"),
    ("user.Cube", "has_method", ".area"),
    ("plane", "imports", "plane.shapes"),
    ("plane.shapes", "imports", "math"),
    ("plane.shapes", "imports", "zlib"),
    ("plane.shapes", "imports", "os.path"),
    ("plane.shapes", "imports", "plane.errors"),
    ("plane.shapes", "imports", "functools"),
    ("user", "imports", "plane"),
    ("plane.errors.NegativeError", "subclass_of", "builtins.ValueError"),
    ("plane.shapes.Square", "subclass_of", "plane.shapes.Shape"),
    ("user.Cube", "subclass_of", "plane.shapes.Square"),
    ("plane.shapes.unit", "decorated_with", "functools.lru_cache"),
    ("plane.shapes.Shape", "raises", "builtins.NotImplementedError"),
    ("plane.shapes.Square", "raises", "plane.errors.NegativeError"),
    ("plane.shapes.unit", "catches", "builtins.KeyError"),
    ("plane.shapes.unit", "catches", "zlib.error"),
    ("plane.errors.NegativeError", "uses", "builtins.super"),
    ("plane.errors.NegativeError", "uses", "builtins.sum"),
    ("plane.shapes.Square", "uses", "math.pow"),
    ("plane.shapes.unit", "uses", "plane.shapes.Square"),
    ("plane.shapes.unit", "uses", "plane.shapes.refused"),
    ("plane.shapes.unit", "uses", "os.path.join"),
    ("user.Cube", "uses", "builtins.int"),
    ("user.Cube", "uses", "builtins.print"),
}
USES = {
    "plane": [("plane.shapes.Square", 1), ("plane.shapes.unit", 2)],
    "plane.errors": [("ValueError", 1), ("super", 2), ("sum", 2)],
    "plane.shapes": [
        ("functools.lru_cache", 9),
        ("len", 11),
        ("NotImplementedError", 23),
        ("plane.errors.NegativeError", 28),
        ("math.pow", 29),
        ("ValueError", 31),
        ("KeyError", 37),
        ("zlib.error", 37),
        ("os.path.join", 39),
    ],
    "user": [("plane.Box", 2), ("int", 2), ("print", 5)],
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def lower_limits(monkeypatch, module, **limits):
    for name, limit in limits.items():
        monkeypatch.setattr(importlib.import_module(f"{PACKAGE}.{module}"), name, limit)


def test_modules_are_what_can_be_named_and_parsed(folder):
    assert list(read_library(folder).modules) == ["plane", "plane.errors", "plane.shapes", "user"]


def test_facts_of_a_folder(folder):
    assert set(facts_of(read_library(folder))) == FACTS


def test_graph_holds_the_facts_of_entities_that_are_in_enough(folder, monkeypatch):
    lower_limits(monkeypatch, "class_graph", MIN_FACTS=1)
    assert sorted(named_facts(class_graph(folder))) == sorted(FACTS)
    lower_limits(monkeypatch, "class_graph", MIN_FACTS=2)
    assert sorted(named_facts(class_graph(folder))) == sorted(connected_twice(FACTS))


def named_facts(graph):
    return [
        (graph.entities[head], graph.relations[relation], graph.entities[tail])
        for triples in graph.triples.values()
        for head, relation, tail in triples.tolist()
    ]


def connected_twice(facts):
    """Takes away one entity at a time."""
    facts = set(facts)
    while True:
        ends = [entity for head, _, tail in facts for entity in (head, tail)]
        lonely = next((entity for entity in ends if ends.count(entity) < 2), None)
        if lonely is None:
            return facts
        facts = {fact for fact in facts if lonely not in fact}


def test_uses_of_a_folder(folder, monkeypatch):
    lower_limits(monkeypatch, "name_uses", MIN_MODULES=1, MIN_NAMES=1)
    uses = name_uses(folder)
    found = {user: [] for user in uses.user_ids}
    for user, item, line in zip(uses.users.tolist(), uses.items.tolist(), uses.times.tolist(), strict=True):
        found[uses.user_ids[user]].append((uses.item_ids[item], line))
    assert found == USES


def test_rare_names_go_before_modules_with_few_names(folder, monkeypatch):
    lower_limits(monkeypatch, "name_uses", MIN_MODULES=2, MIN_NAMES=1)
    uses = name_uses(folder)
    assert uses.item_ids == ["ValueError"]
    assert uses.user_ids == ["plane.errors", "plane.shapes"]
    lower_limits(monkeypatch, "name_uses", MIN_MODULES=2, MIN_NAMES=2)
    assert len(name_uses(folder).users) == 0


def test_retrieval_pairs_of_a_folder(folder):
    pairs = docstring_retrieval(folder)
    assert dict(zip(pairs.documents.ids, pairs.documents.texts, strict=True)) == {
        "plane.shapes": "They have an area.\n\nSides are lengths in metres, never negative.",
        "plane.shapes.Shape": "class Shape\nSubclasses say how large it is.",
        "plane.shapes.Shape.area": "def area(self, len)\nIn square metres, as a float.",
    }
    assert pairs.queries.texts == ["Shapes of the plane.", "Something that has an area.", "Say how large it is."]
    assert pairs.covariates == {"depth": [2.0, 3.0, 4.0], "length": [11.0, 8.0, 10.0]}


def test_a_second_pair_of_the_same_words_is_left_out(tmp_path):
    docstring = '"""Give back the {}.\n\n    Whatever it {}.\n    """\n'
    (tmp_path / "a.py").write_text(
        f"def b():\n    {docstring.format('sum', 'was before')}"
        f"def a():\n    {docstring.format('SUM', 'is afterwards')}"
        f"def c():\n    {docstring.format('rest', 'WAS  before')}"
        f"def d():\n    {docstring.format('other', 'was before')}"
        f"def e():\n    {docstring.format('last', 'now is')}"
    )
    assert docstring_retrieval(tmp_path).documents.ids == ["a.a", "a.c", "a.e"]


def test_grades_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module(f"{PACKAGE}.name_relatedness"), "split_groups", all_in_training)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "__init__.py").write_text('"text of p package"')
    (tmp_path / "p" / "m.py").write_text(
        '"text of m module"\nclass A:\n  "text of A class"\n  def f(self): "text of f method"\n'
        'def g(): "text of g here"\n'
    )
    (tmp_path / "q.py").write_text('"text of q module"\nimport p\n')
    pairs = name_relatedness(tmp_path)["train"]
    expected = {
        5.0: [{"A", "f"}],
        4.0: [{"m", "A"}, {"m", "f"}, {"m", "g"}, {"g", "A"}, {"g", "f"}],
        2.0: [{"p", "m"}, {"p", "A"}, {"p", "f"}, {"p", "g"}],
        0.0: [{"q", name} for name in "pmAfg"],
    }
    assert sorted(pairs.grades.tolist()) == [0.0, 2.0, 4.0, 5.0]
    for first, second, grade in zip(pairs.first, pairs.second, pairs.grades.tolist(), strict=True):
        assert {first.split()[2], second.split()[2]} in expected[grade]


def all_in_training(sizes, **_):
    return dict.fromkeys(sizes, "train")


def test_names_are_followed_to_where_they_are_defined(folder):
    library = read_library(folder)
    assert library.home_of("plane.Box.area") == "plane.shapes.Square.area"
    assert library.home_of("plane.shapes.NegativeError") == "plane.errors.NegativeError"
    assert library.home_of("os.path.join") == "os.path.join"
    assert library.home_of("nowhere.at.all") == "nowhere.at.all"


def test_what_a_comprehension_or_a_class_binds_is_nobody_elses(tmp_path):
    (tmp_path / "a.py").write_text(
        "x = [id for id in ()]\nid(x)\nclass A:\n  hash = 1\n  y = hash\n  def f(self): return hash(self)\n"
    )
    found = [(r.line, r.name) for r in read_library(tmp_path).modules["a"].references]
    assert found == [(2, "builtins.id"), (2, "a.x"), (6, "builtins.hash")]


def test_imports_in_a_circle_come_to_an_end(tmp_path):
    (tmp_path / "a.py").write_text("from b import x")
    (tmp_path / "b.py").write_text("from a import x")
    assert read_library(tmp_path).home_of("a.x") in ("a.x", "b.x")


def test_of_several_definitions_the_first_with_a_docstring_counts(tmp_path):
    (tmp_path / "a.py").write_text('def f(x): pass\ndef f(y): "of y"\ndef f(z): "of z"\n')
    found = read_library(tmp_path).definitions["a.f"]
    assert (found.signature, found.docstring) == ("def f(y)", "of y")


def test_a_python_without_sources_is_told_in_one_sentence(tmp_path):
    (tmp_path / "broken.py").write_text("def (")
    with pytest.raises(FileNotFoundError, match=r"^folder: expected Python sources under .*, found none"):
        docstring_retrieval(tmp_path)


def test_the_garbage_collector_is_as_it_was(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_library(tmp_path / "absent")
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("docstring", "parted"),
    [
        ("One thing.", SplitDocstring("One thing.", "")),
        ("One thing. Another.", SplitDocstring("One thing.", "Another.")),
        ("One e.g. thing of\n  v3.11 here!\nThe next.", SplitDocstring("One e.g. thing of v3.11 here!", "The next.")),
        ("A heading\n\nThe text.\n\nMore.", SplitDocstring("A heading", "The text.\n\nMore.")),
        ("f(x, y) -> int\n\nAdd. Them.", SplitDocstring("Add.", "Them.")),
        ("f(x)", SplitDocstring("f(x)", "")),
        ("", SplitDocstring("", "")),
    ],
)
def test_docstrings_are_parted_after_their_first_sentence(docstring, parted):
    assert split_summary(docstring) == parted


@settings(max_examples=40)
@given(st.text(alphabet="aB .!?\n", max_size=60))
def test_parting_loses_nothing_but_space(text):
    parted = split_summary(text)
    assert "".join((parted.summary + parted.body).split()) == "".join(text.split())


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=5), st.integers(1, 50), max_size=30), st.floats(0, 0.4))
def test_groups_are_dealt_whole_within_their_shares_in_any_order(sizes, share):
    splits = split_groups(sizes, share=share)
    assert splits == split_groups(dict(reversed(sizes.items())), share=share)
    assert splits.keys() == sizes.keys()
    for split in ("validation", "test"):
        taken = sum(size for group, size in sizes.items() if splits[group] == split)
        assert taken <= share * sum(sizes.values()) + 1e-9


def test_digest_order_is_that_of_sha256():
    # printf a | sha256sum: ca978112...; b: 3e23e816...; c: 2e7d2c03...
    assert in_digest_order("abc") == ["c", "b", "a"]


def test_nothing_of_a_folder_is_run(tmp_path):
    (tmp_path / "a.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\n")
    read_library(tmp_path)
    assert not Path(tmp_path, "run").exists()
