"""The package as it is imported: light, complete, and with nothing that the layers forbid."""

import subprocess
import sys

import pytest

import lightning_normdyn
from lightning_normdyn import core

HEAVY = ("pytorch_lightning", "lightning", "matplotlib", "transformers", "open_clip", "torchmetrics", "pyarrow")


def loaded_after(statement: str) -> set[str]:
    """The heavy modules that a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "statement", ["import lightning_normdyn", "from lightning_normdyn import safe_norm, fit_log_log"]
)
def test_importing_the_package_loads_nothing_heavy(statement: str) -> None:
    assert loaded_after(statement) == set()


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


def test_the_package_gives_every_name_of_the_core() -> None:
    assert set(core.__all__) | {"__version__"} == set(lightning_normdyn.__all__)
    for name in core.__all__:
        assert getattr(lightning_normdyn, name) is getattr(core, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'normalise'"):
        lightning_normdyn.normalise  # noqa: B018
