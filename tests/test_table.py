"""Rows keep their values through every file, and a half-written file is never a result."""

import dataclasses
import enum
import json
import math
import os
from typing import Any, NamedTuple

import numpy as np
import pytest

from jaxsens.table import (
    COLUMNS,
    Table,
    TableError,
    concatenate,
    config_hash,
    environment,
    read_manifest,
    read_metadata,
    read_rows,
    read_table,
    to_plain,
    write_atomically,
    write_manifest,
    write_rows,
    write_table,
)

ROWS = [
    {"cell": "a", "seed": 0, "test_loss": 0.1, "family": 'say "hi",\nthere', "diverged": False, "epoch": 3},
    {"cell": "a", "seed": 1, "test_loss": 1 / 3, "family": "", "diverged": False, "epoch": None},
    {"cell": "b", "seed": 0, "test_loss": math.nan, "family": None, "diverged": True, "note": "Σ"},
    {"cell": "b", "seed": 1, "test_loss": None, "family": "x", "diverged": None, "extra": 2.0},
    {"cell": "c", "seed": 2**40, "test_loss": math.inf, "family": "x", "diverged": False, "extra": 5e-324},
]


def test_columns_are_ordered_typed_and_completed():
    table = Table.from_rows(ROWS)
    assert table.columns == ("cell", "family", "seed", "test_loss", "diverged", "epoch", "note", "extra")
    known = [name for name in table.columns if name in COLUMNS]
    assert known == sorted(known, key=list(COLUMNS).index)
    assert len(table) == 5
    assert table.rows()[1]["family"] == ""
    assert table.rows()[2]["family"] is None
    assert table.column("seed").dtype == np.int64
    assert np.isnan(table.column("test_loss")[[2, 3]]).all()
    assert np.isnan(table.column("epoch")[1:]).all()


def test_numpy_scalars_and_whole_numbers_become_floats_where_the_column_is_of_floats():
    table = Table.from_rows([{"cell": "a", "test_loss": np.float32(0.5), "scale": 2, "seed": np.int32(3)}])
    assert table.rows() == [{"cell": "a", "scale": 2.0, "seed": 3, "test_loss": 0.5}]
    assert type(table.rows()[0]["scale"]) is float


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"test_loss": "low"}, r"got str in column 'test_loss'; expected float only; convert"),
        ({"seed": True}, r"got bool in column 'seed'; expected int only"),
        ({"seed": 2**70}, r"got a number too large for column 'seed'"),
        ({"test_loss": np.zeros(1)}, r"got a value of type ndarray in column 'test_loss'; .* float\(value\)"),
    ],
)
def test_values_of_another_type_are_refused(row, message):
    with pytest.raises(TableError, match=message):
        Table.from_rows([row])


def test_mixed_extra_column_is_refused():
    with pytest.raises(TableError, match=r"got int and str in column 'new'; expected one type only"):
        Table.from_rows([{"new": 1}, {"new": "one"}])


def test_equality_tells_none_from_nan_and_whole_numbers_from_floats():
    table = Table.from_rows(ROWS)
    assert table == Table.from_rows(ROWS)
    assert table != Table.from_rows(ROWS[::-1])
    assert table != Table.from_rows(ROWS[:4])
    assert Table.from_rows([{"v": math.nan}]) == Table.from_rows([{"v": math.nan}])
    assert Table.from_rows([{"test_loss": None}]) != Table.from_rows([{"test_loss": math.nan}])
    assert Table.from_rows([{"v": 1}]) != Table.from_rows([{"v": 1.0}])
    assert table != "table"


def test_where_cells_and_concatenate():
    table = Table.from_rows(ROWS)
    assert table.cells() == ("a", "b", "c")
    assert table.where(cell="b").column("seed").tolist() == [0, 1]
    assert table.where(cell=("a", "c"), seed=0).rows() == table.rows()[:1]
    assert len(table.where(family=None)) == 1
    parts = [Table.from_rows(ROWS[:2]), Table.from_rows(ROWS[2:])]
    assert concatenate(parts) == table
    assert len(concatenate([])) == 0


def test_unknown_column_names_the_nearest():
    with pytest.raises(TableError, match=r"got column 'test_los'; .* did you mean 'test_loss'\?"):
        Table.from_rows(ROWS).column("test_los")
    with pytest.raises(TableError, match="got column 'cel'"):
        Table.from_rows(ROWS).where(cel="a")


def test_rows_do_not_change_with_what_was_passed():
    rows = [{"cell": "a"}]
    table = Table.from_rows(rows)
    rows[0]["cell"] = "b"
    table.rows()[0]["cell"] = "c"
    assert table.cells() == ("a",)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign"):
        table.arrow = None


