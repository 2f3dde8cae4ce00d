"""The sets of the standard library as a user gets them: the same everywhere, sane in size, without leaks."""

import builtins
import dis
import importlib
import json
import os
import subprocess
import sys
import types
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from library_digest import digests

from lightning_normdyn.datasets.standard_library import class_graph, docstring_retrieval, name_relatedness, name_uses
from lightning_normdyn.datasets.standard_library.library import read_library
from lightning_normdyn.datasets.standard_library.sources import library_folder
from lightning_normdyn.datasets.standard_library.summaries import words_of

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def library():
    return read_library()


@pytest.fixture(scope="module")
def retrieval():
    return docstring_retrieval()


@pytest.fixture(scope="module")
def relatedness():
    return name_relatedness()


@pytest.fixture(scope="module")
def graph():
    return class_graph()


@pytest.fixture(scope="module")
def uses():
    return name_uses()


def module_of(qualified_name, library):
    return library.definitions[qualified_name].module


def test_another_process_another_hash_seed_and_locale_make_the_same():
    pytest.importorskip("matplotlib")
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    other = {**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    worker = [sys.executable, str(Path(__file__).with_name("library_digest.py"))]
    with subprocess.Popen(worker, stdout=subprocess.PIPE, env=other, text=True) as process:
        here = digests()
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert json.loads(said) == here


def test_nothing_is_imported_to_be_read(library):
    assert "antigravity" in library.modules
    assert "antigravity" not in sys.modules


def test_only_what_every_installation_has_is_read(library):
    tops = {name.partition(".")[0] for name in library.modules}
    assert tops <= sys.stdlib_module_names
    assert not tops & {"tkinter", "distutils", "encodings", "test", "idlelib", "site_packages"}
    assert len(library.modules) > 300


@pytest.mark.skipif(sys.version_info < (3, 11), reason="an older Python compiles more of what it annotates")
def test_builtins_that_modules_name_are_those_that_their_bytecode_loads(library):
    kinds = (type, types.BuiltinFunctionType)
    names = {name for name, value in vars(builtins).items() if isinstance(value, kinds) and not name.startswith("_")}
    compared = 0
    for module in list(library.modules)[::5]:
        read = library.modules[module]
        if read.star_modules or {"builtins", "__future__"} & {
            origin.partition(".")[0] for origin in read.imports.values()
        }:
            continue  # names of unknown origin, builtins by another road, annotations that are never run
        if any(reference.name == "builtins" for reference in read.references):
            continue
        found = {r.name.split(".")[1] for r in read.references if r.name.startswith("builtins.")}
        assert found == builtins_loaded(module) & names, module
        compared += 1
    assert compared > 40


def builtins_loaded(module):
    file = library_folder().joinpath(*module.split("."))
    source = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        top = compile(source.read_text(encoding="utf-8"), "source", "exec")
    codes = list(all_codes(top))
    written = {i.argval for code in codes for i in dis.get_instructions(code) if i.opname == "STORE_GLOBAL"}
    written |= {i.argval for i in dis.get_instructions(top) if i.opname == "STORE_NAME"}
    loaded = set()
    for code in codes:
        own = {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_NAME"}
        loads = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
        loaded |= loads - own - written
    return loaded


def all_codes(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from all_codes(constant)


def test_subclasses_are_those_of_the_running_python(graph):
    facts = [
        (graph.entities[head], graph.entities[tail])
        for triples in graph.triples.values()
        for head, relation, tail in triples.tolist()
        if graph.relations[relation] == "subclass_of"
    ]
    tame = ("argparse", "asyncio", "concurrent", "email", "json", "logging", "unittest")
    checked = 0
    for head, tail in facts:
        module, _, name = head.rpartition(".")
        if module.partition(".")[0] in tame and module in sys.modules:
            origin, _, base = tail.rpartition(".")
            assert getattr(importlib.import_module(origin), base) in getattr(sys.modules[module], name).__bases__
            checked += 1
    assert checked > 50


def test_retrieval_pairs_are_many_and_no_two_alike(retrieval):
    count = len(retrieval.documents)
    assert count > 2000
    assert len(retrieval.queries) == count == len(set(retrieval.documents.ids)) == len(set(retrieval.queries.ids))
    assert len({words_of(text) for text in retrieval.queries.texts}) == count
    assert all(len(words_of(text)) >= 3 for text in (*retrieval.queries.texts, *retrieval.documents.texts))
    judged = torch.cat([retrieval.judgements[split].queries for split in SPLITS])
    assert judged.sort().values.tolist() == list(range(count))
    for judgements in retrieval.judgements.values():
        assert torch.equal(judgements.queries, judgements.documents)
        assert set(judgements.grades.tolist()) == {1.0}


def test_retrieval_splits_part_the_modules(retrieval, library):
    modules = [
        {module_of(retrieval.documents.ids[place], library) for place in retrieval.judgements[split].documents.tolist()}
        for split in SPLITS
    ]
    assert not modules[0] & modules[1] | modules[0] & modules[2] | modules[1] & modules[2]
    sizes = [len(retrieval.judgements[split].queries) / len(retrieval.documents) for split in SPLITS]
    assert sizes == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_retrieval_depth_is_the_number_of_names(retrieval):
    assert retrieval.covariates["depth"] == [name.count(".") + 1 for name in retrieval.documents.ids]
    assert set(retrieval.covariates["depth"]) >= {1, 2, 3, 4}
    place = list(retrieval.documents.ids).index("textwrap.shorten")
    assert retrieval.queries.texts[place] == "Collapse and truncate the given text to fit in the given width."
    assert retrieval.documents.texts[place].startswith("def shorten(text, width, **kwargs)\nThe text first has its")
    assert retrieval.covariates["depth"][place] == 2
    assert retrieval.covariates["length"][place] == len(words_of(retrieval.documents.texts[place]))


def test_relatedness_has_as_many_pairs_of_each_grade_and_none_twice(relatedness):
    for split, least in zip(SPLITS, (1000, 100, 200), strict=True):
        pairs = relatedness[split]
        counts = Counter(pairs.grades.tolist())
        assert set(counts) == {0.0, 2.0, 4.0, 5.0}
        assert len(set(counts.values())) == 1
        assert min(counts.values()) >= least
        unordered = {frozenset(pair) for pair in zip(pairs.first, pairs.second, strict=True)}
        assert len(unordered) == len(pairs)
        assert all(len(pair) == 2 for pair in unordered)
        uses = Counter([*pairs.first, *pairs.second])
        assert max(uses.values()) < 0.05 * len(pairs)


def test_relatedness_splits_share_no_text(relatedness):
    texts = [{*relatedness[split].first, *relatedness[split].second} for split in SPLITS]
    assert not texts[0] & texts[1] | texts[0] & texts[2] | texts[1] & texts[2]


def test_graph_is_known_from_training_and_every_fact_is_there_once(graph):
    together = torch.cat([graph.triples[split] for split in SPLITS])
    assert len(together) > 10_000
    assert len(together.unique(dim=0)) == len(together)
    assert list(graph.entities) == sorted(set(graph.entities))
    train = graph.triples["train"]
    assert train[:, [0, 2]].unique().tolist() == list(range(len(graph.entities)))
    assert train[:, 1].unique().tolist() == list(range(len(graph.relations)))
    assert torch.bincount(together[:, [0, 2]].flatten()).min() >= 3
    for split in ("validation", "test"):
        assert len(graph.triples[split]) == pytest.approx(0.1 * len(together), rel=0.05)
        assert len(graph.triples[split][:, 1].unique()) == len(graph.relations)


def test_graph_splits_share_no_pair_in_either_direction(graph):
    pairs = [{frozenset((head, tail)) for head, _, tail in graph.triples[split].tolist()} for split in SPLITS]
    assert not pairs[0] & pairs[1] | pairs[0] & pairs[2] | pairs[1] & pairs[2]


def test_uses_are_in_the_order_of_lines_and_each_is_once(uses):
    assert len(uses.users) > 5000
    order = list(zip(uses.users.tolist(), uses.times.tolist(), strict=True))
    assert order == sorted(order)
    pairs = set(zip(uses.users.tolist(), uses.items.tolist(), strict=True))
    assert len(pairs) == len(uses.users)
    assert set(uses.ratings.tolist()) == {1.0}
    assert torch.bincount(uses.users, minlength=len(uses.user_ids)).min() >= 3
    assert uses.items.unique().tolist() == list(range(len(uses.item_ids)))
    assert list(uses.item_texts) == list(uses.item_ids) == sorted(set(uses.item_ids))
    popular = Counter(uses.items.tolist()).most_common(1)[0][0]
    assert uses.item_ids[popular] == "len"


def test_uses_of_a_module_are_what_its_source_says(uses):
    user = list(uses.user_ids).index("fnmatch")
    found = [uses.item_ids[item] for item in uses.items[uses.users == user].tolist()]
    source = (library_folder() / "fnmatch.py").read_text(encoding="utf-8")
    assert "re.compile" in found
    assert "os.path.normcase" in found
    assert all(name.rpartition(".")[2] in source for name in found)
