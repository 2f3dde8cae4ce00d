"""Examples of packages that the build may do without: shown as they are, and what they are said to print they print."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
PRINTED = re.compile(r"# \.\. code-block:: none\n#    :caption: .*\n#\n((?:#    .*\n)+)")


@pytest.fixture
def gallery_state(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(EXAMPLES.parent / "_ext"))
    import gallery_state

    yield gallery_state
    sys.modules.pop("gallery_state", None)


def test_what_is_installed_is_run_and_nothing_else(gallery_state, monkeypatch):
    pages = {path.stem for path in EXAMPLES.glob("plot_*.py")}
    assert set(gallery_state.PACKAGES) < pages

    def runs():
        return {page for page in pages if re.search(gallery_state.pattern(), str(EXAMPLES / f"{page}.py"))}

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lightly" else object())
    assert runs() == pages - {"plot_15_lightly"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    assert runs() == pages
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert runs() == pages - set(gallery_state.PACKAGES)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "package"), [("plot_15_lightly", "lightly"), ("plot_16_pykeen", "pykeen")])
def test_a_page_that_the_build_does_not_run_prints_what_it_says(page, package, tmp_path):
    pytest.importorskip(package, exc_type=ImportError)
    text = (EXAMPLES / f"{page}.py").read_text(encoding="utf-8")
    printed = "".join(line.removeprefix("#    ") for line in PRINTED.search(text).group(1).splitlines(keepends=True))
    environment = os.environ | {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "PYKEEN_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{page}.py")], capture_output=True, text=True, timeout=300, env=environment
    )
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stdout == printed
