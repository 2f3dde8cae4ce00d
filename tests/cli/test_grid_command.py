"""``normdyn grid`` from the command line to the page, with real trainings, and what it says of bad input."""

import datetime
import html
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from unittest.mock import Mock

import pytest
import torch
from pytorch_lightning import Callback

from lightning_normdyn.cli.configuration import read_task
from lightning_normdyn.cli.grids import grid as grid_module
from lightning_normdyn.cli.grids.cluster_trainings import TrainingNeeds, run_on_cluster, train_there
from lightning_normdyn.cli.grids.job import Job
from lightning_normdyn.cli.grids.plan import Plan
from lightning_normdyn.cli.grids.processes import run_jobs
from lightning_normdyn.cli.grids.progress_reports import Course
from lightning_normdyn.cli.grids.training import work
from lightning_normdyn.cli.main import main
from lightning_normdyn.cli.ray_cluster import connected
from lightning_normdyn.history.grid_findings import read_grid_run
from lightning_normdyn.tasks import Retrieval

CONFIG = """
model:
  class_path: lightning_normdyn.tasks.Retrieval
  init_args:
    encoder:
      class_path: lightning_normdyn.tasks.encoders.SmallTextEncoder
      init_args: {dim: 16, buckets: 500, hidden: 16}
    lr: 0.01
data:
  class_path: lightning_normdyn.tasks.RetrievalData
  init_args:
    source: {class_path: lightning_normdyn.tasks.sources.BeirFolder, init_args: {folder: set}}
    batch_size: 16
trainer: {accelerator: cpu, max_epochs: 2, log_every_n_steps: 1}
"""

