"""Neighbours against plain loops over users, and what nobody may foretell from his own verdict."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.data.histories import Histories
from recsys.data.neighbours import ByCategory, ByNumber, Neighbours, columns, event_values
from recsys.data.split import TRAIN, VALID
from recsys.errors import InputError

USERS, ITEMS = 12, 9
CODES = np.array([[1, 2], [1, 0], [2, 1], [3, 0], [0, 0], [4, 5], [5, 4], [1, 3], [2, 0]])
YEARS = np.array([0.0, 0.5, -1.0, np.nan, 2.0, 2.0, 0.0, 1.0, -2.0], dtype=np.float32)
WAYS = {"users": None, "genres": ByCategory(codes=CODES), "year": ByNumber(values=YEARS)}
VALUES = event_values(["1", "2", "3", "4", "5"], ["4", "5"])


def verdicts(seed: int = 0) -> Histories:
    """Everybody takes some items once, and the first of them twice; a fifth of the rows is held out."""
    rng = np.random.default_rng(seed)
    items = [rng.permutation(ITEMS)[: rng.integers(3, ITEMS)] for _ in range(USERS)]
    items = [np.append(own, own[0]) for own in items]
    item = np.concatenate(items)
    return Histories(
        offsets=np.cumsum([0, *map(len, items)]), item=item, order=np.arange(len(item)) * 1.0,
        position=np.zeros(len(item)), event=rng.integers(0, 6, len(item)).astype(np.int16),
        target=np.ones(len(item), dtype=bool), stage=np.where(rng.random(len(item)) < 0.2, VALID, TRAIN),
        context=np.zeros((len(item), 0)),
    )  # fmt: skip


def residuals(histories: Histories) -> tuple[dict[tuple[int, int], float], np.ndarray]:
    """By user and item, and what is usual of items; by loops."""
    said: dict[tuple[int, int], list[float]] = {}
    for user in range(USERS):
        for row in range(histories.offsets[user], histories.offsets[user + 1]):
            if histories.stage[row] == TRAIN and histories.event[row]:
                said.setdefault((user, int(histories.item[row])), []).append(float(histories.event[row]))
    worth = {key: float(np.mean(values)) for key, values in said.items()}
    mean = np.mean(list(worth.values()))
    own = [[value - mean for (_, item), value in worth.items() if item == one] for one in range(ITEMS)]
    usual = np.array([mean + sum(values) / (len(values) + 5) for values in own])
    left = {key: value - usual[key[1]] for key, value in worth.items()}
    bents = [[value for (user, _), value in left.items() if user == one] for one in range(USERS)]
    return {
        (user, item): value - sum(bents[user]) / (len(bents[user]) + 3) for (user, item), value in left.items()
    }, usual


def by_loops(histories: Histories, items: list[int], events: list[int], user: int, candidate: int) -> list[float]:
    found, usual = residuals(histories)

    def common(one: int, other: int, without: int = -1) -> float:
        whom = [u for u in range(USERS) if u != without and (u, one) in found and (u, other) in found]
        return sum(found[u, one] * found[u, other] for u in whom)

    told = [(item, event - usual[item]) for item, event in zip(items, events, strict=True) if event]
    bent = sum(value for _, value in told) / (len(told) + 3)
    rest = [value - bent for _, value in told]
    ways = [
        (
            0.5,
            lambda item: (
                common(candidate, item, user) / (np.sqrt(common(candidate, candidate) * common(item, item)) + 30)
            ),
        ),
        (1.5, lambda item: of_category(candidate, item)),
        (1.5, lambda item: 0 if {candidate, item} & {3} else np.exp(-abs(YEARS[candidate] - YEARS[item]))),
    ]
    numbers = [bent, float(np.mean(rest[-10:])), np.log1p(len(rest))]
    for far, way in ways:
        alike = [way(item) for item, _ in told]
        said = sum(one * value for one, value in zip(alike, rest, strict=True))
        numbers += [said / (sum(map(abs, alike)) + far), said / np.sqrt(len(rest))]
    return numbers


def of_category(one: int, other: int) -> float:
    mine, theirs = (set(CODES[item].tolist()) - {0} for item in (one, other))
    return len(mine & theirs) / np.sqrt(len(mine) * len(theirs)) if mine and theirs else 0.0


def test_neighbours_say_what_loops_over_users_say():
    histories = verdicts()
    neighbours = Neighbours.of(histories, VALUES, ITEMS, WAYS)
    rng = np.random.default_rng(1)
    users, sizes = np.array([3, -1, 0]), (12, 4, 1)
    items = [rng.integers(0, ITEMS, size) for size in sizes]
    events = [rng.integers(1, 6, size) for size in sizes]
    events[0][3] = 0  # of an unknown kind
    candidates = np.stack([rng.permutation(ITEMS)[:5] for _ in users])
    found = neighbours.batch(items, events, users, candidates).numpy()
    expected = [
        [by_loops(histories, [*item], [*event], user, one) for one in listed]
        for item, event, user, listed in zip(items, events, users, candidates, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_requests_are_judged_in_blocks_without_any_being_lost(monkeypatch):
    neighbours = Neighbours.of(verdicts(), VALUES, ITEMS, WAYS)
    rng = np.random.default_rng(2)
    items = [rng.integers(0, ITEMS, size) for size in (3, 0, 14, 8, 1)]
    events = [rng.integers(0, 6, len(item)) for item in items]
    asked = items, events, np.arange(5), rng.integers(0, ITEMS, (5, 4))
    whole = neighbours.batch(*asked)
    monkeypatch.setattr("recsys.data.neighbours._PAIRS", 2 * 4 * 14)
    np.testing.assert_allclose(neighbours.batch(*asked), whole, rtol=1e-5, atol=1e-7)


def test_without_a_history_or_with_unknown_events_neighbours_say_nothing():
    neighbours = Neighbours.of(verdicts(), VALUES, ITEMS, WAYS)
    none = np.zeros(0, dtype=np.int64)
    found = neighbours.batch(
        [none, np.array([2, -1])], [none, np.array([0, 0])], np.array([0, 1]), np.zeros((2, 3), int)
    )
    assert not found.any()
    assert neighbours.batch([], [], np.zeros(0, dtype=int), np.zeros((0, 3), int)).shape == (0, 3, columns(3))


def test_a_users_train_rows_are_taken_out_for_him_alone_and_for_no_stranger():
    neighbours = Neighbours.of(verdicts(), VALUES, ITEMS, WAYS)
    items, events, candidates = np.arange(4), np.array([5, 1, 4, 2]), np.arange(ITEMS)[None]

    def told(known: Neighbours, user: int) -> np.ndarray:
        return known.batch([items], [events], np.array([user]), candidates).numpy()

    assert not np.allclose(told(neighbours, 0), told(neighbours, -1))
    np.testing.assert_array_equal(told(neighbours.of_a_stranger(), 0), told(neighbours, -1))


def test_what_is_held_out_changes_nothing():
    histories = verdicts()
    other = replace(histories, event=np.where(histories.stage == VALID, 1, histories.event).astype(np.int16))
    one, two = (Neighbours.of(each, VALUES, ITEMS, WAYS) for each in (histories, other))
    np.testing.assert_array_equal(one.ways["users"].common, two.ways["users"].common)
    np.testing.assert_array_equal(one.usual, two.usual)


def test_users_are_added_in_blocks_without_any_being_lost(monkeypatch):
    whole = Neighbours.of(verdicts(), VALUES, ITEMS, WAYS).ways["users"].common
    monkeypatch.setattr("recsys.data.neighbours._BLOCK", 5)
    blocks = Neighbours.of(verdicts(), VALUES, ITEMS, WAYS).ways["users"].common
    np.testing.assert_allclose(blocks, whole, rtol=1e-5, atol=1e-6)


def test_an_event_is_worth_its_own_number_or_whether_it_is_a_target():
    np.testing.assert_array_equal(event_values(["0.5", "4"], ["4"]), [np.nan, 0.5, 4])
    np.testing.assert_array_equal(event_values(["view", "3"], ["3"]), [np.nan, 0, 1])
    np.testing.assert_array_equal(event_values(["view"], None), [np.nan, 1])


def test_a_catalogue_that_is_too_large_for_pairs_is_refused_only_where_users_make_items_alike(monkeypatch):
    monkeypatch.setattr("recsys.data.neighbours.MOST", ITEMS - 1)
    with pytest.raises(
        InputError, match=r"There are 9 items, and users make 8 alike at most; take 'users' out of data"
    ):
        Neighbours.of(verdicts(), VALUES, ITEMS, WAYS)
    bare = Neighbours.of(verdicts(), VALUES, ITEMS, {"genres": WAYS["genres"]})
    found = bare.batch([np.arange(3)], [np.ones(3, dtype=int)], np.array([0]), np.zeros((1, 2), dtype=int))
    assert found.shape == (1, 2, columns(1))
