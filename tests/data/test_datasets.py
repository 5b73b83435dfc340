"""Training batches against loops over the tables: who sees what, when, and what counts as seen."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recsys.batch import RetrieverBatch, TextBatch, UserBatch
from recsys.data.augment import AugmentConfig
from recsys.data.datasets import Features, Local, NegativesConfig, Past, RetrieverRows, Texts, search_past
from recsys.data.mined import HardNegatives, Mined
from recsys.data.prepare import Prepared, prepare
from recsys.data.sampling import Draw, deal_to_rank
from recsys.data.split import TEST, TRAIN, VALID
from recsys.errors import InputError
from recsys.losses.in_batch import log_chance
from recsys.tables import (
    DataConfig,
    InteractionsConfig,
    ItemsConfig,
    QueriesConfig,
    RelevanceConfig,
    SplitConfig,
    UsersConfig,
)

USERS, ITEMS, QUERIES, MAX_ITEMS = 16, 25, 160, 4


def make_tables(folder: Path) -> None:
    """Events of which two thirds are targets, items that come again, times that searches share."""
    rng, count = np.random.default_rng(0), 180
    user, when = rng.integers(0, USERS, QUERIES), rng.integers(0, 32, QUERIES)
    pairs = {(int(query), int(item)) for query, item in rng.integers(0, [QUERIES, ITEMS], (450, 2)) if query != 3}
    tables = {
        "items": {
            "item_id": range(ITEMS),
            "title": [f"thing {item}" for item in range(ITEMS)],
            "kind": [f"kind {item % 3}" for item in range(ITEMS)],
            "price": rng.random(ITEMS),
        },
        "users": {
            "user_id": range(USERS),
            "age": [["young", "old", None][user % 3] for user in range(USERS)],
            "pay": rng.random(USERS),
        },
        "interactions": {
            "user_id": rng.integers(0, USERS - 1, count),
            "item_id": (rng.random(count) ** 2 * ITEMS).astype(int),
            "timestamp": rng.integers(0, 30, count),
            "event": rng.choice(["view", "buy", "buy"], count),
            "page": rng.choice(["home", "list", "cart"], count),
        },
        "queries": {
            "query_id": range(QUERIES),
            "query": [f"word {query}" for query in range(QUERIES)],
            "user_id": [None if query % 9 == 0 else int(one) for query, one in enumerate(user)],
            "timestamp": [None if query % 7 == 0 else float(one) for query, one in enumerate(when)],
        },
        "relevance": {
            "query_id": [query for query, _ in sorted(pairs)],
            "item_id": [item for _, item in sorted(pairs)],
            "grade": [(query + item) % 4 for query, item in sorted(pairs)],
        },
    }
    folder.mkdir(parents=True)
    for name, columns in tables.items():
        pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet")


def settings(folder: Path, **sections) -> DataConfig:
    roles = {
        "items": ItemsConfig(text=["title"], category=["kind"], number=["price"]),
        "users": UsersConfig(category=["age"], number=["pay"]),
        "interactions": InteractionsConfig(event="event", target_events=["buy"], context=["page"]),
        "queries": QueriesConfig(user="user_id", order="timestamp"),
        "relevance": RelevanceConfig(grade="grade"),
        "split": SplitConfig(by="last", second=1, valid_queries=0.3),
    }
    return DataConfig(root=str(folder / "tables"), cache=str(folder / "cache"), **{**roles, **sections})


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Prepared:
    folder = tmp_path_factory.mktemp("shop")
    make_tables(folder / "tables")
    return prepare(settings(folder))


def reader(data: Prepared, *, max_items: int = MAX_ITEMS, searches: bool = False) -> Features:
    """Query texts reach a batch as their own row, so that a test can tell which one stands where."""
    vectors = np.arange(QUERIES, dtype=np.float32)[:, None]
    return Features(data, Texts(), Texts(vectors=vectors), max_items=max_items, searches=searches)


def rows_of(features: Features, **changes) -> RetrieverRows:
    values = {
        "tasks": ["next_item"],
        "negatives": NegativesConfig(),
        "seed": 0,
    }
    return RetrieverRows(features, **{**values, **changes})


def everything(rows: RetrieverRows, task: int = 0, epoch: int = 0) -> Draw:
    return Draw(epoch=epoch, number=0, rows=np.flatnonzero(rows.groups() == task))


@dataclass(frozen=True)
class Question:
    """One supervised target of a batch, in the words of the tables."""

    user: int
    target: int
    step: int
    entries: tuple[tuple[str, int], ...]
    """("item", row) or ("query", row), oldest first."""
    places: tuple[int, ...]
    """Number of each entry in its history."""
    seen: frozenset[int]
    context: int


def entries_of(users: UserBatch, row: int, step: int, index: np.ndarray) -> tuple[tuple[str, int], ...]:
    found = []
    for entry in users.history[row, :step].tolist():
        is_item = entry < len(index)
        found.append(
            ("item", int(index[entry])) if is_item else ("query", int(users.query_vector[entry - len(index), 0]))
        )
    return tuple(found)


def questions(batch: RetrieverBatch, owners: np.ndarray) -> list[Question]:
    """Everything that a batch teaches; `owners` [B] are the users of its rows."""
    index = np.arange(ITEMS) if batch.items is None else batch.items.index.numpy()
    found = []
    for row, step, target in zip(batch.row.tolist(), batch.step.tolist(), batch.target.tolist(), strict=True):
        masked = (batch.seen_row == row) & (batch.seen_step <= step)
        assert batch.users.history_mask[row, :step].all()
        found.append(Question(
            user=int(owners[row]), target=target, step=step,
            entries=entries_of(batch.users, row, step, index),
            places=tuple(batch.users.position[row, :step].tolist()),
            seen=frozenset(batch.seen_item[masked].tolist()),
            context=int(batch.users.context[row, step, 0]),
        ))  # fmt: skip
    return found


def learnt(rows: RetrieverRows, epoch: int = 0) -> list[Question]:
    owners = rows._windows(epoch).user
    return questions(rows.assemble(everything(rows, epoch=epoch)), owners)


def histories_of(data: Prepared) -> dict[int, list[dict]]:
    """Each user's rows as the tables have them, in order, with their stage."""
    frame = data.tables.interactions.with_row_index("row").sort("user_id", "timestamp", "row").collect()
    rows = frame.with_columns(stage=pl.Series(np.asarray(data.histories.stage))).to_dicts()
    return {user: [row for row in rows if row["user_id"] == user] for user in range(USERS)}


