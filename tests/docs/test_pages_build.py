"""The documentation builds without a warning, and every public name stands in its reference."""

import importlib
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_normdyn

pytest.importorskip("sphinx_gallery", reason="the documentation is built on Python 3.11 and later")

ROOT = Path(__file__).parents[2]
PAGE_ONLY = {"__version__"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built from a copy without running the gallery."""
    copy = tmp_path_factory.mktemp("documentation")
    made = shutil.ignore_patterns("_build", "api", "gallery")
    shutil.copytree(ROOT / "docs", copy / "docs", ignore=made)
    shutil.copytree(ROOT / "benchmarks/results", copy / "benchmarks/results")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-D", "plot_gallery=0", "docs", "html"]
    run = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    return copy / "html"


def public_names() -> dict[str, list[str]]:
    packages = [lightning_normdyn.__name__]
    packages += [
        info.name for info in pkgutil.walk_packages(lightning_normdyn.__path__, "lightning_normdyn.") if info.ispkg
    ]
    names = {package: getattr(importlib.import_module(package), "__all__", []) for package in packages}
    return {package: exported for package, exported in names.items() if exported}


def described(built: Path) -> set[str]:
    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((built / "objects.inv").read_bytes(), uri="")
    return {name for kind, items in inventory.data.items() if kind.startswith("py:") for name in items}


@pytest.mark.slow
def test_every_public_name_stands_in_the_reference(built: Path) -> None:
    entries = described(built)
    homes = {entry.rpartition(".")[2] for entry in entries}
    for package, names in public_names().items():
        page = (built / "api" / f"{package}.html").read_text(encoding="utf-8")
        missing = [
            name
            for name in names
            if f"{package}.{name}" not in entries and not (name in homes and f">{name}</span>" in page)
        ]
        assert set(missing) <= PAGE_ONLY, package
    assert "lightning_normdyn.losses.InfoNCE" in entries
    assert "lightning_normdyn.losses.Nowhere" not in entries


@pytest.mark.slow
def test_pages_ask_nothing_of_the_network(built: Path) -> None:
    for page in built.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for attribute in ('<script src="http', '<link rel="stylesheet" type="text/css" href="http', '<img src="http'):
            assert attribute not in text, page
