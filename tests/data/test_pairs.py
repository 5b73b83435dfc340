"""Pairs of texts, against the tokenizer's own pairs."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.data.datasets import Past
from recsys.data.pairs import PairTexts
from recsys.data.text import train_wordpiece
from recsys.errors import InputError


@pytest.fixture
def tokenizer(cascade):
    facts = [f"{name}: {value}, ;" for name, known in cascade.data.codes.user_category.items() for value in known]
    return train_wordpiece([*cascade.data.catalogue.texts, *cascade.data.queries.texts, *facts], 200)


@pytest.fixture
def pairs(cascade, tokenizer, tmp_path):
    return PairTexts(cascade.data, tokenizer, title=["title"], max_tokens=64, history=3, folder=tmp_path / "words")


def past(*items: int) -> Past:
    none = np.full(len(items), -1)
    return Past(
        item=np.array(items, dtype=np.int64), query=none, event=none * 0, position=np.arange(len(items)),
        order=np.arange(len(items)) + 0.0, next_context=np.zeros((len(items) + 1, 1), dtype=np.int64),
    )  # fmt: skip


def test_a_query_and_a_candidate_are_what_the_tokenizer_makes_of_the_two_texts(cascade, tokenizer, pairs):
    queries, candidates = np.array([3, 0]), np.array([[5, 7, 29], [2, -1, -1]])
    batch = pairs.batch([past(), past(1)], np.array([-1, 2]), queries, candidates)
    assert batch.ids.shape[0] == 6
    for row, (query, item) in enumerate(zip(queries.repeat(3), candidates.ravel(), strict=True)):
        text = cascade.data.queries.texts[query]
        other = [cascade.data.catalogue.texts[item]] if item >= 0 else []
        expected = tokenizer(text, *other, return_token_type_ids=True)
        ends = {"input_ids": 3, "token_type_ids": 1}
        ids, types = (expected[name] + ([] if other else [end]) for name, end in ends.items())
        assert batch.ids[row][batch.mask[row]].tolist() == ids
        assert batch.part[row][batch.mask[row]].tolist() == types
        assert batch.mask[row].int().diff().max() <= 0  # padded at the end


def test_a_user_is_profile_and_the_latest_titles_newest_first(cascade, tokenizer, tmp_path):
    pairs = PairTexts(cascade.data, tokenizer, title=["title"], max_tokens=128, history=3, folder=tmp_path)
    batch = pairs.batch([past(4, 8, 15, 16)], np.array([2]), np.array([-1]), np.array([[1]]))
    titles = cascade.data.tables.items["title"]
    words = "age: 18-24, town: x, " + " ".join(f"{titles[item]};" for item in (16, 15, 8))
    assert batch.ids[0].tolist() == tokenizer(words, cascade.data.catalogue.texts[1])["input_ids"]


def test_nobody_without_a_history_is_an_empty_first_text(cascade, tokenizer, pairs):
    batch = pairs.batch([past()], np.array([-1]), np.array([-1]), np.array([[6]]))
    assert batch.ids[0].tolist() == tokenizer("", cascade.data.catalogue.texts[6])["input_ids"]


@pytest.mark.parametrize("max_tokens", [16, 21])
def test_the_user_has_at_most_half_and_the_candidate_the_rest(cascade, tokenizer, tmp_path, max_tokens):
    pairs = PairTexts(cascade.data, tokenizer, title=["title"], max_tokens=max_tokens, history=3, folder=tmp_path)
    batch = pairs.batch([past(4, 8, 15), past()], np.array([2, -1]), np.array([-1, -1]), np.array([[1, 2], [3, 4]]))
    first = (batch.part == 0) & batch.mask
    assert batch.ids.shape[1] <= max_tokens
    assert first.sum(1).tolist()[:2] == [max_tokens // 2] * 2
    text = tokenizer(cascade.data.catalogue.texts[3])["input_ids"][1:-1]
    assert batch.ids[2, 2 : 2 + min(len(text), max_tokens - 3)].tolist() == text[: max_tokens - 3]


def test_read_apart_each_side_is_what_the_tokenizer_makes_of_it_alone(cascade, tokenizer, tmp_path):
    pairs = PairTexts(
        cascade.data, tokenizer, title=["title"], max_tokens=24, history=3, folder=tmp_path, apart="late"
    )  # fmt: skip
    users, queries, candidates = np.array([-1, 2]), np.array([3, -1]), np.array([[5, 7, 29], [7, -1, -1]])
    fields, tokens = pairs.fields([past(), past(4, 8)], users, queries, candidates)
    apart, titles = fields["apart"], cascade.data.tables.items["title"]
    asked = [cascade.data.queries.texts[3], f"age: 18-24, town: x, {titles[8]}; {titles[4]};"]
    for row, text in enumerate(asked):
        wanted = tokenizer(text, truncation=True, max_length=24)["input_ids"]
        assert apart.request.ids[row][apart.request.mask[row]].tolist() == wanted
    for request, place in zip(*np.nonzero(candidates >= 0), strict=True):
        row, text = int(apart.row[request, place]), cascade.data.catalogue.texts[candidates[request, place]]
        assert apart.candidate.ids[row][apart.candidate.mask[row]].tolist() == tokenizer(text)["input_ids"]
    assert (apart.row < 0).tolist() == (candidates < 0).tolist()
    assert tokens == int(apart.request.mask.sum() + apart.candidate.mask.sum())


def test_split_each_side_of_a_pair_has_all_tokens_to_itself(cascade, tokenizer, tmp_path):
    long = " ".join(cascade.data.catalogue.texts[:9])
    data = replace(cascade.data, queries=replace(cascade.data.queries, texts=["warm round thing", long]))
    pairs = PairTexts(
        data, tokenizer, title=["title"], max_tokens=20, history=3, folder=tmp_path, apart="split"
    )  # fmt: skip
    none, candidates = np.array([-1, -1]), np.array([[5, 7], [7, -1]])
    apart = pairs.fields([past(), past()], none, np.array([0, 1]), candidates)[0]["apart"]
    whole, other = (tokenizer(text)["input_ids"] for text in ("warm round thing", long))
    assert apart.request.ids[0][apart.request.mask[0]].tolist() == whole
    assert apart.request.ids[1][apart.request.mask[1]].tolist() == [*other[:19], whole[-1]]
    for request, place in zip(*np.nonzero(candidates >= 0), strict=True):
        row, text = int(apart.row[request, place]), cascade.data.catalogue.texts[candidates[request, place]]
        cut = tokenizer(text)["input_ids"][1:-1][:19]
        assert apart.candidate.ids[row][apart.candidate.mask[row]].tolist() == [*cut, whole[-1]]
    assert apart.row[1, 0] == apart.row[0, 1]


def test_pairs_about_other_queries_read_their_texts(cascade, tokenizer, pairs):
    two = replace(cascade.data, queries=replace(cascade.data.queries, texts=["warm round thing", "blue"]))
    batch = pairs.about(two).batch([past(), past()], np.array([-1, -1]), np.array([0, 1]), np.array([[1], [2]]))
    for row, text in enumerate(two.queries.texts):
        expected = tokenizer(text, cascade.data.catalogue.texts[row + 1])["input_ids"]
        assert batch.ids[row][batch.mask[row]].tolist() == expected


def test_too_short_pairs_are_refused(cascade, tokenizer, tmp_path):
    with pytest.raises(InputError, match="at least 16"):
        PairTexts(cascade.data, tokenizer, title=["title"], max_tokens=8, history=3, folder=tmp_path)


def test_hidden_words_and_profiles_are_not_said(cascade, tmp_path):
    tokenizer = train_wordpiece(cascade.data.catalogue.texts, 300)
    users, none, candidates = np.array([0, 1]), np.array([-1, -1]), np.array([[3, 4], [5, -1]])
    pasts = [Past.empty(1)] * 2

    def lengths(hidden: tuple[str, ...]) -> list[int]:
        pairs = PairTexts(
            cascade.data, tokenizer, title=["title"], max_tokens=32, history=4, folder=tmp_path, hidden=hidden
        )
        return pairs.batch(pasts, users, none, candidates).mask.sum(1).tolist()

    assert lengths(("text", "profile")) == [3, 3, 3, 3]  # the special tokens alone
    whole, nameless = lengths(()), lengths(("profile",))
    assert all(one > other for one, other in zip(whole, nameless, strict=True))
    assert lengths(("text",))[0] < whole[0]


def test_a_picture_without_words_is_refused_where_it_asks(cascade, tokenizer, tmp_path):
    texts, shown = ["", "red thing", *cascade.data.queries.texts[2:]], ["a", "b", *[""] * 8]
    data = replace(cascade.data, queries=replace(cascade.data.queries, texts=texts, pictures=shown))
    nobody, candidates = np.array([-1, -1]), np.array([[5, 7], [7, -1]])
    for apart in (None, "late"):
        pairs = PairTexts(data, tokenizer, title=["title"], max_tokens=24, history=3, folder=tmp_path, apart=apart)
        pairs.fields([past(), past()], nobody, np.array([1, -1]), candidates)
        with pytest.raises(InputError, match="reads words, and 1 of 10 queries are pictures alone; give them words"):
            pairs.fields([past(), past()], nobody, np.array([0, 1]), candidates)
