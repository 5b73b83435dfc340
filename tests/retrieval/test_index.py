"""The index against brute force, and what it refuses."""

import importlib.metadata
import sys

import numpy as np
import pytest
import torch

from recsys.errors import InputError
from recsys.retrieval import index
from recsys.retrieval.index import ItemIndex, set_search_threads

ITEMS, WIDTH = 200, 6


def whole_numbers(rows: int, seed: int) -> np.ndarray:
    """Vectors whose products are exact in any order, and of which many are equal."""
    return np.random.default_rng(seed).integers(-2, 3, (rows, WIDTH)).astype(np.float32)


def some_seen(users: int, seed: int, largest: int = ITEMS) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.permutation(ITEMS)[: rng.integers(0, largest)] for _ in range(users)]


def plain_top(users: np.ndarray, items: np.ndarray, k: int, seen: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """By sorting everything: equal scores to the smaller item, -1 where nothing is left."""
    scores = torch.from_numpy(users) @ torch.from_numpy(items).T
    for row, gone in enumerate(seen):
        scores[row, gone] = -torch.inf
    values, order = (part[:, :k] for part in scores.sort(dim=1, descending=True, stable=True))
    return order.masked_fill(values == -torch.inf, -1).numpy(), values.numpy()


@pytest.mark.parametrize("k", [1, 7, 8, 63, ITEMS])
def test_search_equals_brute_force_without_what_was_seen(k):
    users, items, seen = whole_numbers(30, 0), whole_numbers(ITEMS, 1), some_seen(30, 2)
    found, scores = ItemIndex.build(items).search(users, k, seen)
    wanted, values = plain_top(users, items, k, seen)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(scores, values)


def test_search_equals_brute_force_on_numbers_that_are_not_whole():
    rng = np.random.default_rng(3)
    users, items = (rng.normal(size=(rows, WIDTH)).astype(np.float32) for rows in (40, ITEMS))
    seen = some_seen(40, 4, largest=50)
    found, scores = ItemIndex.build(items).search(users, 10, seen)
    wanted, values = plain_top(users, items, 10, seen)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(scores, values, rtol=1e-5)


def test_equal_scores_go_to_the_smaller_item_however_many_there_are():
    items = np.ones((ITEMS, WIDTH), dtype=np.float32)
    seen = [np.array([0, 1, 5])] * 25  # above twenty rows FAISS takes another path
    found, _ = ItemIndex.build(items).search(np.ones((25, WIDTH), dtype=np.float32), 5, seen)
    assert found.tolist() == [[2, 3, 4, 6, 7]] * 25


@pytest.mark.parametrize("left", [0, 1, 4])
def test_a_user_who_has_seen_nearly_everything_gets_all_that_is_left(left):
    items = whole_numbers(ITEMS, 5)
    seen = [np.arange(left, ITEMS)[::-1], np.zeros(0, dtype=np.int64)]
    found, scores = ItemIndex.build(items).search(whole_numbers(2, 6), 5, seen)
    assert sorted(found[0, :left]) == list(range(left))
    assert (found[0, left:] == -1).all()
    assert np.isneginf(scores[0, left:]).all()
    assert (found[1] >= 0).all()


def test_what_is_saved_is_loaded_again(tmp_path):
    made = ItemIndex.build(whole_numbers(ITEMS, 7))
    made.save(tmp_path / "index.faiss")
    found = ItemIndex.load(tmp_path / "index.faiss")
    users = whole_numbers(3, 8)
    nothing = [np.zeros(0, dtype=np.int64)] * 3
    np.testing.assert_array_equal(found.search(users, 9, nothing)[0], made.search(users, 9, nothing)[0])
    assert len(found) == ITEMS


@pytest.mark.parametrize("content", [b"", b"no index at all", None])
def test_a_file_that_is_no_index_is_refused(tmp_path, content):
    path = tmp_path / "index.faiss"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"index\.faiss is no readable FAISS index; remove it"):
        ItemIndex.load(path)


def test_a_cut_index_is_refused(tmp_path):
    path = tmp_path / "index.faiss"
    ItemIndex.build(whole_numbers(ITEMS, 9)).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="no readable FAISS index"):
        ItemIndex.load(path)


def test_both_packages_of_faiss_are_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(index, "version", lambda name: "1.15.1")
    with pytest.raises(InputError, match=r"both installed.*pip uninstall faiss-cpu faiss-gpu"):
        index._import_faiss()


def test_no_package_of_faiss_is_refused_with_the_remedy(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(index, "version", missing)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"faiss is not installed.*pip install 'recsys\[cpu\]'"):
        index._import_faiss()


def test_the_number_of_threads_reaches_faiss():
    before = index.faiss.omp_get_max_threads()
    try:
        set_search_threads(1)
        assert index.faiss.omp_get_max_threads() == 1
    finally:
        set_search_threads(before)
