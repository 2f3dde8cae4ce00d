"""The README does what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
YAML_BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
(CALLBACK, PLAIN_LOOP, RETRIEVER, OWN_TASK, ENCODER, DIAGNOSTICS, CALIBRATED, VOTES, LEVERS, HISTORY, MATHEMATICS) = (
    PYTHON_BLOCKS
)


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
    return folder, run_as_script("\n".join([CALLBACK, HISTORY, keys]), folder)


def test_the_callback_example_is_fifteen_lines_and_prints_a_fit(trained: tuple[Path, str]) -> None:
    assert len([line for line in CALLBACK.splitlines() if line.strip()]) == 15
    error = re.search(r"tensor\(([\d.e-]+)\)", trained[1])
    assert error is not None
    assert float(error.group(1)) < 0.1


def test_the_history_example_reads_what_the_run_left(trained: tuple[Path, str]) -> None:
    line = next(line for line in trained[1].splitlines() if line.startswith("table.weight"))
    assert "R⁴ = lr·V² / (2·lambda_rad)" in line
    assert int(line.split()[-2]) % 1000 == 0
    assert 0 < float(line.split()[-1]) < 20


@pytest.fixture(scope="module")
def swapped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Runs the retriever from both configs; keys that each logged."""
    folder = tmp_path_factory.mktemp("swap")
    (folder / "retriever.py").write_text(RETRIEVER, encoding="utf-8")
    before = next(block for block in YAML_BLOCKS if "class_path: retriever.Retriever" in block)
    (after,) = (block for block in YAML_BLOCKS if block.startswith("  init_args:"))
    configs = {"cosine": before, "learnable": re.sub(r"  init_args:.*\n", after, before, count=1)}
    logged = {}
    for name, config in configs.items():
        (folder / f"{name}.yaml").write_text(config, encoding="utf-8")
        code = "import sys; from lightning_normdyn.cli.main import main; sys.exit(main(sys.argv[1:]))"
        logger = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={name}"]
        command = [sys.executable, "-c", code, "fit", "--config", f"{name}.yaml", *logger]
        run = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300, check=False)
        assert run.returncode == 0, run.stderr
        with next((folder / name).rglob("metrics.csv")).open(encoding="utf-8") as metrics:
            logged[name] = set(metrics.readline().strip().split(","))
    return logged


def test_the_swap_of_the_loss_in_a_config(swapped: dict[str, set[str]]) -> None:
    for keys in swapped.values():
        assert {"normdyn/queries/norm_mean", "normdyn/documents/radial_fraction"} <= keys
    learnt = {f"normdyn/contrast/{name}" for name in ("temperature", "gamma_query", "gamma_document")}
    assert swapped["learnable"] - swapped["cosine"] - {"epoch"} == learnt


def test_the_plain_loop_prints_a_fit_and_a_skill(tmp_path: Path) -> None:
    error, skill = (float(number) for number in run_as_script(PLAIN_LOOP, tmp_path).split())
    assert 0 <= error < 0.01
    assert 0.5 < skill <= 1


def test_the_mathematics_example_runs(tmp_path: Path) -> None:
    assert "p / (p + 1 - beta2)" in run_as_script(MATHEMATICS, tmp_path)


def test_the_levers_example_gives_the_numbers_beside_it(tmp_path: Path) -> None:
    code = LEVERS + "\nloss.backward(); optimizer.step(); print(float(table.weight.isfinite().all()))"
    decay, rate, norm, finite = (float(number) for number in run_as_script(code, tmp_path).split())
    assert decay == pytest.approx(0.032, rel=0.01)
    assert rate == pytest.approx(0.0018, rel=0.05)
    assert norm == pytest.approx(1.0)
    assert finite


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Runs the example of the encoders, on the retriever."""
    keys = "print('KEYS', *[k.split('/')[-1] for k in trainer.callback_metrics if k.startswith('normdyn/query/')])"
    return run_as_script("\n".join([RETRIEVER, ENCODER, keys]), tmp_path_factory.mktemp("encoder"))


def test_the_encoder_example_prints_the_degree_of_one_layer(encoded: str) -> None:
    degree, error = re.findall(r"tensor\(([\d.e-]+)\)", encoded)
    assert float(degree) == pytest.approx(1, abs=1e-3)
    assert float(error) > 0.2


def keys_of(output: str) -> set[str]:
    return set(next(line for line in output.splitlines() if line.startswith("KEYS")).split()[1:])


def test_every_logged_quantity_is_documented_and_every_documented_one_is_logged(
    trained: tuple[Path, str], encoded: str
) -> None:
    logged = keys_of(trained[1]) | keys_of(encoded)
    of_losses = {"temperature", "gamma_query", "gamma_document", "bias"}
    assert logged == documented_quantities() - of_losses - of_diagnostics() - names_of_other_tables()


def of_diagnostics() -> set[str]:
    """What the README says that a module logs itself; the name of a covariate stands for any."""
    section = TEXT.partition("## Do lengths carry anything?")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([a-z_0-9]+)`", row)}


def test_the_diagnostics_example_logs_what_its_table_says(tmp_path: Path) -> None:
    keys = "print('KEYS', *[k.removeprefix('normdyn/validation/') for k in trainer.callback_metrics])"
    logged = run_as_script(f"{DIAGNOSTICS}\n{keys}", tmp_path).partition("KEYS ")[2].split()
    short = {name for name in logged if not name.endswith(("_low", "_high", "_frequency"))}
    assert short == of_diagnostics()
    assert {"correlation_frequency", "partial_frequency_low", "partial_length_high"} <= set(logged)


def test_the_votes_example_prints_no_residual_and_leaves_a_figure(tmp_path: Path) -> None:
    printed = run_as_script(VOTES, tmp_path)
    assert float(re.findall(r"tensor\(([\d.e-]+)", printed)[-1]) < 1e-4
    assert (tmp_path / "votes.png").stat().st_size > 10_000


def test_the_calibration_example_finds_norms_that_help_and_clears_length(tmp_path: Path) -> None:
    found, confound, shapes = run_as_script(CALIBRATED, tmp_path).splitlines()
    assert found.startswith("Norms help: exponent 0.")
    assert confound.startswith("Length does not explain the gain")
    assert shapes == "torch.Size([150, 10]) torch.Size([600, 32])"


def test_a_task_of_ones_own_trains_and_is_measured(tmp_path: Path) -> None:
    run = """
from pytorch_lightning import Trainer, seed_everything
seed_everything(0)
trainer, model, data = Trainer(max_epochs=10, logger=False), Sketches(lr=0.01), SketchData(batch_size=50)
before = trainer.test(model, datamodule=data, verbose=False)[0]
trainer.fit(model, datamodule=data)
after = trainer.test(model, datamodule=data, verbose=False)[0]
print(before["test/mrr@10"], after["test/mrr@10"])
"""
    before, after = (float(number) for number in run_as_script(OWN_TASK + run, tmp_path).split()[-2:])
    assert after > before + 0.2


def test_every_configuration_has_a_row() -> None:
    rows = re.findall(r"^\| (\w+) \|", TEXT.partition("### Tasks")[2].partition("The default data")[0], re.MULTILINE)
    assert set(rows) - {"config"} == {config.stem for config in README.parent.joinpath("configs").glob("*.yaml")}


def names_of_other_tables() -> set[str]:
    """Layers and normalizations."""
    layers = {
        "cli",
        "tasks",
        "report",
        "callbacks",
        "metrics",
        "instruments",
        "integrations",
        "capture",
        "history",
        "core",
        "losses",
    }
    return layers | {"normalization", "cosine", "dot", "qnorm", "dnorm", "learnable"}
