"""The shipped fine-tuning in two processes: the numbers of one process on all pairs, and a run that is gone on with."""

from __future__ import annotations

import csv
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from finetuning_worker import CASES, checkpoint, words
from phrases import WORDS
from rank_starter import run_ranks
from small_transformers import write_bert

from lightning_normdyn.cli.main import main

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("finetuning_worker.py")
SHORT = ["cached"]


def start(folder: Path, cases: list[str], *, goes_on: bool = False) -> Path:
    """Fine-tunes on two ranks, and once more on one."""
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    write_bert(folder / "bert", WORDS, initializer_range=0.5, **sizes)
    ports = ",".join(free_ports(len(cases) + 2 * goes_on))
    printed = run_ranks(WORKER, folder, ports, *cases, timeout=600, JSONARGPARSE_DEPRECATION_WARNINGS="off")
    (folder / "printed.txt").write_text("".join(printed))
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
        for case in cases:
            assert main(words(folder, f"{case} of one", case, ranks=1)) == 0
    return folder


def free_ports(count: int) -> list[str]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [str(each.getsockname()[1]) for each in sockets]


def weights(folder: Path, name: str, epoch: int = 1) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint(folder, name, epoch), weights_only=True)["state_dict"]


def logged(folder: Path, name: str) -> list[dict[str, float]]:
    """What the first rank measured and says to be of all: before training, and after each epoch."""
    with (folder / name / "version_0" / "metrics.csv").open(newline="") as file:
        rows = [
            {key: float(value) for key, value in row.items() if value and key.startswith(("start/", "val/"))}
            for row in csv.DictReader(file)
        ]
    return [row for row in rows if row]


def agree(folder: Path, case: str) -> None:
    one, two = weights(folder, f"{case} of one"), weights(folder, f"{case} of two")
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-6, atol=1e-9, msg=name)
    start = weights(folder, f"{case} of one", 0)
    assert max(float((one[name] - start[name]).abs().max()) for name in one) > 1e-4  # the second epoch trained
    measures = [logged(folder, f"{case} of {ranks}") for ranks in ("one", "two")]
    assert len(measures[0]) == len(measures[1]) == 3
    for expected, row in zip(*measures, strict=True):
        assert "start/ndcg@10" in expected or "val/ndcg@10" in expected
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return start(tmp_path_factory.mktemp("ranks"), SHORT, goes_on=True)


def test_two_ranks_train_and_measure_what_one_does(folder):
    agree(folder, SHORT[0])


def test_a_run_of_two_ranks_goes_on_bit_for_bit(folder):
    whole, resumed = (weights(folder, run) for run in ("whole", "resumed"))
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    assert logged(folder, "resumed") == logged(folder, "whole")[2:]


def test_the_first_rank_alone_says_where_the_run_is_and_nothing_is_warned_of(folder):
    printed = (folder / "printed.txt").read_text()
    assert printed.count("Run folder: ") == 3
    assert "sync_dist" not in printed


@pytest.mark.exhaustive
def test_every_way_to_train_a_part_does_on_two_ranks_what_it_does_on_one(tmp_path):
    cases = [case for case in CASES if case not in SHORT]
    try:
        import peft  # noqa: F401
    except ModuleNotFoundError:
        cases = [case for case in cases if "lora" not in case]
    start(tmp_path, cases)
    for case in cases:
        agree(tmp_path, case)