def test_aggregate_by_hand():
    losses = {"a": [1.0, 2.0, 6.0, 100.0], "b": [5.0], "c": [7.0]}
    rows = [
        {"cell": c, "family": "F" + c, "seed": i, "test_loss": v, "diverged": v == 100.0 or c == "c"}
        for c, vs in losses.items()
        for i, v in enumerate(vs)
    ]
    rows.append({"cell": "b", "family": "Fb", "seed": 1, "test_loss": math.nan, "diverged": False})
    found = {
        row["cell"]: row
        for row in Table.from_rows(rows).aggregate(values=["test_loss"], keep=["family"]).rows()
    }
    a, b, c = found["a"], found["b"], found["c"]
    assert (a["test_loss_mean"], a["test_loss_min"], a["test_loss_max"]) == (3.0, 1.0, 6.0)
    assert a["test_loss_std"] == pytest.approx(
        math.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 2), rel=1e-15
    )
    assert (a["num_members"], a["num_diverged"], a["test_loss_count"], a["family"]) == (4, 1, 3, "Fa")
    assert (b["test_loss_mean"], b["test_loss_std"], b["test_loss_count"]) == (5.0, None, 1)
    assert (b["num_members"], b["num_diverged"]) == (2, 0)
    assert (c["test_loss_mean"], c["test_loss_count"], c["num_diverged"]) == (None, 0, 1)


def test_aggregate_refuses_text_and_what_varies():
    table = Table.from_rows(ROWS)
    with pytest.raises(TableError, match="got column 'family' without numbers"):
        table.aggregate(values=["family"])
    with pytest.raises(TableError, match="got 2 values of 'seed' within 'a'; expected one"):
        table.aggregate(values=["test_loss"], keep=["seed"])


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_files_give_back_the_very_table(tmp_path, name):
    table = Table.from_rows(ROWS)
    write_table(table, tmp_path / "new" / "folder")
    assert read_table(tmp_path / "new" / "folder" / name) == table
    assert read_table(tmp_path / "new" / "folder") == table


def test_csv_floats_are_exact(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2**63, size=500, dtype=np.uint64).view(np.float64)
    values = [float(v) for v in bits if np.isfinite(v)] + [
        0.1,
        1e22,
        -0.0,
        5e-324,
        1.7976931348623157e308,
        1.0,
    ]
    table = Table.from_rows([{"test_loss": v, "mine": v} for v in values])
    write_table(table, tmp_path)
    back = read_table(tmp_path / "table.csv")
    assert back.column("test_loss").tobytes() == np.array(values).tobytes()
    assert back.column("mine").tobytes() == np.array(values).tobytes()


def test_csv_extra_columns_keep_booleans_and_zeros_apart(tmp_path):
    table = Table.from_rows(
        [{"flag": True, "digit": 1, "none": None}, {"flag": False, "digit": 0, "none": None}]
    )
    write_table(table, tmp_path)
    assert read_table(tmp_path / "table.csv") == table


def test_empty_table_has_files(tmp_path):
    write_table(Table.from_rows([]), tmp_path)
    assert len(read_table(tmp_path)) == 0
    assert len(read_table(tmp_path / "table.csv")) == 0


def test_cell_file_carries_its_metadata(tmp_path):
    table = Table.from_rows(ROWS)
    path = write_rows(table, tmp_path / "cells" / "a.parquet", metadata={"config": "0123", "σ": "ε"})
    assert read_metadata(path) == {"config": "0123", "σ": "ε"}
    assert read_rows(path) == table
    assert read_metadata(write_rows(table, tmp_path / "bare.parquet")) == {}


def test_every_truncation_and_a_flipped_byte_are_refused(tmp_path):
    rows = [{"cell": "a cell of note", "seed": i, "test_loss": i / 7} for i in range(50)]
    path = write_rows(Table.from_rows(rows), tmp_path / "a.parquet", metadata={"config": "x"})
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(
            TableError, match=r"^got a.parquet, cut short or damaged .*; delete it and run again$"
        ):
            read_rows(path)
        with pytest.raises(TableError, match="cut short or damaged"):
            read_metadata(path)
    # Inside a page's data: the file's structure is sound, and only the page's checksum tells.
    flipped = bytearray(whole)
    flipped[whole.index(b"a cell of note")] ^= 1
    path.write_bytes(bytes(flipped))
    with pytest.raises(TableError, match="cut short or damaged"):
        read_rows(path)


def test_missing_and_strange_files_are_refused(tmp_path):
    with pytest.raises(TableError, match=r"got no file .*table.parquet; .*run the experiment first"):
        read_table(tmp_path)
    with pytest.raises(TableError, match=r"got a file named table.json; expected a folder, .parquet or .csv"):
        read_table(tmp_path / "table.json")
    (tmp_path / "bad.csv").write_text('"cell","seed"\n"a",one\n')
    with pytest.raises(TableError, match=r"got bad.csv, cut short or damaged"):
        read_table(tmp_path / "bad.csv")