def searches_of(data: Prepared, user: int, stage: int = TEST) -> list[tuple[float, int]]:
    found = data.queries
    known = [query for query in range(QUERIES) if found.user[query] == user and not np.isnan(found.order[query])]
    return sorted((float(found.order[query]), query) for query in known if found.stage[query] <= stage)


@pytest.mark.parametrize("width", [1, 3, 4, 100])
@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (5, 3)])
def test_every_train_target_is_learnt_exactly_once_in_an_epoch(data, width, seed, epoch):
    rows = rows_of(reader(data, max_items=width), seed=seed)
    expected = Counter(
        (user, row["item_id"], place)
        for user, own in histories_of(data).items()
        for place, row in enumerate(own)
        if row["event"] == "buy" and row["stage"] == TRAIN
    )
    found = Counter((one.user, one.target, one.places[-1] + 1 if one.places else 0) for one in learnt(rows, epoch))
    assert found == expected
    assert len(rows.lengths(epoch)) == len(rows.groups()) == rows.window_count


@pytest.mark.parametrize("epoch", range(3))
def test_a_state_has_seen_exactly_what_was_before_its_target(data, epoch):
    histories = histories_of(data)
    for one in learnt(rows_of(reader(data)), epoch):
        place = one.places[-1] + 1 if one.places else 0
        own = histories[one.user]
        before = own[place - len(one.places) : place]
        assert one.places == tuple(range(place - len(one.places), place))
        assert one.entries == tuple(("item", row["item_id"]) for row in before)
        assert one.step == len(before) <= MAX_ITEMS
        assert one.target == own[place]["item_id"]


