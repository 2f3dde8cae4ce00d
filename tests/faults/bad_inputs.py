"""All bad command lines and calls at once, and a table by kind of what came of them.

``PYTHONPATH=tests/faults python tests/faults/bad_inputs.py`` prints it in some three minutes of a core, with every one
that is not in order below; ``calls`` or ``lines`` after it makes those alone.
"""

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from importlib import import_module
from io import StringIO
from pathlib import Path

import torch
from bad_calls import CALLS
from bad_command_lines import COMMAND_LINES
from call_outcomes import run_call
from command_runs import Accepted, run, write_inputs
from outcomes import Outcome, table

from lightning_normdyn.cli.grids import grid

LEAST_SHARE = 0.99


def outcomes_of_calls(folder: Path) -> list[Outcome]:
    """Of all calls.

    Args:
        folder: to work in.
    """
    with _inside(folder), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        return [run_call(case) for case in CALLS]


def outcomes_of_lines(folder: Path) -> list[Outcome]:
    """Of all command lines; trainings of a grid are not begun.

    Args:
        folder: for the files that they name, and one for each.
    """

    def begin(*_: object, **__: object) -> None:
        raise Accepted

    real, grid.run_jobs = grid.run_jobs, begin  # type: ignore[assignment]
    try:
        write_inputs(folder / "inputs")
        return [run(case, folder / f"case{number}", folder / "inputs") for number, case in enumerate(COMMAND_LINES)]
    finally:
        grid.run_jobs = real


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    here = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)


def main(which: str = "") -> int:
    """Makes them and prints the tables.

    Args:
        which: ``calls`` or ``lines``, or both.

    Returns:
        0 if at least 99% of each are in order, else 1.
    """
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    is_short = False
    for name, outcomes_of in {"calls": outcomes_of_calls, "lines": outcomes_of_lines}.items():
        if which in ("", name):
            with tempfile.TemporaryDirectory() as folder:
                outcomes = outcomes_of(Path(folder))
            faulty = [str(outcome) for outcome in outcomes if outcome.faults]
            print(f"bad {name}", table(outcomes), *faulty, "", sep="\n", flush=True)
            is_short |= len(faulty) > (1 - LEAST_SHARE) * len(outcomes)
    return int(is_short)


if __name__ == "__main__":
    os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
    with suppress(ImportError):  # nothing is looked for on the network
        import_module("huggingface_hub.constants").HF_HUB_OFFLINE = True
    sys.exit(main(*sys.argv[1:]))
