"""Evidence: every piece is told as the tables have it, and its worth is what leaving it out costs."""

import numpy as np
import pytest

from recsys.data.requests import search_requests, serving_requests
from recsys.recommend.deletions import Asked, Unit
from recsys.recommend.evidence import Explainer


@pytest.fixture(scope="module")
def explainer(served):
    return Explainer(served, history=6, words=3)


def test_a_users_pieces_are_told_as_the_tables_have_them(served, explainer):
    without = explainer.open(serving_requests(served.data, "valid", np.array([3])))
    item = int(without.found.items[0, 0])
    (found,) = explainer.explain(without, [(0, item)])
    user, row = (
        table.row(at, named=True) for table, at in ((served.data.tables.users, 3), (served.data.tables.items, item))
    )
    told = {(one.kind, one.name): one for one in found.evidence}
    assert told["field", "kind"].value == row["kind"]
    assert told["profile", "town"].value == user["town"]
    assert {name for kind, name in told if kind == "source"} == {"text", "profile", "context", "history"}
    had = [one for one in found.evidence if one.kind == "history" and one.name != "search"]
    titles = dict(served.data.tables.items.select("item_id", "title").rows())
    assert all(one.value == titles[one.name] for one in had)
    assert {one.event for one in had} <= {"buy", "view"}
    assert sum(kind == "history" for kind, _ in told) <= 6
    words = [one for one in found.evidence if one.kind == "word"]
    assert len(words) == 3
    assert all(one.value in f"{row['title']}. {row['words']}" for one in words)
    assert [word for word, _ in found.words] == f"{row['title']} {row['words']}".split()


def test_the_worth_of_a_piece_is_the_score_with_it_minus_the_score_without(served, explainer):
    without = explainer.open(search_requests(served.data, "valid").take(np.arange(2)))
    item = int(without.found.items[1, 2])
    (found,) = explainer.explain(without, [(1, item)])
    query = served.data.queries.texts[without.requests.queries[1]].split()
    for at, word in enumerate(query):
        left = without.scores([Asked(1, item, frozenset({Unit("query", at)}))])[0]
        worths = [one.worth for one in found.evidence if (one.kind, one.value) == ("query", word)]
        assert any(worth == pytest.approx(found.score - left, abs=1e-4) for worth in worths)
    assert [one.worth for one in found.evidence] == sorted((one.worth for one in found.evidence), reverse=True)


def test_without_words_asked_for_no_word_of_an_item_is_evidence(served):
    explainer = Explainer(served, history=2, words=0)
    without = explainer.open(serving_requests(served.data, "valid", np.array([1])))
    (found,) = explainer.explain(without, [(0, int(without.found.items[0, 0]))])
    assert not [one for one in found.evidence if one.kind == "word"]
    assert found.words == []