def test_only_a_users_first_row_is_learnt_without_a_past(data):
    for epoch in range(5):
        for dropout in (0.0, 0.6):
            for one in learnt(rows_of(reader(data), augment=AugmentConfig(mask=dropout)), epoch):
                assert one.step > 0 or histories_of_first(data, one.user) == one.target


def histories_of_first(data: Prepared, user: int) -> int:
    return histories_of(data)[user][0]["item_id"]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_seen_are_exactly_the_earlier_target_events(data, dropout):
    histories = histories_of(data)
    for epoch in range(3):
        for one in learnt(rows_of(reader(data), augment=AugmentConfig(mask=dropout)), epoch):
            if dropout and not one.places:
                continue
            candidates = [
                place for place, row in enumerate(histories[one.user])
                if row["item_id"] == one.target and row["event"] == "buy" and (not one.places or place > one.places[-1])
            ]  # fmt: skip
            expected = [
                {row["item_id"] for row in histories[one.user][:place] if row["event"] == "buy"} for place in candidates
            ]
            assert one.seen in expected if dropout else one.seen == expected[0]


def test_what_is_dropped_from_a_history_leaves_a_gap(data):
    rows, histories = rows_of(reader(data, max_items=12), augment=AugmentConfig(mask=0.7)), histories_of(data)
    shares = []
    for epoch in range(4):
        whole = sum(row["stage"] == TRAIN and row["event"] == "buy" for own in histories.values() for row in own)
        found = learnt(rows, epoch)
        shares.append(len(found) / whole)
        for one in found:
            assert list(one.places) == sorted(set(one.places))
            assert one.entries == tuple(("item", histories[one.user][place]["item_id"]) for place in one.places)
    assert 0.5 < np.mean(shares) < 0.8  # a share between 0 and 0.7 is dropped
    assert len(set(shares)) > 1


def test_a_cropped_history_is_the_latest_part_and_asks_for_what_comes_after_it(data):
    whole = rows_of(reader(data, max_items=100))
    cropped, shares = rows_of(reader(data, max_items=100), augment=AugmentConfig(crop=0.8)), []
    for epoch in range(6):
        before, found = learnt(whole, epoch), learnt(cropped, epoch)
        shares.append(len(found) / len(before))
        rest = Counter((one.user, one.target, one.places[-1] + 1) for one in before if one.places)
        for one in found:
            own = histories_of(data)[one.user]
            assert np.all(np.diff(one.places) == 1)
            assert one.entries == tuple(("item", own[place]["item_id"]) for place in one.places)
            assert not one.places or rest[one.user, one.target, one.places[-1] + 1]
    assert 0.4 < np.mean(shares) < 0.85  # a share between 0 and 0.8 is cut off
    assert any(one.places and one.places[0] > 0 for one in learnt(cropped))


def test_a_shuffled_run_holds_the_same_entries_and_nothing_is_asked_for_within_it(data):
    shuffled, moved, shares = rows_of(reader(data, max_items=100), augment=AugmentConfig(reorder=0.9)), 0, []
    whole = {epoch: learnt(rows_of(reader(data, max_items=100)), epoch) for epoch in range(4)}
    for epoch, before in whole.items():
        plain = {(one.user, one.places, one.target): one for one in before}
        found = learnt(shuffled, epoch)
        shares.append(len(found) / len(before))
        for one in found:
            other = plain[one.user, one.places, one.target]
            assert sorted(one.entries) == sorted(other.entries)  # so that no target stands before itself
            assert (one.seen, one.context) == (other.seen, other.context)
            moved += one.entries != other.entries
    assert moved
    assert 0.4 < np.mean(shares) < 0.95


def test_shuffling_and_cropping_go_with_searches_and_gaps(data):
    changes = AugmentConfig(mask=0.3, crop=0.3, reorder=0.5)
    rows, histories = rows_of(reader(data, max_items=100, searches=True), augment=changes), histories_of(data)
    for one in learnt(rows):
        own = Counter(("item", row["item_id"]) for row in histories[one.user])
        own.update(("query", query) for _, query in searches_of(data, one.user))
        assert not Counter(one.entries) - own


