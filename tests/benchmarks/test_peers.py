import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peer_encoding
import peer_scoring
import peer_training
import peers
import pytest
from cross_encoder import Settings, read_search, teach

TOKENS = 48


class Paced:
    """A pace without another side: so many pieces of work."""

    def __init__(self, count: int) -> None:
        self.left = count + 1

    def next(self) -> bool:
        self.left -= 1
        return self.left > 0


def steps(count: int) -> Any:
    return Paced(count)


def test_both_encode_the_same_vectors(small: Any):
    texts = peer_encoding.item_texts(small.data, peer_training.ITEM_TEXT, None)
    task = peer_encoding.Texts(texts=texts, model=small.model, max_tokens=TOKENS)
    own, theirs = peer_encoding.ours(steps(1), task), peer_encoding.peer(steps(1), task)
    assert np.abs(own - theirs).max() < 1e-5
    assert peer_encoding.cosines(own, theirs).min() > 1 - 1e-9
    assert task.lengths().max() <= TOKENS
    short = peer_encoding.item_texts(small.data, peer_training.ITEM_TEXT, 4)
    assert short == texts[::10]


def test_both_learn_the_same_without_dropout(small: Any, tmp_path: Path):
    calm = shutil.copytree(small.model, tmp_path / "calm")
    said = json.loads((calm / "config.json").read_text())
    still = {**said, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (calm / "config.json").write_text(json.dumps(still))
    task = peer_training.Task(
        data=small.data, folder=str(tmp_path), model=str(calm), steps=3, batch=8, max_tokens=TOKENS
    )
    own, theirs = peer_training.ours(steps(3), task), peer_training.peer(steps(3), task)
    assert len(own) == 3
    assert own == pytest.approx(theirs, abs=1e-4)
    assert len({round(loss, 3) for loss in own}) == 3


def test_the_pairs_are_those_that_ours_learns_from(small: Any, tmp_path: Path):
    task = peer_training.Task(
        data=small.data, folder=str(tmp_path), model=small.model, steps=4, batch=8, max_tokens=TOKENS
    )
    queries, items, lengths = peer_training.pairs_in_order(task)
    assert len(set(queries)) == len(queries) == len(items) == 32
    assert [len(one) for one in lengths] == [16] * 4


@pytest.fixture
def scoring(small: Any, tmp_path: Path) -> peer_scoring.Scoring:
    settings = Settings(data=small.data, text=peer_training.ITEM_TEXT, model=small.model, max_tokens=TOKENS, steps=2)
    teach(settings, tmp_path / "text")
    search = read_search(settings, "valid", 5)
    assert (search.candidates == search.right[:, None]).any(1).all()
    peer_scoring.write_task(search, tmp_path)
    return peer_scoring.Scoring(folder=str(tmp_path), max_tokens=TOKENS, queries=3)


def test_both_score_alike(scoring: peer_scoring.Scoring):
    own, theirs = peer_scoring.ours(steps(1), scoring), peer_scoring.peer(steps(1), scoring)
    assert own.shape == (5, 40)
    assert theirs.shape == (3, 40)
    assert np.abs(own[:3] - theirs).max() < 1e-4
    assert theirs.std() > 1e-3  # the head says something
    lengths = peer_scoring.pair_lengths(scoring)
    assert lengths.shape == (120,)
    assert lengths.max() <= TOKENS
    assert peer_scoring.right_columns(scoring).shape == (5,)


def test_a_cross_encoder_of_the_same_settings_is_kept(small: Any, tmp_path: Path):
    settings = Settings(data=small.data, text=["title"], model=small.model, max_tokens=TOKENS, steps=0)
    teach(settings, tmp_path / "text")
    made = (tmp_path / "text/model.safetensors").stat().st_mtime_ns
    teach(settings, tmp_path / "text")
    assert (tmp_path / "text/model.safetensors").stat().st_mtime_ns == made
    teach(replace(settings, steps=1), tmp_path / "text")
    assert (tmp_path / "text/model.safetensors").stat().st_mtime_ns > made


def test_overlap_and_ndcg_by_hand():
    first, second = np.array([[3.0, 2, 1, 0]]), np.array([[3.0, 1, 2, 0]])
    assert peer_scoring.overlap(first, second, k=2) == 0.5
    assert peer_scoring.ndcg(first, np.array([1]), k=2) == pytest.approx(1 / np.log2(3))
    assert peer_scoring.ndcg(first, np.array([2]), k=2) == 0


@pytest.mark.slow
def test_the_command_measures_and_keeps(small: Any, tmp_path: Path):
    peers.main([
        f"--data={small.data}", f"--model={small.model}", "--max_tokens=48", "--turns=2", "--batch=5", "--queries=2",
        "--judged=4", "--lessons=1", f"--figures={tmp_path}", "--precision", "fp32",
    ])  # fmt: skip
    found = json.loads((tmp_path / "peers.json").read_text())
    assert [row["name"].split(",")[0] for row in found["rows"]] == ["training", "encoding all items", "pruner scoring"]
    assert all(row["ratio"]["count"] == 2 for row in found["rows"])
    assert found["checks"]["largest difference of the losses without dropout"] < 1e-4
