"""No password of a URL or a connection string is printed, whichever option it stands in and however it is refused."""

import pytest

from lightning_normdyn.cli.commands import command
from lightning_normdyn.cli.main import main
from lightning_normdyn.passwords import without_passwords
from lightning_normdyn.retrieval.indexes import TARGETS, Destination

URL = "postgresql://me:hush@localhost:9/x"


@pytest.mark.parametrize(
    "words",
    [
        ["export", "--embeddings", "x.npy", "--to", "npy", "--out", URL],
        ["export", "--embeddings", "x.npy", "--to", "nope", "--out", URL],
        ["export", "--embeddings", "x.npy", "--to", "npy", "--outt", URL],
        ["export", "--embeddings", URL, "--to", "npy", "--out", "x.npy"],
        ["export", "--embeddings", "x.npy", "--to", "pgvector", "--out", "host=a password=hush", "extra"],
        ["audit", "--embeddings", URL],
        ["report", URL],
        ["fit", "--config", URL],
        ["fit", "--config", "sts.yaml", f"--trainer.logger.tracking_uri={URL}"],
        ["fit", "--config", "sts.yaml", f"--data.batch_size={URL}"],
    ],
)
def test_no_error_of_a_command_prints_one(words, capsys):
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("normdyn: ")
    assert "hush" not in printed.out + printed.err


@pytest.mark.parametrize("target", TARGETS)
def test_nor_does_the_place_of_an_export(target):
    assert "hush" not in TARGETS[target].place_of(Destination(URL, "docs"))


def test_nor_does_a_page_that_names_its_command():
    line = f"normdyn grid --config sts.yaml --trainer.logger.tracking_uri {URL}"
    token = command._running_command.set(line)
    try:
        assert command.running_command() == line.replace("hush", "***")
    finally:
        command._running_command.reset(token)


@pytest.mark.parametrize(
    "text",
    [
        "see https://docs.pytorch.org/docs/main/notes.html for more",
        "model:lr expected a number, got 3@5",
        "argument --out: 'a/b:c.npy' exists already",
        "postgresql://me@localhost/x",
        "temperature=0.05",
    ],
)
def test_what_has_no_password_stays_as_it_is(text):
    assert without_passwords(text) == text
