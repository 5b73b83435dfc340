"""The index against brute force, and what it refuses."""

import importlib.metadata
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys.errors import InputError
from recsys.retrieval import engine
from recsys.retrieval.exact import ExactRows, exact_top
from recsys.retrieval.index import ItemIndex, Shard, needs_rebuild, set_search_threads
from recsys.retrieval.kinds import Settings
from recsys.shards import array_hash

ITEMS, WIDTH = 300, 6
KINDS = {
    "flat": Settings(),
    "hnsw": Settings(kind="hnsw", breadth=64),
    "ivf_flat": Settings(kind="ivf_flat", lists=4, breadth=4),
    "ivf_sq8": Settings(kind="ivf_sq8", lists=4, breadth=4, rescore=4),
    "ivf_pq": Settings(kind="ivf_pq", lists=4, breadth=4, code=3, rescore=8),
}
NARROW = {name: replace(one, breadth=min(one.breadth, 1)) for name, one in KINDS.items()}


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
    monkeypatch.setattr(engine, "version", lambda name: "1.15.1")
    with pytest.raises(InputError, match=r"both installed.*pip uninstall faiss-cpu faiss-gpu"):
        engine._import_faiss()


@pytest.fixture
def without_faiss(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(engine, "version", missing)
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(engine, "faiss", engine._import_faiss())


def test_without_faiss_torch_finds_the_same(without_faiss):
    users, items, seen = whole_numbers(30, 0), whole_numbers(ITEMS, 1), some_seen(30, 2)
    made = ItemIndex.build(items)
    assert isinstance(made.shards[0].rows, ExactRows)
    found, scores = made.search(users, 7, seen)
    wanted, values = plain_top(users, items, 7, seen)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(scores, values)


def test_without_faiss_other_kinds_are_refused_with_the_remedy(without_faiss):
    with pytest.raises(InputError, match=r"faiss is not installed.*pip install 'recsys\[cpu\]'"):
        ItemIndex.build(whole_numbers(ITEMS, 1), KINDS["ivf_flat"])


def test_the_number_of_threads_reaches_faiss():
    before = engine.faiss.omp_get_max_threads()
    try:
        set_search_threads(1)
        assert engine.faiss.omp_get_max_threads() == 1
    finally:
        set_search_threads(before)


def clustered(rows: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(8, width))
    return (centres[rng.integers(0, 8, rows)] + 0.4 * rng.normal(size=(rows, width))).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_finds_most_of_the_nearest_with_their_scores(kind):
    items, users = clustered(600, WIDTH, 1), clustered(40, WIDTH, 2)
    found, scores = ItemIndex.build(items, KINDS[kind]).search(users, 10, [np.zeros(0, dtype=np.int64)] * 40)
    right = [len(np.intersect1d(*pair)) for pair in zip(found, exact_top(items, users, 10), strict=True)]
    assert np.mean(right) >= 9
    np.testing.assert_allclose(scores, np.einsum("bkd,bd->bk", items[found], users), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", NARROW)
def test_an_index_that_guesses_fills_lists_by_comparing_all(kind):
    items, seen = clustered(ITEMS, WIDTH, 1), some_seen(30, 2, largest=ITEMS - 5)
    found, _ = ItemIndex.build(items, NARROW[kind]).search(clustered(30, WIDTH, 2), 150, seen)
    for own, gone in zip(found, seen, strict=True):
        listed = own[own >= 0]
        assert len(np.unique(listed)) == len(listed) == min(150, ITEMS - len(gone))
        assert not np.isin(listed, gone).any()


@pytest.mark.parametrize("share", [0.02, 0.2, 0.6, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_allowed_is_never_listed_and_no_list_is_short(kind, share):
    items, users, seen = clustered(ITEMS, WIDTH, 1), clustered(30, WIDTH, 2), some_seen(30, 3, largest=60)
    allowed = np.random.default_rng(4).permutation(ITEMS) < share * ITEMS
    found, _ = ItemIndex.build(items, KINDS[kind]).search(users, 20, seen, allowed)
    for own, gone in zip(found, seen, strict=True):
        listed = own[own >= 0]
        assert len(np.unique(listed)) == len(listed) == min(20, np.setdiff1d(np.flatnonzero(allowed), gone).size)
        assert allowed[listed].all()


def test_a_filter_of_a_flat_index_equals_brute_force():
    users, items, seen = whole_numbers(30, 0), whole_numbers(ITEMS, 1), some_seen(30, 2, largest=20)
    for share in (10, 90):
        allowed = np.random.default_rng(4).permutation(ITEMS) < share
        gone = [np.union1d(one, np.flatnonzero(~allowed)) for one in seen]
        found, scores = ItemIndex.build(items).search(users, 15, seen, allowed)
        wanted, values = plain_top(users, items, 15, gone)
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(scores, values)


def in_shards(items: np.ndarray) -> ItemIndex:
    """A base of two shards with tombstones, and a delta with what was changed and added, in any order."""
    old, delta = items.copy(), np.random.default_rng(1).permutation(np.r_[3:12, 190:ITEMS])
    old[delta] = 9  # what they were before
    rows = np.arange(190)
    places = np.where(np.isin(rows, delta), -1, rows).astype(np.int32)
    parts = [(old[:90], places[:90]), (old[90:190], places[90:]), (items[delta], delta.astype(np.int32))]
    return ItemIndex([Shard(rows=ItemIndex.build(part).shards[0].rows, items=places) for part, places in parts])


def test_shards_with_tombstones_and_a_delta_equal_an_index_built_afresh():
    items, users, seen = whole_numbers(ITEMS, 1), whole_numbers(30, 0), some_seen(30, 2)
    made, allowed = in_shards(items), np.arange(ITEMS) % 3 > 0
    assert len(made) == ITEMS
    for k in (1, 10, ITEMS):
        for filtered in (None, allowed):
            for one, other in zip(
                made.search(users, k, seen, filtered),
                ItemIndex.build(items).search(users, k, seen, filtered),
                strict=True,
            ):
                np.testing.assert_array_equal(one, other)


def test_beyond_a_tenth_of_changes_the_index_is_built_afresh():
    assert not needs_rebuild(10, 100)
    assert needs_rebuild(11, 100)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_loaded_as_it_was_saved(kind, tmp_path):
    items, users, nothing = clustered(ITEMS, WIDTH, 1), clustered(9, WIDTH, 2), [np.zeros(0, dtype=np.int64)] * 9
    made = ItemIndex.build(items, KINDS[kind])
    made.save(tmp_path / "index.faiss", recall=1.0)
    found = ItemIndex.load(tmp_path / "index.faiss", items)
    for one, other in zip(made.search(users, 5, nothing), found.search(users, 5, nothing), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_byte_is_refused(kind, tmp_path):
    path = tmp_path / "index.faiss"
    ItemIndex.build(clustered(ITEMS, WIDTH, 1), KINDS[kind]).save(path)
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="no readable FAISS index"):
        ItemIndex.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_no_numbers_are_refused(value):
    items = whole_numbers(ITEMS, 1)
    items[17, 3] = value
    with pytest.raises(InputError, match=r"vector of item 17 holds NaN or infinity"):
        ItemIndex.build(items)


@pytest.mark.parametrize(
    ("kind", "threads"),
    [("ivf_flat", 2), ("ivf_sq8", 2), ("ivf_pq", 1), ("hnsw", 1)],  # these two: as often as asked
)
def test_an_index_is_the_same_every_time_and_of_lists_with_any_number_of_threads(kind, threads, tmp_path):
    before, items = engine.faiss.omp_get_max_threads(), clustered(1000, WIDTH, 1)
    try:
        for count, name in ((1, "first"), (threads, "second")):
            set_search_threads(count)
            torch.set_num_threads(count)
            ItemIndex.build(items, KINDS[kind], seed=3).save(tmp_path / name)
    finally:
        set_search_threads(before)
        torch.set_num_threads(1)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_sq8", "ivf_pq"])
def test_lists_found_with_torch_give_what_faiss_finds_alone(kind):
    items, users = clustered(900, WIDTH, 1), clustered(50, WIDTH, 2)
    rows = ItemIndex.build(items, replace(KINDS[kind], lists=9, breadth=3, rescore=1)).shards[0].rows
    assert isinstance(rows, engine.FaissRows)
    engine.faiss.extract_index_ivf(rows.index).nprobe = 3
    wanted, found = rows.index.search(users, 20), rows.search(users, 20)
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["flat", "ivf_flat", "hnsw"])
def test_a_patched_index_finds_what_one_built_afresh_finds(kind):
    items, users, seen = whole_numbers(ITEMS, 1), whole_numbers(30, 0), some_seen(30, 2, largest=30)
    old, changed = whole_numbers(ITEMS - 6, 9), np.r_[0:9, ITEMS - 6 : ITEMS].astype(np.int32)
    old[9:] = items[9 : ITEMS - 6]
    settings = replace(KINDS[kind], breadth=4 if kind == "ivf_flat" else KINDS[kind].breadth * 4)
    places = np.arange(len(old), dtype=np.int32)
    places[:9] = -1
    made = ItemIndex.build(old, settings).patched(places, items[changed], changed)
    found, scores = made.search(users, 10, seen)
    wanted, values = ItemIndex.build(items).search(users, 10, seen)
    assert len(made) == ITEMS
    if kind == "hnsw":  # a graph may miss some; what it finds is right
        assert np.mean(scores == values) > 0.9
    else:
        np.testing.assert_array_equal(scores, values)
        assert np.mean(found == wanted) > 0.5  # of equal scores at the end of what was searched, others may be there
    if kind == "flat":
        np.testing.assert_array_equal(found, wanted)


def test_an_index_of_which_items_were_removed_alone_has_no_delta():
    items, places = whole_numbers(ITEMS, 1), np.arange(ITEMS, dtype=np.int32)
    places[5:20] = -1
    made = ItemIndex.build(items).patched(places, items[:0], places[:0])
    found, _ = made.search(whole_numbers(4, 0), len(made), [np.zeros(0, dtype=np.int64)] * 4)
    assert [sorted(own) for own in found.tolist()] == [[*range(5), *range(20, ITEMS)]] * 4


def test_an_index_of_other_vectors_is_refused(tmp_path):
    items = whole_numbers(ITEMS, 1)
    ItemIndex.build(items).save(tmp_path / "index.faiss", vectors=array_hash(items))
    assert len(ItemIndex.load(tmp_path / "index.faiss", items)) == ITEMS
    with pytest.raises(InputError, match=r"index\.faiss was built of other item vectors than those beside it"):
        ItemIndex.load(tmp_path / "index.faiss", items + 1)


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"file": 3}'])
def test_an_index_without_a_sound_record_is_refused(record, tmp_path):
    ItemIndex.build(whole_numbers(ITEMS, 1)).save(tmp_path / "index.faiss")
    (tmp_path / "index.json").write_text(record)
    with pytest.raises(InputError, match="no readable FAISS index"):
        ItemIndex.load(tmp_path / "index.faiss")
