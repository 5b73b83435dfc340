"""Parameters that are tuned until recall is what was asked for."""

import json

import numpy as np
import pytest

from recsys.retrieval.exact import exact_top
from recsys.retrieval.index import ItemIndex
from recsys.retrieval.kinds import IndexConfig
from recsys.retrieval.tuning import Sample, least_enough, tuned_index

WIDTH = 16


def clustered(rows: int, seed: int) -> np.ndarray:
    """Unit vectors around 60 centres, the later ones fewer."""
    rng, centres = np.random.default_rng(seed), np.random.default_rng(0).normal(size=(60, WIDTH))
    own = rng.choice(60, rows, p=np.arange(60, 0, -1) / 1830)
    found = centres[own] + 0.5 * rng.normal(size=(rows, WIDTH))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("kind", ["hnsw", "ivf_flat", "ivf_sq8", "ivf_pq"])
def test_every_kind_reaches_the_recall_that_was_asked_for(kind):
    vectors, fresh = clustered(2000, 1), clustered(300, 2)
    tuned = tuned_index(vectors, IndexConfig(kind=kind, recall=0.9, k=20, sample=300))
    assert tuned.report.fault == ""
    assert tuned.report.recall >= 0.9
    found, _ = tuned.index.search(fresh, 20, [np.zeros(0, dtype=np.int64)] * 300)
    right = exact_top(vectors, fresh, 20)
    own = np.mean([len(np.intersect1d(*pair)) / 20 for pair in zip(found, right, strict=True)])
    assert own >= 0.87  # queries of another draw


def test_recall_counts_what_both_searches_find():
    vectors = clustered(500, 1)
    sample = Sample(queries=vectors[:3], right=np.array([[0, 1], [1, 400], [2, 300]]))
    found = ItemIndex.build(vectors).shards[0].rows.search(vectors[:3], 2)[1]
    wanted = [len(np.intersect1d(*pair)) / 2 for pair in zip(found, sample.right, strict=True)]
    np.testing.assert_array_equal(sample.recalls(ItemIndex.build(vectors).shards[0].rows), wanted)


@pytest.mark.parametrize("target", [1, 2, 3, 50, 99, 100])
def test_the_least_breadth_is_found_within_a_step(target):
    found, reached = least_enough(lambda breadth: breadth / 100, target / 100, 1, 100)
    assert reached
    assert target <= found <= max(target * 1.15 + 1, target)


def test_where_more_is_no_help_the_search_for_a_breadth_ends():
    asked = []

    def reaches(breadth: int) -> float:
        asked.append(breadth)
        return min(breadth / 10, 0.8)

    assert least_enough(reaches, 0.9, 1, 10_000) == (8, False)
    assert max(asked) == 16
    assert least_enough(lambda breadth: breadth / 100, 0.9, 1, 50) == (50, False)


def test_a_recall_that_is_not_reached_is_said(monkeypatch):
    monkeypatch.setattr("recsys.retrieval.tuning._RESCORED", (1,))
    config = IndexConfig(kind="ivf_pq", recall=0.999, k=20, sample=100)
    report = tuned_index(clustered(1000, 1), config).report
    assert report.recall < 0.999
    assert f"ivf_pq finds {report.recall:.3f} of the 20 nearest, expected 0.999; raise index.memory" in report.fault


def test_a_recall_that_nothing_confirms_is_said(monkeypatch):
    queries = clustered(1, 3)
    report = tuned_index(clustered(1000, 1), IndexConfig(kind="ivf_flat", k=5), queries).report
    assert (report.sample, report.queries) == (1, "given")
    assert "no query was left to confirm" in report.fault


def test_a_small_catalogue_is_compared_whole():
    tuned = tuned_index(clustered(1000, 1), IndexConfig(sample=50))
    assert tuned.index.exact
    assert (tuned.report.recall, tuned.report.recall_error, tuned.report.queries) == (1, 0, "items")


def test_what_was_measured_stands_beside_the_index(tmp_path):
    vectors = clustered(2000, 1)
    tuned = tuned_index(vectors, IndexConfig(kind="ivf_sq8", k=10, sample=100))
    tuned.save(tmp_path / "index.faiss")
    said = json.loads((tmp_path / "index.json").read_text())
    assert said["recall"] == tuned.report.recall >= 0.95
    assert said["settings"]["kind"] == "ivf_sq8"
    assert (said["items"], said["width"]) == (2000, WIDTH)
    assert said["queries_per_second"] > 0 < said["flat_queries_per_second"]
    loaded = ItemIndex.load(tmp_path / "index.faiss", vectors)
    nothing = [np.zeros(0, dtype=np.int64)] * 5
    np.testing.assert_array_equal(
        loaded.search(vectors[:5], 10, nothing)[0], tuned.index.search(vectors[:5], 10, nothing)[0]
    )


def test_the_same_seed_tunes_to_the_same_settings():
    first, second = (tuned_index(clustered(2000, 1), IndexConfig(kind="ivf_flat", sample=100)) for _ in range(2))
    assert first.rows.search(clustered(9, 4), 10)[1].tolist() == second.rows.search(clustered(9, 4), 10)[1].tolist()
    assert first.report.recall == second.report.recall
