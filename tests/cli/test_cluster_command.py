"""``normdyn cluster``: what it prints and writes, and how it reads labels."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_normdyn.cli import cluster
from lightning_normdyn.cli.main import main
from lightning_normdyn.retrieval import compare_clusterings

pytest.importorskip("faiss")
LABELS = torch.arange(120) % 4
QUICK = ["--seeds", "3", "--restarts", "1", "--exponents", "-1", "2"]


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = torch.Generator().manual_seed(0)
    embeddings = torch.eye(4, 8)[LABELS] + 0.4 * torch.randn(120, 8, generator=draw)
    embeddings *= torch.exp(torch.randn(120, 1, generator=draw))
    np.save("x.npy", embeddings.numpy())
    Path("labels.txt").write_text("".join(f"class {label}\n" for label in LABELS))
    np.savez("ids.npz", embeddings=embeddings.flip(0).numpy(), ids=np.array([f"item{row}" for row in range(120)][::-1]))
    rows = "".join(f"item{row}\tclass {label}\t{row % 2}\n" for row, label in enumerate(LABELS))
    Path("labels.tsv").write_text(f"id\tclass\tother\nunknown\tclass 9\t1\n{rows}")
    return embeddings


def test_files_and_words_hold_what_python_computes(files, capsys):
    words = ["cluster", "--embeddings", "x.npy", "--labels", "labels.txt", *QUICK, "--engine", "faiss"]
    assert main(words) == 0
    printed = " ".join(capsys.readouterr().out.split())
    expected = compare_clusterings(files, LABELS, exponents=[-1.0, 2.0], engine="faiss", seeds=3, restarts=1)
    numbers = json.loads(Path("clusters/clusters.json").read_text())
    assert expected.sentence in printed
    assert numbers["finding"] == expected.sentence
    assert numbers["significant"] is expected.significant
    assert [score["v_measure"] for score in numbers["scores"]] == [score.v_measure for score in expected.scores]
    assert [score["gain"] for score in numbers["scores"]] == [score.gain._asdict() for score in expected.scores]
    assert (numbers["clusters"], numbers["items"], numbers["engine"]) == (4, 120, "faiss")
    page = Path("clusters/clusters.html").read_text()
    for score in expected.scores:
        assert f"{score.v_measure:.4f}" in page
        assert f"{score.v_measure:.4f}" in printed
        if score.exponent != 0:  # all figures of a table with one minus
            assert "{:+.4f} [{:+.4f}, {:+.4f}]".format(*score.gain).replace("-", "−") in printed
    assert 'aria-label="V-measure gained over spherical k-means, with intervals that hold at once: plain ' in page
    assert "normdyn cluster --embeddings x.npy" in re.sub(r"<[^>]+>", "", page)


def test_labels_go_by_id_and_items_without_one_are_left_out(capsys):
    by_line = cluster(embeddings="x.npy", labels="labels.txt", exponents=[2.0], seeds=2, out="a")
    Path("some.tsv").write_text(re.sub(r"(?m)^item7\t.*\n", "item7\t\t1\n", Path("labels.tsv").read_text()))
    by_id = cluster(embeddings="ids.npz", labels="some.tsv", label_column="class", exponents=[2.0], seeds=2, out="b")
    assert (by_line.comparison.items, by_id.comparison.items) == (120, 119)
    assert by_id.notes == ["1 of 120 items have no label and were left out."]
    assert by_id.comparison.spherical.v_measure == pytest.approx(by_line.comparison.spherical.v_measure, abs=0.1)
    wrong = np.load("x.npy")[::-1]
    np.save("wrong.npy", wrong[torch.randperm(120, generator=torch.Generator().manual_seed(0)).numpy()])
    shuffled = cluster(embeddings="wrong.npy", labels="labels.txt", exponents=[2.0], seeds=2, out="c")
    assert shuffled.comparison.spherical.v_measure < 0.3 < by_id.comparison.spherical.v_measure


def test_an_empty_line_is_an_item_without_a_label_and_shifts_none():
    labels = Path("labels.txt").read_text().splitlines()
    Path("gap.txt").write_text("\n".join(["", *labels[1:7], "", *labels[8:-1], "", "", ""]))
    gap, full = (
        cluster(embeddings="x.npy", labels=f"{name}.txt", exponents=[2.0], seeds=2, out=name)
        for name in ("gap", "labels")
    )
    assert gap.comparison.items == 117
    assert gap.comparison.spherical.v_measure == pytest.approx(full.comparison.spherical.v_measure, abs=0.1)
    Path("named.txt").write_text("\n".join(["class", "", *labels[1:]]))
    with pytest.raises(
        ValueError, match=r"expected a label a line for 120 items, got 121 lines; leave out a line that"
    ):
        cluster(embeddings="x.npy", labels="named.txt", exponents=[2.0], seeds=2, out="b")


def test_a_broken_vector_is_named_by_its_row_in_the_file():
    vectors = np.load("x.npy")
    vectors[100, 1] = np.nan
    np.save("broken.npy", vectors)
    Path("late.txt").write_text("\n".join(["", "", *Path("labels.txt").read_text().splitlines()[2:]]))
    with pytest.raises(ValueError, match=r"broken.npy: expected finite numbers, got NaN or infinity in row 100"):
        cluster(embeddings="broken.npy", labels="late.txt", exponents=[2.0], seeds=2)
    np.save("one.npy", vectors[:1])
    with pytest.raises(ValueError, match=r"embeddings: expected 4 vectors with a direction at least, .* got 1"):
        cluster(embeddings="one.npy", clusters=2, exponents=[2.0], seeds=2)


def test_a_sample_is_said_to_be_one():
    record = cluster(embeddings="x.npy", labels="labels.txt", exponents=[1.0], seeds=2, sample=50)
    assert record.comparison.items == 50
    assert record.notes == ["A random sample of 50 of 120 items; --sample takes more."]


def test_the_advice_is_a_command_that_runs_as_it_stands(capsys):
    """Classes are directions; three items in ten are clean and six times as long."""
    draw = torch.Generator().manual_seed(0)
    labels, is_clean = torch.arange(800) % 20, torch.rand(800, 1, generator=draw) < 0.3
    centers = torch.nn.functional.normalize(torch.randn(20, 64, generator=draw), dim=1)
    noise = torch.where(is_clean, 1.0, 4.0) * torch.randn(800, 64, generator=draw) / 8
    vectors = torch.nn.functional.normalize(centers[labels] + noise, dim=1) * torch.where(is_clean, 6.0, 1.0)
    np.savez("some vectors.npz", other=np.ones((800, 2)), x=vectors.numpy())
    Path("labels of them.txt").write_text("".join(f"{label}\n" for label in labels))
    words = [
        "cluster",
        "--embeddings",
        "some vectors.npz",
        "--column",
        "x",
        "--labels",
        "labels of them.txt",
        *QUICK,
        "--seeds",
        "5",
    ]
    assert main(words) == 0
    numbers = json.loads(Path("clusters/clusters.json").read_text())
    assert numbers["significant"]
    (line,) = re.findall(r"normdyn (export .*? --out folded\.npy)", numbers["advice"])
    assert main(shlex.split(line)) == 0
    assert np.load("folded.npy").shape == (800, 64)


def test_without_labels_and_with_a_page_that_is_there(capsys):
    words = ["cluster", "--embeddings", "x.npy", "--clusters", "4", *QUICK]
    assert main(words) == 0
    assert "Without labels nobody can say" in capsys.readouterr().out
    assert json.loads(Path("clusters/clusters.json").read_text())["scores"][0]["v_measure"] is None
    assert main(words) == 2
    assert "pass --overwrite to replace it" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "clusters: expected how many, for there are no labels"),
        (
            ["--labels", "labels.tsv"],
            "labels.tsv, line 1: expected an id and one label, got class, other; name the lab",
        ),
        (["--labels", "short.txt"], "short.txt: expected a label a line for 120 items, got 1 lines; leave out a line "),
        (["--labels", "strange.tsv"], "strange.tsv: expected rows of items that have embeddings, got none"),
        (["--labels", "twice.tsv"], "twice.tsv, line 2: expected one label an item, got '0' again; keep one of the"),
        (["--labels", "labels.tsv", "--label-column", "no"], "expected a column named 'no', got class, other"),
        (["--label-column", "class"], "label_column: expected --labels with it, got none with 'class'"),
        (["--labels", "empty.txt"], "empty.txt, line 1: expected a label for each item, got an empty file"),
        (["--clusters", "100"], "clusters: expected at most 60, half of the 120 items, got 100"),
        (
            ["--labels", "labels.txt", "--sample", "1"],
            "sample: expected 8 items or more, two for each of 4 clusters, got 1; take more, or leave it out",
        ),
        (["--clusters", "3", "--sample", "5"], "sample: expected 6 items or more, two for each of 3 clusters, got 5"),
        (
            ["--labels", "rare.txt", "--sample", "5"],
            "sample: expected items of two classes or more, got 5 of 'b' alone; take more",
        ),
        (["--clusters", "3", "--seeds", "1"], "seeds: expected a whole number, 2 or more, got 1"),
        (["--clusters", "3", "--exponents", "0"], "exponents: expected one beside 0 at least"),
        (["--clusters", "3", "--engine", "cuml"], "engine"),
    ],
)
def test_refusals_are_one_sentence_and_nothing_is_written(words, message, capsys):
    Path("short.txt").write_text("a\n")
    Path("strange.tsv").write_text("id\tclass\nx\ta\n")
    Path("twice.tsv").write_text("0\ta\n0\tb\n")
    Path("empty.txt").write_text("")
    Path("rare.txt").write_text("a\n" + "b\n" * 119)
    assert main(["cluster", "--embeddings", "x.npy", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not Path("clusters").exists()
