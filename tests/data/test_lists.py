"""Candidate lists: what is read, what is drawn, and what a batch of them holds."""

import json
import shutil
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch

from recsys.data.datasets import Features, Texts
from recsys.data.lists import CandidateLists, PrunerRows, latest_only, list_evaluations
from recsys.data.pairs import PairTexts
from recsys.data.prepare import prepare
from recsys.data.requests import join_requests, seen_items, target_requests, user_requests
from recsys.data.sampling import Draw
from recsys.data.split import SECOND, VALID
from recsys.data.text import train_wordpiece
from recsys.errors import InputError
from recsys.tables import DataConfig, InteractionsConfig, ItemsConfig, SplitConfig


@pytest.fixture
def lists(cascade) -> CandidateLists:
    return CandidateLists.read(cascade.candidates, cascade.data)


@pytest.fixture
def features(cascade) -> Features:
    vectors = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
    return Features(cascade.data, Texts(vectors=vectors[:30]), Texts(vectors=vectors[30:]), max_items=4)


def rows_of(features, lists, **changes) -> PrunerRows:
    values = {"pairs": None, "sampled": 5, "pointwise": True, "seed": 0, **changes}
    return PrunerRows(features, lists, lists.sets["second"], **values)


def draw(rows: PrunerRows, *, epoch: int = 0) -> Draw:
    return Draw(epoch=epoch, number=0, rows=np.arange(len(rows.rows)))


def test_a_table_holds_what_stands_in_the_file(cascade, lists):
    frame = pl.scan_parquet(cascade.candidates / "part-*.parquet").collect()
    rows = np.array([11, 0, 25])
    item, score, label = lists.table(rows)
    for place, row in enumerate(rows):
        own = frame.filter(pl.col("request") == row)
        for table, name in ((item, "item"), (score, "score"), (label, "label")):
            np.testing.assert_array_equal(table[place, : len(own)], own[name].to_numpy())


def test_requests_are_dealt_to_sets_by_stage_and_task(lists):
    assert list(lists.sets) == ["second", "valid", "valid_query"]
    np.testing.assert_array_equal(np.concatenate(list(lists.sets.values())), np.arange(len(lists.requests)))
    assert (lists.requests.queries[lists.sets["valid_query"]] >= 0).all()
    assert (lists.requests.queries[lists.sets["valid"]] < 0).all()


def test_labels_are_the_grades_of_the_requests(lists):
    item, _, label = lists.table(np.arange(len(lists.requests)))
    for row, (right, grade) in enumerate(zip(lists.requests.target_rows, lists.requests.grades, strict=True)):
        grades = dict(zip(right.tolist(), grade.tolist(), strict=True))
        assert label[row].tolist() == [grades.get(one, 0.0) for one in item[row].tolist()]


def test_a_draw_keeps_the_positives_and_some_others_in_the_retrievers_order(features, lists):
    rows = rows_of(features, lists)
    batch = rows.assemble(draw(rows))
    item, score, label = lists.table(rows.rows)
    own = batch.items.index[batch.candidate.clamp_min(0)].numpy()
    for row in range(batch.rows):
        real = (batch.candidate[row] >= 0).numpy()
        ranks = batch.rank[row].numpy()[real]
        assert (np.diff(ranks) > 0).all()
        assert own[row][real].tolist() == item[row][ranks].tolist()
        np.testing.assert_array_equal(batch.retriever_score[row].numpy()[real], score[row][ranks])
        np.testing.assert_array_equal(batch.label[row].numpy()[real], label[row][ranks])
        assert (batch.label[row].numpy()[~real] == 0).all()
        assert (label[row] > 0).sum() == (batch.label[row] > 0).sum()
        assert real.sum() == min((label[row] > 0).sum() + 5, len(item[row]))
        assert not real[real.sum() :].any()


def test_a_draw_depends_on_seed_epoch_and_row_alone(features, lists):
    rows = rows_of(features, lists)
    all_rows, some = rows.assemble(draw(rows)), rows.assemble(Draw(epoch=0, number=9, rows=np.array([7, 2])))

    def shown(batch, row):
        return batch.rank[row][batch.candidate[row] >= 0].tolist()

    assert [shown(some, 0), shown(some, 1)] == [shown(all_rows, 7), shown(all_rows, 2)]
    later, other = rows.assemble(draw(rows, epoch=1)), rows_of(features, lists, seed=1).assemble(draw(rows))
    assert any(shown(later, row) != shown(all_rows, row) for row in range(all_rows.rows))
    assert any(shown(other, row) != shown(all_rows, row) for row in range(all_rows.rows))


