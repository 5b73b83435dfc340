"""One request at a time from Python gives what the batch pipeline gives."""

import numpy as np
import polars as pl
import pytest

from recsys.data.requests import query_requests, serving_requests
from recsys.errors import InputError
from recsys.recommend.cascade import Cascade, Lists
from recsys.recommend.recommender import Recommendation, Recommender
from recsys.recommend.run import run_stage


@pytest.fixture(scope="module")
def shop(served) -> Recommender:
    return Recommender(served)


def past(cascade: Cascade, user: int, end: int) -> tuple[list[str], list[str]]:
    """Item ids and events of a user before a row of the layout."""
    rows = slice(int(cascade.data.histories.offsets[user]), end)
    events = [cascade.data.codes.event[code - 1] for code in cascade.data.histories.event[rows]]
    return cascade.item_ids.gather(cascade.data.histories.item[rows]).to_list(), events


def profile(cascade: Cascade, user: int) -> dict:
    return cascade.data.tables.users.select("age", "town", "orders", "visits").row(user, named=True)


def expect_equal(found: list[Recommendation], cascade: Cascade, lists: Lists, row: int) -> None:
    assert [one.item_id for one in found] == cascade.item_ids.gather(lists.items[row]).to_list()
    assert [one.rank for one in found] == list(range(1, len(found) + 1))
    np.testing.assert_allclose([one.score for one in found], lists.scores[row], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(
        [one.retriever_score for one in found], lists.retriever_scores[row], rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose([one.pruner_score for one in found], lists.pruner_scores[row], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("until", [None, "valid"])
def test_a_users_list_equals_the_one_of_the_batch_pipeline(shop, until):
    cascade = shop.cascade
    users = np.array([3, 7, 14])  # user 7 and 14 have no known town
    requests = serving_requests(cascade.data, until, users)
    lists = cascade.recommend(requests)
    for row, user in enumerate(users):
        items, events = past(cascade, user, requests.ends[row])
        moment = requests.moments[row]
        codes = cascade.data.histories.context[moment] if moment >= 0 else [0]
        page = cascade.data.codes.context["page"][codes[0] - 1] if codes[0] else None
        found = shop.recommend(items, events=events, context={"page": page}, profile=profile(cascade, user))
        expect_equal(found, cascade, lists, row)


def test_a_searchs_list_equals_the_one_of_the_stage_search(journey, shop, tmp_path):
    folder = run_stage("search", journey.infer(output=tmp_path))
    written = pl.read_parquet(folder / "part-*.parquet")
    for query in (0, 8):  # searched by nobody known
        wanted = written.filter(pl.col("query_id") == query).sort("rank")
        found = shop.search(shop.cascade.data.queries.texts[query])
        assert [one.item_id for one in found] == wanted["item_id"].to_list()
        np.testing.assert_allclose([one.score for one in found], wanted["score"].to_list(), rtol=1e-3, atol=1e-6)


def test_a_cross_encoder_answers_alike(journey, served, tmp_path):
    from recsys.config import parse_run
    from recsys.training.pruner_run import PrunerRun, train_pruner

    model = {**journey.pruner, "text": {**journey.retriever["text"], "max_tokens": 32}}
    config = journey.write("pruner", name="pairs", candidates=f"{journey.folder}/runs/infer/candidates", model=model)
    run = train_pruner(parse_run(PrunerRun, [str(config), f"--runs={tmp_path}"]))
    one = journey.infer(f"--pruner={run}", output=tmp_path)
    cascade = Cascade.open(one.retriever, one.pruner, one.data, one.candidates, one.decision)
    requests = serving_requests(cascade.data, None, np.array([4]))
    items, events = past(cascade, 4, requests.ends[0])
    shop = Recommender(cascade)
    expect_equal(
        shop.recommend(items, events=events, profile=profile(cascade, 4)), cascade, cascade.recommend(requests), 0
    )
    asked = query_requests(cascade.data, np.array([2]))
    expect_equal(shop.search(cascade.data.queries.texts[2]), cascade, cascade.recommend(asked), 0)


def test_what_was_had_is_not_recommended_again_and_what_was_seen_may_be(shop):
    items = [one.item_id for one in shop.recommend([], top=5)]
    assert not any(item in [one.item_id for one in shop.recommend([item])] for item in items)
    assert any(item in [one.item_id for one in shop.recommend([item], events=["view"])] for item in items)


def test_an_empty_history_gets_a_list(shop):
    found = shop.recommend([])
    assert len(found) == 10
    assert len({one.item_id for one in found}) == 10


def test_the_list_is_as_long_as_asked_for(shop):
    assert [one.rank for one in shop.recommend([], top=3)] == [1, 2, 3]
    assert len(shop.search("red", top=1)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"context": {"page": "search"}},
        {"profile": {"age": "18-24"}},
        {"profile": {"visits": 0.9}},
        {"profile": {"orders": 2}},
    ],
)
def test_moment_and_profile_change_the_answer(shop, change):
    plain, changed = shop.recommend(["i003", "i010"]), shop.recommend(["i003", "i010"], **change)
    assert [one.retriever_score for one in plain] != [one.retriever_score for one in changed]


def test_a_value_that_training_has_not_seen_is_none(shop):
    plain, changed = (shop.recommend(["i003"], context=context) for context in (None, {"page": "fridge"}))
    assert plain == changed


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"history": ["i0333"]}, r"Unknown item 'i0333' in the history.*such as 'i000'\. Did you mean 'i033'"),
        ({"history": [3]}, r"Unknown item 3 in the history; expected an item's id, such as 'i000'\.$"),
        ({"history": [], "context": {"pge": "home"}}, r"Unknown context column 'pge'\. Did you mean 'page'"),
        ({"history": [], "profile": {"size": 3}}, r"Unknown profile column 'size'.*age, town, orders, visits"),
        ({"history": ["i003"], "events": []}, "0 events for 1 items"),
    ],
)
def test_what_the_model_does_not_know_is_refused_with_a_hint(shop, ask, message):
    with pytest.raises(InputError, match=message):
        shop.recommend(**ask)


