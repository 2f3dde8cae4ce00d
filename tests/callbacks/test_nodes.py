"""Several machines: two nodes that a network joins, a rank that is killed and restarted, and one that raises."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
import warnings
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from network_nodes import NoNamespacesError, two_loopback_nodes, two_nodes
from nodes_worker import FATAL_STEP, LOOPS, RESUMED, SAVE_EVERY, STEPS, TARGETS, WHOLE, Contrast
from small_models import pair_batches, seeded

from lightning_normdyn.history import list_runs, read_run

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("nodes_worker.py")
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "several_machines.md"
LIMIT = 240
TARGET_NAMES = {"plain": TARGETS, "lightning": [f"net.{target}" for target in TARGETS]}


def page_command(containing):
    """Environment and words of the page's one torchrun command that contains some text, on one line."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = (line for line in re.findall(r"^\$ (.*torchrun.*)$", text, re.MULTILINE) if containing in line)
    words = shlex.split(line)
    start = words.index("torchrun")
    return dict(word.split("=", 1) for word in words[:start]), words[start + 1 :]


def start(command, part, folder, node=None, **replacements):
    """Starts a command of the page with the worker in the place of the training, on a node if there is one."""
    variables, words = command
    for placeholder, value in replacements.items():
        variables = {name: word.replace(placeholder, value) for name, word in variables.items()}
        words = [word.replace(placeholder, value) for word in words]
    assert words[-1] == "train.py"
    prefix = () if node is None else node.prefix
    kept = {name: value for name, value in os.environ.items() if name not in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "torch.distributed.run", *words[:-1], str(WORKER), part, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=kept | {"OMP_NUM_THREADS": "1"} | variables,
    )


