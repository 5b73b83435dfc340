"""Stages embed and index: vectors and an index that are kept, and that lists are made from."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.recommend.run import run_stage
from recsys.retrieval import catalogue

LISTS = ["--index.kind=ivf_flat", "--index.recall=0.9", "--index.k=10", "--index.sample=20"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lists(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(sorted(folder.glob("part-*.parquet")))


def fresh(tmp_path: Path, name: str) -> list[str]:
    """Options of a run whose texts no cache knows."""
    return [f"--data.cache={tmp_path}/{name}/cache"]


@pytest.mark.parametrize("how", [["--workers=2"], ["--shard=1/2"]])
def test_vectors_are_embedded_by_several_processes_as_by_one(journey, tmp_path, how, capsys):
    whole = run_stage("embed", journey.infer(*fresh(tmp_path, "one"), output=tmp_path / "one"))
    folder = run_stage("embed", journey.infer(*fresh(tmp_path, "two"), *how, output=tmp_path / "two"))
    if how == ["--shard=1/2"]:
        run_stage("embed", journey.infer(*fresh(tmp_path, "two"), "--shard=2/2", output=tmp_path / "two"))
    assert "60 items, 60 of them new" in capsys.readouterr().err
    vectors = {name: content for name, content in contents(folder).items() if name.endswith("vectors.npy")}
    assert len(vectors) == 1
    assert set(vectors.values()) < set(contents(whole).values())


def test_lists_are_made_from_what_was_embedded(journey, tmp_path, monkeypatch):
    run_stage("embed", journey.infer(output=tmp_path))
    monkeypatch.setattr("recsys.retrieval.embed.VectorStore._fill", lambda *_: pytest.fail("embedded again"))
    run_stage("recommend", journey.infer(output=tmp_path))


def test_an_index_is_tuned_once_and_lists_are_made_from_it(journey, tmp_path, capsys):
    folder = run_stage("index", journey.infer(*LISTS, output=tmp_path))
    assert "60 items: ivf_flat, recall@10" in capsys.readouterr().err
    said = json.loads((folder / "items.json").read_text())
    assert said["target"] == 0.9
    before = contents(folder)
    found = lists(run_stage("recommend", journey.infer(*LISTS, output=tmp_path)))
    assert contents(folder) == before
    assert found.group_by("user_id").len()["len"].to_list() == [10] * 40


def changed_items(journey, tmp_path: Path, count: int) -> str:
    """The option that serves the tables with so many items renamed, so that they are other ones."""
    folder = tmp_path / f"tables{count}"
    folder.mkdir()
    for path in (journey.folder / "tables").iterdir():
        frame = pl.read_parquet(path)
        if path.stem == "items":
            row = pl.int_range(pl.len())
            frame = frame.with_columns(price=pl.when(row < count).then(pl.col("price") + 5).otherwise(pl.col("price")))
            frame = pl.concat([frame[count:], frame[:count]])
        frame.write_parquet(folder / path.name)
    return f"--data.root={folder}"


def test_a_few_changed_items_are_a_shard_and_many_a_new_index(journey, tmp_path, capsys):
    folder = run_stage("index", journey.infer(*LISTS, output=tmp_path))
    before = contents(folder)
    few, many = (changed_items(journey, tmp_path, count) for count in (2, 9))
    capsys.readouterr()
    run_stage("index", journey.infer(*LISTS, few, output=tmp_path))
    assert "and what has changed since" in capsys.readouterr().err
    assert contents(folder) == before
    exact = lists(run_stage("recommend", journey.infer(few, "--index.kind=flat", output=tmp_path / "flat")))
    probing = lists(run_stage("recommend", journey.infer(*LISTS, "--index.recall=1", few, output=tmp_path)))
    same = probing.join(exact, on=["user_id", "item_id"], how="semi")
    assert len(same) >= 0.9 * len(exact)
    run_stage("index", journey.infer(*LISTS, many, output=tmp_path))
    assert contents(folder) != before
    assert "and what has changed since" not in capsys.readouterr().err.splitlines()[-1]


def test_an_index_of_another_model_or_setting_is_built_afresh(journey, tmp_path):
    folder = run_stage("index", journey.infer(*LISTS, output=tmp_path))
    before = contents(folder)
    run_stage("index", journey.infer(*LISTS, "--index.seed=1", output=tmp_path))
    assert contents(folder) != before


def test_two_items_that_look_alike_are_two_rows_of_the_index(journey, tmp_path, served):
    keys = catalogue._row_keys(served.retriever)
    assert len(np.unique(keys)) == len(served.data.catalogue)


@pytest.mark.parametrize("name", ["items.faiss", "items.json", "asked.json"])
def test_a_damaged_index_is_one_sentence(journey, tmp_path, name):
    folder = run_stage("index", journey.infer(*LISTS, output=tmp_path))
    (folder / name).write_bytes((folder / name).read_bytes()[:40])
    with pytest.raises(catalogue.InputError, match=r"remove|Remove"):
        run_stage("index", journey.infer(*LISTS, output=tmp_path))
