import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
LINES = '''"""A module docstring
of two lines."""

import math  # a comment after code

# a comment alone
TEXT = """first

last"""


def area(radius):
    """A docstring."""
    # why
    value = math.pi * (
        radius**2
    )

    return value


class Circle:
    """Another."""

    def area(self):
        def inner(): return 1
        return inner()

    def nothing(self):
        """Only a docstring."""
'''
BINDINGS = """
kept, (one, *rest) = 1, (2, 3)
self.found: int = 4
for told in others: pass
with open("a") as _held: pass
[own for own, value in pairs]
if (parts := 3): pass
try: pass
except ValueError as caught: pass
match value:
    case [given, *taken] if given: pass
    case {"a": 1, **left}: pass
    case int() as chosen: pass
class Record:
    drawn: int
    wanted = 3
    def __eq__(self, other): return other
    def __init__(self, other): pass
def call(self, row, /, asked, *shown, most=1, **said): return lambda seen: seen
kept.value = 1
"""


@pytest.fixture
def house(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import house

    yield house
    sys.modules.pop("house", None)


def write_tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_code_lines_leave_out_blank_lines_comments_and_docstrings(house):
    file = house.measure_file("package/circle.py", LINES)
    # import, TEXT (2), def and body of area (5), class (1), method area (3), nothing (1)
    assert file.code_lines == 13
    assert sorted(file.function_lines) == [0, 1, 2, 4]
    assert not file.has_one_function


def test_a_planted_line_of_code_is_counted(house):
    planted = LINES.replace("    # why\n", "    why = 1\n")
    assert house.measure_file("a.py", planted).code_lines == 14
    assert sorted(house.measure_file("a.py", planted).function_lines) == [0, 1, 2, 5]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SIZE = 1\ndef f():\n    def g(): pass\n", True),
        ("async def f(): pass\n", True),
        ("def f(): pass\ndef g(): pass\n", False),
        ("def f(): pass\nclass A: pass\n", False),
        ("SIZE = 1\n", False),
    ],
)
def test_files_of_one_function_and_no_class(house, text, expected):
    assert house.measure_file("a.py", text).has_one_function is expected


def test_every_place_that_binds_a_name_counts_once(house):
    file = house.measure_file("a.py", BINDINGS)
    names = [binding.name for binding in file.bindings]
    dialect = [binding.name for binding in house.dialect_of([file])]
    assert " ".join(sorted(dialect)) == (
        "_held "
        "asked caught chosen drawn found given kept most one other own parts rest said seen shown taken told wanted"
    )
    # `left` is the pair of right, `value` and `row` are nouns, and Python names the parameter of __eq__.
    assert sorted(names) == sorted([*dialect, "left", "other", "row", "value", "value"])
    figures = house.variable_figures([file])
    assert (figures["bindings"], figures["dialect"], figures["share"]) == (25, 20, 0.8)
    # All but `wanted`, `asked`: those are regular.
    assert figures["kinds"] == {
        "pronoun": 6,
        "irregular participle": 12,
        "adverb": 0,
        "regular participle": 2,
    }
    assert (figures["irregular"], figures["irregular_share"]) == (18, 0.72)


@pytest.mark.parametrize("name", ["found", "_kept", "all_", "merged", "sorted_", "told", "ones", "again", "__sorted"])
def test_a_bare_participle_or_pronoun_is_dialect(house, name):
    assert house.dialect_kind(name)


@pytest.mark.parametrize(
    "name", ["found_ids", "seed", "embed", "need", "pooled", "LOADED", "all", "split", "row", "_", "one_", "kept_rows"]
)
def test_nouns_terms_and_compounds_are_not(house, name):
    assert house.dialect_kind(name) is (None if name != "one_" else "pronoun")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('__all__ = ["a", "b"]', ("a", "b")),
        ('__all__: list[str] = ["a"]\n__all__ += ["b"]', ("a", "b")),
        ('_FROM = {"a": "x", "b": "y"}\n__all__ = sorted(_FROM)', ("a", "b")),
        (
            '_FROM = {"x": ("b", "c")}\n__all__ = ["a", *(n for names in _FROM.values() for n in names)]',
            ("a", "b", "c"),
        ),
        ("from x import NAMES\n__all__ = list(NAMES)", None),
        ("a = 1", ()),
    ],
)
def test_public_names_are_read_without_an_import(house, text, expected):
    assert house.measure_file("p/__init__.py", text).public_names == expected


def test_figures_of_a_tree(house, tmp_path):
    long = "\n".join(f"value_{number} = {number}" for number in range(40))
    write_tree(
        tmp_path,
        {
            "lightning_normdyn/__init__.py": '__all__ = ["a", "b"]\n',
            "lightning_normdyn/_version.py": "version = 1\n",
            "lightning_normdyn/core/__init__.py": '__all__ = ["b"]\n',
            "lightning_normdyn/core/long.py": long,
            "lightning_normdyn/core/short.py": long.rsplit("\n", 1)[0],
            "lightning_normdyn/core/function.py": "def f(kept):\n    return kept\n",
            "README.md": "# Four  words\n\nhere, full-stop.\n",
        },
    )
    figures = house.measure_tree(tmp_path)
    assert figures["files"] == {"all": 6, "without_init": 4, "apart": 3, "small": 2, "one_function": 1}
    assert figures["largest_folders"] == {"lightning_normdyn/core": 4, "lightning_normdyn": 2}
    assert figures["public_names"] == {
        "all": 3,
        "distinct": 2,
        "packages": {"lightning_normdyn": 2, "lightning_normdyn/core": 1},
    }
    assert figures["readme_words"] == 5
    assert figures["variables"]["most_frequent"] == {"kept": 1}
    listed = house.list_dialect(tmp_path, "lightning_normdyn/core")
    assert listed == "lightning_normdyn/core/function.py:1: kept (irregular participle)\n1 dialect variables"
    assert house.list_dialect(tmp_path, "lightning_normdyn/losses") == "0 dialect variables"


def test_p90_is_the_nearest_rank(house):
    assert house.spread_of(list(range(1, 11))) == {"number": 10, "median": 5.5, "p90": 9}
    assert house.spread_of([7]) == {"number": 1, "median": 7, "p90": 7}


def test_a_revision_stands_before_the_working_tree(tmp_path):
    write_tree(tmp_path, {"lightning_normdyn/__init__.py": "", "lightning_normdyn/a.py": "found = 1\n"})
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "first")):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    write_tree(tmp_path, {"lightning_normdyn/a.py": "ids = 1\n", "lightning_normdyn/b.py": ""})
    command = [sys.executable, FOLDER / "house.py", "--root", tmp_path, "--compare", "HEAD"]
    finished = subprocess.run([*command, "--json", tmp_path / "a.json"], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "| files | 2 | 3 |" in finished.stdout
    assert "| its share | 100.00% | 0.00% |" in finished.stdout
    assert ", changed |" in finished.stdout
    assert (tmp_path / "a.json").exists()
    failed = subprocess.run([*command[:-1], "nowhere"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert "house: git archive: " in failed.stderr
