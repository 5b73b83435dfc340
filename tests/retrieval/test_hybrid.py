"""BM25 beside a retriever: both lists joined before the cut, users untouched, the weight learnt from train alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.filters import Allowed
from recsys.data.requests import candidate_requests, join_requests, query_requests, user_requests
from recsys.data.split import SECOND, TRAIN, VALID
from recsys.errors import InputError
from recsys.retrieval.candidates import retrieve, write_candidates
from recsys.retrieval.embed import OpenRetriever, embed_items
from recsys.retrieval.hybrid import Hybrid
from recsys.retrieval.index import ItemIndex
from recsys.retrieval.lexical import LexicalConfig

K = 12
RANK, WEIGHT = LexicalConfig(candidates=8, fuse="rank"), LexicalConfig(candidates=8, weight=0.6)


@pytest.fixture(scope="module")
def opened(journey) -> OpenRetriever:
    config = journey.infer(output=journey.folder / "unused")
    return OpenRetriever.open(Path(config.retriever), config.data)


@pytest.fixture(scope="module")
def vectors(opened) -> np.ndarray:
    return embed_items(opened)


@pytest.fixture(scope="module")
def index(vectors) -> ItemIndex:
    return ItemIndex.build(vectors)


def plain_scores(hybrid: Hybrid, text: str, user: np.ndarray, vectors: np.ndarray, proposed: list[int]) -> dict:
    """The fused score of every item that the retriever or BM25 proposes for one query."""
    lexical = hybrid.index.scores([text])[0].astype(np.float64)
    own = [item for item in np.argsort(-lexical, kind="stable").tolist() if lexical[item] > 0][:8]
    union, dense = sorted({*proposed, *own}), (vectors @ user).astype(np.float64)
    if hybrid.config.fuse == "rank":
        lists = (proposed, own)
        return {item: sum(1 / (61 + one.index(item)) for one in lists if item in one) for item in union}
    z = [(scores[union] - scores[union].mean()) / max(scores[union].std(), 1e-6) for scores in (dense, lexical)]
    return dict(zip(union, z[0] + hybrid.config.weight * z[1], strict=True))


@pytest.mark.parametrize("config", [RANK, WEIGHT], ids=["rank", "weight"])
def test_a_querys_list_is_the_best_of_what_both_propose(opened, index, vectors, config):
    hybrid = Hybrid.open(config, opened, index, vectors, K)
    requests = query_requests(opened.data, np.arange(20))
    dense = retrieve(opened, index, vectors, requests, K)
    found = retrieve(opened, index, vectors, requests, K, hybrid)
    for row in range(20):
        text = opened.data.queries.texts[row]
        wanted = plain_scores(hybrid, text, dense.users[row], vectors, dense.items[row].tolist())
        values = found.scores[row].tolist()
        assert values == pytest.approx(sorted(wanted.values(), reverse=True)[:K], abs=1e-4)
        assert values == pytest.approx([wanted[item] for item in found.items[row].tolist()], abs=1e-4)
        np.testing.assert_array_equal(found.lexical[row], hybrid.index.scores([text])[0][found.items[row]])
    assert (found.items != dense.items).any()
    np.testing.assert_array_equal(found.users, dense.users)


def test_a_list_that_may_be_long_enough_holds_all_that_either_source_found(opened, index, vectors):
    hybrid, requests = Hybrid.open(WEIGHT, opened, index, vectors, 60), query_requests(opened.data, np.arange(20))
    found = retrieve(opened, index, vectors, requests, 60, hybrid).items
    own, _ = hybrid.index.search(opened.data.queries.texts, 8)
    assert all(set(one[one >= 0]) <= set(items) for one, items in zip(own, found, strict=True))


def test_requests_without_a_query_are_answered_as_before_to_the_last_bit(opened, index, vectors):
    hybrid = Hybrid.open(WEIGHT, opened, index, vectors, K)
    users, queries = user_requests(opened.data, VALID), query_requests(opened.data, np.arange(20))
    for requests in (users, join_requests([users, queries])):
        plain, found = (retrieve(opened, index, vectors, requests, K, one) for one in (None, hybrid))
        rows = requests.queries < 0
        np.testing.assert_array_equal(found.items[rows], plain.items[rows])
        np.testing.assert_array_equal(found.scores[rows], plain.scores[rows])
        assert not found.lexical[rows].any()
    alone = retrieve(opened, index, vectors, queries, K, hybrid)
    np.testing.assert_array_equal(found.items[~rows], alone.items)


def test_the_weight_is_the_best_one_on_train_queries(opened, index, vectors):
    hybrid = Hybrid.open(replace(WEIGHT, weight=None), opened, index, vectors, K)
    groups = candidate_requests(opened.data, ["query_to_item"])
    requests = next(one for stage, one in groups if stage == "second")

    def quality(weight: float) -> float:
        one = Hybrid(config=replace(WEIGHT, weight=weight), index=hybrid.index)
        lists = retrieve(opened, index, vectors, requests, K + 8, one).items  # nothing is cut away
        hits = [np.isin(own, right) for own, right in zip(lists, requests.target_rows, strict=True)]
        return sum(1 / (1 + hit.argmax()) if hit.any() else 0 for hit in hits)

    assert quality(hybrid.config.weight) == pytest.approx(max(quality(step / 20) for step in range(61)), rel=0.02)
    assert Hybrid.open(replace(WEIGHT, weight=None), opened, index, vectors, K).config == hybrid.config


def test_the_answers_of_valid_queries_do_not_move_the_weight(opened, index, vectors):
    queries = opened.data.queries
    hidden = np.where(queries.stage[queries.owner()] == TRAIN, queries.item, 0)
    blind = replace(opened, data=replace(opened.data, queries=replace(queries, item=hidden)))
    weights = [Hybrid.open(replace(WEIGHT, weight=None), one, index, vectors, K).config for one in (opened, blind)]
    assert weights[0] == weights[1]


def test_the_weight_is_learnt_on_queries_that_the_retriever_does_not_know_where_there_are_some(opened, index, vectors):
    queries = opened.data.queries
    stage = queries.stage.copy()
    stage[np.flatnonzero(stage == TRAIN)[::3]] = SECOND
    hidden = np.where(stage[queries.owner()] == SECOND, queries.item, 0)
    changed = [replace(queries, stage=stage), replace(queries, stage=stage, item=hidden)]
    parts = [replace(opened, data=replace(opened.data, queries=one)) for one in changed]
    weights = [Hybrid.open(replace(WEIGHT, weight=None), one, index, vectors, K).config for one in parts]
    assert weights[0] == weights[1]


def test_a_weight_that_nothing_can_teach_is_refused(opened, index, vectors):
    none = replace(opened, data=replace(opened.data, queries=None))
    with pytest.raises(InputError, match=r"lexical\.weight is null, and no train query.*set it"):
        Hybrid.open(replace(WEIGHT, weight=None), none, index, vectors, K)


def test_items_without_a_text_are_refused(opened, index, vectors):
    catalogue = replace(opened.data.catalogue, texts=[""] * len(vectors))
    silent = replace(opened, data=replace(opened.data, catalogue=catalogue))
    with pytest.raises(InputError, match=r"lexical finds no text of any item.*data\.items\.text"):
        Hybrid.open(RANK, silent, index, vectors, K)


def test_candidates_are_fused_and_say_how(opened, tmp_path):
    for name, config in {"plain": None, "fused": replace(WEIGHT, weight=None)}.items():
        write_candidates(opened, tmp_path / name, top_k=K, overwrite=False, lexical=config)
    settings = json.loads((tmp_path / "fused/source.json").read_text())["lexical"]
    assert settings["fuse"] == "weight"
    assert 0 <= settings["weight"] <= 3
    assert "lexical" not in json.loads((tmp_path / "plain/source.json").read_text())
    plain, fused = (pl.read_parquet(tmp_path / name / "part-*.parquet") for name in ("plain", "fused"))
    of_users = len(join_requests([one for _, one in candidate_requests(opened.data, ["next_item"])[:1]]))
    users = pl.col("request") < of_users
    assert plain.filter(users).equals(fused.filter(users).select(plain.columns))
    assert not plain.filter(~users).equals(fused.filter(~users).select(plain.columns))


def test_another_lexical_source_is_another_input(opened, tmp_path):
    write_candidates(opened, tmp_path, top_k=K, overwrite=False, lexical=WEIGHT)
    for other in (None, RANK, replace(WEIGHT, k1=2.0)):
        with pytest.raises(InputError, match="made from other inputs"):
            write_candidates(opened, tmp_path, top_k=K, overwrite=False, lexical=other)


def test_what_is_not_allowed_does_not_come_back_through_bm25(opened, index, vectors):
    hybrid, requests = Hybrid.open(WEIGHT, opened, index, vectors, K), query_requests(opened.data, np.arange(20))
    plain = retrieve(opened, index, vectors, requests, K, hybrid)
    masks = np.ones((2, len(vectors)), dtype=np.bool_)
    masks[0, plain.items[:10, :4]] = False  # the best of the first ten queries
    masks[1, np.arange(len(vectors)) % 2 == 0] = False
    allowed = Allowed(group=np.arange(20) % 2, masks=masks)
    found = retrieve(opened, index, vectors, requests, K, hybrid, allowed)
    assert (found.items >= 0).all()
    for row, items in enumerate(found.items):
        assert masks[row % 2, items].all()
        assert len(np.unique(items)) == K
    assert (found.lexical > 0).any()
    everything = Allowed(group=np.zeros(20, dtype=np.int64), masks=np.ones((1, len(vectors)), dtype=np.bool_))
    np.testing.assert_array_equal(retrieve(opened, index, vectors, requests, K, hybrid, everything).items, plain.items)


@pytest.mark.parametrize("config", [RANK, WEIGHT, replace(WEIGHT, share=0.25)], ids=["rank", "weight", "share"])
def test_a_query_without_words_is_answered_by_the_retriever_alone(opened, index, vectors, config):
    hybrid, requests = Hybrid.open(config, opened, index, vectors, K), query_requests(opened.data, np.arange(6))
    dense = retrieve(opened, index, vectors, requests, K)
    found = hybrid.fuse([""] * 3 + opened.data.queries.texts[3:6], dense.users, vectors, dense.items)
    np.testing.assert_array_equal(found.items[:3], dense.items[:3])
    assert (found.lexical[:3] == 0).all()
    assert (found.lexical[3:] > 0).any()
