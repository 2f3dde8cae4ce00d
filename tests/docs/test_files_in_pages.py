"""Files, folders and names of the package that the pages mention exist."""

import re
from importlib import import_module

import pytest
from code_blocks import DOCS, ROOT, pages

PACKAGE = ROOT / "lightning_normdyn"
EXAMPLES = [str(file.relative_to(ROOT)) for file in (DOCS / "examples").glob("plot_*.py")]
PAGES = sorted([*pages(), *EXAMPLES, "CHANGELOG.md", "CONTRIBUTING.md"])
FILES_OF_READERS = {"my_module.py", "retriever.py", "sketches.py", "train.py"}
PATTERNS = {"docs/examples/plot_NN_name.py"}
PYTHON_FILE = re.compile(r"[\w./-]*\w\.py\b")
DOTTED_NAME = re.compile(r"(?<!/)\blightning_normdyn(?:\.\w+)+(?!\w|\.\w)")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def is_there(name: str, page: str = "README.md") -> bool:
    """Whether a file or folder lies at the path, below the repository, the package or, as a link, the page's folder."""
    return any((folder / name).exists() for folder in (ROOT, PACKAGE, (ROOT / page).parent))


def resolves(dotted_name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    path, names = PACKAGE, dotted_name.split(".")[1:]
    while names and ((path / names[0]).is_dir() or (path / f"{names[0]}.py").is_file()):
        path /= names.pop(0)
    subject = import_module(".".join(("lightning_normdyn", *path.relative_to(PACKAGE).parts)))
    for name in names:
        if not hasattr(subject, name):
            return False
        subject = getattr(subject, name)
    return True


@pytest.mark.parametrize("page", PAGES)
def test_python_files_exist(page: str) -> None:
    names = set(PYTHON_FILE.findall(text_of(page))) - FILES_OF_READERS - PATTERNS
    assert [name for name in sorted(names) if not is_there(name, page)] == []


def test_files_of_readers_are_named_and_are_none_of_ours() -> None:
    names = {name for page in PAGES for name in PYTHON_FILE.findall(text_of(page))}
    assert names >= FILES_OF_READERS | PATTERNS
    assert not any(is_there(name) for name in FILES_OF_READERS | PATTERNS)


@pytest.mark.parametrize("page", PAGES)
def test_names_of_the_package_exist(page: str) -> None:
    names = set(DOTTED_NAME.findall(text_of(page)))
    assert [name for name in sorted(names) if not resolves(name)] == []


def test_paths_of_the_map_of_the_code_exist() -> None:
    names = re.findall(r"`([\w./]*/[\w./]*)`", text_of("docs/contributing.md"))
    assert len(names) > 40
    assert [name for name in names if not is_there(name) and name not in PATTERNS] == []


def test_every_folder_of_the_package_stands_in_the_map() -> None:
    text = text_of("docs/contributing.md")
    folders = [path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE]
    assert [str(f.relative_to(PACKAGE)) for f in folders if not re.search(rf"\b{f.name}\b", text)] == []


def test_headings_of_the_theory_that_docstrings_cite_exist() -> None:
    headings = re.findall(r"^## (.+)$", text_of("docs/theory.md"), re.M)
    sources = [" ".join(path.read_text(encoding="utf-8").split()) for path in PACKAGE.rglob("*.py")]
    cited = {heading for source in sources for heading in re.findall(r'docs/theory\.md, "([^"]+)"', source)}
    assert len(cited) > 1
    assert sorted(cited - set(headings)) == []
    assert [number for source in sources for number in re.findall(r"theory, section \d", source)] == []


@pytest.mark.parametrize(
    ("name", "there"),
    [("lightning_normdyn.losses.InfoNCE", True), ("lightning_normdyn.losses.Nowhere", False)],
)
def test_the_look_up_tells_names_apart(name: str, there: bool) -> None:
    assert resolves(name) == there
