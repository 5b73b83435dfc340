"""Texts as words."""

import pytest

from recsys.recommend.words import Words, is_chinese


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A rain-proof coat, 2.5 kg.", ["A", "rain-proof", "coat", "2.5", "kg"]),
        ("It's Émile's", ["It's", "Émile's"]),
        ("诺维防水背包 Sola12", ["诺", "维", "防水", "背包", "Sola12"]),
        ("星轨22轻便帐篷", ["星", "轨", "22", "轻", "便", "帐", "篷"]),
        ("...", []),
        ("", []),
    ],
)
def test_a_text_is_cut_into_what_stands_in_it(text, wanted):
    words = Words(["防水", "背包", "背"])
    assert words.words(text) == wanted
    assert [text[start:end] for start, end in words.spans(text)] == wanted


def test_a_text_without_words_keeps_all_else_as_it_was():
    words = Words()
    assert words.without("red, small and warm.", {1, 3}) == "red,  and ."
    assert words.without("red", set()) == "red"
    assert words.without("red small", {0, 1}).split() == []


@pytest.mark.parametrize(
    ("text", "wanted"), [("诺维 Sola 防水背包", True), ("Norvik Sola", False), ("12", False), ("防", True)]
)
def test_a_text_is_chinese_where_a_third_of_its_letters_are(text, wanted):
    assert is_chinese(text) is wanted
