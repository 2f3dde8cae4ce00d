"""One small page of each kind, and its outline: tags, attributes and texts as a browser would read them."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from test_audit_page import audited
from test_grid_report import findings
from test_reproduction_page import ARRAYS, planted

from lightning_normdyn.report import write_report
from lightning_normdyn.report.audit import AuditSubject, Item, write_audit
from lightning_normdyn.report.audit.item import thumbnail
from lightning_normdyn.report.experiments import write_reproduction
from lightning_normdyn.report.grid import write_grid

PAGES = ("run", "audit", "grid", "reproduction")


def make_page(kind: str, folder: Path) -> Path:
    """Writes the page of a kind into a folder."""
    return {"run": _run, "audit": _audit, "grid": _grid, "reproduction": _reproduction}[kind](folder)


def _run(folder: Path) -> Path:
    from synthetic_run import Setting, write_output, write_run

    setting = Setting(rows=60, steps=600, weight_decay=0.01, snapshot_every=20, window=60)
    write_run(folder, setting)
    write_output(folder, setting)
    return write_report(folder)


def _audit(folder: Path) -> Path:
    from PIL import Image

    audit = audited()
    picture = thumbnail(Image.new("RGB", (40, 30)))
    items = {row: Item(f"id {row}", "text", picture) for row in audit.longest}
    return write_audit(folder, audit, AuditSubject("name", [], [], items))


def _grid(folder: Path) -> Path:
    return write_grid(folder, findings())


def _reproduction(folder: Path) -> Path:
    return write_reproduction(folder / "page.html", [planted(name) for name in ARRAYS])


class Outline(HTMLParser):
    """Elements and texts of a page in their order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.empty_headings = 0
        self._heading: str | None = None
        self.feed(source.replace("<wbr>", ""))  # where a line may break, and no text begins

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "th":
            self._heading = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "th":
            self.empty_headings += not (self._heading or "").strip()
            self._heading = None

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._heading is not None:
            self._heading += data
