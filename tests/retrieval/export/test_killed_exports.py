"""What a killed export leaves is cleared by the next to that place, with a sentence, and nothing else is touched."""

from __future__ import annotations

import os
import shutil
import signal
import warnings
from pathlib import Path

import pytest

from lightning_normdyn.file_lock import FileLock
from lightning_normdyn.retrieval.indexes.staged_path import StagedPath


def staged(place, text, **options):
    output = StagedPath(place, overwrite=True, **options)
    output.path.mkdir() if options else None
    (output.path / "data" if options else output.path).write_text(text)
    return output


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_leftovers_are_cleared_and_said(tmp_path):
    place = tmp_path / "vectors.npy"
    killed, at_work = staged(place, "half"), staged(place, "more")
    killed._lock.release()
    others = tmp_path / ".vectors.npy-backup"
    others.mkdir()
    with pytest.warns(UserWarning, match=f"an export to '{place}' was killed; '{killed._folder.name}', which it left"):
        staged(place, "whole").publish()
    assert place.read_text() == "whole"
    assert names(tmp_path) == sorted([others.name, at_work._folder.name, "vectors.npy"])
    at_work.publish()
    assert place.read_text() == "more"


def test_a_folder_that_a_killed_export_had_moved_away_comes_back(tmp_path, monkeypatch):
    """Between moving the old folder aside and the new one in there is no folder at its place."""
    place = tmp_path / "docs.lance"
    staged(place, "old", folder=True).publish()
    killed = staged(place, "new", folder=True)
    place.rename(killed._folder / "docs.lance.old")
    killed._lock.release()
    with pytest.warns(UserWarning, match="was killed"):
        refused = staged(place, "newer", folder=True)
    assert (place / "data").read_text() == "old"
    refused.discard()
    assert names(tmp_path) == ["docs.lance"]


def test_ids_and_vectors_of_two_exports_never_lie_side_by_side(tmp_path, monkeypatch):
    place = tmp_path / "vectors.npy"
    for text in ("old", "new"):
        output = staged(place, text)
        output.path.with_name("vectors.npy.ids.txt").write_text(text)
        if text == "new":
            moves = []
            real = type(place).replace

            def dies_after_one(self, target, real=real, moves=moves):
                if moves:
                    raise KeyboardInterrupt
                moves.append(real(self, target))

            monkeypatch.setattr(type(place), "replace", dies_after_one)
            with pytest.raises(KeyboardInterrupt):
                output.publish()
        else:
            output.publish()
    assert (tmp_path / "vectors.npy.ids.txt").read_text() == "new"
    assert not place.exists()


def killed_before_move(number, work):
    """Does work in a copy of this process that is killed right before so many moves and removals; whether it was."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    moves = []

    def counted(real):
        def move(*arguments, **options):
            moves.append(real)
            if len(moves) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return move

    for name in ("replace", "rename", "unlink"):
        setattr(Path, name, counted(getattr(Path, name)))
    shutil.rmtree = counted(shutil.rmtree)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        work()
    os._exit(0)


def whole_export(place, text, *, folder):
    """Of a folder, or of a file with ids beside it."""
    if folder:
        staged(place, text, folder=True).publish()
        return
    output = staged(place, text)
    output.path.with_name(f"{place.name}.ids.txt").write_text(text)
    output.publish()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed")
@pytest.mark.parametrize("folder", [False, True], ids=["file and ids", "folder"])
def test_killed_before_any_of_its_moves_it_leaves_old_or_new_or_nothing(tmp_path, folder):
    place = tmp_path / "vectors"
    ids = place / "data" if folder else place.with_name("vectors.ids.txt")
    data = place / "data" if folder else place
    for number in range(1, 10):
        whole_export(place, "old", folder=folder)
        was_killed = killed_before_move(number, lambda: whole_export(place, "new", folder=folder))
        if data.exists():  # what may be read is whole
            assert (data.read_text(), ids.read_text()) in [("old", "old"), ("new", "new")]
        if not was_killed:
            break
        if names(tmp_path) != names_of_export(folder):
            with pytest.warns(UserWarning, match="was killed"):
                whole_export(place, "next", folder=folder)
        assert names(tmp_path) == names_of_export(folder)
    assert number >= 4
    assert data.read_text() == "new"


def names_of_export(folder):
    return ["vectors"] if folder else ["vectors", "vectors.ids.txt"]


def test_a_lock_is_held_by_one(tmp_path):
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    with first:
        assert not second.acquire()
    assert second.acquire()
    assert not first.acquire()
    second.release()
