"""States of texts: what is read, what is kept, and what goes first."""

import torch

from recsys.batch import TextBatch
from recsys.models.states import StateCache, read_texts

WIDTH = 3


class Reader:
    """Makes states of tokens that say which they are, and counts the texts that it is given."""

    def __init__(self) -> None:
        self.read = 0

    def __call__(self, texts: TextBatch) -> torch.Tensor:
        self.read += len(texts.ids)
        return texts.ids[texts.mask][:, None].float().expand(-1, WIDTH)


def texts(*rows: list[int]) -> TextBatch:
    mask = torch.arange(max(map(len, rows))) < torch.tensor([len(row) for row in rows])[:, None]
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    ids[mask] = torch.tensor([token for row in rows for token in row])
    return TextBatch(ids=ids, mask=mask)


def tokens(found: list[torch.Tensor]) -> list[list[int]]:
    assert all(one.shape[1] == WIDTH for one in found)
    return [one[:, 0].int().tolist() for one in found]


def test_texts_are_read_in_blocks_and_come_back_one_by_one():
    rows = [[1 + row, *range(row % 4)] for row in range(600)]
    assert tokens(read_texts(texts(*rows), Reader())) == rows


def test_what_is_known_is_not_read_again_and_what_is_alike_but_for_its_length_is_no_other():
    reader, cache = Reader(), StateCache()
    assert tokens(cache.read(texts([5, 6], [7], [5, 6]), reader)) == [[5, 6], [7], [5, 6]]
    assert reader.read == 2
    assert tokens(read_texts(texts([5], [7], [5, 6, 0]), reader, cache)) == [[5], [7], [5, 6, 0]]
    assert reader.read == 4


def test_a_wider_batch_finds_what_a_narrower_one_has_left():
    reader, cache = Reader(), StateCache()
    cache.read(texts([5, 6]), reader)
    assert tokens(cache.read(texts([1, 2, 3, 4], [5, 6]), reader)) == [[1, 2, 3, 4], [5, 6]]
    assert reader.read == 2


def test_the_bound_holds_and_what_was_asked_for_last_stays():
    one = 2 * WIDTH * 4
    reader, cache = Reader(), StateCache(most=2 * one)
    cache.read(texts([1, 1], [2, 2]), reader)
    cache.read(texts([1, 1]), reader)
    cache.read(texts([3, 3]), reader)
    assert cache.size == 2 * one
    reader.read = 0
    cache.read(texts([1, 1], [3, 3]), reader)
    assert reader.read == 0
    cache.read(texts([2, 2]), reader)
    assert reader.read == 1


def test_more_than_the_bound_at_one_time_is_given_and_not_kept():
    reader, cache = Reader(), StateCache(most=0)
    assert tokens(cache.read(texts([1, 2], [3]), reader)) == [[1, 2], [3]]
    assert cache.size == 0


def test_a_kept_text_does_not_hold_the_memory_of_those_it_was_read_with():
    cache = StateCache()
    for one in cache.read(texts([1, 2], [3], [4, 5, 6]), lambda some: some.ids[some.mask][:, None].float()):
        assert one.untyped_storage().nbytes() == one.nbytes
