"""The README and the documentation's pages do what they say."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from code_blocks import DOCS, README, ROOT, block_under, blocks_of, pages

from lightning_normdyn.instruments import QUANTITIES

LOSSES, LEVERS_PAGE = "docs/losses/index.md", "docs/guide/levers.md"
CALLBACK = block_under("docs/guide/callback.md", "One callback in your own trainer")
HISTORY = block_under("docs/reference/history.md", "What is on disk")
PLAIN_LOOP = block_under("docs/guide/plain_loop.md", "Without Lightning: plain loops and Hugging Face")
RETRIEVER = block_under(LOSSES, "Which norms the loss keeps")
OWN_TASK = block_under("docs/tasks/own.md", "A task of your own")
ENCODER = block_under("docs/guide/encoders.md", "Why an encoder's norms are what they are")
DIAGNOSTICS = block_under("docs/guide/diagnostics.md", "Do lengths carry anything?")
CALIBRATED = block_under("docs/guide/search.md", "Using the norms of any embeddings")
VOTES = block_under("docs/guide/votes.md", "Who pushes whom")
LEVERS = block_under(LEVERS_PAGE, "What to do about it")
LEVERS_IN_LIGHTNING = block_under(LEVERS_PAGE, "In a LightningModule")
MATHEMATICS = block_under("docs/guide/mathematics.md", "The mathematics alone")
README_CALLBACK = block_under("README.md", "A callback")
README_LOSS = block_under("README.md", "A loss")
PACKAGE_CALLBACK = block_under("docs/package.md", "lightning-normdyn")

WITH_TEST_OF_ITS_OWN = {
    CALLBACK,
    HISTORY,
    PLAIN_LOOP,
    RETRIEVER,
    OWN_TASK,
    ENCODER,
    DIAGNOSTICS,
    CALIBRATED,
    VOTES,
    LEVERS,
    LEVERS_IN_LIGHTNING,
    MATHEMATICS,
    README_CALLBACK,
    README_LOSS,
    PACKAGE_CALLBACK,
}
RUN = ("python", "pycon")
NOT_RUN = ("console", "text", "yaml")
"""Shell commands, what is printed or needs what is not there, and configs."""


def documented_quantities() -> set[str]:
    return set(QUANTITIES)


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= 1000


def test_links_of_the_readme_lead_to_files() -> None:
    text = README.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    assert len(targets) > 20
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_page_of_the_package_needs_no_other_file() -> None:
    text = (DOCS / "package.md").read_text(encoding="utf-8")
    assert "](" not in text
    assert "src" not in text
    assert PACKAGE_CALLBACK == README_CALLBACK


def test_code_is_marked_as_what_is_run_or_as_what_is_not() -> None:
    languages = {block.language for page in pages() for block in blocks_of(page) if not block.language.startswith("{")}
    assert languages <= {*RUN, *NOT_RUN}


def test_prompts_of_python_stand_in_blocks_that_are_run_or_say_so() -> None:
    prompted = [block for page in pages() for block in blocks_of(page) if block.code.startswith(">>> ")]
    assert {block.language for block in prompted} <= {"pycon", "text"}


@pytest.mark.parametrize("page", [page for page in pages() if any(b.language == "yaml" for b in blocks_of(page))])
def test_configs_parse(page: str) -> None:
    for block in blocks_of(page):
        if block.language == "yaml":
            assert yaml.safe_load(block.code)


README_SETTING = """
model = Words()
loader = torch.utils.data.DataLoader(torch.randint(1000, (6400, 2)), batch_size=64)
encoder, questions, answers = torch.nn.Linear(8, 4), torch.randn(16, 8), torch.randn(16, 8)
print("README")
"""
KEYS = "print('KEYS', *[key.removeprefix('normdyn/') for key in trainer.callback_metrics])"
TASK_RUN = """
from pytorch_lightning import Trainer, seed_everything
seed_everything(0)
trainer, model, data = Trainer(max_epochs=10, logger=False), Sketches(lr=0.01), SketchData(batch_size=50)
before = trainer.test(model, datamodule=data, verbose=False)[0]
trainer.fit(model, datamodule=data)
after = trainer.test(model, datamodule=data, verbose=False)[0]
print(before["test/mrr@10"], after["test/mrr@10"])
"""
EXAMPLES = {
    "plain loop": PLAIN_LOOP,
    "mathematics": MATHEMATICS,
    "levers": f"{LEVERS}loss.backward(); optimizer.step(); print(float(table.weight.isfinite().all()))",
    "levers in Lightning": LEVERS_IN_LIGHTNING,
    "votes": f"{VOTES}from pathlib import Path; print(Path('votes.png').stat().st_size)",
    "calibrated": CALIBRATED,
    "callback": "\n".join(
        [CALLBACK, HISTORY, KEYS, README_SETTING, README_CALLBACK, README_LOSS, "print(encoder.weight.grad.norm())"]
    ),
    "encoder": f"{RETRIEVER}\n{ENCODER}\n{KEYS}",
    "diagnostics": f"{DIAGNOSTICS}\n{KEYS}",
    "task of one's own": OWN_TASK + TASK_RUN,
}
"""Examples whose printed numbers are looked at below; those of the callback, the history and the README go on from one
another."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """What code printed and how it failed: the examples above, and all that has no test of its own, in one process.

    The prompts of a page go on from one another.
    """
    items = [(name, "python", code) for name, code in EXAMPLES.items()]
    for page in pages():
        blocks = [block for block in blocks_of(page) if block.code not in WITH_TEST_OF_ITS_OWN]
        scripts = [block.code for block in blocks if block.language == "python"]
        items += [(f"{page} {number}", "python", code) for number, code in enumerate(scripts)]
        items += [(f"{page} >>>", "pycon", "\n".join(block.code for block in blocks if block.language == "pycon"))]
    file = tmp_path_factory.mktemp("blocks") / "blocks.json"
    file.write_text(json.dumps(items), encoding="utf-8")
    worker = Path(__file__).with_name("run_blocks.py")
    run = subprocess.run([sys.executable, str(worker), str(file)], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    return json.loads(file.with_suffix(".outcomes").read_text(encoding="utf-8"))


@pytest.fixture
def printed(outcomes: dict[str, tuple[str, str]]) -> dict[str, str]:
    """What each of the examples printed."""
    assert [outcomes[name][1] for name in EXAMPLES if outcomes[name][1]] == []
    return {name: outcomes[name][0] for name in EXAMPLES}


@pytest.mark.parametrize("page", pages())
def test_code_of_a_page_runs(page: str, outcomes: dict[str, tuple[str, str]]) -> None:
    assert {name: failure for name, (_, failure) in outcomes.items() if name.split()[0] == page and failure} == {}


def test_the_readme_s_callback_and_loss_run(printed: dict[str, str]) -> None:
    output = printed["callback"].partition("README\n")[2]
    stationarity, gradient = (float(number) for number in re.findall(r"tensor\(([\d.e-]+)\)", output))
    assert 0 <= stationarity <= 1
    assert gradient > 0


def test_the_callback_example_is_fifteen_lines_and_prints_a_fit(printed: dict[str, str]) -> None:
    assert len([line for line in CALLBACK.splitlines() if line.strip()]) == 15
    error = re.search(r"tensor\(([\d.e-]+)\)", printed["callback"])
    assert error is not None
    assert float(error.group(1)) < 0.1


def test_the_history_example_reads_what_the_run_left(printed: dict[str, str]) -> None:
    line = next(line for line in printed["callback"].splitlines() if line.startswith("table.weight"))
    assert "R⁴ = lr·V² / (2·lambda_rad)" in line
    assert int(line.split()[-2]) % 1000 == 0
    assert 0 < float(line.split()[-1]) < 20


FITS = """
import sys
from lightning_normdyn.cli.main import main
for name in sys.argv[1:]:
    logger = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={name}"]
    assert main(["fit", "--config", f"{name}.yaml", *logger]) == 0