def test_a_batch_tells_how_many_entries_and_tokens_it_holds(data):
    features = reader(data)
    words = Texts(
        tokens=lambda rows: TextBatch(
            ids=torch.zeros(len(rows), 9, dtype=torch.int64), mask=torch.arange(9).expand(len(rows), -1) < 5
        )
    )

    def count() -> tuple[RetrieverBatch, int]:
        rows = rows_of(features, tasks=["query_to_item"], negatives=NegativesConfig(kind="batch", random=3))
        batch = rows.assemble(everything(rows, task=1))
        return batch, batch.tokens - int(batch.users.history_mask.sum())

    batch, tokens = count()
    assert tokens == len(batch.users.query)  # vectors
    features.query_texts = features.item_texts = words
    batch, tokens = count()
    assert tokens == 5 * (len(batch.users.query_text.ids) + len(batch.item))


def test_the_moment_of_a_target_is_the_context_of_its_state(data):
    pages = data.codes.context["page"]
    for one in learnt(rows_of(reader(data))):
        place = one.places[-1] + 1 if one.places else 0
        assert pages[one.context - 1] == histories_of(data)[one.user][place]["page"]


@pytest.mark.parametrize("epoch", range(3))
def test_searches_stand_where_they_were_made_and_never_before_what_they_follow(data, epoch):
    rows, histories = rows_of(reader(data, max_items=100, searches=True)), histories_of(data)
    count = 0
    for one in learnt(rows, epoch):
        number = sum(kind == "item" for kind, _ in one.entries)
        own = histories[one.user]
        assert own[number]["item_id"] == one.target
        items = [(row["timestamp"], 0, place, ("item", row["item_id"])) for place, row in enumerate(own[:number])]
        now = own[number]["timestamp"]
        searches = [
            (order, 1, query, ("query", query)) for order, query in searches_of(data, one.user, TRAIN) if order < now
        ]
        assert one.entries == tuple(entry for *_, entry in sorted(items + searches))
        assert len(one.entries) == one.step
        count += len(searches)
    assert count > 50


def test_a_later_window_holds_the_searches_since_its_first_entry(data):
    histories = histories_of(data)
    for one in learnt(rows_of(reader(data, searches=True)), epoch=1):
        items = [entry for entry in one.entries if entry[0] == "item"]
        found = [query for kind, query in one.entries if kind == "query"]
        order = {query: when for when, query in searches_of(data, one.user)}
        assert all(data.queries.stage[query] == TRAIN for query in found)
        assert [order[query] for query in found] == sorted(order[query] for query in found)
        if len(items) < 2:
            continue
        places = [
            place for place in range(len(items), len(histories[one.user]))
            if [("item", row["item_id"]) for row in histories[one.user][place - len(items) : place]] == items
            and histories[one.user][place]["item_id"] == one.target
        ]  # fmt: skip
        assert any(all(order[query] < histories[one.user][place]["timestamp"] for query in found) for place in places)


def test_held_out_searches_never_stand_in_what_is_learnt_from(data):
    assert (data.queries.stage[data.queries.user >= 0] == VALID).any()
    for one in learnt(rows_of(reader(data, max_items=100, searches=True))):
        assert all(data.queries.stage[query] == TRAIN for kind, query in one.entries if kind == "query")


def test_a_row_is_the_same_in_whatever_batch_it_stands(data):
    rows = rows_of(reader(data, searches=True), augment=AugmentConfig(mask=0.3, crop=0.3, reorder=0.5))
    owners = rows._windows(2).user
    together = questions(rows.assemble(everything(rows, epoch=2)), owners)
    alone = [
        one
        for row in range(rows.window_count)
        for one in questions(rows.assemble(Draw(epoch=2, number=9, rows=np.array([row]))), owners[[row]])
    ]
    assert together == alone


