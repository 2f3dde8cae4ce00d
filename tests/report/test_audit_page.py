"""The page of an audit: self-contained, whatever texts say, and the same as its JSON."""

import base64
import html
import io
import json
import math
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from lightning_normdyn.datasets import Judgements
from lightning_normdyn.report.audit import AuditSubject, Item, write_audit
from lightning_normdyn.report.audit.item import shortened, thumbnail
from lightning_normdyn.report.audit.page import as_plain
from lightning_normdyn.retrieval.audit import JudgedQueries, advice, audit_norms, first_line

EVIL = '<script>alert("x")</script> & more'


def audited(*, unit=False, judged=True):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(300, 8, generator=generator)
    vectors /= vectors.norm(dim=1, keepdim=True)
    norms = torch.rand(300, generator=generator) + 0.5
    queries = torch.randn(60, 8, generator=generator)
    best = (queries @ vectors.T * norms).topk(3, dim=1).indices
    pairs = [(query, int(document), 1.0) for query, row in enumerate(best) for document in row]
    if not unit:
        vectors = vectors * norms.unsqueeze(1)
        vectors[4] = 0
    asked = JudgedQueries(queries, Judgements.of(pairs), alphas=(-1.0, 0.0, 0.5, 1.0))
    return audit_norms(
        lambda: [vectors],
        300,
        length=torch.arange(300.0),
        covariates={"a <very> long name of a covariate": norms, "unknown": torch.full((300,), math.nan)},
        groups={"source": ["first & best" if place % 3 else "rest" for place in range(300)]},
        judged_queries=asked if judged else None,
        extremes=4,
    )


def written(folder, audit, items=None):
    subject = AuditSubject("a <name>", ["of a file"], ["note & more"], items or {})
    page = write_audit(folder, audit, subject)
    assert sorted(file.name for file in folder.iterdir()) == ["audit.html", "audit.json"]
    return page.read_text(encoding="utf-8"), json.loads((folder / "audit.json").read_text(encoding="utf-8"))


class Tags(HTMLParser):
    VOID = ("meta", "img", "br", "link")

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def tags(page):
    parser = Tags()
    parser.feed(page)
    assert not parser.open
    return parser.seen


def test_the_page_loads_nothing_and_runs_nothing(tmp_path):
    audit = audited()
    picture = thumbnail(Image.new("RGB", (400, 100), (255, 0, 0)))
    items = {row: Item(f"id {row}", EVIL, picture if row == audit.longest[0] else "") for row in audit.longest}
    page, _ = written(tmp_path / "new" / "folder", audit, items)
    seen = tags(page)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    loads = [value for _, one in seen for name, value in one.items() if name in ("src", "href", "xlink:href")]
    assert all(value.startswith(("data:image/", "https://arxiv.org/", "#")) for value in loads)
    assert sum(tag == "svg" for tag, _ in seen) == 8
    ids = [one["id"] for _, one in seen if "id" in one]
    assert len(ids) == len(set(ids))
    assert "id 4" not in page  # nobody listed the zero vector by id
    assert "Zero vectors" in page
    assert "row 4" in page


def test_json_says_what_the_page_says(tmp_path):
    audit = audited()
    page, numbers = written(tmp_path / "out", audit)
    assert numbers["finding"] == first_line(audit)
    assert numbers["advice"] == advice(audit)
    plain = re.sub(r"<[^>]+>", "", page).replace("&#x27;", "'").replace("&amp;", "&")
    assert numbers["finding"] in plain
    assert numbers["advice"] in plain
    assert numbers["ranking"]["calibration"]["gain"] == pytest.approx(audit.ranking.calibration.gain.value)
    assert [one["row"] for one in numbers["longest"]] == list(audit.longest)
    assert numbers["longest"][0]["norm"] == pytest.approx(float(audit.norms.max()))
    assert numbers["correlations"]["unknown"]["r"] is None
    assert "norms" not in numbers


