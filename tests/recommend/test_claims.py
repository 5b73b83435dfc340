"""What a sentence may claim, and what a reason says."""

import pytest

from recsys.recommend.claims import Claims, tokens_of
from recsys.recommend.evidence import Evidence
from recsys.recommend.facts import Facts, nameable
from recsys.recommend.templates import advertise, describe, reason

CLAIMS = Claims(
    [
        "Norvik Sola 7 backpack",
        "Norvik Terra 9 tent",
        "Norvik Sola 9 tent",
        "Norvik",
        "blue",
        "诺维背包",
        "云杉帐篷",
        "帐篷",
    ],
    personal=["age", "gender", "home region"],
)
ROW = {"brand": "Norvik", "colour": "dark blue", "price": "12.5"}


def piece(kind, name, value, worth=1.0, event=""):
    return Evidence(kind=kind, name=name, value=value, worth=worth, event=event)


def facts(*evidence, language="en", title="Norvik Sola 7 backpack", popular=False):
    return Facts(
        title=title, language=language, row=ROW, text="A light bag of cotton.", evidence=evidence, popular=popular
    )


BOUGHT = piece("history", "i1", "Norvik Terra 9 tent", event="purchase")


@pytest.mark.parametrize(
    "sentence",
    [
        "Because you bought “Norvik Terra 9 tent”.",
        "It is a light bag by Norvik, just 12.5.",
        "Dark blue, and of cotton.",
        "This backpack suits the tent you bought before!",
    ],
)
def test_what_stands_in_evidence_or_row_may_be_said(sentence):
    assert CLAIMS.faults(sentence, facts(BOUGHT)) == []


@pytest.mark.parametrize(
    ("sentence", "fault"),
    [
        ("It is made of leather.", "leather"),
        ("Only 11.5 for this bag.", "11.5"),
        ("It suits the Norvik Sola 9 tent.", "norvik sola 9 tent"),  # every word is known, the item is another
        ("Made for your age and gender.", "age"),
        ("Popular with many.", "popular"),
        ("It is advertised.", "advertised"),
        ("Matches your search.", "search"),
        ("", "nothing at all"),
        ("A bag <b>by</b> Norvik", "a sign that no sentence needs"),
    ],
)
def test_what_does_not_is_found(sentence, fault):
    assert fault in CLAIMS.faults(sentence, facts(BOUGHT))


def test_a_purchase_is_claimed_only_where_there_is_one():
    assert "bought" in CLAIMS.faults("Because you bought this bag.", facts())


def test_chinese_names_are_found_between_other_characters():
    own = facts(piece("history", "i1", "云杉帐篷", event="purchase"), language="zh", title="诺维背包")
    assert CLAIMS.faults("因为您买过云杉帐篷。", own) == []
    bare = facts(language="zh", title="诺维背包")
    assert "云 杉 帐 篷" in CLAIMS.faults("因为它与云杉帐篷相符。", bare)


def test_names_are_found_as_by_trying_every_place():
    names = ["a b", "b c d", "c", "a"]
    tokens = tokens_of("a b c d c")
    found = Claims(names).names_in(tokens)
    plain = [
        max((t for t in map(tokens_of, names) if tokens[at : at + len(t)] == t), key=len, default=()) for at in range(5)
    ]
    assert found == [one for one in plain if one]


EVIDENCE = [
    (BOUGHT, "Because you bought “Norvik Terra 9 tent”."),
    (piece("history", "i1", "Norvik Terra 9 tent", event="view"), "Because you looked at “Norvik Terra 9 tent”."),
    (piece("history", "i1", "Norvik Terra 9 tent", event="target"), "Because you chose “Norvik Terra 9 tent” before."),
    (piece("history", "search", "warm tent"), "Because you searched for “warm tent”."),
    (piece("query", "cotton", "cotton"), "Matches “cotton” in your search."),
    (piece("query", "linen", "linen"), "Found for “linen” in your search."),
    (piece("word", "light", "light"), "Because of “light” in its text."),
    (piece("field", "brand", "Norvik"), "Because of its brand: Norvik."),
    (piece("context", "page", "home"), "Suits the moment, page: home."),
    (piece("source", "image", ""), "Because of how it looks."),
    (piece("source", "audio", ""), "Because of its audio."),
    (piece("source", "reviews", ""), "Because of what its latest reviews say."),
    (piece("source", "ads", ""), "It is advertised just now."),
    (piece("source", "text", ""), "Because of its description."),
    (piece("source", "history", ""), "Because of what you chose before."),
    (piece("source", "context", ""), "Suits the moment."),
]


@pytest.mark.parametrize(("one", "wanted"), EVIDENCE)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_kind_of_evidence_has_a_sentence_that_passes_the_check(one, wanted, language):
    said = facts(one, language=language)
    if language == "en":
        assert reason(said) == wanted
    assert CLAIMS.faults(reason(said), said) == []


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("popular", [True, False])
def test_without_evidence_something_plain_and_true_is_said(language, popular):
    said = facts(language=language, popular=popular)
    assert CLAIMS.faults(reason(said), said) == []
    assert ("many" in reason(said) or "很多人" in reason(said)) is popular
    for write in (describe, advertise):
        assert CLAIMS.faults(write(said), said) == []


def test_what_is_personal_or_was_not_tested_is_never_named():
    found = [
        piece("profile", "age", "35", 9.0), piece("field", "region", "north", 8.0), piece("source", "profile", "", 7.0),
        piece("source", "history", "", 6.0), piece("word", "red", "red", 0.0), piece("field", "brand", "Norvik", 0.5),
        piece("history", "i1", "Ice Age", 0.7), piece("word", "light", "light", -2.0),
    ]  # fmt: skip
    named = nameable(found, {"age": [], "region": []})
    assert [one.value or one.name for one in named] == ["Ice Age", "Norvik", "history"]


def test_words_that_say_nothing_give_no_reason():
    assert (
        reason(facts(piece("word", "of", "of", 2.0), piece("field", "brand", "Norvik")))
        == "Because of its brand: Norvik."
    )


def test_a_single_character_of_a_chinese_word_is_not_named():
    found = [piece("query", "公", "公", 3.0), piece("word", "精", "精", 2.0), piece("query", "背包", "背包", 1.0)]
    assert [one.value for one in nameable(found, {})] == ["背包"]