def test_negatives_of_the_batch_name_the_same_items_as_the_whole_catalogue(data):
    for task, name in ((0, "next_item"), (1, "query_to_item")):
        whole = rows_of(reader(data, searches=True), tasks=[name])
        some = rows_of(reader(data, searches=True), tasks=[name], negatives=NegativesConfig(kind="batch", random=3))
        for start in range(0, len(whole.groups()), 3):
            draw = Draw(epoch=1, number=start, rows=np.arange(len(whole.groups()))[start : start + 3])
            owners = np.arange(3)
            full, small = whole.assemble(draw), some.assemble(draw)
            index = small.items.index.numpy()
            assert (full.items, full.item, full.missed, full.draws) == (None, None, None, None)
            assert (np.diff(index) > 0).all()
            for one, other in zip(questions(full, owners), questions(small, owners), strict=True):
                assert other == one
            assert small.item.tolist() == index.tolist()
            assert small.missed.shape == (len(index), 3)
            np.testing.assert_array_equal(small.items.category.numpy(), data.catalogue.category[index])
            np.testing.assert_array_equal(small.items.number.numpy(), data.catalogue.number[index])
        assert task == whole.groups()[0] or task == 1


def test_random_negatives_depend_on_seed_epoch_and_number_of_the_batch(data):
    negatives = NegativesConfig(kind="batch", random=5)

    def drawn(seed=0, epoch=0, number=0):
        rows = rows_of(reader(data, max_items=100), negatives=negatives, seed=seed)
        return tuple(rows.assemble(Draw(epoch=epoch, number=number, rows=np.array([0]))).items.index.tolist())

    assert drawn() == drawn()
    assert len({drawn(), drawn(seed=1), drawn(epoch=1), drawn(number=1)}) == 4


def simulated(data: Prepared, tasks: list[str], batches: int) -> tuple[np.ndarray, np.ndarray]:
    """Share of batches that hold each item, and the mean of 1 / q over all batches where it is there, else 0."""
    rows = rows_of(reader(data), tasks=tasks, negatives=NegativesConfig(kind="batch", random=3))
    rng, there, weight = np.random.default_rng(1), np.zeros(ITEMS), np.zeros(ITEMS)
    for number in range(batches):
        draw = Draw(epoch=number, number=number, rows=rng.permutation(len(rows.groups()))[:4])
        batch = rows.assemble(draw)
        index = batch.items.index.numpy()
        there[index] += 1
        weight[index] += np.exp(-log_chance(batch.missed, batch.draws).numpy())
    return there / batches, weight / batches


@pytest.mark.parametrize("task", ["next_item", "query_to_item"])
def test_log_q_is_the_chance_that_a_simulation_finds(data, task):
    share, weight = simulated(data, [task], 800)
    rarest, middle, commonest = np.array_split(np.argsort(share), 3)
    assert share[commonest].mean() > 1.5 * share[rarest].mean()
    for items in (rarest, middle, commonest):
        assert abs(weight[items].mean() - 1) < 0.15  # E[present / q] is 1 where q is the chance to be present


def test_the_correction_can_be_left_out(data):
    negatives = NegativesConfig(kind="batch", random=3, log_q=False)
    rows = rows_of(reader(data), negatives=negatives)
    assert rows.assemble(everything(rows)).missed is None


def test_the_parts_of_a_batch_together_have_its_items_and_draws(data):
    negatives = NegativesConfig(kind="batch", random=7)
    for tasks in (["next_item"], ["query_to_item"]):
        rows = rows_of(reader(data), tasks=tasks, negatives=negatives)
        whole = np.arange(6)
        one = rows.assemble(Draw(epoch=1, number=2, rows=whole))
        parts = [
            rows.assemble(Draw(epoch=1, number=2, rows=deal_to_rank(whole, part, 3), part=part, parts=3))
            for part in range(3)
        ]
        assert np.unique(np.concatenate([part.item for part in parts])).tolist() == one.item.tolist()
        assert sum(part.draws for part in parts).tolist() == one.draws.tolist()
        for part in parts:
            torch.testing.assert_close(part.missed, one.missed[torch.isin(one.item, part.item)], rtol=0, atol=0)


def relevant(data: Prepared, query: int) -> list[int]:
    frame = data.tables.relevance.filter((pl.col("query_id") == query) & (pl.col("grade") > 0))
    return frame["item_id"].sort().to_list()


