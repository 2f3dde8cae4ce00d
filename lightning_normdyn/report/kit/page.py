"""A page: the templates that it is made of, the HTML document around it, and its way to disk.

A page loads nothing, and what is put into it is escaped unless it is markup already. It runs nothing either, but for a
page about a run that goes on: that may run one script, known to the browser by its hash, which loads the page again.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lightning_normdyn.atomic_file import write_atomically
from lightning_normdyn.history.origin import Origin
from lightning_normdyn.report.kit.line_breaks import joined_name, prose, with_intervals
from lightning_normdyn.report.kit.theme import colour_rules, page_rules

NORM_LAW_PAPER = "https://arxiv.org/abs/2606.30625"
"""Su, Ren, Veitch 2026: the balance of norms, and the norms of a vocabulary predicted from it."""

RETRIEVAL_NORM_PAPER = "https://arxiv.org/abs/2602.09229"
"""Feng, Watanabe 2026: norms in retrieval."""


class DrawingError(RuntimeError):
    """A figure or a page could not be drawn; the message says in one sentence what went wrong, the cause is chained."""


class Link(NamedTuple):
    """An entry of a page's contents: an HTML id and what to call it."""

    anchor: str
    text: str


@dataclass(frozen=True)
class Page:
    """What one page says; plain text is escaped, markup stands as it is.

    Attributes:
        title: of the document; also its heading.
        main: the body.
        facts: short statements below the heading.
        lead: what matters most, as a sentence.
        notes: what a reader should know besides.
        contents: links to the parts of the body; none for fewer than two.
        contents_name: what these parts are.
        sources: markup at the end.
        origin: what it was made of.
        reload_seconds: after which an open page loads itself again; ``None`` for a page that runs nothing.
    """

    title: str
    main: Markup
    facts: Sequence[str] = ()
    lead: str = ""
    notes: Sequence[str] = ()
    contents: Sequence[Link] = ()
    contents_name: str = "Contents"
    sources: Markup | str = ""
    origin: Origin = field(default_factory=Origin)
    reload_seconds: float | None = None

    def __html__(self) -> Markup:
        """The whole document."""
        rules = Markup("\n").join(Markup(sheet) for sheet in (page_rules(), colour_rules(self.main)) if sheet)
        script = None if self.reload_seconds is None else _reload_script(self.reload_seconds)
        return render("page.html.j2", page=self, colours=rules, script=script)


class _Script(NamedTuple):
    """A script of a page.

    Attributes:
        text: of it.
        hash: by which the page's security policy knows it, so that no other may run.
    """

    text: Markup
    hash: str


def _reload_script(seconds: float) -> _Script:
    text = render("reload.js.j2", milliseconds=round(1000 * seconds))
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return _Script(text, f"sha256-{base64.b64encode(digest).decode('ascii')}")


def write_page(path: Path, page: Page) -> Path:
    """Writes a page whole or not at all; the folder is made.

    Args:
        path: where it goes.
        page: what it says. A character that UTF-8 cannot say becomes a question mark.

    Returns:
        The path.

    Raises:
        OSError: if it cannot be written.
    """
    write_atomically(path, page.__html__().encode("utf-8", "replace"))
    return path


def render(template: str, **values: Any) -> Markup:
    """Fills a template of ``kit/templates``; all that is put into one is escaped unless it is markup already.

    Args:
        template: file name.
        values: by the names that the template uses; an unknown name is an error.
    """
    return Markup(_environment().get_template(template).render(values))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lightning_normdyn.report.kit"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {filter.__name__: filter for filter in (joined_name, prose, with_intervals)}
    return environment