def test_with_nothing_to_find_the_page_says_so_first(tmp_path):
    page, numbers = written(tmp_path, audited(unit=True))
    lead = re.search(r'class="lead">([^<]*)', page)
    assert lead
    assert lead[1].startswith("The vectors are already of length one: there is nothing to find")
    assert numbers["ranking"] is None
    assert sum(tag == "svg" for tag, _ in tags(page)) == 2


def of_norms(norms, **given):
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(len(norms), 8, generator=generator)
    vectors *= (norms / vectors.norm(dim=1)).unsqueeze(1)
    return audit_norms(lambda: [vectors], len(norms), extremes=4, **given)


def test_a_page_without_texts_does_not_say_so_of_each_item(tmp_path):
    audit = audited()
    page, _ = written(tmp_path / "none", audit)
    assert "(no text)" not in page
    assert "(empty text)" not in page
    items = {
        row: Item(f"id {row}", "" if row == audit.longest[0] else "words") for row in (*audit.longest, *audit.shortest)
    }
    page, _ = written(tmp_path / "some", audit, items)
    assert page.count("(empty text)") == 1


def test_outliers_are_said_at_the_end_of_the_histogram(tmp_path):
    norms = 1 + 0.1 * torch.randn(3_000, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    norms[:2] = torch.tensor([6.37, 5.9])
    page, numbers = written(tmp_path, of_norms(norms))
    assert "2 above, to 6.37 →" in page
    assert "2 lie above the frame, the largest at 6.37." in page
    assert numbers["distribution"]["above"] == 2
    assert numbers["distribution"]["edges"][-1] < 2


def test_a_sample_is_called_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_normdyn.retrieval.audit.audit._MOST_CORRELATED", 200)
    norms = 1 + torch.rand(300, generator=torch.Generator().manual_seed(0))
    page, numbers = written(tmp_path / "sample", of_norms(norms, covariates={"age": norms.double()}))
    assert page.count("over a random sample of 200 of 300 items") == 2
    assert numbers["correlated_rows"] == 200
    monkeypatch.undo()
    page, _ = written(tmp_path / "all", of_norms(norms, covariates={"age": norms.double()}))
    assert "random sample" not in page


def test_near_dead_vectors_are_listed(tmp_path):
    norms = torch.ones(300) + torch.rand(300, generator=torch.Generator().manual_seed(0))
    norms[[7, 9]] = 6e-18
    page, numbers = written(tmp_path, of_norms(norms), {7: Item("seven"), 9: Item("nine")})
    assert "<h2>Near-dead vectors</h2>" in page
    assert "2 in all: seven, nine." in page
    assert [one["id"] for one in numbers["near_dead"]] == ["seven", "nine"]
    assert numbers["distribution"]["near_dead"] == 2


def test_the_headline_is_not_read_twice(tmp_path):
    for name, audit in (("judged", audited()), ("not", audited(judged=False))):
        page, numbers = written(tmp_path / name, audit)
        assert html.unescape(re.sub(r"<[^>]+>", "", page)).count(numbers["finding"]) == 1


def test_without_judgements_there_is_no_ranking(tmp_path):
    page, numbers = written(tmp_path, audited(judged=False))
    assert numbers["ranking"] is None
    assert "exponent of the norm" not in page
    assert sum(tag == "svg" for tag, _ in tags(page)) == 4


def test_a_thumbnail_is_the_picture_made_small():
    data = thumbnail(Image.new("RGBA", (400, 100), (255, 0, 0, 255)))
    with Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))) as small:
        assert small.size == (144, 36)
        assert small.getpixel((50, 20))[0] > 240


def test_texts_are_shown_on_one_line():
    assert shortened("a\n\tb \x00") == "a b �"
    assert shortened("x" * 500) == "x" * 219 + "…"


def test_plain_values_are_those_of_json():
    found = as_plain({"a": (1, [math.nan, 2.0]), "b": torch.tensor([1.0, math.inf]), "c": None, "d": "text", 5: True})
    assert found == {"a": [1, [None, 2.0]], "b": [1.0, None], "c": None, "d": "text", "5": True}
