"""The inference stages: whom they serve, what they write, what they refuse, and how they go on."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recsys.config import parse_run
from recsys.data.requests import serving_requests
from recsys.errors import InputError
from recsys.recommend import serve
from recsys.recommend.run import run_stage
from recsys.recommend.settings import InferRun
from recsys.recommend.work import Work
from recsys.retrieval import engine
from recsys.shards import Parts

COLUMNS = ["user_id", "rank", "item_id", "score", "retriever_score", "pruner_score", "basis"]


def lists(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(sorted(folder.glob("part-*.parquet")))


def contents(folder: Path) -> dict[str, bytes]:
    """All that an output holds, but for how long it took."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "DONE"}


def write_users(path: Path, users: list[str | None], column: str = "user_id") -> str:
    frame = pl.DataFrame({column: pl.Series(users, dtype=pl.String)})
    frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)
    return f"--users={path}"


def test_every_user_gets_a_list_in_parts(journey, tmp_path):
    folder = run_stage("recommend", journey.infer(output=tmp_path))
    assert folder == tmp_path / "infer/recommendations"
    assert [path.name for path in sorted(folder.glob("part-*.parquet"))] == [f"part-0000{n}.parquet" for n in range(3)]
    frame = lists(folder)
    assert frame.columns == COLUMNS
    assert frame["user_id"].unique(maintain_order=True).to_list() == [f"u{user:03d}" for user in range(40)]
    assert frame["rank"].to_list() == list(range(1, 11)) * 40
    assert frame["pruner_score"].to_list() == frame["score"].to_list()
    for _, rows in frame.group_by("user_id"):
        assert rows["score"].is_sorted(descending=True)


def test_the_retriever_alone_leaves_the_pruners_score_empty(journey, tmp_path):
    frame = lists(run_stage("recommend", journey.infer("--pruner=null", output=tmp_path)))
    assert frame.columns == COLUMNS
    assert frame.schema["pruner_score"] == pl.Float32
    assert frame["pruner_score"].null_count() == len(frame)
    assert frame["score"].to_list() == frame["retriever_score"].to_list()


@pytest.mark.parametrize("name", ["users.csv", "users.parquet"])
def test_a_file_of_users_is_served_in_its_order_and_each_once(journey, tmp_path, name):
    whole = lists(run_stage("recommend", journey.infer(output=tmp_path)))
    users = write_users(tmp_path / name, ["u007", "u002", "u007"])
    some = lists(run_stage("recommend", journey.infer(users, f"--output={tmp_path}/some", output=tmp_path)))
    assert some["user_id"].unique(maintain_order=True).to_list() == ["u007", "u002"]
    wanted = whole.filter(pl.col("user_id") == "u002")["item_id"].to_list()
    assert some.filter(pl.col("user_id") == "u002")["item_id"].to_list() == wanted


@pytest.mark.parametrize(
    ("users", "message"),
    [
        (["u001", None], r"1 of 2 rows hold no user id of type String \(row 2 first\)"),
        ([], "names no user"),
    ],
)
def test_a_file_without_users_is_refused(journey, tmp_path, users, message):
    option = write_users(tmp_path / "users.parquet", users)
    with pytest.raises(InputError, match=message):
        run_stage("recommend", journey.infer(option, output=tmp_path / "runs"))
    assert not (tmp_path / "runs/infer/recommendations").exists()


