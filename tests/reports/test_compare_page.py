"""The page of a comparison: what it shows, where it lies, and the axis of its plots."""

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from recsys.reports.compare import compare_runs, read_runs
from recsys.reports.compare_page import Scale, write_comparison


def make_run(folder: Path, *, gain: float, epochs: int, logged: bool = True) -> Path:
    folder.mkdir(parents=True)
    columns = {
        "stage": ["pruner"] * 40, "set": ["valid"] * 40, "request": np.arange(40), "target": np.arange(40),
        "segment": ["head"] * 20 + ["tail"] * 20, "ndcg@10": np.linspace(0.1, 0.4, 40) + gain,
        "recall@10": np.ones(40), "mrr": np.ones(40),
    }  # fmt: skip
    pl.DataFrame(columns).write_parquet(folder / "requests.parquet")
    config = {"task": "retriever", "name": folder.name, "optim": {"epochs": epochs}, "note": "<b>"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if logged:
        lines = [{"step": step, "valid/ndcg@10": 0.1 * step, "train/loss": 2 - 0.1 * step} for step in range(3)]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture
def pairs(tmp_path: Path):
    runs = [make_run(tmp_path / "one", gain=0, epochs=3), make_run(tmp_path / "<two>", gain=0.2, epochs=5)]
    return compare_runs(read_runs(runs))


def test_the_page_answers_at_a_glance(pairs, tmp_path):
    page = write_comparison(pairs)
    assert page == tmp_path / "<two>/compare.html"
    text = page.read_text()
    for shown in (
        pairs[0].verdict, "nDCG@10 on tail", "optim.epochs", "By nDCG@10, B is better on <b>40</b>", "&lt;two&gt;",
        "Retriever: nDCG@10 of users, valid", "Retriever: training loss",
    ):  # fmt: skip
        assert shown in text


def test_the_page_is_whole_in_itself(pairs):
    text = write_comparison(pairs).read_text()
    assert text.lstrip("\n").startswith("<!doctype html>")
    assert "<script" not in text
    assert not re.search(r'(?:src|href)="(?!data:|#)|@import|url\((?!#)', text)
    assert "<two>" not in text


def test_the_page_can_lie_elsewhere(pairs, tmp_path):
    assert write_comparison(pairs, tmp_path / "b.html") == tmp_path / "b.html"
    assert not (tmp_path / "<two>/compare.html").exists()


def test_what_is_not_there_is_left_out(tmp_path):
    runs = [make_run(tmp_path / name, gain=0, epochs=3, logged=name == "a") for name in "ab"]
    text = write_comparison(compare_runs(read_runs(runs))).read_text()
    assert "Learning curves" not in text
    assert "None: the configs are the same" in text


def test_runs_of_one_name_are_told_by_their_paths(tmp_path):
    runs = [make_run(tmp_path / name / "shop", gain=0, epochs=3) for name in "ab"]
    assert f"{tmp_path}/a/shop" in write_comparison(compare_runs(read_runs(runs))).read_text()


def test_the_axis_holds_zero_and_every_interval_at_round_ticks(pairs):
    scale = Scale.over(pairs)
    assert 0 < scale.place(0) < scale.place(0.2) < 100
    assert 2 <= len(scale.ticks) <= 7
    assert 0.0 in scale.ticks
    np.testing.assert_allclose(np.diff(scale.ticks), scale.step)


def test_runs_without_any_difference_have_an_axis_too(tmp_path):
    runs = [make_run(tmp_path / name, gain=0, epochs=3) for name in "ab"]
    assert Scale.over(compare_runs(read_runs(runs))).place(0) == 50
