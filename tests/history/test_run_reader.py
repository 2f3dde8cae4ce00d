"""Reading a history, also while it grows: every part once, what is damaged by name, and the rest all the same."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from written_history import end_run, history_of, writer_of

import lightning_normdyn.history.log_reader as module
from lightning_normdyn.history import QUANTITY_SCHEMA, TRAJECTORY, RunWriter, read_run
from lightning_normdyn.history.run_reader import RunReader, find_record


def add(folder: Path, *steps: int, target: str = "t") -> None:
    history = history_of(folder, target)
    for step in steps:
        history.append_rows({"step": [step, step], "row": [3, 1], "norm": [step + 0.5, step + 0.25]})
        history.append_quantities(step, {"norm_mean": float(step), "norm_cv": 0.5})
        history.flush()


def test_lines_come_in_the_order_of_steps_and_rows(tmp_path: Path) -> None:
    add(tmp_path, 2, 1)
    table = read_run(tmp_path)["t"].trajectory()
    assert table.schema.equals(TRAJECTORY)
    assert table.select(["step", "row", "norm"]).to_pylist() == [
        {"step": step, "row": row, "norm": step + plus} for step in (1, 2) for row, plus in ((1, 0.25), (3, 0.5))
    ]
    quantities = read_run(tmp_path)["t"].quantities()
    assert quantities.schema.equals(QUANTITY_SCHEMA)
    assert quantities["quantity"].to_pylist() == ["norm_cv", "norm_mean"] * 2


def test_merging_agrees_with_a_loop_over_lines(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    history, expected = history_of(tmp_path, "t"), {}
    for _ in range(40):
        columns = {"step": rng.integers(0, 5, 8), "row": rng.integers(0, 4, 8)}
        for name in rng.choice(["norm", "mean_norm", "drift"], 2, replace=False):
            columns[name] = rng.random(8).astype(np.float32)
        history.append_rows(columns)
        if rng.random() < 0.3:
            history.flush()
        for line in zip(*columns.values(), strict=True):
            values = dict(zip(columns, (item.item() for item in line), strict=True))
            expected.setdefault((values["step"], values["row"]), {}).update(values)
    history.flush()
    lines = read_run(tmp_path)["t"].trajectory().to_pylist()
    found = [{name: value for name, value in line.items() if value is not None} for line in lines]
    assert found == [expected[key] for key in sorted(expected)]


def test_a_part_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    read_columns = module.read_columns
    monkeypatch.setattr(
        module, "read_columns", lambda part, schema: (opened.append(part.file), read_columns(part, schema))[1]
    )
    add(tmp_path, 1, 2)
    reader = RunReader(find_record(tmp_path))
    for step in (3, 4):
        reader.targets()["t"].trajectory()
        add(tmp_path, step)
        reader.refresh()
    steps = reader.targets()["t"].trajectory()["step"].to_pylist()
    assert len(opened) == len(set(opened)) == 8
    assert steps == read_run(tmp_path)["t"].trajectory()["step"].to_pylist() == [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize(
    "spoil", [lambda part: part.write_bytes(part.read_bytes()[:-9]), lambda part: part.write_text("")]
)
def test_a_damaged_part_is_named_and_the_rest_is_read(tmp_path: Path, spoil) -> None:
    history_of(tmp_path, "t").describe({})
    add(tmp_path, 1, 2, 3)
    part = sorted((tmp_path / "normdyn" / "trajectory").iterdir())[1]
    spoil(part)
    run = read_run(tmp_path)
    with pytest.warns(UserWarning, match=f"history: '{part}' is damaged .* its rows are left out"):
        assert set(run["t"].trajectory()["step"].to_pylist()) == {1, 3}
    assert run["t"].quantities()["step"].to_pylist() == [1, 1, 2, 2, 3, 3]
    reader = RunReader(find_record(tmp_path))
    reader.targets()["t"].trajectory()
    assert len(reader.damaged) == 1
    part.unlink()
    reader.refresh()
    reader.targets()["t"].trajectory()
    assert reader.damaged == []


def test_a_damaged_part_gives_way_to_those_that_it_was_made_of(tmp_path: Path, monkeypatch) -> None:
    add(tmp_path, *range(1, 16))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        add(tmp_path, 16)
    (merged,) = (tmp_path / "normdyn" / "trajectory").glob("part-0000-00000001-00000016-*")
    merged.write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged"):
        assert set(read_run(tmp_path)["t"].trajectory()["step"].to_pylist()) == set(range(1, 17))


def test_damaged_descriptions_cost_the_descriptions_alone(tmp_path: Path) -> None:
    history_of(tmp_path, "t").describe({"lr": 0.5})
    history_of(tmp_path, "t").name_rows({1: "word"})
    add(tmp_path, 1)
    for name, content in (("targets.json", '{"target": '), ("row_names.json", "[]")):
        (tmp_path / "normdyn" / name).write_text(content)
    with pytest.warns(UserWarning, match=r"targets\.json' is damaged"):
        target = read_run(tmp_path)["t"]
    assert target.description() == {}
    with pytest.warns(UserWarning, match=r"row_names\.json' is damaged"):
        assert target.row_names() == {}
    assert len(target.trajectory()) == 2


def test_a_number_that_changed_in_a_description_is_damage(tmp_path: Path) -> None:
    history_of(tmp_path, "t").describe({"lr": 0.5})
    file = tmp_path / "normdyn" / "targets.json"
    file.write_text(file.read_text().replace("0.5", "0.7"))
    add(tmp_path, 1)
    with pytest.warns(UserWarning, match=r"targets\.json' is damaged \(it is not what was written\)"):
        assert read_run(tmp_path)["t"].description() == {}


def test_parts_that_are_put_together_meanwhile_are_read_whole(tmp_path: Path, monkeypatch) -> None:
    add(tmp_path, *range(1, 6))
    reader, real = RunReader(find_record(tmp_path)), module.read_columns

    def seals_first(part, schema):
        monkeypatch.setattr(module, "read_columns", real)
        end_run(tmp_path)
        return real(part, schema)

    monkeypatch.setattr(module, "read_columns", seals_first)
    assert set(reader.targets()["t"].trajectory()["step"].to_pylist()) == set(range(1, 6))


def test_a_folder_without_a_history_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="log_dir: no norm history under"):
        read_run(tmp_path)
    writer_of(tmp_path)
    with pytest.raises(FileNotFoundError, match="log_dir: no norm history under"):
        read_run(tmp_path)


def test_a_target_without_rows_reads_as_empty(tmp_path: Path) -> None:
    history_of(tmp_path, "encoder").describe({"kind": "output"})
    target = read_run(tmp_path)["encoder"]
    assert target.trajectory().equals(TRAJECTORY.empty_table())
    assert target.quantities().num_rows == 0
    assert target.description() == {"target": "encoder", "kind": "output"}


def test_foreign_files_do_no_harm(tmp_path: Path) -> None:
    add(tmp_path, 1)
    (tmp_path / "normdyn" / "trajectory" / "part-00000001 (copy).parquet").write_bytes(b"")
    (tmp_path / "normdyn" / "notes.txt").write_text("mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_run(tmp_path)["t"].trajectory()) == 2


def contents(reader: RunReader) -> dict[str, tuple[list, list]]:
    return {
        name: (target.trajectory().to_pylist(), target.quantities().to_pylist())
        for name, target in reader.targets().items()
    }


def damage(folder: Path, rng: np.random.Generator) -> None:
    parts = sorted((folder / "normdyn").glob("*/part-*"))
    part = parts[rng.integers(len(parts))]
    part.write_bytes(part.read_bytes()[1:])


@pytest.mark.parametrize("seed", range(3))
def test_a_reader_that_is_refreshed_reads_what_a_new_one_does(tmp_path: Path, monkeypatch, seed: int) -> None:
    """However parts are added, put together, damaged and removed, and runs resumed from any branch, in between."""
    monkeypatch.setattr("lightning_normdyn.history.part_log._FAN_IN", 3)
    rng, step, bookmarks = np.random.default_rng(seed), 0, []
    writer = RunWriter(tmp_path)
    writer.begin({"a": 0, "b": 0})
    reader = RunReader(find_record(tmp_path))
    for _ in range(60):
        kind = rng.choice(["write", "resume", "damage", "remove"], p=[0.8, 0.1, 0.05, 0.05])
        if kind == "write" or step < 3:
            step += 1
            for target in rng.permutation(["b", "a"])[: rng.integers(1, 3)]:
                norms = rng.random(2).astype(np.float32)
                writer.target(str(target)).append_rows({"step": [step] * 2, "row": [1, 0], "norm": norms})
                writer.target(str(target)).append_quantities(step, {"norm_mean": float(norms.mean())})
            writer.flush()
            bookmarks.append((writer.bookmark, step))
        elif kind == "resume":
            writer.end()
            bookmark, step = bookmarks[rng.integers(len(bookmarks))]
            writer = RunWriter(tmp_path)
            writer.begin({"a": step, "b": step}, bookmark)
        elif kind == "damage":
            damage(tmp_path, rng)
            reader = RunReader(find_record(tmp_path))  # what was read before it is kept
        else:
            parts = sorted((tmp_path / "normdyn").glob("*/part-*"))
            parts[rng.integers(len(parts))].unlink()
        if rng.random() < 0.6:
            reader.refresh()
            fresh = RunReader(find_record(tmp_path))
            assert contents(reader) == contents(fresh)
            assert sorted(reader.damaged) == sorted(fresh.damaged)
    writer.end()