"""


@pytest.fixture(scope="module")
def swapped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Runs the retriever from both configs; keys that each logged."""
    folder = tmp_path_factory.mktemp("swap")
    (folder / "retriever.py").write_text(RETRIEVER, encoding="utf-8")
    before = block_under(LOSSES, "Which norms the loss keeps", "yaml", containing="class_path: retriever.Retriever")
    after = block_under(LOSSES, "Which norms the loss keeps", "yaml", containing="learnable_temperature: true")
    after = f"  {after}"
    configs = {"cosine": before, "learnable": re.sub(r"  init_args:.*\n", after, before, count=1)}
    for name, config in configs.items():
        (folder / f"{name}.yaml").write_text(config, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-c", FITS, *configs], capture_output=True, text=True, cwd=folder, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    logged = {}
    for name in configs:
        with next((folder / name).rglob("metrics.csv")).open(encoding="utf-8") as metrics:
            logged[name] = set(metrics.readline().strip().split(","))
    return logged


def test_the_swap_of_the_loss_in_a_config(swapped: dict[str, set[str]]) -> None:
    for keys in swapped.values():
        assert {"normdyn/queries/norm_mean", "normdyn/documents/radial_fraction"} <= keys
    learnt = {f"normdyn/contrast/{name}" for name in ("temperature", "gamma_query", "gamma_document")}
    assert swapped["learnable"] - swapped["cosine"] - {"epoch"} == learnt


def test_the_plain_loop_prints_a_fit_and_a_skill(printed: dict[str, str]) -> None:
    error, skill = (float(number) for number in printed["plain loop"].split())
    assert 0 <= error < 0.01
    assert 0.5 < skill <= 1


def test_the_mathematics_example_runs(printed: dict[str, str]) -> None:
    assert "p / (p + 1 - beta2)" in printed["mathematics"]


def test_the_levers_example_gives_the_numbers_beside_it(printed: dict[str, str]) -> None:
    decay, rate, norm, finite = (float(number) for number in printed["levers"].split())
    assert decay == pytest.approx(0.032, rel=0.01)
    assert rate == pytest.approx(0.0018, rel=0.05)
    assert norm == pytest.approx(1.0)
    assert finite


def test_the_encoder_example_prints_the_degree_of_one_layer(printed: dict[str, str]) -> None:
    degree, error = re.findall(r"tensor\(([\d.e-]+)\)", printed["encoder"])
    assert float(degree) == pytest.approx(1, abs=1e-3)
    assert float(error) > 0.2


def keys_of(output: str) -> set[str]:
    return set(next(line for line in output.splitlines() if line.startswith("KEYS")).split()[1:])


def test_every_logged_quantity_is_documented_and_every_documented_one_is_logged(
    printed: dict[str, str],
) -> None:
    keys = keys_of(printed["callback"]) | {key for key in keys_of(printed["encoder"]) if key.startswith("query/")}
    logged = {key.rpartition("/")[2] for key in keys}
    of_losses = {"temperature", "gamma_query", "gamma_document", "bias"}
    of_losses |= {"accuracy", "mean_rank", "alignment", "uniformity", "effective_temperature"}
    of_longer_runs = {"equilibrium_slope_stderr", "forecast_slope_stderr"}  # few rows are judged in so few steps
    of_fused_tables = {"gradient_error"}
    assert logged | of_longer_runs == documented_quantities() - of_losses - of_fused_tables


def of_diagnostics() -> set[str]:
    """What the page says that a module logs itself; the name of a covariate stands for any."""
    text = (DOCS / "guide/diagnostics.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([a-z_0-9]+)`", row)}