@pytest.mark.parametrize("pruner", [[], ["--pruner=null"]])
def test_strangers_get_what_is_taken_most_and_are_marked(journey, served, tmp_path, pruner):
    option = write_users(tmp_path / "users.csv", ["u003", "stranger", "u001"])
    frame = lists(run_stage("recommend", journey.infer(option, *pruner, output=tmp_path)))
    assert frame["user_id"].unique(maintain_order=True).to_list() == ["u003", "stranger", "u001"]
    alone = frame.filter(pl.col("user_id") == "stranger")
    assert alone["basis"].unique().to_list() == ["popularity"]
    assert frame.filter(pl.col("user_id") != "stranger")["basis"].unique().to_list() == ["history"]
    counts = served.data.popularity()
    wanted = np.argsort(-counts, kind="stable")[: len(alone)]
    assert alone["item_id"].to_list() == served.item_ids.gather(wanted).to_list()
    assert alone["score"].to_list() == pytest.approx((counts[wanted] / counts.max()).tolist())
    assert alone["retriever_score"].null_count() == alone["pruner_score"].null_count() == len(alone)
    others = write_users(tmp_path / "known.csv", ["u003", "u001"])
    known = lists(run_stage("recommend", journey.infer(others, *pruner, output=tmp_path / "known")))
    assert frame.filter(pl.col("user_id") != "stranger")["item_id"].to_list() == known["item_id"].to_list()


def test_a_file_of_users_that_cannot_be_read_is_refused(journey, tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "empty.csv").write_text("")
    write_users(tmp_path / "other.csv", ["u001"], column="usr_id")
    for name, message in {
        "broken.parquet": "cannot be read", "empty.csv": "cannot be read", "none.csv": "does not exist",
        "other.csv": "has no column 'user_id'; found usr_id",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=message):
            run_stage("recommend", journey.infer(f"--users={tmp_path}/{name}", output=tmp_path))


def test_search_answers_every_query(journey, tmp_path):
    folder = run_stage("search", journey.infer(output=tmp_path))
    frame = lists(folder)
    assert folder == tmp_path / "infer/results"
    assert frame.columns == ["query_id", *COLUMNS[1:]]
    assert frame.schema["query_id"] == pl.Int64
    assert frame["query_id"].unique().sort().to_list() == list(range(20))
    assert (tmp_path / "infer/infer.yaml").is_file()


def test_other_queries_are_searched_without_the_relevance_of_the_first(journey, tmp_path):
    queries = pl.DataFrame(
        {"query_id": ["q1", "q2"], "query": ["red thing", "blue"], "user_id": [None, "u001"], "timestamp": [1.0, 2.0]}
    )
    queries.write_parquet(tmp_path / "new.parquet")
    config = journey.infer(f"--data.tables.queries={tmp_path}/new.parquet", output=tmp_path)
    assert lists(run_stage("search", config))["query_id"].unique().sort().to_list() == ["q1", "q2"]


def test_search_without_queries_is_refused(journey, tmp_path):
    none = "--data.tables={queries: '', relevance: ''}"
    with pytest.raises(InputError, match=r"needs a queries table.*--data\.tables\.queries=FILE"):
        run_stage("search", journey.infer(none, output=tmp_path))


def test_data_that_lies_elsewhere_is_served_too(journey, tmp_path):
    shutil.copytree(journey.folder / "tables", tmp_path / "tables")
    path = tmp_path / "tables/users.parquet"
    pl.read_parquet(path).head(40).with_columns(age=pl.lit("25-34")).write_parquet(path)
    folder = run_stage("recommend", journey.infer(f"--data.root={tmp_path}/tables", output=tmp_path))
    assert lists(folder)["user_id"].n_unique() == 40


@pytest.mark.parametrize("stage", ["recommend", "search", "candidates"])
def test_an_output_of_other_inputs_is_not_overwritten_unasked(journey, tmp_path, stage):
    folder = run_stage(stage, journey.infer(output=tmp_path))
    before = contents(folder)
    config = folder.parent / "infer.yaml"
    kept = config.read_bytes() if config.is_file() else b""
    with pytest.raises(InputError, match=r"made from other inputs.*--output=DIR.*--overwrite=true"):
        run_stage(stage, journey.infer("--candidates=15", output=tmp_path))
    assert contents(folder) == before
    assert stage == "candidates" or config.read_bytes() == kept
    run_stage(stage, journey.infer("--candidates=15", "--overwrite=true", output=tmp_path))
    assert contents(folder) != before


