"""What one answer costs."""

import shutil

import pytest

from recsys.errors import InputError
from recsys.recommend import latency
from recsys.recommend.latency import measure_latency
from recsys.recommend.run import run_stage
from recsys.results import read_results


@pytest.fixture(autouse=True)
def few_calls(monkeypatch):
    monkeypatch.setattr(latency, "CALLS", 8)
    monkeypatch.setattr(latency, "WARM_UP", 1)


def test_both_ways_of_asking_are_timed_and_kept_beside_the_stages(journey, tmp_path):
    run_stage("recommend", journey.infer(output=tmp_path))
    stages = read_results(tmp_path / "infer")["stages"]
    found = measure_latency(tmp_path / "infer")
    assert set(found) == {"recommend", "search"}
    assert all(0 < values["p50"] <= values["p99"] for values in found.values())
    assert read_results(tmp_path / "infer") == {
        **read_results(tmp_path / "infer"),
        "latency_ms": found,
        "stages": stages,
    }


def test_only_what_the_models_can_answer_is_asked(journey, tmp_path):
    run = tmp_path / "retriever"
    shutil.copytree(journey.folder / "runs/retriever", run)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("tables: {}", "tables: {queries: '', relevance: ''}"))
    assert set(measure_latency(run)) == {"recommend"}


def test_a_run_that_holds_no_models_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no run"):
        measure_latency(tmp_path)


def test_a_slow_call_shows_in_the_99th_percentile_alone(monkeypatch):
    clock = iter([0.0, 0.5] + [step for _ in range(7) for step in (0.0, 0.001)] + [0.0, 1.0])  # warm-up, seven, one
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(clock))
    found = latency._percentiles(lambda number: None)
    assert found["p50"] == pytest.approx(1.0)
    assert found["p99"] > 900
