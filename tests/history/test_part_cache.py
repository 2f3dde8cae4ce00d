"""Reading a history that grows: every part once, what is damaged by name, and the rest as read_parts has it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from lightning_normdyn.history import ParquetLog, TargetHistory, read_parts, read_run
from lightning_normdyn.history.part_cache import PartCache

SCHEMA = pa.schema([("step", pa.int64()), ("norm", pa.float32())])


def write_parts(folder: Path, steps: range) -> ParquetLog:
    log = ParquetLog(folder, SCHEMA)
    for step in steps:
        log.append({"step": [step] * 500, "norm": [float(row % 97) for row in range(500)]})
        log.flush()
    return log


def spoil_data(part: Path) -> None:
    """Overwrites pages and leaves the footer whole, so that the part opens and cannot be unpacked."""
    content = bytearray(part.read_bytes())
    content[30 : len(content) // 3] = bytes(len(content) // 3 - 30)
    part.write_bytes(content)


def test_it_reads_what_read_parts_reads(tmp_path: Path) -> None:
    cache = PartCache()
    assert cache.read(tmp_path, SCHEMA).equals(SCHEMA.empty_table())
    for steps in (range(3), range(3, 5)):
        write_parts(tmp_path, steps)
        assert cache.read(tmp_path, SCHEMA).equals(read_parts(tmp_path, SCHEMA))


def test_a_part_is_read_once_and_again_if_it_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning_normdyn.history.part_cache as module

    opened: list[str] = []
    read_part = module.read_part
    monkeypatch.setattr(
        module, "read_part", lambda part, schema: (opened.append(part.name), read_part(part, schema))[1]
    )
    cache = PartCache()
    for steps in (range(2), range(2, 3), range(0)):
        write_parts(tmp_path, steps)
        cache.read(tmp_path, SCHEMA)
    assert opened == [f"part-{number:08d}.parquet" for number in (1, 2, 3)]
    (tmp_path / opened[0]).unlink()  # somebody clears the folder, and another run begins there
    write_parts(tmp_path / "new", range(7, 8)).folder.joinpath(opened[0]).replace(tmp_path / opened[0])
    assert cache.read(tmp_path, SCHEMA).equals(read_parts(tmp_path, SCHEMA))


@pytest.mark.parametrize("spoil", [lambda part: part.write_bytes(part.read_bytes()[:-9]), spoil_data])
def test_a_damaged_part_is_named_and_the_rest_is_read(tmp_path: Path, spoil) -> None:
    write_parts(tmp_path, range(3))
    part = tmp_path / "part-00000002.parquet"
    spoil(part)
    cache = PartCache()
    assert set(cache.read(tmp_path, SCHEMA)["step"].to_pylist()) == {0, 2}
    assert list(cache.damaged) == [part]
    with pytest.raises(ValueError, match=f"history: '{part}' is damaged") as refusal:
        read_parts(tmp_path, SCHEMA)
    assert cache.damaged[part] == str(refusal.value)
    part.unlink()
    cache.read(tmp_path, SCHEMA)
    assert cache.damaged == {}


def test_a_run_is_read_through_it(tmp_path: Path) -> None:
    history = TargetHistory(tmp_path / "normdyn" / "t")
    history.describe({"target": "t"})
    history.trajectory_log.append({"step": [1], "row": [0], "norm": [2.0]})
    history.append_quantities(1, {"norm_mean": 2.0})
    history.flush()
    (tmp_path / "normdyn" / "t" / "trajectory" / "part-00000002.parquet").write_bytes(b"torn")
    cache = PartCache()
    target = read_run(tmp_path, read=cache.read)["t"]
    assert target.trajectory()["norm"].to_pylist() == [2.0]
    assert target.quantities()["value"].to_pylist() == [2.0]
    assert len(cache.damaged) == 1