def test_the_same_users_in_another_order_are_other_inputs(journey, tmp_path):
    run_stage("recommend", journey.infer(write_users(tmp_path / "a.csv", ["u001", "u002"]), output=tmp_path))
    with pytest.raises(InputError, match="made from other inputs"):
        run_stage("recommend", journey.infer(write_users(tmp_path / "b.csv", ["u002", "u001"]), output=tmp_path))


def test_a_run_goes_on_from_its_last_part_and_gives_identical_bytes(journey, tmp_path, monkeypatch):
    whole = run_stage("recommend", journey.infer(output=tmp_path / "whole"))
    written = Parts.write

    def stop_after_the_first(parts: Parts, number: int, frame: pl.DataFrame, inputs: str) -> None:
        if number:
            raise KeyboardInterrupt
        written(parts, number, frame, inputs)

    monkeypatch.setattr(Parts, "write", stop_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        run_stage("recommend", journey.infer(output=tmp_path / "broken"))
    monkeypatch.undo()
    broken = tmp_path / "broken/infer/recommendations"
    assert not (broken / "DONE").exists()
    made = []
    monkeypatch.setattr(Parts, "write", lambda *call, **more: (made.append(call[1]), written(*call, **more)))
    run_stage("recommend", journey.infer(output=tmp_path / "broken"))
    assert made == [1, 2]
    assert contents(broken) == contents(whole)
    run_stage("recommend", journey.infer(output=tmp_path / "broken"))
    assert made == [1, 2]


def test_shards_share_the_parts_and_the_last_one_measures(journey, tmp_path):
    whole = run_stage("recommend", journey.infer(output=tmp_path / "whole"))
    shared = tmp_path / "shared/infer"
    run_stage("recommend", journey.infer("--shard=2/2", output=tmp_path / "shared"))
    assert [path.name for path in sorted(shared.glob("*/part-*.parquet"))] == ["part-00001.parquet"]
    assert not (shared / "results.json").exists()
    run_stage("recommend", journey.infer("--shard=1/2", output=tmp_path / "shared"))
    assert contents(shared / "recommendations") == contents(whole)
    expected, found = (json.loads((folder / "results.json").read_text()) for folder in (whole.parent, shared))
    assert [one["metrics"] for one in expected["stages"]] == [one["metrics"] for one in found["stages"]]


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b"])
def test_a_shard_that_is_none_is_refused(journey, tmp_path, shard):
    with pytest.raises(InputError, match="expected I/N"):
        journey.infer(f"--shard={shard}", output=tmp_path)


def test_a_shard_removes_nothing_and_not_every_stage_has_shards(journey, tmp_path):
    with pytest.raises(InputError, match="would remove the output of the other shards"):
        journey.infer("--shard=1/2", "--overwrite=true", output=tmp_path)
    with pytest.raises(InputError, match="not cut into shards"):
        run_stage("candidates", journey.infer("--shard=1/2", output=tmp_path))


def test_a_part_that_was_damaged_is_found_and_made_again(journey, tmp_path):
    whole = run_stage("recommend", journey.infer(output=tmp_path / "whole"))
    folder = run_stage("recommend", journey.infer(output=tmp_path / "broken"))
    (folder / "DONE").unlink()
    path = folder / "part-00001.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="part 1 was not what had been written"):
        run_stage("recommend", journey.infer(output=tmp_path / "broken"))
    assert not (folder / "DONE").exists()
    run_stage("recommend", journey.infer(output=tmp_path / "broken"))
    assert contents(folder) == contents(whole)


def test_a_full_disk_is_one_sentence_and_leaves_no_half_part(journey, tmp_path, monkeypatch):
    replace_file, full = os.replace, []

    def fill_up(source: str, target: str) -> None:
        if Path(target).name == "part-00001.parquet":
            full.append(target)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", fill_up)
    with pytest.raises(InputError, match=r"Cannot write .*part-00001\.parquet: No space left on device"):
        run_stage("recommend", journey.infer(output=tmp_path))
    folder = tmp_path / "infer/recommendations"
    assert full
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "part-00000.json", "part-00000.parquet"]
    monkeypatch.undo()
    run_stage("recommend", journey.infer(output=tmp_path))
    assert (folder / "DONE").is_file()