def test_the_diagnostics_example_logs_what_its_table_says(printed: dict[str, str]) -> None:
    logged = {key.removeprefix("validation/") for key in keys_of(printed["diagnostics"])}
    short = {name for name in logged if not name.endswith(("_low", "_high", "_frequency"))}
    assert short == of_diagnostics()
    assert {"correlation_frequency", "partial_frequency_low", "partial_length_high"} <= logged


def test_the_votes_example_prints_no_residual_and_leaves_a_figure(printed: dict[str, str]) -> None:
    assert float(re.findall(r"tensor\(([\d.e-]+)", printed["votes"])[-1]) < 1e-4
    assert int(printed["votes"].splitlines()[-1]) > 10_000


def test_the_calibration_example_finds_norms_that_help_and_clears_length(printed: dict[str, str]) -> None:
    gain, confound, shapes = printed["calibrated"].splitlines()
    assert gain.startswith("Norms help: take exponent 0.")
    assert confound.startswith(gain.partition(" Lengths of")[0])
    assert "Length does not explain the gain" in confound
    assert shapes == "torch.Size([150, 10]) torch.Size([600, 32])"


def test_a_task_of_ones_own_trains_and_is_measured(printed: dict[str, str]) -> None:
    before, after = (float(number) for number in printed["task of one's own"].split()[-2:])
    assert after > before + 0.2


def test_the_levers_in_a_module_put_rows_where_they_stay(printed: dict[str, str]) -> None:
    (norm,) = re.findall(r"tensor\(([\d.e-]+)", printed["levers in Lightning"])
    assert float(norm) == pytest.approx(1.0, abs=0.005)


def test_every_configuration_has_a_row() -> None:
    rows = re.findall(
        r"^\| (\w+) \|", (DOCS / "tasks/index.md").read_text("utf-8").partition("## Default runs")[0], re.M
    )
    assert set(rows) - {"config"} == {config.stem for config in (ROOT / "lightning_normdyn/configs").glob("*.yaml")}
