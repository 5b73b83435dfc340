"""Which run is better, how sure that is, and which runs are not to be compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys.errors import InputError
from recsys.metrics.bootstrap import Interval, paired_bootstrap
from recsys.reports.compare import LEAST, compare_runs, difference, print_comparison, read_runs, signed

REQUESTS = 200
SEGMENTS = np.repeat(["head", "torso", "tail"], [100, 60, 40])


def values(seed: int = 0, *, tail: float = 0.0, count: int = REQUESTS) -> dict[str, Any]:
    """Noise, the same for all seeds but the last digits, and a gain on the tail."""
    base = np.random.default_rng(0).random(count) * 0.5
    ndcg = base + np.random.default_rng(seed).normal(0, 0.01, count) + tail * (SEGMENTS[:count] == "tail")
    return {
        "request": np.arange(count), "target": np.arange(count) % 17, "segment": SEGMENTS[:count],
        "ndcg@10": ndcg, "recall@10": ndcg.round(), "mrr": ndcg / 2,
    }  # fmt: skip


def write_run(folder: Path, stages: dict[tuple[str, str], dict[str, Any]], *, data: str | None = "d" * 32) -> Path:
    frames = [
        pl.DataFrame(columns).select(pl.lit(stage).alias("stage"), pl.lit(group).alias("set"), pl.all())
        for (stage, group), columns in stages.items()
    ]
    folder.mkdir(parents=True)
    pl.concat(frames).write_parquet(folder / "requests.parquet")
    if data:
        (folder / "versions.json").write_text(json.dumps({"data": data}))
    return folder


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """B is better than A, on the tail alone."""
    first = write_run(tmp_path / "a", {("popularity", "valid"): values(9, tail=2.0), ("pruner", "valid"): values(1)})
    second = write_run(tmp_path / "b", {("retriever", "valid"): values(3), ("pruner", "valid"): values(2, tail=0.3)})
    return [first, second]


def test_a_verdict_says_who_is_better_by_how_much_and_where(two):
    (pair,) = compare_runs(read_runs(two))
    assert pair.stages == ("pruner", "pruner")  # a baseline is not chosen, however good
    line = pair.lines[0]
    assert pair.verdict == f"B is better than A: nDCG@10 {difference(line.interval)}; most of it on tail."
    (pair,) = compare_runs(read_runs(two[::-1]))
    assert pair.sign == -1
    assert pair.verdict.startswith("B is worse than A: nDCG@10 -.")


def test_figures_are_those_of_the_requests(two):
    (pair,) = compare_runs(read_runs(two))
    one, other = values(1), values(2, tail=0.3)
    assert [line.label for line in pair.lines] == ["nDCG@10", "Recall@10", "MRR", "head", "torso", "tail"]
    assert [line.requests for line in pair.lines] == [200, 200, 200, 100, 60, 40]
    for line, name in zip(pair.lines, ("ndcg@10", "recall@10", "mrr"), strict=False):
        assert (line.first, line.second) == pytest.approx((one[name].mean(), other[name].mean()))
        assert line.interval == paired_bootstrap(other[name] - one[name])
    tail = SEGMENTS == "tail"
    assert pair.lines[5].interval == paired_bootstrap((other["ndcg@10"] - one["ndcg@10"])[tail])
    delta = other["ndcg@10"] - one["ndcg@10"]
    assert (pair.better, pair.worse) == ((delta > 0).sum(), (delta < 0).sum())
    assert sum(pair.share.values()) == pytest.approx(1)


def test_runs_that_are_alike_show_no_difference(tmp_path, two):
    alike = write_run(tmp_path / "c", {("pruner", "valid"): values(1)})
    (pair,) = compare_runs(read_runs([two[0], alike]))
    assert pair.verdict == "No difference between B and A that 200 requests can show: nDCG@10 0 [0, 0]."
    assert pair.better == pair.worse == 0


def test_every_run_is_compared_with_the_first_on_every_common_set(tmp_path):
    groups = {("pruner", group): values(1) for group in ("valid", "valid_query")}
    runs = [write_run(tmp_path / name, groups) for name in "ab"]
    runs.append(write_run(tmp_path / "c", {**groups, ("pruner", "test"): values(1)}))
    pairs = compare_runs(read_runs(runs))
    found = [(pair.group, pair.first.letter, pair.second.letter) for pair in pairs]
    assert found == [("valid", "A", "B"), ("valid", "A", "C"), ("valid_query", "A", "B"), ("valid_query", "A", "C")]


def test_a_handful_of_requests_has_no_interval(tmp_path):
    few = LEAST - 1
    runs = [write_run(tmp_path / str(n), {("pruner", "valid"): values(n, count=few)}) for n in (1, 2)]
    (pair,) = compare_runs(read_runs(runs))
    assert pair.sign == 0
    assert np.isnan(pair.lines[0].interval.low)
    assert print_comparison([pair]).count("[") == 0


def test_a_stage_can_be_chosen(two):
    (pair,) = compare_runs(read_runs(two), "pruner")
    assert pair.stages == ("pruner", "pruner")
    with pytest.raises(InputError, match=r"Not every run has the stage 'prunner'\. Did you mean 'pruner'\?.*retriever"):
        compare_runs(read_runs(two), "prunner")
    with pytest.raises(InputError, match="Not every run has the stage 'retriever'"):
        compare_runs(read_runs(two), "retriever")


def test_of_equal_stages_the_later_one_is_chosen(tmp_path):
    stages = {("pruner", "valid"): values(1), ("pruned lists", "valid"): values(1), ("retriever", "valid"): values(1)}
    stages["retriever", "valid"]["ndcg@10"] = stages["retriever", "valid"]["ndcg@10"] - 0.1
    assert read_runs([write_run(tmp_path / name, stages) for name in "ab"])[0].best_stage("valid") == "pruned lists"


def test_the_terminal_tells_all_of_it(two):
    said = print_comparison(compare_runs(read_runs(two)))
    for text in (f"A  {two[0]}", "users, valid: A by its pruner, B by its pruner", "nDCG@10 on tail", "95 % interval",
                 "B is better on ", "B is better than A"):  # fmt: skip
        assert text in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "e" * 32, "count": 199}, r"other data \(dddddddddddd and eeeeeeeeeeee\)"),
        ({"count": 199}, "The set valid has 200 and 199 requests"),
        ({"moved": True}, "The requests of the set valid are not the same"),
        ({"data": None, "moved": True}, "The requests of the set valid are not the same"),
        ({"group": "test"}, "No set of requests was measured in every run: A has valid; B has test"),
    ],
)
def test_runs_of_other_requests_are_refused(tmp_path, two, change, message):
    columns = values(1, count=change.get("count", REQUESTS))
    if change.get("moved"):
        columns["target"] = columns["target"][::-1]
    stages = {("pruner", change.get("group", "valid")): columns}
    other = write_run(tmp_path / "other", stages, data=change.get("data", "d" * 32))
    with pytest.raises(InputError, match=message):
        compare_runs(read_runs([two[0], other]))


def test_other_columns_of_the_same_data_are_no_obstacle(tmp_path, two):
    other = write_run(tmp_path / "other", {("pruner", "valid"): values(1)}, data="e" * 32)
    assert len(compare_runs(read_runs([two[0], other]))) == 1


def test_folders_that_hold_no_values_are_refused(tmp_path, two):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/requests.parquet").write_bytes(b"PAR1")
    for name, message in {
        "nowhere": "There is no run folder", "broken": "cannot be read",
        "empty": r"has no requests\.parquet, the values of each request",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=message):
            read_runs([two[0], tmp_path / name])
    for count in (0, 1, 6):
        with pytest.raises(InputError, match=f"Runs to compare: found {count}, expected 2 to 5"):
            read_runs(two[:1] * count)


def test_differences_are_told_with_their_sign():
    assert [signed(value) for value in (0.0361, -0.0004, 0.0004, -1.25, np.nan)] == ["+.036", "0", "0", "-1.250", "-"]
    assert difference(Interval(mean=0.036, low=-0.012, high=0.061)) == "+.036 [-.012, +.061]"