def test_a_query_is_learnt_with_one_of_its_relevant_items_after_what_its_user_had_done(data):
    rows, histories = rows_of(reader(data, searches=True), tasks=["query_to_item"]), histories_of(data)
    batch = rows.assemble(everything(rows, task=1))
    found = questions(batch, data.queries.user[rows.queries])
    assert rows.queries.tolist() == [q for q in range(QUERIES) if data.queries.stage[q] == TRAIN and relevant(data, q)]
    asked = batch.users.query_vector[batch.users.query][:, 0].tolist()
    assert asked == rows.queries.tolist()
    for query, one in zip(rows.queries.tolist(), found, strict=True):
        assert one.target in relevant(data, query)
        assert one.seen == set(relevant(data, query)) - {one.target}
        when = data.queries.order[query]
        known = data.queries.user[query] >= 0 and not np.isnan(when)
        own = [row for row in histories[one.user] if row["timestamp"] < when] if known else []
        items = [(row["timestamp"], 0, place, ("item", row["item_id"])) for place, row in enumerate(own)]
        searches = searches_of(data, one.user, TRAIN) if known else []
        entries = items + [(order, 1, other, ("query", other)) for order, other in searches if order < when]
        assert one.entries == tuple(entry for *_, entry in sorted(entries))[-MAX_ITEMS:]
        assert one.step == len(one.entries)


def test_every_relevant_item_of_a_query_has_its_turn(data):
    rows = rows_of(reader(data), tasks=["query_to_item"])
    drawn = [rows.assemble(everything(rows, task=1, epoch=epoch)).target.tolist() for epoch in range(60)]
    for place, query in enumerate(rows.queries.tolist()):
        assert {targets[place] for targets in drawn} == set(relevant(data, query))


def test_both_tasks_stand_side_by_side_in_different_groups(data):
    rows = rows_of(reader(data), tasks=["next_item", "query_to_item"])
    groups, lengths = rows.groups(), rows.lengths(1)
    assert len(groups) == len(lengths) == rows.window_count + len(rows.queries)
    windows = rows._windows(1)
    assert lengths[groups == 0].tolist() == (windows.last - windows.first).tolist()
    assert lengths[groups == 1].tolist() == [len(data.queries.texts[query]) for query in rows.queries]
    assert rows.assemble(Draw(epoch=1, number=0, rows=np.array([rows.window_count]))).users.query.tolist() == [0]


@pytest.mark.parametrize("searches", [False, True])
def test_the_latest_entries_are_the_end_of_the_whole_history(data, searches):
    features, histories = reader(data, searches=searches), histories_of(data)
    rng = np.random.default_rng(3)
    for _ in range(200):
        user, before, stage = (
            int(rng.integers(0, USERS)),
            float(rng.integers(0, 33)),
            int(rng.choice([TRAIN, VALID, TEST])),
        )
        first = int(data.histories.offsets[user])
        size = sum(row["timestamp"] < before for row in histories[user])
        past = features.latest(user, first + size, before, stage)
        whole = [(row["timestamp"], 0, place, row["item_id"], -1) for place, row in enumerate(histories[user][:size])]
        if searches:
            whole += [(order, 1, query, -1, query) for order, query in searches_of(data, user, stage) if order < before]
        expected = sorted(whole)[-MAX_ITEMS:]
        assert past.item.tolist() == [item for *_, item, _ in expected]
        assert past.query.tolist() == [query for *_, query in expected]
        assert past.order.tolist() == [order for order, *_ in expected]
        assert len(past.next_context) == len(past.item) + 1
        assert (np.diff(past.position) > 0).all()


def test_nobodys_past_and_an_unknown_users_profile_are_missing(data):
    features = reader(data)
    past = features.latest(-1, 3, np.inf)
    assert len(past.item) == 0
    batch = features.users(
        [past, features.latest(2, int(data.histories.offsets[3]), np.inf)],
        np.array([-1, 2]),
        np.array([-1, -1]),
        Local(None, ITEMS),
    )
    assert batch.profile[0].tolist() == [[0]]
    assert batch.profile_number[0].isnan().all()
    assert batch.profile[1].tolist() == data.profile[2].tolist()
    assert batch.profile_number[1].tolist() == data.profile_number[2].tolist()
    assert batch.query is None
    assert not batch.history_mask[0].any()