def test_lists_that_the_decision_leaves_empty_are_no_fault(journey, tmp_path):
    config = journey.infer("--decision.probability=1.0", output=tmp_path)
    assert len(lists(run_stage("recommend", config))) == 0


def test_a_table_without_rows_leaves_nothing_to_answer(journey, served, tmp_path, monkeypatch):
    nobody = np.zeros(0, dtype=np.int64)
    requests = serving_requests(served.data, None, nobody)
    work = Work(
        key="user_id", ids=pl.Series(dtype=pl.String), rows=nobody, requests=requests, judged=nobody, basis=nobody
    )
    monkeypatch.setattr(serve, "users_work", lambda *_: work)
    monkeypatch.setattr(serve, "open_cascade", lambda *_, **__: served)
    with pytest.raises(InputError, match="nothing to answer: the table of each user_id is empty"):
        serve.Job.open(journey.infer(output=tmp_path), tmp_path / "lists", search=False)
    assert not (tmp_path / "lists").exists()


def test_export_is_refused_for_a_tower_that_reads_more_than_words(journey, tmp_path):
    with pytest.raises(InputError, match="not text only"):
        run_stage("export", journey.infer(output=tmp_path))


def test_an_unknown_stage_is_refused_with_the_nearest(journey, tmp_path):
    with pytest.raises(InputError, match=r"Unknown stage 'recomend'\. Did you mean 'recommend'"):
        run_stage("recomend", journey.infer(output=tmp_path))


def test_the_number_of_threads_holds_for_models_and_search(journey, tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        run_stage("recommend", journey.infer("--threads=1", output=tmp_path))
        assert (torch.get_num_threads(), engine.faiss.omp_get_max_threads()) == (1, 1)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--candidates=0", "candidates is 0; expected at least 1"),
        ("--part=-1", "part is -1; expected at least 1"),
        ("--samples=-1", "samples is -1; expected 0 or more"),
        ("--threads=0", "threads is 0; expected at least 1"),
        ("--data.history.until=soon", "'soon' is neither a number nor an ISO date"),
        ("--retriever=nowhere", r"nowhere/model is no model folder"),
        ("--data.root=nowhere", "Data folder 'nowhere' does not exist"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(journey, tmp_path, option, message):
    with pytest.raises(InputError, match=message):
        run_stage("recommend", journey.infer(option, output=tmp_path))
    assert not list(tmp_path.iterdir())


def test_no_user_is_named_in_what_is_said_or_measured(journey, tmp_path, capfd):
    folder = run_stage("recommend", journey.infer(output=tmp_path)).parent
    told = "".join(capfd.readouterr()) + (folder / "results.json").read_text() + (folder / "infer.yaml").read_text()
    assert not any(f"u{user:03d}" in told for user in range(40))


def test_the_config_that_is_kept_is_the_one_that_was_run(journey, tmp_path):
    config = journey.infer("--overwrite=true", "--decision.top=7", output=tmp_path)
    run_stage("recommend", config)
    kept = parse_run(InferRun, [str(tmp_path / "infer/infer.yaml")])
    assert kept.decision == config.decision
    assert not kept.overwrite


def test_the_pruners_curves_are_told_with_the_decision_of_this_run(journey, tmp_path):
    run_stage("recommend", journey.infer("--decision.top=5", output=tmp_path))
    own, trained = tmp_path / "infer/pruning.json", journey.folder / "runs/pruner/pruning.json"
    told, source = json.loads(own.read_text()), json.loads(trained.read_text())
    assert told["sets"] == source["sets"]
    assert told["decision"] == dict.fromkeys(("users", "queries"), told["decision"]["users"])
    assert told["decision"]["users"] == {"top": 5, "probability": None, "loss": None}
    run_stage("recommend", journey.infer("--pruner=null", "--overwrite=true", output=tmp_path))
    assert not own.exists()
