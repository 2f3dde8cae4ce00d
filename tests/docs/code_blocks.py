"""Finds code blocks of the README and of the documentation's pages by the heading they stand under."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
GENERATED = ("_build", "api", "gallery")
FENCE = re.compile(r"^( *)```(\S*)(?: .*)?$")


class CodeBlock(NamedTuple):
    """A fenced block.

    Attributes:
        page: path below the repository's root.
        heading: the nearest heading above it.
        language: the word after the fence.
        code: what stands between the fences, without indentation.
    """

    page: str
    heading: str
    language: str
    code: str


def pages() -> list[str]:
    """The README and every page of the documentation that people write."""
    written = (page for page in DOCS.rglob("*.md") if page.relative_to(DOCS).parts[0] not in GENERATED)
    return sorted(str(page.relative_to(ROOT)) for page in [README, *written])


def blocks_of(page: str) -> list[CodeBlock]:
    """Every fenced block of a page, in order."""
    blocks, heading, language = [], "", None
    lines: list[str] = []
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        fence = FENCE.match(line)
        if language is None and line.startswith("#"):
            heading = line.lstrip("#").strip()
        elif language is None and fence:
            language, lines = fence[2], []
        elif language is not None and fence and not fence[2]:
            blocks.append(CodeBlock(page, heading, language, textwrap.dedent("\n".join(lines)) + "\n"))
            language = None
        elif language is not None:
            lines.append(line)
    return blocks


def block_under(page: str, heading: str, language: str = "python", *, containing: str = "") -> str:
    """The code of the one block of a language under a heading that contains some text."""
    (block,) = (
        block
        for block in blocks_of(page)
        if (block.heading, block.language) == (heading, language) and containing in block.code
    )
    return block.code
