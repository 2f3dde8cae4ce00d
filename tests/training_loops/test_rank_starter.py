"""The starter of ranks: what a worker finds, and that whatever goes wrong on a rank is shown with its place."""

from __future__ import annotations

import pytest
import torch
from rank_starter import RankError, run_ranks

HEAD = """
import os, signal, sys, time
import torch, torch.distributed as dist
rank = int(os.environ["RANK"])

def here():
"""


def worker(folder, body):
    file = folder / "planted_worker.py"
    file.write_text(f"{HEAD}    {body}\n\nif __name__ == '__main__':\n    here()\n")
    return file


def test_ranks_meet_and_each_has_its_words(tmp_path):
    (tmp_path / "beside.py").write_text("NUMBER = 7")
    body = (
        "from beside import NUMBER; dist.init_process_group('gloo'); total = torch.tensor(rank + NUMBER);"
        "dist.all_reduce(total); torch.save(total, f'{sys.argv[1]}/{rank}.pt'); dist.destroy_process_group();"
        "print('rank', rank, os.environ['WORD'])"
    )
    words = run_ranks(worker(tmp_path, body), tmp_path, ranks=3, WORD="said")
    assert [int(torch.load(tmp_path / f"{rank}.pt")) for rank in range(3)] == [24, 24, 24]
    assert words == [f"rank {rank} said\n" for rank in range(3)]


@pytest.mark.parametrize(
    ("body", "timeout", "sentences"),
    [
        ("assert rank, 'planted'", 60, ("rank 0 failed with exit code 1", "rank 1 ended")),
        ("os.abort() if rank == 0 else None", 60, ("rank 0 was ended by SIGABRT", "Fatal Python error: Aborted")),
        ("sys.exit(3) if rank else time.sleep(60)", 60, ("rank 1 failed with exit code 3", "rank 0 did not end")),
        ("time.sleep(60)", 1, ("rank 0 did not end and was aborted here", "rank 1 did not end")),
        ("os.kill(os.getpid(), signal.SIGKILL) if rank else None", 60, ("rank 1 was ended by SIGKILL",)),
    ],
)
def test_a_rank_that_fails_is_shown_with_its_place(tmp_path, monkeypatch, body, timeout, sentences):
    monkeypatch.setattr("rank_starter.PATIENCE", 1.0)
    with pytest.raises(RankError) as caught:
        run_ranks(worker(tmp_path, body), timeout=timeout)
    text = str(caught.value)
    assert [sentence for sentence in sentences if sentence not in text] == []
    if "SIGKILL" not in body and "exit" not in body:
        assert "planted_worker.py" in text
        assert "in here" in text