def test_a_list_that_is_short_enough_is_kept_whole(features, lists):
    rows = rows_of(features, lists, sampled=100)
    batch = rows.assemble(draw(rows))
    whole = next(list_evaluations(features, lists, rows.rows, None, batch_size=1000)).lists
    torch.testing.assert_close(batch.candidate, whole.candidate)
    torch.testing.assert_close(batch.rank, torch.arange(12).expand_as(batch.rank))


def test_without_a_pointwise_loss_lists_without_a_positive_are_left_out(features, lists):
    some, every = rows_of(features, lists, pointwise=False), rows_of(features, lists)
    found = lists.found()[lists.sets["second"]]
    assert 0 < found.sum() < len(found)
    assert len(some.rows) == found.sum()
    assert len(every.rows) == len(found) == len(every.lengths(0)) == len(every.groups())


def test_a_batch_carries_vectors_of_its_own_items_and_requests(features, lists):
    rows = lists.sets["valid"][:5]
    whole = next(list_evaluations(features, lists, rows, None))
    batch = whole.lists
    np.testing.assert_array_equal(batch.item_vector.numpy(), lists.item_vectors[batch.items.index.numpy()])
    np.testing.assert_array_equal(batch.user_vector.numpy(), lists.user_vectors[rows])
    assert torch.equal(batch.items.index[batch.candidate], whole.item)
    histories = features.data.histories
    for row, (user, end) in enumerate(zip(lists.requests.users[rows], lists.requests.ends[rows], strict=True)):
        had = histories.item[max(histories.offsets[user], end - 4) : end]
        entries = batch.users.history[row][batch.users.history_mask[row]]
        assert batch.items.index[entries].tolist() == had.tolist()


def test_evaluation_is_dealt_to_processes_without_loss_or_repetition(features, lists):
    rows = np.concatenate([lists.sets["valid"], lists.sets["valid_query"]])
    read = partial(list_evaluations, features, lists, rows, None, batch_size=3)
    whole = torch.cat([batch.item for batch in read()])
    parts = [torch.cat([batch.item for batch in read(part=part, parts=2)]) for part in range(2)]
    assert torch.equal(whole[::2], parts[0])
    assert torch.equal(whole[1::2], parts[1])


def test_histories_are_cut_to_what_the_pruner_reads(features):
    assert latest_only(features, 2).max_items == 2
    assert latest_only(features, 50).max_items == 4
    assert features.max_items == 4


def broken(cascade, change) -> CandidateLists:
    change(cascade.candidates)
    return CandidateLists.read(cascade.candidates, cascade.data)


def other_data(folder):
    source = json.loads((folder / "source.json").read_text())
    (folder / "source.json").write_text(json.dumps({**source, "data": "0" * 32}))


