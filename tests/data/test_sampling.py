"""Windows and batches: what stands in them, and that nothing but seed and epoch decides."""

import warnings

import numpy as np
import pytest

from recsys.data.sampling import Alike, Windows, cut_windows, deal_batches, deal_to_rank, split_alike, uniform

SIZES = np.array([0, 1, 3, 4, 5, 8, 9, 17, 0, 40])
OFFSETS = np.concatenate([[0], np.cumsum(SIZES)])


def pieces(windows: Windows) -> list[tuple[int, int, int]]:
    return list(zip(windows.user.tolist(), windows.first.tolist(), windows.last.tolist(), strict=True))


@pytest.mark.parametrize("width", [1, 2, 4, 7, 50])
@pytest.mark.parametrize("held", [0, 1, 2])
def test_windows_cover_every_row_once_in_pieces_of_at_most_the_width(width, held):
    ends = np.maximum(OFFSETS[1:] - held, OFFSETS[:-1])
    for seed, epoch in ((0, 0), (0, 1), (3, 7)):
        windows = cut_windows(OFFSETS, ends, width, seed, epoch)
        for user in range(len(SIZES)):
            own = [(first, last) for who, first, last in pieces(windows) if who == user]
            assert [row for first, last in own for row in range(first, last)] == list(range(OFFSETS[user], ends[user]))
            assert all(1 <= last - first <= width for first, last in own)
            assert len(own) == -(-(ends[user] - OFFSETS[user]) // width)


def test_where_windows_are_cut_changes_with_epoch_and_seed_and_never_otherwise():
    def cut(seed, epoch):
        return pieces(cut_windows(OFFSETS, OFFSETS[1:], 4, seed, epoch))

    assert cut(0, 0) == cut(0, 0)
    assert len({tuple(cut(seed, epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))}) == 4
    more = np.append(OFFSETS, OFFSETS[-1] + 9)
    assert pieces(cut_windows(more, more[1:], 4, 0, 0))[: len(cut(0, 0))] == cut(0, 0)


def test_the_cut_takes_every_place_that_the_number_of_windows_allows():
    offsets = np.array([0, 10])
    begins = {first for epoch in range(200) for _, first, _ in pieces(cut_windows(offsets, offsets[1:], 4, 0, epoch))}
    assert begins == {0, 2, 3, 4, 6, 7, 8}  # three windows of at most 4: the first has 2, 3 or 4 rows


def test_uniform_numbers_are_uniform_and_depend_on_seed_epoch_and_row():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = uniform(2**40 + 1, 9, np.arange(200_000))
    assert 0 <= found.min() < found.max() < 1
    assert np.abs(np.histogram(found, 20, (0, 1))[0] / 10_000 - 1).max() < 0.05
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 0.01
    assert abs(np.corrcoef(found, uniform(2**40 + 1, 10, np.arange(200_000)))[0, 1]) < 0.01
    assert abs(np.corrcoef(found, uniform(2**40 + 2, 9, np.arange(200_000)))[0, 1]) < 0.01
    assert uniform(5, 3, np.array([7]))[0] == uniform(5, 3, np.array([1, 7]))[1]


def dealt(lengths, groups=None, *, batch_size=4, bucket=3, seed=0, epoch=0):
    groups = np.zeros(len(lengths), dtype=int) if groups is None else groups
    return deal_batches(np.asarray(lengths), groups, batch_size=batch_size, bucket=bucket, seed=seed, epoch=epoch)


def test_batches_hold_distinct_rows_and_leave_out_less_than_one_batch():
    batches = dealt(np.arange(50))
    rows = np.concatenate(batches)
    assert len(rows) == len(set(rows.tolist())) == 48
    assert [len(batch) for batch in batches] == [4] * 12


def test_what_is_left_out_changes_with_the_epoch_and_is_not_the_shortest():
    left = [
        (set(range(13)) - set(np.concatenate(dealt(np.arange(13), epoch=epoch)).tolist())).pop() for epoch in range(60)
    ]
    assert len(set(left)) > 10


def test_a_batch_is_sorted_by_length_and_of_like_length():
    lengths = np.random.default_rng(0).integers(1, 100, 400)
    spread = [np.ptp(lengths[batch]) for batch in dealt(lengths, batch_size=8, bucket=10)]
    mixed = [np.ptp(lengths[batch]) for batch in dealt(lengths, batch_size=8, bucket=1)]
    assert np.mean(spread) < np.mean(mixed) / 4
    for batch in dealt(lengths, batch_size=8, bucket=10):
        assert (np.diff(lengths[batch]) <= 0).all()


def test_the_order_of_batches_does_not_follow_their_lengths():
    lengths = np.arange(400)
    means = [lengths[batch].mean() for batch in dealt(lengths, batch_size=4, bucket=100)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


def test_groups_never_share_a_batch_and_a_small_one_is_a_short_batch():
    groups = np.array([0] * 10 + [1] * 3 + [2] * 8)
    batches = dealt(np.ones(21), groups)
    assert sorted(tuple(np.unique(groups[batch])) for batch in batches) == [(0,), (0,), (1,), (2,), (2,)]
    assert sorted(map(len, batches)) == [3, 4, 4, 4, 4]


def test_the_deal_depends_on_seed_and_epoch_alone_and_its_count_on_neither():
    def deal(seed, epoch):
        return [tuple(batch.tolist()) for batch in dealt(np.arange(30), seed=seed, epoch=epoch)]

    assert deal(1, 2) == deal(1, 2)
    assert len({tuple(deal(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert {len(deal(seed, epoch)) for seed in (0, 1) for epoch in range(5)} == {7}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_a_batch_in_equal_and_balanced_parts(world):
    lengths = np.arange(64)
    for batch in dealt(lengths, batch_size=16):
        parts = [deal_to_rank(batch, rank, world) for rank in range(world)]
        assert {len(part) for part in parts} == {16 // world}
        assert sorted(np.concatenate(parts)) == sorted(batch)
        assert (np.diff([lengths[part].sum() for part in parts]) <= 0).all()
        assert all((np.sort(parts[0])[:-1] <= np.sort(part)[1:]).all() for part in parts)  # no rank is a batch behind


def test_rows_that_are_alike_stand_together_and_other_ones_meet_in_every_epoch():
    rng = np.random.default_rng(0)
    topic = rng.permutation(np.repeat(np.arange(16), 12))
    vectors = rng.normal(size=(16, 8))[topic] + 0.05 * rng.normal(size=(len(topic), 8))
    alike = Alike(leaf=split_alike(vectors, 12), run=4)
    lengths, groups = rng.integers(1, 90, len(topic)), np.zeros(len(topic), dtype=int)
    epochs = [
        deal_batches(lengths, groups, batch_size=16, bucket=3, seed=0, epoch=epoch, alike=alike) for epoch in (0, 0, 1)
    ]
    for batches in epochs:
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(topic)))
        assert all((np.diff(lengths[batch]) <= 0).all() for batch in batches)
        shared = [np.bincount(topic[batch]) for batch in batches]
        assert all(set(one[one > 0].tolist()) <= {4, 8, 12} for one in shared)
    first, again, other = ({frozenset(batch.tolist()) for batch in batches} for batches in epochs)
    assert first == again
    assert not first & other


def test_rows_of_which_nothing_is_known_and_rests_of_leaves_are_dealt_as_they_come():
    leaf = np.array([0] * 7 + [-1] * 10 + [1] * 5)
    alike = Alike(leaf=leaf, run=4)
    rows = np.arange(len(leaf))
    seen = [alike.shuffle(rows, np.random.default_rng(seed)).tolist() for seed in range(50)]
    assert all(sorted(one) == rows.tolist() for one in seen)
    assert len(set(map(tuple, seen))) == 50
    assert alike.shuffle(rows[:0], np.random.default_rng(0)).tolist() == []


def test_leaves_are_halves_of_halves_until_they_are_small_enough():
    vectors = np.random.default_rng(1).normal(size=(100, 5))
    for largest in (1, 7, 13, 100):
        sizes = np.bincount(split_alike(vectors, largest))
        assert sizes.sum() == 100
        assert sizes.max() <= largest
        assert sizes.min() >= largest // 2
    line = np.arange(8.0)[:, None] * np.ones((1, 3))
    leaf = split_alike(line, 2)
    assert (leaf[::2] == leaf[1::2]).all()
    assert len(set(leaf.tolist())) == 4