def test_a_kill_before_the_rename_leaves_the_old_file(tmp_path, monkeypatch):
    old, new = Table.from_rows(ROWS[:1]), Table.from_rows(ROWS)
    path = write_rows(old, tmp_path / "a.parquet")

    def killed(source, target):
        raise KeyboardInterrupt("killed here")

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt, match="killed here"):
        write_rows(new, path)
    monkeypatch.undo()
    assert read_rows(path) == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.parquet"]


def test_temporary_files_of_a_kill_are_never_read(tmp_path):
    # What a SIGKILL leaves behind: half a file under a temporary name.
    table = Table.from_rows(ROWS)
    write_table(table, tmp_path)
    whole = (tmp_path / "table.parquet").read_bytes()
    (tmp_path / ".table.parquet.0123456789ab.tmp").write_bytes(whole[:100])
    assert read_table(tmp_path) == table
    assert not any(path.name.endswith(".tmp") for path in tmp_path.glob("*.parquet"))


def test_written_files_are_readable_by_others(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.write_bytes(b"")
    assert write_atomically(tmp_path / "x", b"1").stat().st_mode == ordinary.stat().st_mode


class Optimiser(enum.Enum):
    SGD = 1
    ADAM = 2


class Pair(NamedTuple):
    mean: float
    std: float


UNIT = Pair(0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Inner:
    widths: tuple[int, ...] = (100, 300)
    rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Config:
    name: str = "fc"
    inner: Inner = Inner()
    optimiser: Optimiser = Optimiser.ADAM
    pair: Pair = UNIT
    depth: int = 3
    bias: bool = True
    stop: float | None = None
    anything: Any = math.inf


def test_hash_is_pinned():
    # A change here makes every finished cell of every user run again.
    assert config_hash(Config()) == "a93ef44739fb6c69"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "cnn"},
        {"inner": Inner(widths=(100, 301))},
        {"inner": Inner(rate=0.1 + 2**-55)},
        {"optimiser": Optimiser.SGD},
        {"pair": Pair(0.0, 2.0)},
        {"depth": 4},
        {"depth": 3.0},
        {"bias": 1},
        {"stop": 0.0},
        {"anything": -math.inf},
        {"anything": "inf"},
    ],
)
def test_hash_moves_with_each_field(change):
    assert config_hash(dataclasses.replace(Config(), **change)) != config_hash(Config())


def test_hash_knows_the_class_and_not_the_order_of_fields():
    fields = [("a", int, 1), ("b", int, 2)]
    one = dataclasses.make_dataclass("One", fields, frozen=True)
    swapped = dataclasses.make_dataclass("One", fields[::-1], frozen=True)
    two = dataclasses.make_dataclass("Two", fields, frozen=True)
    assert config_hash(one()) == config_hash(swapped())
    assert config_hash(one()) != config_hash(two())


def test_plain_form_is_json_and_takes_numpy_scalars():
    plain = to_plain(Config(depth=np.int64(3)))
    assert plain == to_plain(Config())
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["fields"]["inner"] == {"class": "Inner", "fields": {"widths": [100, 300], "rate": 0.1}}
    assert plain["fields"]["optimiser"] == {"enum": "Optimiser.ADAM"}


@pytest.mark.parametrize("value", [math.sin, [1], {"a": 1}, np.zeros(2), object(), Config, {1}])
def test_hash_refuses_what_has_no_fixed_text(value):
    with pytest.raises(
        TableError, match=r"got config.anything\[1\] of type \w+; expected a frozen dataclass"
    ):
        config_hash(Config(anything=(1, value)))


def test_hash_refuses_a_dataclass_that_can_change():
    loose = dataclasses.make_dataclass("Loose", [("a", int, 1)])
    with pytest.raises(TableError, match="got Loose, not frozen"):
        config_hash(loose())


def test_manifest_round_trip_and_refusals(tmp_path):
    manifest = {"b": 1, "a": [1.5, None, {"c": "ü"}]}
    path = write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert path.read_text().startswith('{\n "a": [\n')
    with pytest.raises(TableError, match="got a manifest that JSON cannot hold"):
        write_manifest(tmp_path, {"a": math.nan})
    assert read_manifest(tmp_path) == manifest
    path.write_text(path.read_text()[:10])
    with pytest.raises(TableError, match=r"got manifest.json, damaged"):
        read_manifest(tmp_path)
    path.write_text("[1]")
    with pytest.raises(TableError, match=r"got manifest.json holding a list"):
        read_manifest(tmp_path)
    with pytest.raises(TableError, match=r"got no file .*manifest.json"):
        read_manifest(tmp_path / "none")


def test_environment_says_versions_and_nothing_private():
    found = environment()
    assert found["packages"]["numpy"] == np.__version__
    assert set(found) == {"python", "platform", "packages", "time", "commit", "dirty"}
    assert found["time"].endswith("+00:00")
    assert (found["commit"] is None) == (found["dirty"] is None)
    text = json.dumps(found)
    assert os.uname().nodename not in text
    assert str(os.getcwd()) not in text