def other_tasks(folder):
    source = json.loads((folder / "source.json").read_text())
    (folder / "source.json").write_text(json.dumps({**source, "tasks": ["next_item"]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, "no source.json"),
        (other_data, "other tables or roles"),
        (other_tasks, "do not fit"),
        (lambda folder: (folder / "part-00001.parquet").unlink(), "were written"),
        (lambda folder: [path.unlink() for path in folder.glob("part-*")], "0 rows"),
        (lambda folder: np.save(folder / "user_vectors.npy", np.zeros((3, 8), np.float32)), "another number"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(cascade, change, message):
    with pytest.raises(InputError, match=message):
        broken(cascade, change)


def test_candidates_without_a_right_answer_are_refused(features, lists):
    without = lists.sets["second"][~lists.found()[lists.sets["second"]]]
    with pytest.raises(InputError, match="right answer"):
        PrunerRows(features, lists, without, pairs=None, sampled=5, pointwise=True, seed=0)


def test_read_apart_every_candidate_of_a_batch_is_everyones_with_its_own_grade(cascade, features, lists, tmp_path):
    texts = [*cascade.data.catalogue.texts, *cascade.data.queries.texts]
    tokenizer, read = train_wordpiece(texts, 200), {"max_tokens": 16, "history": 3, "folder": tmp_path}
    pairs = PairTexts(cascade.data, tokenizer, title=["title"], apart="late", **read)
    rows = rows_of(features, lists, pairs=pairs, shared=True)
    draw_of = draw(rows)
    batch, alone = rows.assemble(draw_of), rows_of(features, lists).assemble(draw_of)
    item = batch.items.index[batch.candidate]
    everyone = np.unique(item[batch.candidate >= 0])
    had = seen_items(cascade.data, lists.requests.take(rows.rows[draw_of.rows]))
    assert any(np.isin(everyone, one).any() for one in had)
    for row, number in enumerate(rows.rows[draw_of.rows]):
        right = dict(zip(lists.requests.target_rows[number].tolist(), lists.requests.grades[number], strict=True))
        there = batch.candidate[row] >= 0
        assert item[row][there].tolist() == [one for one in everyone if one in right or one not in had[row]]
        assert batch.label[row][there].tolist() == [right.get(one, 0) for one in item[row][there].tolist()]
        own = alone.items.index[alone.candidate[row][alone.candidate[row] >= 0]]
        assert set(own.tolist()) <= set(item[row][there].tolist())


def test_split_a_list_keeps_its_own_candidates_and_what_the_retriever_says_of_them(
    cascade, features, lists, tmp_path
):  # fmt: skip
    tokenizer, read = train_wordpiece(cascade.data.catalogue.texts, 200), {"max_tokens": 16, "history": 3}
    pairs = PairTexts(cascade.data, tokenizer, title=["title"], apart="split", folder=tmp_path, **read)
    rows = rows_of(features, lists, pairs=pairs)
    batch, plain = rows.assemble(draw(rows)), rows_of(features, lists).assemble(draw(rows))
    for name in ("candidate", "retriever_score", "label", "rank"):
        assert torch.equal(getattr(batch, name), getattr(plain, name))
    assert torch.equal(batch.apart.row >= 0, batch.candidate >= 0)


def test_other_targets_came_true_where_the_user_had_such_an_event_from_the_request_on_within_its_split(tmp_path):
    rng, count = np.random.default_rng(0), 400
    table = pl.DataFrame({
        "user_id": rng.integers(0, 12, count), "item_id": rng.integers(0, 8, count), "timestamp": np.arange(count),
        "event": rng.choice(["view", "cart", "buy"], count),
    })  # fmt: skip
    table.write_parquet(tmp_path / "interactions.parquet")
    pl.DataFrame({"item_id": range(8), "title": [f"thing {item}" for item in range(8)]}).write_parquet(
        tmp_path / "items.parquet"
    )
    data = prepare(DataConfig(
        root=str(tmp_path), cache=str(tmp_path / "cache"), items=ItemsConfig(text=["title"]),
        interactions=InteractionsConfig(event="event", target_events=["buy"]), split=SplitConfig(second=2),
    ))  # fmt: skip
    requests = join_requests([target_requests(data, SECOND), user_requests(data, VALID)])
    lists = CandidateLists(
        requests=requests, sets={}, offsets=np.arange(0, 5 * len(requests) + 1, 5),
        item=np.concatenate([rng.permutation(8)[:5] for _ in range(len(requests))]).astype(np.int32),
        score=np.zeros(5 * len(requests), np.float32), label=np.zeros(5 * len(requests), np.float32), lexical=None,
        lexical_score=None, item_vectors=np.zeros((8, 0)), user_vectors=np.zeros((len(requests), 0)),
    )  # fmt: skip
    codes = [np.array([data.codes.event.index(event) + 1 for event in one]) for one in (["cart", "buy"], ["view"])]
    found, histories = lists.others(np.arange(len(requests)), data, codes), data.histories
    for row in range(len(requests)):
        moment, user = int(requests.moments[row]), int(requests.users[row])
        later = [
            at
            for at in range(moment, int(histories.offsets[user + 1]))
            if histories.stage[at] == histories.stage[moment]
        ]
        for place, item in enumerate(lists.item[5 * row : 5 * row + 5]):
            for target, wanted in enumerate(codes):
                true = any(histories.item[at] == item and histories.event[at] in wanted for at in later)
                assert found[row, place, target] == true
    assert 0 < found.mean() < 1


def test_of_queries_it_is_not_known_whether_other_targets_came_true(cascade, lists):
    found = lists.others(lists.sets["valid_query"], cascade.data, [np.array([1])])
    assert np.isnan(found).all()
