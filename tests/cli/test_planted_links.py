"""A link that somebody laid where a command writes is never written through."""

from pathlib import Path

import pytest

from lightning_normdyn.cli import configs
from lightning_normdyn.cli.grids.grid import alone_in
from lightning_normdyn.cli.main import main


@pytest.fixture
def victim():
    """A file elsewhere that must stay as it is."""
    file = Path("victim.txt")
    file.write_text("precious")
    yield file
    assert file.read_text() == "precious"


def test_a_copied_config_replaces_a_link(victim):
    Path("out").mkdir()
    Path("out/sts.yaml").symlink_to(victim.absolute())
    configs(name="sts.yaml", out="out", overwrite=True)
    assert not Path("out/sts.yaml").is_symlink()


def test_a_link_that_leads_nowhere_is_in_the_way_too(capsys):
    Path("out").mkdir()
    Path("out/sts.yaml").symlink_to("nowhere")
    assert main(["configs", "sts.yaml", "--out", "out"]) == 2
    assert "'out/sts.yaml' exists already" in capsys.readouterr().err
    assert not Path("out/nowhere").exists()


def test_the_lock_of_a_grid_follows_no_link(victim):
    Path("grid").mkdir()
    Path("grid/.lock").symlink_to(victim.absolute())
    with pytest.raises(ValueError, match=r"'grid/\.lock', which locks the folder"), alone_in(Path("grid")):
        pass


def test_a_lock_that_is_there_keeps_its_place(victim):
    Path("grid").mkdir()
    for _ in range(2):
        with alone_in(Path("grid")):
            assert list(Path("grid").iterdir()) == [Path("grid/.lock")]
