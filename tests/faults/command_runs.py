"""Runs bad command lines in this process and says what came of each."""

import contextlib
import io
import os
import re
import warnings
from pathlib import Path

import torch
from bad_command_lines import QUIET, BadWords
from bad_files import write_files
from outcomes import Outcome
from small_transformers import write_bert
from yaml_mistakes import CONFIG, MISTAKES

from lightning_normdyn.cli.main import main

_ON_DAMAGE = re.compile(r"^(?:Left out|The last drawing failed): .*", re.MULTILINE)


class Accepted(BaseException):
    """A command went on to what takes minutes: it took what it was given."""


def write_inputs(folder: Path, *, model: bool = True) -> None:
    """All files that bad command lines name; ``model``: whether a small BERT is among them."""
    folder.mkdir()
    write_files(folder)
    (folder / "yaml").mkdir()
    for name, (change, _) in MISTAKES.items():
        content = change(CONFIG.read_text())
        content = content.encode() if isinstance(content, str) else content
        (folder / "yaml" / f"{name}.yaml").write_bytes(content)
    if model:
        write_bert(folder / "bert", ["a", "b"], hidden_size=8, num_attention_heads=1, intermediate_size=8)


def run(case: BadWords, folder: Path, inputs: Path) -> Outcome:
    """Runs one in a folder of its own."""
    folder.mkdir()
    (folder / "inputs").symlink_to(inputs)
    errors, output = io.StringIO(), io.StringIO()
    here = Path.cwd()
    os.chdir(folder)
    status, crash, before = 0, "", torch.random.get_rng_state()
    try:
        with (
            warnings.catch_warnings(record=True) as caught,
            contextlib.redirect_stderr(errors),
            contextlib.redirect_stdout(output),
        ):
            warnings.simplefilter("always")
            status = main(case.words)
    except Accepted:
        status = 0
    except Exception as error:
        status, crash = 1, f"{type(error).__name__}: {error}"
    finally:
        os.chdir(here)
        torch.random.set_rng_state(before)
    text, printed = errors.getvalue(), output.getvalue()
    said = text[text.rfind("normdyn: ") :] if "normdyn: " in text else "\n".join(_ON_DAMAGE.findall(printed))
    if status == 0 and not said:
        notes = [str(warning.message) for warning in caught] + printed.splitlines()
        said = next((note for note in notes if re.search(case.argument, note) and "expected" in note), "")
    return Outcome(
        case.kind,
        " ".join(word if len(word) < 60 else f"{word[:60]}..." for word in case.words if word not in QUIET),
        accepted=status == 0 and not said,
        traceback=bool(crash) or "Traceback" in text,
        message=said or crash,
        argument=case.argument,
    )
