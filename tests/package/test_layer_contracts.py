"""The contracts of import-linter in setup.cfg name every folder that they are about: a new one is missed here."""

import ast
import re
from configparser import ConfigParser
from pathlib import Path

import pytest

import lightning_normdyn
from lightning_normdyn import tasks

PACKAGE = Path(lightning_normdyn.__file__).parent
WINGS = {
    "layers": "lightning_normdyn",
    "wings-of-core": "lightning_normdyn.core",
    "wings-of-datasets": "lightning_normdyn.datasets",
    "wings-of-retrieval": "lightning_normdyn.retrieval",
    "wings-of-tasks": "lightning_normdyn.tasks",
}
ALLOWED_IMPORTERS = {
    "lightning-at-the-top": {"callbacks", "tasks", "cli"},
    "matplotlib-in-report": {"report", "cli"},
    "torchmetrics-in-metrics": {"metrics"},
}


MAY_TALK_TO_RANKS = {
    "capture/layout.py": "sums over the ranks that hold parts of a table",
    "capture/embedding_shards.py": "the same of a table of TorchRec",
    "cli/process_group.py": "ends the group with the command",
    "instruments/ranks.py": "what the ranks of a plain loop compute together",
    "losses/gather.py": "exchanges embeddings",
    "losses/learnt.py": "averages what a loss learns",
    "losses/rank_group.py": "finds the ranks with batches of their own",
    "losses/trials.py": "starts the processes in which a loss is tried",
    "losses/verification.py": "says where torch cannot start processes",
}
"""The only files that may import torch.distributed; import-linter knows no parts of torch."""


def lines(name: str, key: str) -> list[str]:
    """What a contract lists under a key, line by line."""
    setup = ConfigParser()
    setup.read(PACKAGE.parent / "setup.cfg")
    return setup[f"importlinter:contract:{name}"][key].splitlines()


def contract(name: str, key: str) -> set[str]:
    """The modules in it."""
    return set(re.findall(r"[\w.]+", " ".join(lines(name, key))))


def children(package: str = "lightning_normdyn", *, files: bool = False) -> set[str]:
    """The packages that lie directly in one, and its modules if wanted."""
    folder = PACKAGE.parent / package.replace(".", "/")
    names = {path.parent.name for path in folder.glob("*/__init__.py")}
    return {f"{package}.{name}" for name in names | ({f.stem for f in folder.glob("[a-z]*.py")} if files else set())}


@pytest.mark.parametrize("name", WINGS)
def test_layers_name_every_folder(name: str) -> None:
    assert children(WINGS[name]) - contract(name, "layers") == set()


@pytest.mark.parametrize("name", ["wings-of-datasets", "wings-of-tasks"])
def test_layers_of_wings_with_files_name_these_too(name: str) -> None:
    assert contract(name, "layers") == children(WINGS[name], files=True)


def test_families_of_tasks_lie_in_one_layer() -> None:
    """Each folder of a task that a config trains is a family, and knows nothing of the others."""
    configs = " ".join(path.read_text(encoding="utf-8") for path in (PACKAGE / "configs").glob("*.yaml"))
    classes = [getattr(tasks, name) for name in re.findall(r"class_path: lightning_normdyn\.tasks\.(\w+)\n", configs)]
    families = {".".join(cls.__module__.split(".")[:3]) for cls in classes}
    assert len(families) > 6
    assert any(families <= set(re.findall(r"[\w.]+", layer)) for layer in lines("wings-of-tasks", "layers"))


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever it stands."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return (
        names
        | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
        | {f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    )


def test_a_few_files_alone_talk_to_other_ranks() -> None:
    talking = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(name == "torch.distributed" or name.startswith("torch.distributed.") for name in imports(path))
    }
    assert talking == set(MAY_TALK_TO_RANKS)


def test_the_lowest_layer_is_every_module_beside_the_folders_and_may_import_none_of_them() -> None:
    modules = {name for name in children(files=True) - children() if not name.rpartition(".")[2].startswith("_")}
    assert contract("root-modules", "source_modules") == modules
    assert contract("root-modules", "forbidden_modules") == children() | {"torch", "numpy"}


@pytest.mark.parametrize("name", ALLOWED_IMPORTERS)
def test_a_library_is_forbidden_in_every_folder_but_those_that_may_import_it(name: str) -> None:
    allowed = {f"lightning_normdyn.{folder}" for folder in ALLOWED_IMPORTERS[name]}
    assert contract(name, "source_modules") == children() - allowed


def test_demo_material_is_forbidden_to_every_task_that_is_none() -> None:
    modules = children("lightning_normdyn.tasks", files=True) - {"lightning_normdyn.tasks.experiments"}
    modules = (modules - {"lightning_normdyn.tasks.tokens"}) | children("lightning_normdyn.tasks.tokens", files=True)
    sources = {
        name for name in contract("demo-material", "source_modules") if name.startswith("lightning_normdyn.tasks")
    }
    of_demos = {"lightning_normdyn.tasks.tokens.corpus", "lightning_normdyn.tasks.sources"}
    assert sources == modules - of_demos
