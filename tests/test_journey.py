"""From a stranger's CSV files to his recommendations by a YAML alone; broken off and gone on; refused in a sentence.

The tables have string ids (some that look like numbers), columns under names of their own, `position` as the order, no
users and no pictures.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from recsys.cli import main

ROOT = Path(__file__).parents[1]
FILMS, VIEWERS = 40, 30


def write_films(folder: Path) -> None:
    """items.csv and interactions.csv: viewers who go from a film to the next but two."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    words = np.array(["night", "river", "clock", "garden", "winter", "letter"])
    ids = [f"{film:04d}" for film in range(FILMS)]
    items = {
        "film": ids, "name": [f"The {words[film % 6]} {film}" for film in range(FILMS)],
        "plot": [" ".join(rng.choice(words, 4)) for _ in range(FILMS)],
        "genre": ["drama", "crime; drama"] * (FILMS // 2), "minutes": [90.0, None] * (FILMS // 2),
    }  # fmt: skip
    start = rng.integers(0, FILMS, VIEWERS)
    rows = [(f"viewer-{v}", ids[(start[v] + 3 * step) % FILMS], step) for v in range(VIEWERS) for step in range(9)]
    pl.DataFrame(items).write_csv(folder / "items.csv")
    pl.DataFrame(rows, schema=["viewer", "film", "position"], orient="row").write_csv(folder / "interactions.csv")


def write_configs(folder: Path) -> dict[str, str]:
    """The three YAML files that such a user writes; returns their paths."""
    data = {
        "root": f"{folder}/films", "cache": f"{folder}/cache",
        "items": {
            "id": "film", "text": ["name", "plot"], "category": ["genre"], "number": ["minutes"],
            "separators": {"genre": "; "},
        },
        "interactions": {"user": "viewer", "item": "film", "order": "position"},
        "split": {"by": "last", "second": 1}, "history": {"max_items": 8},
    }  # fmt: skip
    text = {"model": "config:", "mode": "full", "max_tokens": 12, "layers": 1, "width": 16, "heads": 2, "vocab": 200}
    trained = {
        "loader": {"batch_size": 8}, "optim": {"epochs": 1, "lr": 0.01},
        "trainer": {"threads": 1, "accelerator": "cpu"},
    }  # fmt: skip
    shared = {"runs": f"{folder}/runs", "data": data}
    configs = {
        "retriever": {
            **shared, **trained, "name": "films", "negatives": {"kind": "batch", "random": 16},
            "model": {"text": text, "width": 16, "history": {"layers": 1, "heads": 2}},
        },
        "pruner": {
            **shared, **trained, "name": "films_pruner", "candidates": f"{folder}/runs/films/candidates",
            "model": {"text": None, "width": 16, "layers": 1, "heads": 2, "history": 5},
        },
        "infer": {
            **shared, "name": "films", "retriever": f"{folder}/runs/films", "pruner": f"{folder}/runs/films_pruner",
            "candidates": 12, "decision": {"top": 5}, "part": 8, "threads": 1, "samples": 2,
        },
    }  # fmt: skip
    for task, values in configs.items():
        (folder / f"{task}.yaml").write_text(yaml.safe_dump({"task": task, **values}))
    return {task: str(folder / f"{task}.yaml") for task in configs}


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """The whole journey: validate, train, candidates, train, recommend, report."""
    folder = tmp_path_factory.mktemp("films")
    write_films(folder / "films")
    config = write_configs(folder)
    for command in (
        ["validate", config["retriever"]], ["train", config["retriever"]], ["infer", "candidates", config["infer"]],
        ["train", config["pruner"]], ["infer", "recommend", config["infer"], "--data.history.until=valid"],
        ["report", f"{folder}/runs/films"],
    ):  # fmt: skip
        assert main(command) == 0, command
    return folder


def lists(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(sorted(folder.glob("part-*.parquet")))


def contents(folder: Path) -> dict[str, bytes]:
    """All that an output holds, but for how long it took."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "DONE"}


def test_a_yaml_alone_runs_the_whole_journey_on_a_strangers_tables(films):
    found = lists(films / "runs/films/recommendations")
    assert found.columns == ["user_id", "rank", "item_id", "score", "retriever_score", "pruner_score", "basis"]
    assert found["user_id"].unique().sort().to_list() == sorted(f"viewer-{viewer}" for viewer in range(VIEWERS))
    assert found.group_by("user_id").len()["len"].unique().to_list() == [5]
    assert set(found["item_id"]) <= {f"{film:04d}" for film in range(FILMS)}
    assert (films / "runs/films/report.html").read_text().lstrip().startswith("<!doctype html>")


def test_nobody_is_recommended_what_he_had_before(films):
    found = lists(films / "runs/films/recommendations").select(viewer="user_id", film="item_id")
    had = pl.read_csv(films / "films/interactions.csv", infer_schema=False).filter(pl.col("position").cast(int) < 7)
    assert found.join(had, on=["viewer", "film"]).is_empty()


def test_the_stages_stand_side_by_side(films):
    stages = json.loads((films / "runs/films/results.json").read_text())["stages"]
    assert [stage["name"] for stage in stages] == ["popularity", "Markov", "retriever", "pruner", "pruned lists"]
    assert all(stage["metrics"]["queries"] == VIEWERS for stage in stages)


KILLED = """
import os, signal, sys
from recsys.cli import main
from recsys.shards import Parts

write = Parts.write

def write_one_and_die(parts, number, frame, inputs):
    if number:
        parts.path(number).with_name(f".{parts.path(number).name}.tmp").write_bytes(b"half a part")
        os.kill(os.getpid(), signal.SIGKILL)
    write(parts, number, frame, inputs)

Parts.write = write_one_and_die
main(sys.argv[1:])
"""


def test_a_run_that_was_killed_goes_on_and_its_output_is_identical(films, tmp_path):
    command = ["infer", "recommend", str(films / "infer.yaml"), f"--runs={tmp_path}"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *command], cwd=ROOT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    folder = tmp_path / "films/recommendations"
    assert [path.name for path in folder.glob("part-*.parquet")] == ["part-00000.parquet"]
    first = (folder / "part-00000.parquet").stat()
    assert main(command) == 0
    assert (folder / "part-00000.parquet").stat().st_mtime_ns == first.st_mtime_ns
    assert main([*command, f"--output={tmp_path}/whole"]) == 0
    left = {name: content for name, content in contents(folder).items() if not name.startswith(".")}
    assert left == contents(tmp_path / "whole")


def broken(films: Path, folder: Path, table: str, change: pl.Expr | None) -> str:
    """The option that points to a copy of the films in which a table is changed, or emptied."""
    shutil.copytree(films / "films", folder / "films")
    frame = pl.read_csv(folder / f"films/{table}.csv", infer_schema=False)
    frame = frame.clear() if change is None else frame.with_columns(change)
    frame.write_csv(folder / f"films/{table}.csv")
    return f"--data.root={folder}/films"


@pytest.mark.parametrize(
    ("table", "change", "sentence"),
    [
        ("items", None, "items"),
        ("interactions", None, "interactions"),
        ("items", pl.lit("NaN").alias("minutes"), "minutes"),
        ("items", pl.lit("0001").alias("film"), "film"),
        ("items", pl.col("name").alias("title"), ""),
        ("interactions", pl.lit("9999").alias("film"), "film"),
        ("interactions", pl.lit(None).alias("viewer"), "viewer"),
        ("interactions", pl.lit("soon").alias("position"), "position"),
    ],
)
def test_bad_tables_are_named_in_a_sentence_and_nothing_is_written(films, tmp_path, capsys, table, change, sentence):
    option = broken(films, tmp_path, table, change)
    code = main(["train", str(films / "retriever.yaml"), f"--runs={tmp_path}/runs", option, "--optim.epochs=1"])
    if not sentence:  # a column that nobody named does no harm
        assert code == 0
        return
    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("recsys: ")
    assert sentence in said
    assert table in said
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["infer", "recommend", "infer", "--retriever=nowhere"], "nowhere/model is no model folder"),
        (["infer", "recommend", "infer", "--pruner={runs}/films"], "kind 'retriever'"),
        (["infer", "recommend", "infer", "--retriever={runs}/films_pruner"], "kind 'pruner'"),
        (["infer", "recommend", "infer", "--data.items.text=[title]"], "title"),
        (["infer", "recommend", "infer", "--data.items.number=[]"], "trained with data.items.number: ['minutes']"),
        (["infer", "search", "infer"], "needs a queries table"),
        (["infer", "search", "infer", "--data.tables.queries=nowhere.csv"], "nowhere.csv"),
        (["train", "pruner", "--candidates=nowhere"], "nowhere is no folder of candidates"),
        (["train", "pruner", "--data.split.second=2"], "made from other tables or roles"),
        (["train", "retriever", "--model.text.model=./nowhere", "--model.text.mode=frozen"], "nowhere"),
        (["train", "retriever", "--runs={runs}"], "holds a finished run"),
        (["train", "retriever", "--resume=true"], "Nothing to resume"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence_and_nothing_is_written(
    films, tmp_path, capsys, arguments, sentence
):
    place = len(arguments) - sum(argument.startswith("--") for argument in arguments)
    command = [*arguments[: place - 1], str(films / f"{arguments[place - 1]}.yaml"), f"--runs={tmp_path}"]
    before = {path: path.stat().st_mtime_ns for path in (films / "runs").rglob("*")}
    assert main([*command, *(option.replace("{runs}", f"{films}/runs") for option in arguments[place:])]) == 2
    said = capsys.readouterr().err
    assert said.startswith("recsys: ")
    assert sentence in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())
    assert {path: path.stat().st_mtime_ns for path in (films / "runs").rglob("*")} == before


def test_a_full_disk_is_one_sentence(films, tmp_path, capsys, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    assert main(["infer", "recommend", str(films / "infer.yaml"), f"--runs={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("recsys: Cannot write ")
    assert "No space left on device. Free some space" in said
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


SMALL_DISK = """
import resource, sys
from recsys.cli import main

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
code = main(sys.argv[1:])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sys.exit(code)
"""


def test_a_disk_that_fills_up_in_training_is_one_sentence_and_no_model_is_left(films, tmp_path):
    command = ["train", str(films / "retriever.yaml"), f"--runs={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-c", SMALL_DISK, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "recsys: Cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "films/model").exists()


def test_no_user_is_named_outside_of_the_lists_unless_asked_for(films, capsys):
    run, told = films / "runs/films", []
    for path in (path for folder in ("films", "films_pruner") for path in (films / "runs" / folder).rglob("*")):
        if path.suffix in (".json", ".jsonl", ".yaml", ".html", ".txt") and path.name != "samples.json":
            told.append(path.read_text())
    assert len(told) > 10
    assert not any("viewer-" in text for text in told)
    capsys.readouterr()
    assert main(["report", str(run), "--show_ids"]) == 0
    assert "viewer-" not in "".join(capsys.readouterr())
    assert "viewer-" in (run / "report.html").read_text()
