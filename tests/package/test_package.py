"""The package as it is imported: light, complete, and with nothing that the layers forbid."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_normdyn as nd

HEAVY = ("pytorch_lightning", "lightning", "matplotlib", "transformers", "open_clip", "torchmetrics", "pyarrow")


def loaded_after(statement: str, modules: tuple[str, ...] = HEAVY) -> set[str]:
    """Which of some modules, the heavy ones by default, a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*[m for m in {modules!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import lightning_normdyn",
        "from lightning_normdyn import InfoNCE, equilibrium_rule",
        "import lightning_normdyn.core",
    ],
)
def test_importing_the_package_loads_nothing_heavy(statement: str) -> None:
    assert loaded_after(statement) == set()


def test_importing_the_package_loads_no_torch() -> None:
    assert loaded_after("import lightning_normdyn", ("torch",)) == set()
    assert loaded_after("from lightning_normdyn import InfoNCE", ("torch",)) == {"torch"}


@pytest.mark.parametrize("place", ["callbacks", "instruments", "integrations"])
def test_transformers_are_loaded_by_their_own_module_alone(place: str) -> None:
    """torchmetrics, which Lightning loads, may load them: the callbacks do not besides."""
    theirs = loaded_after("import pytorch_lightning") if place == "callbacks" else set()
    assert "transformers" not in loaded_after(f"import lightning_normdyn.{place}") - theirs


def test_the_integration_loads_no_lightning() -> None:
    pytest.importorskip("transformers")
    loaded = loaded_after("import lightning_normdyn.integrations.hugging_face")
    assert "transformers" in loaded
    assert not loaded & {"pytorch_lightning", "lightning", "torchmetrics", "matplotlib"}


def test_the_import_check_can_fail() -> None:
    assert "pytorch_lightning" in loaded_after("import lightning_normdyn.callbacks")


@pytest.mark.parametrize(("name", "hint"), [("NormDynamic", "; did you mean 'NormDynamics'?"), ("zzz", "")])
def test_a_misspelt_name_of_the_package_is_answered_with_the_right_one(name: str, hint: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(nd, name)
    assert str(caught.value) == f"lightning_normdyn has no name '{name}'{hint}"


def test_the_package_gives_every_name_of_its_list() -> None:
    assert {"NormDynamics", "InfoNCE", "export_vectors", "weight_decay_for", "audit", "callbacks"} <= set(dir(nd))
    assert nd.NormDynamics is nd.callbacks.NormDynamics
    assert nd.equilibrium_rule is nd.core.equilibrium_rule
    for name in nd.__all__:
        assert getattr(nd, name) is not None


@pytest.mark.slow
def test_type_checkers_see_the_public_names(tmp_path: Path) -> None:
    """A user's own code under ``mypy --strict``, in a folder of its own: the installation alone tells of us."""
    pytest.importorskip("mypy")
    lines = [
        "import lightning_normdyn as nd",
        "reveal_type(nd.InfoNCE)",
        "nd.NormDynamics(every_n_steps='x')",
        "nd.none",
    ]
    (tmp_path / "user.py").write_text("\n".join(lines))
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "user.py"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=1200, check=False)
    assert "lightning_normdyn.losses.infonce.InfoNCE" in run.stdout
    assert 'Argument "every_n_steps" to "NormDynamics" has incompatible type "str"; expected "int"' in run.stdout
    assert 'Module has no attribute "none"' in run.stdout
    assert "Found 2 errors in 1 file" in run.stdout


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="normalise"):
        nd.normalise  # noqa: B018


def test_no_record_is_generic_in_a_way_that_python_3_10_refuses() -> None:
    """``class A(NamedTuple, Generic[T])`` fails there when its module is imported, which no type checker says."""
    refused = []
    for path in Path(nd.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases}
                if "Generic" in bases and bases & {"NamedTuple", "TypedDict"}:
                    refused.append(f"{path.name}:{node.lineno}")
    assert refused == []
