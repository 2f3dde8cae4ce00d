"""The README does what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def run_as_script(code: str, folder: Path) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout


def documented_quantities() -> set[str]:
    rows = [line.split("|")[1] for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([a-z_0-9]+)`", row)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Runs the callback example and the history example, in one process as a reader would."""
    folder = tmp_path_factory.mktemp("readme")
    keys = "print('KEYS', *[k.split('/')[-1] for k in trainer.callback_metrics])"
    return folder, run_as_script("\n".join([PYTHON_BLOCKS[0], PYTHON_BLOCKS[1], keys]), folder)


def test_the_callback_example_is_fifteen_lines_and_prints_a_fit(trained: tuple[Path, str]) -> None:
    assert len([line for line in PYTHON_BLOCKS[0].splitlines() if line.strip()]) == 15
    error = re.search(r"tensor\(([\d.e-]+)\)", trained[1])
    assert error is not None
    assert float(error.group(1)) < 0.1


def test_the_history_example_reads_what_the_run_left(trained: tuple[Path, str]) -> None:
    line = next(line for line in trained[1].splitlines() if line.startswith("table.weight"))
    assert "R⁴ = lr·V² / (2·lambda_rad)" in line
    assert int(line.split()[-2]) % 1000 == 0
    assert 0 < float(line.split()[-1]) < 20


def test_the_mathematics_example_runs(tmp_path: Path) -> None:
    assert "p / (p + 1 - beta2)" in run_as_script(PYTHON_BLOCKS[2], tmp_path)


def test_every_logged_quantity_is_documented_and_every_documented_one_is_logged(trained: tuple[Path, str]) -> None:
    logged = set(next(line for line in trained[1].splitlines() if line.startswith("KEYS")).split()[1:])
    assert logged == documented_quantities() - documented_files()


def documented_files() -> set[str]:
    """Names in the README's other tables."""
    layers = {"cli", "tasks", "report", "callbacks", "instruments", "capture", "history", "core"}
    return layers & documented_quantities()