WORDS = ["grid", "--config", "grid.yaml", "--seeds", "2", "--variants", "cosine", "qnorm", "--lr-factors", "1.0"]
WORDS += ["--temperatures", "1.0"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config and a small set in BEIR's layout: a query holds two words of its document."""
    folder = tmp_path_factory.mktemp("grid")
    draw = random.Random(0)
    words = [f"{a}{b}" for a in ("red", "blue", "green", "tall", "wide") for b in ("cat", "dog", "tree", "house")]
    texts = [draw.sample(words, 6) for _ in range(48)]
    (folder / "set" / "qrels").mkdir(parents=True)
    rows = [{"_id": f"d{place}", "title": "", "text": " ".join(text)} for place, text in enumerate(texts)]
    asked = [{"_id": f"q{place}", "text": " ".join(text[:2])} for place, text in enumerate(texts)]
    for name, lines in (("corpus", rows), ("queries", asked)):
        (folder / "set" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for split, places in (("train", range(32)), ("dev", range(32, 40)), ("test", range(40, 48))):
        judged = "".join(f"q{place}\td{place}\t1\n" for place in places)
        (folder / "set" / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    (folder / "grid.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def grid(workplace: Path) -> Path:
    """A grid of two variants and two seeds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        patch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # as for every test of a command
        assert main([*WORDS, "--jobs", "2", "--out", "out"]) == 0
    return workplace / "out"


def test_a_grid_goes_on_with_what_is_missing(grid: Path, monkeypatch, capsys) -> None:
    """The job that it asks for again is answered with what was trained before; on Ray it is trained again, below."""
    monkeypatch.chdir(grid.parent)
    shutil.copytree(grid, "resumed")
    gone = Path("resumed/runs/qnorm-lr0.01-t1-seed1/result.json")
    content, names = gone.read_bytes(), []
    gone.unlink()

    def answer(jobs, **_) -> dict[str, str]:
        for job in jobs:
            names.append(job.name)
            job.result.write_bytes(content)
        return {}

    monkeypatch.setattr(grid_module, "run_jobs", answer)
    assert main([*WORDS, "--jobs", "2", "--out", "resumed"]) == 0
    assert names == ["qnorm-lr0.01-t1-seed1"]
    assert "0 of 5: begun\n1 of 5: untrained" in capsys.readouterr().out
    findings = [json.loads((folder / "findings.json").read_text()) for folder in (grid, Path("resumed"))]
    origins = [finding.pop("origin") for finding in findings]
    assert findings[0] == findings[1]
    assert [origin["command"].rpartition(" ")[2] for origin in origins] == ["out", "resumed"]


def test_a_grid_leaves_its_findings(grid: Path) -> None:
    found = json.loads((grid / "findings.json").read_text())
    assert list(found["comparison"]["scores"]) == ["cosine", "qnorm"]
    assert found["comparison"]["seeds"] == 2
    assert found["comparison"]["queries"] == 8
    assert set(found["cross"]["qnorm"]) == {"cosine", "dot", "qnorm", "dnorm"}
    assert found["cross"]["qnorm"]["qnorm"] == pytest.approx(found["comparison"]["scores"]["qnorm"]["mean"])
    assert found["cross"]["qnorm"]["dot"] == found["cross"]["qnorm"]["qnorm"]  # a query's norm ranks nothing
    assert 0 < found["floors"]["untrained encoder"] <= 1
    assert found["advice"] in (grid / "grid.md").read_text()
    assert found["choices"]["qnorm"]["trials"] == 1
    assert found["choices"]["cosine"]["temperature"] == pytest.approx(0.05)
    assert found["origin"]["data"] == "RetrievalData(source=BeirFolder(folder=set))"
    assert found["origin"]["command"] == f"normdyn {' '.join(WORDS)} --jobs 2 --out out"
    assert found["origin"]["date"] == datetime.date.today().isoformat()
    page = page_text(grid)
    assert "data: RetrievalData(source=BeirFolder(folder=set" in page
    assert "normdyn grid --config grid.yaml --seeds 2 --variants cosine qnorm" in page
    assert (grid / "grid.html").read_text().count("<svg") == 3
    assert (grid / "grid.svg").read_text().lstrip().startswith("<?xml")


def page_text(grid: Path) -> str:
    """The page without its tags."""
    return html.unescape(re.sub(r"<[^>]+>", "", (grid / "grid.html").read_text(encoding="utf-8")))


def test_the_page_names_its_data_and_its_command(grid: Path) -> None:
    page = page_text(grid)
    assert "RetrievalData(source=BeirFolder(folder=set))" in page
    assert f"normdyn {' '.join(WORDS)} --jobs 2 --out out" in page


def test_without_a_drawing_findings_are_saved_and_printed_and_the_code_is_1(
    grid: Path, undrawable, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(grid.parent)
    folder = shutil.copytree(grid, grid.parent / "undrawn", ignore=shutil.ignore_patterns("findings.json", "grid.*"))
    shutil.copy(grid / "grid.json", folder)
    assert main([*WORDS, "--out", "undrawn"]) == 1
    printed = capsys.readouterr()
    assert printed.err.endswith(f"normdyn: {undrawable}; no page was written; --debug shows the traceback\n")
    findings = json.loads((grid / "findings.json").read_text())
    assert findings["advice"] in printed.out
    assert printed.out.endswith("Grid: undrawn (table: grid.md, numbers: findings.json, trainings: runs/)\n")
    assert without_command(json.loads((folder / "findings.json").read_text())) == without_command(findings)
    tables = [(place / "grid.md").read_text().partition("Made on ")[0] for place in (folder, grid)]
    assert tables[0] == tables[1]
    assert not (folder / "grid.html").exists()


def without_command(findings: dict) -> dict:
    return findings | {"origin": findings["origin"] | {"command": ""}}


def test_trainings_keep_the_course_of_norms(grid: Path) -> None:
    run = json.loads((grid / "runs" / "qnorm-lr0.01-t1-seed0" / "result.json").read_text())
    assert run["course"]["step"] == [2, 4]
    assert all(norm > 0 for norm in run["course"]["relevant_norm"])
    assert len(run["values"]["trained"]) == 8
    assert run["seconds"] > 0


@pytest.fixture
def encoded_documents(monkeypatch) -> list[int]:
    """Steps after which a document was encoded for an evaluation, one entry a document."""
    steps, encode = [], Retrieval.encode_documents

    def counted(self, inputs):
        if not (torch.is_grad_enabled() or self.trainer.sanity_checking):
            steps.extend([self.trainer.global_step] * len(inputs))
        return encode(self, inputs)

    monkeypatch.setattr(Retrieval, "encode_documents", counted)
    return steps


class Nudge(Callback):
    """Changes weights when training is over, and past autograd's back, as averages of weights do."""

    def on_train_end(self, trainer, pl_module):
        next(pl_module.parameters()).data.add_(0.01)


def one_training(folder: Path, *words: str) -> dict[str, object]:
    job = Plan(("--config", "grid.yaml", *words), ("cosine",), (0.01,), (0,), folder, 1).trials()[1]
    work(job)
    return json.loads(job.result.read_text()) | {"seconds": None}


def test_a_corpus_is_encoded_once_with_the_same_weights(workplace: Path, tmp_path, monkeypatch, encoded_documents):
    monkeypatch.chdir(workplace)
    once = one_training(tmp_path / "once")
    assert encoded_documents == [2] * 48 + [4] * 48  # validation after each epoch, whose documents serve the test
    encoded_documents.clear()
    one_training(tmp_path / "early", "--trainer.check_val_every_n_epoch=9")
    assert encoded_documents == [4] * 48
    encoded_documents.clear()
    monkeypatch.setattr(Course, "ends_with", lambda *_: False)
    monkeypatch.setattr(Retrieval, "has_documents", lambda *_: False)
    assert one_training(tmp_path / "thrice") == once
    assert encoded_documents == [2] * 48 + [4] * 48 * 3


def test_a_set_out_of_domain_is_measured_as_the_grids_own(workplace: Path, tmp_path, monkeypatch) -> None:
    """The same set under another name gives the same numbers."""
    monkeypatch.chdir(workplace)
    run = one_training(tmp_path, "--data.also=[set]")
    assert run["out_of_domain"] == {"set": {name: run["values"][name] for name in ("trained", "cosine")}}
    assert run["in_training"] == [False] * 8  # a document for each query
    with pytest.raises(ValueError, match="missing: expected a folder"):
        one_training(tmp_path / "other", "--data.also=[missing]")


def test_weights_that_changed_since_the_last_validation_are_encoded_again(
    workplace: Path, tmp_path, monkeypatch, encoded_documents
):
    monkeypatch.chdir(workplace)
    one_training(tmp_path, f"--trainer.callbacks={__name__}.Nudge")
    assert encoded_documents == [2] * 48 + [4] * 48 * 2


def test_a_temperature_is_in_units_of_what_spreads_like_cosine(workplace: Path, tmp_path, monkeypatch):
    monkeypatch.chdir(workplace)
    temperatures = {}
    for variant, temperature_factor in (("cosine", 2.0), ("dot", 1.0), ("dot", 2.0)):
        plan = Plan(("--config", "grid.yaml"), (variant,), (0.01,), (0,), tmp_path, 1, (temperature_factor,))
        job = plan.trials()[1]
        work(job)
        run = read_grid_run(job.result)
        assert (job.name, run.temperature_factor) == (
            f"{variant}-lr0.01-t{temperature_factor:g}-seed0",
            temperature_factor,
        )
        temperatures[variant, temperature_factor] = run.temperature
    assert temperatures["cosine", 2.0] == pytest.approx(0.1)  # twice the config's
    assert temperatures["dot", 2.0] == pytest.approx(2 * temperatures["dot", 1.0])
    assert temperatures["dot", 1.0] != pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--variants", "dot"], "expected cosine among them"),
        (["--variants", "cosine", "qnrom"], "got 'qnrom'"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--model.normalization", "qnrom"], "qnrom"),
        (["--out", "set"], "out:"),
    ],
)
def test_bad_input_is_one_sentence(workplace: Path, words, said, monkeypatch, capsys) -> None:
    monkeypatch.chdir(workplace)
    assert main(["grid", "--config", "grid.yaml", "--seeds", "1", *words]) == 2
    assert said in capsys.readouterr().err


def test_another_configuration_is_not_mixed_in(grid: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(grid.parent)
    shutil.copy("grid.yaml", "other.yaml")
    words = ["grid", "--config", "grid.yaml", "--out", "out"]
    assert main([*words, "--trainer.max_epochs=3"]) == 2
    assert "another configuration (it was made without --trainer.max_epochs=3); take" in capsys.readouterr().err
    assert main([*words[:2], "other.yaml", *words[3:]]) == 2
    assert "(it was made with grid.yaml and without other.yaml)" in capsys.readouterr().err
    text = Path("grid.yaml").read_text()
    Path("grid.yaml").write_text(text + "# as it is\n")
    assert main(words) == 2
    assert "(a config file reads otherwise now)" in capsys.readouterr().err
    Path("grid.yaml").write_text(text)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_grid_that_is_stopped_says_how_to_go_on(workplace: Path, monkeypatch, capsys, number, code) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(grid_module, "run_jobs", Mock(side_effect=lambda *_, **__: signal.raise_signal(number)))
    assert main(["grid", "--config", "grid.yaml", "--seeds", "1", "--out", f"stopped-{code}"]) == code
    assert f"Go on with --out stopped-{code}" in capsys.readouterr().out


def test_a_model_that_is_no_task_is_refused(workplace: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(workplace)
    words = ["--model", "lightning_normdyn.tasks.TokenContrast", "--data", "lightning_normdyn.tasks.TokenPairs"]
    assert main(["grid", *[f"{a}={b}" for a, b in zip(words[::2], words[1::2], strict=True)], "--config", "grid.yaml"])
    assert "expected a model that is a lightning_normdyn.tasks.ContrastiveTask" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--data.batch_size=0", "batch_size: expected a whole number, 1 or more, got 0"),
        ("--trainer.max_epochs=0", "train: expected at least one step, got none"),
    ],
)
def test_a_training_that_fails_is_told_and_the_others_go_on(workplace: Path, tmp_path, word, said, monkeypatch) -> None:
    monkeypatch.chdir(workplace)
    plan = Plan(("--config", "grid.yaml", word), ("cosine",), (0.01,), (0,), tmp_path / "bad", 1)
    done = []
    failed = run_jobs(plan.trials()[1:], at_once=1, progress=lambda job, share: done.append((job.name, share)))
    assert list(failed) == ["cosine-lr0.01-t1-seed0"]
    assert said in failed["cosine-lr0.01-t1-seed0"]
    assert done == [("cosine-lr0.01-t1-seed0", 1.0)]


def test_callbacks_that_need_what_a_grid_has_not_are_left_out(workplace: Path, monkeypatch) -> None:
    names = ("ModelCheckpoint", "LearningRateMonitor", "DeviceStatsMonitor", "RichProgressBar")
    callbacks = f"[{', '.join(f'{{class_path: pytorch_lightning.callbacks.{name}}}' for name in names)}]"
    (workplace / "watched.yaml").write_text(CONFIG.replace("max_epochs: 2", f"max_epochs: 1, callbacks: {callbacks}"))
    monkeypatch.chdir(workplace)
    plan = Plan(("--config", "watched.yaml"), ("cosine",), (0.01,), (0,), workplace / "watched", 1)
    assert run_jobs(plan.trials()[1:], at_once=1, progress=lambda *_: None) == {}


def test_what_fit_saved_is_a_configuration_for_advise_and_grid(workplace: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    assert main(["fit", "--config", "grid.yaml", "--trainer.max_epochs=1"]) == 0
    assert "Run folder: " in capsys.readouterr().out
    (saved,) = workplace.glob("lightning_logs/version_0/config.yaml")
    (checkpoint,) = saved.parent.glob("checkpoints/*.ckpt")
    assert read_task(["--config", str(saved)]) == (Retrieval, 0.01)
    with pytest.raises(ValueError, match="ckpt_path: expected none, for a grid trains from the start"):
        read_task(["--config", str(saved), f"--ckpt_path={checkpoint}"])
    asked = ["advise", "--config", str(saved), "--ckpt_path", str(checkpoint)]
    capsys.readouterr()
    assert main(asked) == 0
    advice = advice_of(capsys)
    assert advice[0].startswith("No gain: score by cosine")
    assert any(line.startswith("Cohen's d") for line in advice)
    resumed = workplace / "resumed.yaml"
    resumed.write_text(saved.read_text().replace("ckpt_path: null", f"ckpt_path: {checkpoint}"))
    watched = "--trainer.callbacks=pytorch_lightning.callbacks.ModelCheckpoint"
    assert main(["advise", "--config", str(resumed), watched]) == 0
    *said, origin = advice_of(capsys)
    assert said == advice[:-1]
    assert f"from RetrievalData(source=BeirFolder(folder=set)), {checkpoint}, by normdyn advise --config" in origin
    assert main(["advise", "--config", str(saved)]) == 0
    assert any(line.startswith("No --ckpt_path") for line in advice_of(capsys))
    assert main([*asked, "--model.normalization=learnable"]) == 2
    assert "ckpt_path: expected weights of the model that config describes" in capsys.readouterr().err


def advice_of(capsys) -> list[str]:
    """Lines of the output but for progress bars."""
    return [line for line in capsys.readouterr().out.splitlines() if line.strip() and "Validation" not in line]


@pytest.mark.slow
def test_no_training_outlives_its_grid_and_no_two_grids_share_a_folder(workplace: Path) -> None:
    words = ["grid", "--config", "grid.yaml", "--seeds", "1", "--lr-factors", "1", "--trainer.max_epochs", "100000"]
    command = [sys.executable, "-m", "lightning_normdyn", *words, "--out", "killed"]
    quiet = {"cwd": workplace, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen([*command, "--variants", "cosine"], **quiet)
    log = workplace / "killed" / "runs" / "cosine-lr0.01-t1-seed0" / "log.txt"
    until(log.is_file, seconds=120)
    second = subprocess.run([*command, "--variants", "cosine"], **quiet, check=False)
    assert second.returncode == 2
    assert "another normdyn grid works in 'killed'" in second.stderr
    assert trainings_in(log.parent)
    first.kill()
    first.communicate()
    until(lambda: not trainings_in(log.parent), seconds=60)


def test_a_training_ends_with_its_grid_while_it_still_loads(tmp_path):
    """A grid that is killed closes its end of the pipe; once all is loaded, the job is found to be missing."""
    (tmp_path / "scratch").mkdir()
    job, scratch = str(tmp_path / "job.json"), str(tmp_path / "scratch")
    command = [sys.executable, "-m", "lightning_normdyn.cli.grids.worker", job, scratch]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
        _, complaint = worker.communicate(timeout=60)
    assert (worker.returncode, complaint) == (1, b"")
    assert not Path(scratch).exists()


STALL = """
from pathlib import Path
from time import sleep

from pytorch_lightning import Callback


class Stall(Callback):
    \"\"\"Says that it trains and waits to be killed, where somebody asks for that.\"\"\"

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 3 and Path("stall").exists() and "seed1" in trainer.default_root_dir:
            Path("stalled").touch()
            sleep(600)
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("number", "options"),
    [
        (signal.SIGKILL, ()),
        (signal.SIGINT, ()),
        (signal.SIGKILL, ("--sequential", "--max-seeds", "3")),
        (signal.SIGINT, ("--sequential", "--max-seeds", "3")),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else " ".join(value) or "at once",
)
def test_a_grid_killed_in_a_training_goes_on_and_finds_the_same(workplace: Path, tmp_path, number, options) -> None:
    """All but the trainings under way is there still, and what is trained anew is the same bit for bit."""
    for name in ("set", "grid.yaml"):
        (tmp_path / name).symlink_to(workplace / name)
    (tmp_path / "stalling.py").write_text(STALL)
    words = [*WORDS, *options, "--jobs", "2", "--trainer.callbacks+=stalling.Stall"]
    command = [sys.executable, "-m", "lightning_normdyn", *words]
    place = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    folder, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    (tmp_path / "stall").touch()
    with subprocess.Popen([*command, "--out", folder.name], start_new_session=True, **place) as first:
        until((tmp_path / "stalled").is_file, seconds=900)
        if number == signal.SIGINT:  # as a terminal does it: all processes hear it
            os.killpg(first.pid, number)
        else:
            first.kill()
        printed, complaint = first.communicate(timeout=60)
    if number == signal.SIGINT:
        assert (first.returncode, complaint) == (130, "")
        assert f"Go on with --out {folder.name}" in printed
    until(lambda: not any(trainings_in(run) for run in folder.glob("runs/*")), seconds=60)
    (tmp_path / "stall").unlink()
    finished = {file: file.stat().st_mtime_ns for file in folder.glob("runs/*/result.json")}
    assert len(finished) >= 3  # all of the first seed
    for option, sentence in (("--trainer.max_epochs=3", "a grid of another configuration"), *LOOKS[bool(options)]):
        again = subprocess.run([*command, *option.split(), "--out", folder.name], **place, check=False)
        assert (again.returncode, again.stdout) == (2, "")
        assert sentence in again.stderr
    for out in (folder, unbroken):
        run = subprocess.run([*command, "--out", out.name], **place, check=False)
        assert (run.returncode, run.stderr) == (0, "")
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    assert results_in(folder) == results_in(unbroken)
    assert files_in(folder) == files_in(unbroken)
    findings = [json.loads((out / "findings.json").read_text()) for out in (folder, unbroken)]
    assert without_command(findings[0]) == without_command(findings[1])


LOOKS = {True: [("--max-seeds 4", "max_seeds: expected looks at 2 to 3 seeds")], False: []}


def until(condition, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def trainings_in(folder: Path) -> list[str]:
    """Processes whose command line names the folder's job."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if f"{folder.parent.name}/{folder.name}/job.json" in line and "grids.worker" in line:
            found.append(line)
    return found


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A cluster of two cores on this machine, which a grid finds."""
    ray = pytest.importorskip("ray", reason="trainings go to a cluster by the extra ray")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        yield
        ray.shutdown()
    signal.signal(signal.SIGTERM, handler)


ON_RAY = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


def results_in(folder: Path) -> dict[str, object]:
    """Content of each result, without the seconds it took."""
    files = folder.glob("runs/*/result.json")
    return {file.parent.name: json.loads(file.read_text()) | {"seconds": None} for file in files}


def files_in(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.usefixtures("ray_cluster")
class TestOnRay:
    """Trainings on a Ray cluster give the results and the files of those in processes of one machine."""

    pytestmark = ON_RAY

    def test_results_are_the_same_also_where_a_worker_is_killed(self, grid: Path, monkeypatch, capsys) -> None:
        monkeypatch.chdir(grid.parent)
        monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
        killed = Thread(target=kill_a_worker, args=("cosine-lr0.01-t1-seed0",))
        killed.start()
        assert main([*WORDS, "--engine", "ray", "--out", "on-ray"]) == 0
        killed.join()
        assert results_in(Path("on-ray")) == results_in(grid)
        assert files_in(Path("on-ray")) == files_in(grid)
        printed = capsys.readouterr().out
        assert "Ray: 2 CPUs on 1 machine" in printed
        assert "5 of 5: " in printed
        findings = [json.loads((folder / "findings.json").read_text()) for folder in (grid, Path("on-ray"))]
        assert without_command(findings[0]) == without_command(findings[1])
        logs = [(folder / "runs/cosine-lr0.01-t1-seed0/log.txt").read_text() for folder in (grid, Path("on-ray"))]
        assert '"done"' not in logs[1]
        assert len(logs[1].splitlines()) == len(logs[0].splitlines())
        started = {file: file.stat().st_mtime_ns for file in Path("on-ray").glob("runs/*/result.json")}
        gone = Path("on-ray/runs/qnorm-lr0.01-t1-seed1/result.json")
        gone.unlink()
        assert main([*WORDS, "--engine", "ray", "--out", "on-ray"]) == 0
        assert {file for file in started if started[file] != file.stat().st_mtime_ns} == {gone}
        assert results_in(Path("on-ray")) == results_in(grid)

    def test_a_training_that_fails_is_named_as_on_one_machine(self, workplace: Path, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(workplace)
        said, shares = {}, []
        for engine in ("jobs", "ray"):
            words = ("--config", "grid.yaml", "--trainer.max_epochs=0")
            plan = Plan(words, ("cosine",), (0.01,), (0,), tmp_path / engine, 1)
            jobs = plan.trials()[1:]
            if engine == "jobs":
                said[engine] = run_jobs(jobs, at_once=1, progress=lambda *_: None)
            else:
                with connected() as cluster:
                    said[engine] = run_on_cluster(
                        jobs,
                        cluster=cluster,
                        needs=TrainingNeeds(),
                        progress=lambda job, share: shares.append((job.name, share)),
                    )
        name = "cosine-lr0.01-t1-seed0"
        assert said["ray"] == {name: said["jobs"][name].replace(str(tmp_path / "jobs"), str(tmp_path / "ray"))}
        assert "train: expected at least one step, got none" in said["ray"][name]
        assert shares == [(name, 1.0)]

    def test_a_machine_without_the_folder_is_named(self, tmp_path) -> None:
        with pytest.raises(OSError, match=r"^engine: expected the working folder '/no/such' on every machine of the"):
            train_there(Job((), "cosine", 0.1, 0, str(tmp_path), 1), "/no/such", None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_grid_on_ray_that_is_killed_goes_on(grid: Path) -> None:
    pytest.importorskip("ray", reason="trainings go to a cluster by the extra ray")
    command = [sys.executable, "-m", "lightning_normdyn", *WORDS, "--engine", "ray", "--out", "ray-killed"]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    folder = grid.parent / "ray-killed"
    with subprocess.Popen(command, cwd=grid.parent, env=environment, stdout=subprocess.DEVNULL) as first:
        until(lambda: len(results_in(folder)) >= 2, seconds=240)
        first.kill()
    until(lambda: not scratch_trainings(), seconds=60)
    finished = {file: file.stat().st_mtime_ns for file in folder.glob("runs/*/result.json")}
    assert len(finished) < 5
    again = subprocess.run(command, cwd=grid.parent, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stderr == ""
    assert all(file.stat().st_mtime_ns == time for file, time in finished.items())
    assert results_in(folder) == results_in(grid)
    assert files_in(folder) == files_in(grid)


def scratch_trainings() -> list[int]:
    """Processes of trainings that a cluster does."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            line = file.read_bytes().decode(errors="replace")
            found += [int(file.parent.name)] * ("normdyn-training-" in line and "grids.worker" in line)
    return found


def kill_a_worker(name: str) -> None:
    """Kills the process of the cluster that does the training of that name, while it does."""

    def victims() -> list[int]:
        found = []
        for process in scratch_trainings():
            with suppress(OSError):
                job = Path(f"/proc/{process}/cmdline").read_bytes().decode().rstrip("\0").split("\0")[-2]
                wanted = json.loads(Path(job).read_text())
                words = f"{wanted['variant']}-lr{wanted['lr']:g}-t{wanted['temperature_factor']:g}-seed{wanted['seed']}"
                status = Path(f"/proc/{process}/status").read_text()
                found += [int(status.split("PPid:\t")[1].split("\n")[0])] * (words == name)
        return found

    until(victims, seconds=120)
    time.sleep(2)
    os.kill(victims()[0], signal.SIGKILL)
