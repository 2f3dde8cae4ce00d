"""Every ``normdyn`` line of a page parses, and the table of exit codes is that of the code."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from code_blocks import DOCS, ROOT, blocks_of, pages

from lightning_normdyn import cli
from lightning_normdyn.cli.main import COMMANDS, LIGHTNING_COMMANDS

pytest.importorskip("jsonargparse", reason="commands need the extra cli")

PREFIXES = (["normdyn"], ["python", "-m", "lightning_normdyn"])
IN_RUNNING_TEXT = re.compile(r"`(normdyn [a-z]+ -[^`]+)`")
CONFIGS_OF_READERS = ("cosine.yaml", "NAME.yaml")


def words_of(line: str) -> list[str]:
    """The words after ``normdyn``; none for a line that calls something else."""
    words = shlex.split(line.removeprefix("$ "), comments=True)
    return next((words[len(prefix) :] for prefix in PREFIXES if words[: len(prefix)] == prefix), [])


def command_lines() -> list[tuple[str, str]]:
    """Page and line, of console blocks and of options in running text."""
    consoles = [(page, block) for page in pages() for block in blocks_of(page) if block.language == "console"]
    lines = [(page, line) for page, block in consoles for line in block.code.splitlines()]
    texts = [(page, (ROOT / page).read_text(encoding="utf-8")) for page in pages()]
    lines += [(page, line) for page, text in texts for line in IN_RUNNING_TEXT.findall(text)]
    return [(page, line) for page, line in lines if words_of(line)]


def parse_dry(words: list[str]) -> None:
    """Parses a command line without running it, what it hands on to LightningCLI included.

    Raises:
        ValueError: if the words will not do.
    """
    from lightning_normdyn.cli.fit import NormdynCLI, config_words
    from lightning_normdyn.cli.parser import parse

    class ParsedCLI(NormdynCLI):
        """Stops where instances would be made."""

        def instantiate_classes(self) -> None: ...

        def _run_subcommand(self, subcommand: str) -> None: ...

    name, *options = words
    if name in LIGHTNING_COMMANDS:
        ParsedCLI(words)
        return
    arguments = parse(getattr(import_module("lightning_normdyn.cli"), name.replace("-", "_")), options)
    if arguments.get("overrides"):
        ParsedCLI(["fit", *config_words(arguments["config"], arguments["overrides"])])


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_a_command_line_parses_from_any_folder(
    page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # pytorch_lightning 2.6 calls what 4.40 deprecated
    words = words_of(line)
    if any(config in words for config in CONFIGS_OF_READERS):
        pytest.skip(f"{page}: the config is one of the reader's")
    if any(word.endswith(".help") for word in words):
        pytest.skip(f"{page}: help ends the program")
    parse_dry(words)


def test_a_wrong_option_does_not_parse() -> None:
    with pytest.raises(ValueError, match="unrecognized arguments: --nowhere"):
        parse_dry(["audit", "--nowhere", "1"])


def test_every_command_has_a_page_and_a_row() -> None:
    table = (DOCS / "commands/index.md").read_text(encoding="utf-8")
    assert set(COMMANDS) - {name for name in COMMANDS if f"`{name}`" in table} == set()
    documented = {page.stem for page in (DOCS / "commands").glob("*.md")} - {"index", "exit_codes"}
    assert documented == set(COMMANDS) - {"validate", "test"}


def test_the_page_of_exit_codes_quotes_the_code() -> None:
    rows = re.findall(r"^(\d+) +(\S.*(?:\n {6}\S.*)*)$", cli.__doc__ or "", re.M)
    meanings = {code: " ".join(meaning.split()) for code, meaning in rows}
    text = (DOCS / "commands/exit_codes.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| (\d+) \| (.+?) \|", text, re.M)) == meanings
    assert len(meanings) == 5