def test_an_empty_query_is_refused(shop):
    with pytest.raises(InputError, match="query is empty"):
        shop.search("  ")


def test_the_run_of_the_stage_recommend_is_loaded_with_its_pruner(journey, shop, tmp_path):
    run_stage("recommend", journey.infer(output=tmp_path))
    loaded = Recommender.load(tmp_path / "infer")
    assert loaded.recommend(["i003", "i010"]) == shop.recommend(["i003", "i010"])


def test_the_run_of_a_retriever_is_loaded_alone(journey):
    found = Recommender.load(journey.folder / "runs/retriever").recommend(["i003"])
    assert [one.pruner_score for one in found] == [None] * 10
    assert all(one.score == one.retriever_score for one in found)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is no run: it has neither infer\.yaml nor a config\.yaml"):
        Recommender.load(tmp_path)


def test_a_retriever_of_queries_alone_refuses_histories_and_one_without_words_refuses_queries(journey, tmp_path):
    from recsys.config import parse_run
    from recsys.training.retriever_run import RetrieverRun, train_retriever

    plain = {"users": {}, "interactions": {}}
    changes = {
        "searcher": {
            "tasks": ["query_to_item"], "data": plain,
            "model": {"text": journey.retriever["text"], "history": None, "profile": False, "context": False},
        },
        "wordless": {"tasks": ["next_item"], "data": plain, "model": {"text": None, "width": 16}},
    }  # fmt: skip
    runs = {}
    for name, values in changes.items():
        config = journey.write("retriever", name=name, negatives={"kind": "batch", "random": 16}, **values)
        runs[name] = train_retriever(parse_run(RetrieverRun, [str(config), f"--runs={tmp_path}"]))
    with pytest.raises(InputError, match=r"knows nothing of histories; use search"):
        Recommender.load(runs["searcher"]).recommend([])
    with pytest.raises(InputError, match="no text encoder, so it cannot search"):
        Recommender.load(runs["wordless"]).search("red")


@pytest.fixture(scope="module")
def limited(journey, tmp_path_factory) -> Recommender:
    """The same models and items, some of them sold out, some for one town alone, some for grown-ups."""
    folder = tmp_path_factory.mktemp("limited")
    for path in (journey.folder / "tables").iterdir():
        frame, number = pl.read_parquet(path), pl.int_range(pl.len())
        if path.stem == "items":
            frame = frame.with_columns(
                (number % 5 > 0).alias("there"), pl.when(number % 3 == 0).then(pl.lit("town 1")).alias("where"),
                pl.when(number % 7 == 0).then(18).alias("from"),
            )  # fmt: skip
        if path.stem == "users":
            frame = frame.with_columns((10 + number).alias("years"))
        frame.write_parquet(folder / path.name)
    roles = ("items.stock=there", "items.region=where", "items.age_limit=from", "users.region=town", "users.age=years")
    one = journey.infer(f"--data.root={folder}", *(f"--data.{role}" for role in roles), output=folder / "runs")
    return Recommender(Cascade.open(one.retriever, one.pruner, one.data, one.candidates, one.decision))


def listed(found: list[Recommendation]) -> np.ndarray:
    """Their rows."""
    return np.array([int(one.item_id.removeprefix("i")) for one in found])


def test_what_is_sold_out_elsewhere_or_not_for_the_young_is_not_recommended(limited):
    grown = listed(limited.recommend([], profile={"town": "town 1", "years": 40}))
    young = listed(limited.recommend([], profile={"town": "town 2", "years": 12}))
    assert len(grown) == len(young) == 10
    assert (grown % 5 > 0).all()
    assert ((young % 5 > 0) & (young % 3 > 0) & (young % 7 > 0)).all()
    assert (listed(limited.search("red blue")) % 5 > 0).all()


def test_a_limited_list_equals_the_one_of_the_batch_pipeline(limited):
    cascade, users = limited.cascade, np.array([3, 7, 14])
    requests = serving_requests(cascade.data, None, users)
    lists = cascade.recommend(requests)
    for row, user in enumerate(users):
        items, events = past(cascade, user, requests.ends[row])
        known = {**profile(cascade, user), "years": 10 + int(user)}
        expect_equal(limited.recommend(items, events=events, profile=known), cascade, lists, row)
