"""Lists in parts: what a change of the inputs touches, and how many processes make them."""

import json
from pathlib import Path

import polars as pl
import pytest

from recsys.errors import InputError
from recsys.recommend.run import run_stage
from recsys.shards import Parts


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "DONE"}


@pytest.fixture
def made(monkeypatch) -> list[int]:
    """Numbers of the parts that are written from now on."""
    numbers, written = [], Parts.write
    monkeypatch.setattr(Parts, "write", lambda *call, **more: (numbers.append(call[1]), written(*call, **more)))
    return numbers


def copied(journey, tmp_path: Path, table: str, change) -> str:
    """The option that serves the journey's tables with one of them changed."""
    folder = tmp_path / "tables"
    folder.mkdir(exist_ok=True)
    for path in (journey.folder / "tables").iterdir():
        frame = pl.read_parquet(path)
        (change(frame) if path.stem == table else frame).write_parquet(folder / path.name)
    return f"--data.root={folder}"


def first_rows(user: str, column: str, value: object):
    """Changes a column in the first row of a user."""
    mine = (pl.col("user_id") == user) & (pl.col("user_id").cum_count() == 1).over("user_id")
    return lambda frame: frame.with_columns(pl.when(mine).then(pl.lit(value)).otherwise(pl.col(column)).alias(column))


@pytest.mark.parametrize(
    ("table", "change", "parts"),
    [
        ("users", first_rows("u020", "age", "18-24x"), [1]),
        ("interactions", first_rows("u020", "item_id", "i001"), [1]),
        ("interactions", first_rows("u039", "page", "elsewhere"), [2]),
        ("reviews", lambda frame: frame, []),
    ],
)
def test_a_changed_row_redoes_the_part_that_it_touches(journey, tmp_path, made, table, change, parts):
    run_stage("recommend", journey.infer(copied(journey, tmp_path, "", None), output=tmp_path))
    made.clear()
    option = copied(journey, tmp_path, table, change)
    folder = run_stage("recommend", journey.infer(option, output=tmp_path))
    assert made == parts
    whole = run_stage("recommend", journey.infer(option, output=tmp_path / "anew"))
    assert contents(folder) == contents(whole)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--candidates=15"], "candidates"),
        (["--decision.top=7"], "decision"),
        (["--pruner=null"], "models"),
        (["--threads=2"], "threads"),
        (["--part=8"], "part"),
        (["--data.history.until=test"], "history"),
        (["--vectors=float16"], "vectors"),
    ],
)
def test_what_all_parts_depend_on_is_named_when_it_differs(journey, tmp_path, options, named):
    run_stage("recommend", journey.infer(output=tmp_path))
    with pytest.raises(InputError, match=rf"made from other inputs: not the same .*{named}"):
        run_stage("recommend", journey.infer(*options, output=tmp_path))


def test_a_changed_item_is_another_catalogue(journey, tmp_path):
    run_stage("recommend", journey.infer(copied(journey, tmp_path, "", None), output=tmp_path))
    option = copied(journey, tmp_path, "items", lambda frame: frame.with_columns(price=pl.col("price") + 1))
    with pytest.raises(InputError, match="not the same items"):
        run_stage("recommend", journey.infer(option, output=tmp_path))


def test_workers_write_what_one_process_writes(journey, tmp_path):
    whole = run_stage("recommend", journey.infer(output=tmp_path / "one"))
    shared = run_stage("recommend", journey.infer("--workers=2", output=tmp_path / "two"))
    assert contents(shared) == contents(whole)
    expected, found = (json.loads((folder.parent / "results.json").read_text()) for folder in (whole, shared))
    assert [one["metrics"] for one in expected["stages"]] == [one["metrics"] for one in found["stages"]]
    assert [one["recall"] for one in expected["cascade"]["valid"]] == [
        one["recall"] for one in found["cascade"]["valid"]
    ]


def test_queries_are_shared_by_workers_too(journey, tmp_path):
    whole = run_stage("search", journey.infer("--part=8", output=tmp_path / "one"))
    shared = run_stage("search", journey.infer("--part=8", "--workers=2", output=tmp_path / "two"))
    assert contents(shared) == contents(whole)


def test_workers_and_shards_do_not_go_together(journey, tmp_path):
    with pytest.raises(InputError, match=r"workers is 2 and shard 1/2; set one of them"):
        journey.infer("--workers=2", "--shard=1/2", output=tmp_path)
    with pytest.raises(InputError, match="'mine' is not cut into shards; start it without --workers=2"):
        run_stage("mine", journey.infer("--workers=2", output=tmp_path))
