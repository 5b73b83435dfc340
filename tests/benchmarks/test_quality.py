import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quality
import yaml
from quality import Curve, Data, Ours, Peer, Side, first_reached, ndcg
from render import render

TEXT = ["title", "year", "genres", "description"]


def config(small: Any, folder: Path) -> str:
    """Ours, on the small data set."""
    path = folder / "ours.yaml"
    path.write_text(yaml.safe_dump({
        "task": "retriever", "name": "ours", "tasks": ["query_to_item"],
        "data": {
            "root": small.data, "tables": {"interactions": "", "users": ""}, "items": {"text": TEXT},
            "split": {"by": "column"},
        },
        "model": {
            "text": {"model": small.model, "mode": "full", "max_tokens": 48}, "id_vector": False, "history": None,
            "normalize": True,
        },
        "negatives": {"kind": "batch", "random": 0}, "loader": {"batch_size": 8}, "optim": {"epochs": 2},
        "trainer": {"accelerator": "cpu", "check_every": 2},
    }))  # fmt: skip
    return str(path)


def test_ndcg_by_hand():
    items = np.eye(3)
    queries = np.array([[0.9, 0.3, 0.1], [0.3, 0.9, 0.1]])
    assert ndcg(queries, items, np.array([0, 0])) == pytest.approx((1 + 1 / np.log2(3)) / 2)
    assert ndcg(queries, items, np.array([2, 2]), k=2) == 0


def test_the_cut_is_no_part_of_what_is_learnt_from(small: Any):
    data = Data.read(small.data, TEXT)
    assert not set(data.train.queries) & set(data.cut.queries)
    assert len(data.train.queries) + len(data.cut.queries) == 32
    assert len(data.valid.queries) == 8
    assert data.all_train().queries == data.train.queries + data.cut.queries
    assert len(data.all_train().right) == 32


def test_measuring_is_no_training_time(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr(quality.time, "perf_counter", lambda: clock[0])

    def measure() -> float:
        clock[0] += 600
        return 0.5

    curve = Curve(2, measure, begin=0.0, last=5)
    ended = []
    for number in range(1, 6):
        clock[0] += 60
        ended.append(curve.step(number))
    assert curve.points == [(2.0, 2, 0.5), (4.0, 4, 0.5), (5.0, 5, 0.5)]
    assert ended == [False] * 4 + [True]


def test_a_side_is_its_best_point_and_is_reached_at_the_first_that_is_as_good():
    curve = [(1.0, 4, 0.2), (2.0, 8, 0.6), (3.0, 12, 0.5)]
    found = Side.of(curve, "x")
    assert (found.best, found.minutes) == (0.6, 2.0)
    assert first_reached(curve, 0.3) == 2.0
    assert first_reached(curve, 0.7) is None


def test_the_curve_of_ours_ends_at_the_results_of_the_run(small: Any, tmp_path: Path):
    points, final = Ours(arguments=[config(small, tmp_path)], every=3).train()
    assert [step for _, step, _ in points] == [3, 6, 8]
    assert points[-1][2] == pytest.approx(final, abs=1e-6)
    assert points == sorted(points)  # the clock goes on


def test_the_peer_is_measured_along_its_epochs(small: Any):
    peer = {"data": small.data, "text": TEXT, "model": small.model, "rate": 1e-3, "epochs": 2, "batch": 8, "every": 3}
    assert [step for _, step, _ in Peer(**peer, choosing=False, max_tokens=48).train()] == [3, 6, 8]
    left = len(Data.read(small.data, TEXT).train.queries) // 8
    assert [step for _, step, _ in Peer(**peer, choosing=True, max_tokens=48).train()] == [left, 2 * left]


def test_the_command_keeps_both_curves(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quality, "alone", lambda work: work())
    quality.main([
        f"--config={config(small, tmp_path)}", f"--data={small.data}", f"--model={small.model}", "--batch=8",
        "--every=2", "--dry", f"--figures={tmp_path}", "--optim.epochs=1",
    ])  # fmt: skip
    found = json.loads((tmp_path / "quality_dry.json").read_text())
    assert {name: [step for _, step, _ in side["curve"]] for name, side in found["sides"].items()} == {
        "sentence-transformers": [2, 4], "ours": [2, 4],
    }  # fmt: skip
    assert "--optim.epochs=1" in found["sides"]["ours"]["settings"]
    (tmp_path / "quality_dry.json").rename(tmp_path / "quality.json")
    assert "peer's best" in render(tmp_path)