def test_a_batch_without_any_history_has_one_state(data):
    features = reader(data)
    none = [Past.empty(1), Past.empty(1).at(np.array([2]))]
    batch = features.users(none, np.array([-1, -1]), np.array([4, -1]), Local(None, ITEMS))
    assert batch.history.shape == (2, 0)
    assert batch.context[:, :, 0].tolist() == [[0], [2]]
    assert batch.query.tolist() == [0, -1]
    assert batch.query_vector[:, 0].tolist() == [4.0]


def test_padding_comes_last_and_its_positions_go_on(data):
    features = reader(data, max_items=100, searches=True)
    user = int(np.argmax(np.diff(data.histories.offsets)))
    end = int(data.histories.offsets[user + 1])
    batch = features.users([features.latest(user, end, np.inf)], np.array([user]), np.array([-1]), Local(None, ITEMS))
    size = int(batch.history_mask.sum())
    assert batch.history.shape[1] % 8 == 0
    assert batch.history_mask[0, :size].all()
    assert batch.position[0, size:].tolist() == [int(batch.position[0, size - 1]) + 1] * (batch.history.shape[1] - size)
    is_search = batch.history[0, :size] >= ITEMS
    assert is_search.any()
    assert (batch.event[0, :size][is_search] == len(data.codes.event) + 1).all()
    assert set(batch.event[0, :size][~is_search].tolist()) <= {1, 2}


def test_searches_stand_after_events_of_the_same_time_and_count_for_later_ones_alone():
    none, two = np.zeros(0, dtype=np.int64), np.array([7, 8])
    past = Past(
        item=two, query=np.array([-1, -1]), event=two, position=np.array([0, 1]), order=np.array([1.0, 2.0]),
        next_context=np.zeros((3, 0), dtype=np.int64),
    )  # fmt: skip
    merged = past.merge(np.array([5, 6]), np.array([1.0, 1.5]))
    assert merged.item.tolist() == [7, -1, -1, 8]
    assert merged.query.tolist() == [-1, 5, 6, -1]
    assert merged.steps(np.array([0, 1, 2]), np.array([1.0, 2.0, 2.0])).tolist() == [0, 3, 4]
    assert past.merge(none, none.astype(float)) is past
    assert merged.last(2).query.tolist() == [6, -1]
    assert merged.last(0).item.tolist() == []


def test_texts_are_read_as_tokens_or_as_vectors():
    def tokens(rows):
        return TextBatch(ids=torch.from_numpy(rows)[:, None], mask=torch.ones(len(rows), 1, dtype=torch.bool))

    rows = np.array([2, 0])
    assert Texts(tokens=tokens).read(rows)[0].ids.tolist() == [[2], [0]]
    assert Texts(vectors=np.eye(3, dtype=np.float16)).read(rows)[1].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert Texts().read(rows) == (None, None)


def test_items_stand_in_a_batch_as_they_are_or_by_their_place():
    whole, some = Local(None, 10), Local(np.array([2, 5, 7]), 10)
    assert (whole.size, some.size) == (10, 3)
    assert whole.find(np.array([4, 2])).tolist() == [4, 2]
    assert some.find(np.array([7, 2])).tolist() == [2, 0]


def test_a_search_of_nobody_or_of_no_known_time_has_no_past(data):
    unknown = np.flatnonzero((data.queries.user < 0) | np.isnan(data.queries.order))
    assert len(unknown) > 3
    assert all(len(search_past(reader(data), int(query)).item) == 0 for query in unknown)


