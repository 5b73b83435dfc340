"""BM25 against a plain loop of its formula; words of any language; equal scores; nothing in common."""

import math
import unicodedata

import numpy as np
import pytest

from recsys.errors import InputError
from recsys.retrieval import lexical
from recsys.retrieval.lexical import LexicalConfig, LexicalIndex, best_scored, words_of

WORDS = ["red", "blue", "small", "large", "warm", "round", "flat", "the"]


def made_texts(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(0, 9))) for _ in range(count)]


def plain_scores(texts: list[str], query: str, k1: float, b: float) -> list[float]:
    """The formula of `LexicalIndex`, word by word; `texts` hold single words between spaces."""
    rows = [text.split() for text in texts]
    mean, scores = sum(map(len, rows)) / len(rows), []
    for row in rows:
        score = 0.0
        for word in sorted(set(query.split()) & set(row)):
            holding = sum(word in other for other in rows)
            idf = math.log(1 + (len(rows) - holding + 0.5) / (holding + 0.5))
            score += idf * row.count(word) / (row.count(word) + k1 * (1 - b + b * len(row) / mean))
        scores.append(score)
    return scores


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4), (2.0, 1.0), (1.2, 0.0)])
def test_scores_are_those_of_the_formula(k1, b):
    texts, queries = made_texts(50, 0), [*made_texts(20, 1), "unheard of", "red red unheard"]
    scores = LexicalIndex(texts, LexicalConfig(k1=k1, b=b)).scores(queries)
    wanted = [plain_scores(texts, query, k1, b) for query in queries]
    np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-6)
    assert scores.dtype == np.float32


def test_search_is_the_order_of_the_scores_and_equal_ones_go_to_the_smaller_item():
    texts, queries = [*made_texts(40, 0), *made_texts(40, 0)], made_texts(20, 1)  # every score occurs twice
    index = LexicalIndex(texts, LexicalConfig())
    for k in (1, 7, 80):
        items, scores = index.search(queries, k)
        for row, own in enumerate(index.scores(queries)):
            wanted = [item for item in sorted(range(80), key=lambda item: (-own[item], item)) if own[item] > 0][:k]
            assert items[row].tolist() == wanted + [-1] * (k - len(wanted))
            assert scores[row].tolist() == [*own[wanted].tolist(), *[-math.inf] * (k - len(wanted))]


def test_a_tie_across_the_end_of_the_list_keeps_the_smaller_items():
    items, _ = best_scored(np.array([[1, 3, 2, 2, 0, 2]], dtype=np.float32), 3)
    assert items.tolist() == [[1, 2, 3]]


def test_the_size_of_a_block_changes_nothing(monkeypatch):
    index, queries = LexicalIndex(made_texts(30, 0), LexicalConfig()), made_texts(9, 1)
    whole = index.search(queries, 5)
    monkeypatch.setattr(lexical, "_BLOCK", 60)
    assert [rows.stop - rows.start for rows in index.blocks(9)] == [2, 2, 2, 2, 1]
    for found, wanted in zip(index.search(queries, 5), whole, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("texts", [[], ["", "..."]])
def test_a_catalogue_without_a_word_proposes_nothing(texts):
    index = LexicalIndex(texts, LexicalConfig())
    assert len(index) == len(texts)
    assert index.scores(["red"]).tolist() == [[0.0] * len(texts)]
    assert index.search(["red", ""], 2)[0].tolist() == [[-1, -1], [-1, -1]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Lion, the WITCH & 12 don't", ["the", "lion", "the", "witch", "12", "don", "t"]),
        ("Amélie Ёлка naïve", ["amelie", "елка", "naive"]),
        (unicodedata.normalize("NFD", "Amélie"), ["amelie"]),
        ("Straße ﬁlm １２", ["strasse", "film", "12"]),
        ("हिन्दी फ़िल्म", ["हिन्दी", unicodedata.normalize("NFC", "फ़िल्म")]),
        ("黒猫の話", ["黒", "猫", "の", "話", "黒猫", "猫の", "の話"]),
        ("猫", ["猫"]),
        ("东京 tower2", ["东", "京", "东京", "tower2"]),
        ("한국 영화", ["한", "국", "한국", "영", "화", "영화"]),
        ("หมา", ["ห", "ม", "า", "หม", "มา"]),
        ("", []),
    ],
)
def test_words_of_any_language_are_found(text, words):
    assert words_of(text) == words


def test_a_single_character_and_a_pair_find_what_holds_them():
    index = LexicalIndex(["黒猫の話", "犬の話", "猫黒"], LexicalConfig())
    assert index.search(["猫"], 3)[0][0].tolist()[:2] in ([0, 2], [2, 0])
    assert index.search(["黒猫"], 3)[0][0, 0] == 0
    assert index.search(["鳥"], 3)[0].tolist() == [[-1, -1, -1]]


def test_stop_words_count_neither_in_a_query_nor_in_an_item():
    plain = LexicalIndex(["the red", "blue"], LexicalConfig())
    stopped = LexicalIndex(["the red", "blue"], LexicalConfig(stop_words="english"))
    assert plain.search(["the"], 1)[0].tolist() == [[0]]
    assert stopped.search(["the"], 1)[0].tolist() == [[-1]]
    np.testing.assert_allclose(
        stopped.scores(["the red"]), LexicalIndex(["red", "blue"], LexicalConfig()).scores(["red"])
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k1": -1.0}, "k1 is -1.0"),
        ({"b": 1.5}, "b 1.5"),
        ({"candidates": 0}, r"lexical\.candidates is 0; expected at least 1"),
        ({"weight": -0.5}, r"lexical\.weight is -0\.5; expected a number of at least 0, or null"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        LexicalConfig(**values)