def ended(processes):
    """Exit codes and output of all, which end within the limit or are ended."""
    try:
        texts = [process.communicate(timeout=LIMIT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], texts


@pytest.fixture(scope="module")
def nodes():
    """Two of them; two addresses of the loopback device where there are no network namespaces."""
    with ExitStack() as stack:
        try:
            pair = stack.enter_context(two_nodes())
        except NoNamespacesError:
            pair = two_loopback_nodes()
        yield pair


def run_on(nodes, part, folder):
    command = page_command("--nnodes 2")
    processes = []
    for number, node in enumerate(nodes):
        replacements = {
            "10.77.0.1": nodes[0].address, "ADDRESS": node.address, "29400": str(nodes[0].port),
            "INTERFACE": node.interface, "FIRST": str(int(number == 0)),
        }  # fmt: skip
        processes.append(start(command, part, folder, node, **replacements))
    return ended(processes)


@pytest.fixture(scope="module")
def folder(nodes, tmp_path_factory):
    """What the two nodes left."""
    folder = tmp_path_factory.mktemp("nodes")
    codes, texts = run_on(nodes, "two_nodes", folder)
    assert codes == [0, 0], "\n".join(text[-3000:] for text in texts)
    return folder


@pytest.fixture(scope="module")
def ranks(folder):
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module", params=list(LOOPS))
def loop(request):
    return request.param


@pytest.fixture(scope="module")
def alone(loop, tmp_path_factory):
    """One process with the batches of both, and where it wrote."""
    folder = tmp_path_factory.mktemp("alone")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = LOOPS[loop](folder)
    torch.set_num_threads(threads)
    return result, folder


def test_ranks_met_over_the_network(nodes, ranks):
    if not nodes[0].prefix:
        with pytest.raises(NoNamespacesError) as error, two_nodes():
            pass
        pytest.skip(f"no network namespaces ({error.value}): the nodes were two addresses of the loopback device")
    assert len({rank["namespace"] for rank in ranks} | {str(Path("/proc/self/ns/net").readlink())}) == 3
    for rank in ranks:
        assert set(rank["received"]) == {"lo", nodes[0].interface}
        assert rank["received"][nodes[0].interface] > 100_000  # gradients, embeddings and ours of two trainings


def test_the_loss_is_that_of_one_process(loop, ranks, alone):
    losses = np.array([rank[loop]["losses"] for rank in ranks]).mean(0)
    np.testing.assert_allclose(losses, alone[0]["losses"], rtol=1e-5)
    net, batch = seeded(Contrast), pair_batches(1)[0]
    queries, documents = (net.encoder(net.table(batch[:, column])).double() for column in (0, 1))
    scores = F.normalize(queries, dim=1) @ documents.T / 0.5
    by_hand = F.cross_entropy(scores, torch.arange(len(batch))).item()
    assert losses[0] == pytest.approx(by_hand, rel=1e-5)
    for name, weight in alone[0]["weights"].items():
        for rank in ranks:
            torch.testing.assert_close(rank[loop]["weights"][name], weight, rtol=1e-4, atol=1e-5)


def test_what_is_logged_is_that_of_one_process(loop, ranks, alone):
    first = ranks[0][loop]["logged"]
    assert [step for step, _ in first] == [step for step, _ in alone[0]["logged"]]
    for (_, metrics), (_, expected) in zip(first, alone[0]["logged"], strict=True):
        assert metrics.keys() == expected.keys()
        for key in metrics:
            if key.endswith("norm_mean"):
                assert metrics[key] == pytest.approx(expected[key], rel=1e-6), key
    if loop == "plain":
        assert ranks[1][loop]["logged"] == []


def test_one_history_is_written_and_is_that_of_one_process(loop, folder, alone):
    assert not list((folder / "node-1").rglob("*normdyn*"))
    assert len(list_runs(folder / "node-0" / loop)) == 1
    run, expected = read_run(folder / "node-0" / loop), read_run(alone[1])
    assert set(run) == set(expected) == set(TARGET_NAMES[loop])
    for target in TARGET_NAMES[loop]:
        rows, wanted = run[target].trajectory(), expected[target].trajectory()
        assert rows.num_rows == wanted.num_rows > 20
        for column in ("step", "row"):
            assert rows[column].to_pylist() == wanted[column].to_pylist()
        np.testing.assert_allclose(rows["norm"].to_numpy(), wanted["norm"].to_numpy(), rtol=1e-6)
        moments, wanted = (each["second_moment"].to_numpy() for each in (rows, wanted))
        assert np.isfinite(wanted).sum() >= 14
        np.testing.assert_allclose(moments, wanted, rtol=1e-5)


def lines_of(folder, loop):
    run = read_run(folder)
    assert set(run) == set(TARGET_NAMES[loop])
    return {
        target: [repr(line) for table in (run[target].trajectory(), run[target].quantities())
                 for line in table.to_pylist()]
        for target in run
    }  # fmt: skip


def logged_in(folder):
    """What each step logged; of one that was made twice, each time."""
    steps = {}
    for line in (folder / "lines").read_text().splitlines():
        step, metrics = json.loads(line)
        steps.setdefault(step, []).append(metrics)
    return steps


def test_a_run_whose_rank_was_killed_goes_on_bit_for_bit(loop, tmp_path):
    """It is killed ahead of a measured step, at which the other rank waits for it."""
    begin = time.monotonic()
    (code,), (text,) = ended([start(page_command("--max-restarts"), f"restart_{loop}", tmp_path, **{"8": "2"})])
    assert code == 0, text[-4000:]
    assert "Unable to shutdown process" not in text, time.monotonic() - begin  # the other heard that it was to end
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        assert found["attempt"] == 1
        assert not [name for name, value in found[WHOLE].items() if not torch.equal(value, found[RESUMED][name])]
    resumed, whole = logged_in(tmp_path / RESUMED), logged_in(tmp_path / WHOLE)
    assert set(resumed) == set(whole) >= set(range(1, STEPS + 1))
    again = set(range(SAVE_EVERY + 1, FATAL_STEP))
    for step, (metrics,) in whole.items():
        assert resumed[step][-1] == metrics, step
        assert step not in again or resumed[step] == [metrics, metrics]
    # The rank that is left may log the step at which the other was killed, without what takes both.
    assert again <= {step for step, each in resumed.items() if len(each) > 1} <= again | {FATAL_STEP}
    assert lines_of(tmp_path / RESUMED, loop) == lines_of(tmp_path / WHOLE, loop)


def test_one_rank_that_raises_hangs_no_other(nodes, loop, tmp_path):
    """A measurement that raises costs a sentence where it does; the user's code that raises ends both nodes."""
    codes, texts = run_on(nodes, f"one_raises_{loop}", tmp_path)
    end = time.time()
    assert codes == [1, 1], "\n".join(text[-3000:] for text in texts)
    assert all("ChildFailedError" in text for text in texts)
    assert "PlantedError: planted in the loop" in texts[0] + texts[1]
    assert end - float((tmp_path / "raised").read_text()) < 45  # and not the minute of a meeting, nor gloo's half hour
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    failures = [[message for message in rank["said"] if "Spoilt failed" in message] for rank in (first, second)]
    assert failures[0] == []
    assert len(failures[1]) == len(TARGETS)
    assert "failed at step 10 of" in failures[1][0]
    assert "planted in a measurement" in failures[1][0]
    assert not [name for name, value in first["weights"].items() if not torch.equal(value, second["weights"][name])]
    for target in TARGETS:
        logged = [step for step, metrics in first["logged"] if f"normdyn/{target}/mean_square" in metrics]
        assert logged == list(range(1, STEPS + 1))
