"""Runs code from a JSON file, each piece in a namespace and a folder of its own; writes what it printed or its failure.

One process for all of them: loading torch and Lightning takes longer than most of the examples. Each begins with the
random state that a new process has.
"""

from __future__ import annotations

import doctest
import json
import os
import sys
import tempfile
import traceback
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def run_script(code: str) -> tuple[str, str]:
    """What a script printed, and the traceback if it failed."""
    output = StringIO()
    try:
        with redirect_stdout(output):
            exec(compile(code, "block", "exec"), {"__name__": "__main__"})
    except BaseException:
        return output.getvalue(), traceback.format_exc()
    return output.getvalue(), ""


def run_prompts(code: str) -> tuple[str, str]:
    """Nothing, and a report if prompts do not print what stands below them."""
    output = StringIO()
    test = doctest.DocTestParser().get_doctest(code, {}, "block", None, 0)
    with redirect_stdout(output):
        failed = doctest.DocTestRunner(optionflags=OPTIONS).run(test).failed
    return "", output.getvalue() if failed else ""


def main(file: Path) -> None:
    outcomes, random_state = {}, torch.random.get_rng_state()
    for name, language, code in json.loads(file.read_text(encoding="utf-8")):
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            torch.random.set_rng_state(random_state)
            outcomes[name] = run_script(code) if language == "python" else run_prompts(code)
            os.chdir(file.parent)
    file.with_suffix(".outcomes").write_text(json.dumps(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