def test_a_past_of_a_search_ends_where_it_is_told(data):
    features = reader(data, max_items=100, searches=True)
    known = np.flatnonzero((data.queries.user >= 0) & ~np.isnan(data.queries.order))
    query = int(max(known, key=lambda one: len(search_past(features, int(one)).item)))
    whole = search_past(features, query)
    first = int(data.histories.offsets[data.queries.user[query]])
    cut = search_past(features, query, first + 2, float(data.histories.order[first + 2]))
    assert cut.item[cut.item >= 0].tolist() == data.histories.item[first : first + 2].tolist()
    assert len(cut.item) < len(whole.item)
    assert (cut.order < data.histories.order[first + 2]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tables": {"interactions": ""}}, "'next_item' needs an interactions table"),
        ({"tables": {"queries": "", "relevance": ""}}, "'query_to_item' needs a queries table"),
        ({"tables": {"relevance": ""}}, "'query_to_item' has nothing to learn from"),
        ({"split": SplitConfig(by="time", valid_from=-1)}, "'next_item' has nothing to learn from"),
    ],
)
def test_a_task_without_data_is_refused(data, tmp_path, changes, message):
    make_tables(tmp_path / "tables")
    features = reader(prepare(settings(tmp_path, **changes)))
    with pytest.raises(InputError, match=message):
        rows_of(features, tasks=["next_item", "query_to_item"])


def test_settings_that_make_no_sense_are_refused(data):
    with pytest.raises(InputError, match=r"negatives\.kind is 'some'"):
        NegativesConfig(kind="some")
    with pytest.raises(InputError, match=r"negatives\.random is -1"):
        NegativesConfig(random=-1)


# --- every pair, and items that nobody has met


def held_out(data: Prepared) -> Prepared:
    """Every third item is valid."""
    stage = np.where(np.arange(ITEMS) % 3 == 0, VALID, TRAIN).astype(np.int8)
    return replace(data, catalogue=replace(data.catalogue, stage=stage))


@pytest.mark.parametrize("held", [False, True])
def test_every_relevant_pair_is_a_row(data: Prepared, held: bool):
    data = held_out(data) if held else data
    rows = rows_of(reader(data), tasks=["query_to_item"], each_pair=True)
    batch = rows.assemble(everything(rows, task=1))
    asked = batch.users.query_vector[batch.users.query, 0].long().tolist()
    found = sorted(zip(asked, batch.target.tolist(), strict=True))
    queries, pairs = data.queries, []
    for query in range(QUERIES):
        items, grades = queries.relevant(query)
        for item, grade in zip(items.tolist(), grades, strict=True):
            known = item % 3 != 0 if held else queries.stage[query] == TRAIN
            pairs += [(query, item)] if grade > 0 and known else []
    assert found == sorted(pairs)


def test_items_that_are_held_out_are_no_targets_and_no_negatives(data: Prepared):
    negatives = NegativesConfig(kind="batch", random=40)
    rows = rows_of(reader(held_out(data)), tasks=["query_to_item"], negatives=negatives)
    for epoch in range(3):
        batch = rows.assemble(everything(rows, task=1, epoch=epoch))
        assert (batch.target % 3 != 0).all()
        entries = set(batch.users.history[batch.users.history_mask].tolist())
        others = [int(item) for place, item in enumerate(batch.item) if place not in entries]
        assert all(item % 3 != 0 for item in others)


def test_the_share_of_targets_of_each_item_is_that_of_an_epoch(data: Prepared):
    rows = rows_of(reader(data), tasks=["query_to_item"], each_pair=True)
    batch = rows.assemble(everything(rows, task=1))
    expected = np.bincount(batch.target, minlength=ITEMS) / len(batch.target)
    np.testing.assert_allclose(rows.query_share, expected)


def test_pairs_of_a_query_are_not_dealt_into_one_batch(data: Prepared):
    rows = rows_of(reader(data), tasks=["query_to_item"], each_pair=True)
    assert len(set(rows.lengths(0).tolist())) == 1


def test_mined_items_that_are_held_out_are_not_learnt_from(data: Prepared):
    every = Mined(offsets=np.arange(QUERIES + 1) * ITEMS, item=np.tile(np.arange(ITEMS), QUERIES))
    negatives = NegativesConfig(kind="batch", random=0, hard=5, mined="somewhere")
    hard = HardNegatives(count=5, queries=every, users=None)
    rows = rows_of(reader(held_out(data)), tasks=["query_to_item"], negatives=negatives, hard=hard)
    draw = everything(rows, task=1)
    found = rows._hard(draw, rows.queries, every)
    assert len(found) > 5
    assert (found % 3 != 0).all()
