"""What an import of the tasks, data sets and retrieval loads, seen from a fresh process."""

import subprocess
import sys

DEMO_MATERIAL = ("lightning_normdyn.datasets.standard_library", "lightning_normdyn.tasks.experiments")


def loaded_modules(statement):
    """Names of this package's modules after a statement has run in a new interpreter."""
    code = f"{statement}; import sys; print(*(name for name in sys.modules if name.startswith('lightning_normdyn')))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.split()


def test_users_load_neither_the_installation_sets_nor_the_experiments():
    modules = loaded_modules("import lightning_normdyn.datasets, lightning_normdyn.retrieval, lightning_normdyn.tasks")
    assert "lightning_normdyn.tasks.tokens.corpus" in modules
    assert not [name for name in modules if name.startswith(DEMO_MATERIAL)]


def test_the_probe_sees_them_once_they_are_named():
    modules = loaded_modules("import lightning_normdyn.tasks.experiments")
    assert set(DEMO_MATERIAL[1:]) <= set(modules)
    assert DEMO_MATERIAL[0] in loaded_modules("import lightning_normdyn.datasets.standard_library")
