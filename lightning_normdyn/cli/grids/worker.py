"""The process that does one training of a grid: ``python -m lightning_normdyn.cli.grids.worker JOB.json [SCRATCH]``.

It listens for the end of the grid before it loads what a training needs, which takes seconds in which a grid may be
killed.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from threading import Thread

_WITH_SCRATCH = 2


def end_with_the_grid() -> None:
    """Ends this process when the one that started it has ended, however it did: its end of the pipe closes."""
    while os.read(0, 1):  # not sys.stdin, whose lock an ending interpreter waits for
        pass
    if len(sys.argv) > _WITH_SCRATCH:  # a folder that nobody fetches any more
        shutil.rmtree(sys.argv[_WITH_SCRATCH], ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    Thread(target=end_with_the_grid, daemon=True).start()
    from lightning_normdyn.cli.grids.job import read_job
    from lightning_normdyn.cli.grids.training import work
    from lightning_normdyn.cli.process_group import ended_process_group

    with ended_process_group():
        work(read_job(Path(sys.argv[1])))
