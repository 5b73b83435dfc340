"""Vectors as bytes or bits: the codes against their plain meaning, and the search against exact search."""

import numpy as np
import pytest

from recsys.retrieval import compress
from recsys.retrieval.compress import BitCodes, ByteCodes, search_codes
from recsys.retrieval.index import ItemIndex

KINDS = [ByteCodes, BitCodes]


def draw(rows: int, width: int = 70, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def none(rows: int) -> list[np.ndarray]:
    return [np.zeros(0, dtype=np.int64)] * rows


def test_a_byte_is_never_further_than_half_a_step_from_its_number():
    vectors = draw(50)
    codes = ByteCodes.of(vectors)
    assert codes.codes.dtype == np.int8
    assert (np.abs(codes.codes * codes.step - vectors) <= 0.5001 * codes.step).all()
    np.testing.assert_allclose(np.abs(codes.codes).max(axis=0), 127)


def test_byte_scores_are_products_with_the_rounded_vectors_in_blocks_or_at_once(monkeypatch):
    vectors, users = draw(50), draw(4, seed=1)
    codes = ByteCodes.of(vectors)
    plain = users @ (codes.codes * codes.step).T
    np.testing.assert_allclose(codes.scores(users), plain, atol=1e-4)
    monkeypatch.setattr(compress, "_BLOCK", 7)
    np.testing.assert_allclose(codes.scores(users), plain, atol=1e-4)


def test_an_entry_that_is_the_same_everywhere_is_no_division_by_zero():
    vectors = draw(5)
    vectors[:, 3] = 0
    assert np.isfinite(ByteCodes.of(vectors).scores(draw(2, seed=1))).all()


@pytest.mark.parametrize("width", [3, 64, 70])
def test_bit_scores_count_the_signs_that_agree(width):
    vectors, users = draw(40, width) + 0.3, draw(5, width, seed=1)
    agree = (users > 0)[:, None] == (vectors > vectors.mean(axis=0))[None]
    np.testing.assert_array_equal(BitCodes.of(vectors).scores(users), agree.sum(-1))


def test_codes_take_a_fourth_and_a_thirty_second():
    vectors = draw(1000, 128)
    assert ByteCodes.of(vectors).nbytes == vectors.nbytes / 4 + 128 * 4
    assert BitCodes.of(vectors).nbytes == vectors.nbytes / 32


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_of_all_items_is_exact_search(kind):
    vectors, users = draw(60), draw(9, seed=1)
    seen = [np.arange(row) for row in range(9)]
    found = search_codes(kind.of(vectors), vectors, users, 10, depth=60, seen=seen)
    wanted = ItemIndex.build(vectors).search(users, 10, seen)
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_found_is_the_best_of_the_nearest_codes(kind):
    vectors, users = draw(300), draw(6, seed=1)
    codes = kind.of(vectors)
    items, scores = search_codes(codes, vectors, users, 5, depth=40, seen=none(6))
    for row, user in enumerate(users):
        coarse, exact = codes.scores(users)[row], vectors @ user
        line = np.sort(coarse)[-40]
        assert (coarse[items[row]] >= line).all()
        better = np.flatnonzero((exact > scores[row, -1]) & (coarse > line))
        assert set(better) <= set(items[row])


@pytest.mark.parametrize(("kind", "least"), [(ByteCodes, 0.999), (BitCodes, 0.85)])
def test_a_longer_list_recalls_nearly_all_even_of_random_vectors(kind, least):
    vectors, users = draw(2000), draw(50, seed=1)
    found, _ = search_codes(kind.of(vectors), vectors, users, 10, depth=400, seen=none(50))
    wanted, _ = ItemIndex.build(vectors).search(users, 10, none(50))
    assert np.mean([len(np.intersect1d(*pair)) for pair in zip(found, wanted, strict=True)]) / 10 >= least


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_was_seen_is_found_and_short_lists_are_padded(kind, monkeypatch):
    monkeypatch.setattr(compress, "_SCORES", 24)  # two users at a time
    vectors, users = draw(12), draw(5, seed=1)
    seen = [np.arange(10), np.arange(12), *none(3)]
    items, scores = search_codes(kind.of(vectors), vectors, users, 4, depth=4, seen=seen)
    assert sorted(items[0]) == [-1, -1, 10, 11]
    assert (items[1] == -1).all()
    assert (items[2:] >= 0).all()
    assert ((scores == -np.inf) == (items < 0)).all()


def test_equal_scores_go_to_the_smaller_item():
    vectors = np.repeat(draw(1), 6, axis=0)
    vectors[0] *= -1
    items, _ = search_codes(ByteCodes.of(vectors), vectors, vectors[1:2], 3, depth=6, seen=none(1))
    assert items.tolist() == [[1, 2, 3]]
