"""The shop says the same in every language."""

import string

import numpy as np
import pytest

from recsys.data.sources.shop import LANGUAGES
from recsys.data.sources.shop.kinds import KINDS, NEXT, allowed
from recsys.data.sources.shop.words import FIELDS, Words
from recsys.data.sources.shop.world import AGES, DAYPARTS, REGIONS


@pytest.fixture(params=LANGUAGES)
def words(request: pytest.FixtureRequest) -> Words:
    return LANGUAGES[request.param]


def _fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def test_every_language_has_the_same_lists(words: Words) -> None:
    english = LANGUAGES["en"]
    assert len(words.nouns) == len(KINDS)
    assert list(map(len, words.fields)) == list(map(len, english.fields))
    assert (len(words.styles), len(words.regions), len(words.dayparts)) == (AGES, REGIONS, DAYPARTS)
    for name in ("series", "genders", "careful", "careless", "ads"):
        assert len(getattr(words, name)) == len(getattr(english, name)), name
    assert {tone: len(texts) for tone, texts in words.reviews.items()} == dict.fromkeys((-1, 0, 1), 3)


def test_no_word_means_two_things(words: Words) -> None:
    for groups in (words.nouns, *words.fields):
        flat = [word for group in groups for word in group]
        assert len(flat) == len(set(flat))
    for group in (words.series, words.styles, words.regions, words.dayparts, words.genders):
        assert len(group) == len(set(group))


def test_descriptions_of_either_kind_tell_every_attribute(words: Words) -> None:
    for template in (*words.careful, *words.careless):
        assert _fields(template) == {"noun", *FIELDS}
    assert {part for part, _ in words.query} == {"noun", *FIELDS}
    assert not set(words.careful) & set(words.careless)


def test_a_category_knows_its_words_and_what_follows_it() -> None:
    assert all(choices for kind in KINDS for choices in allowed(kind))
    assert not (np.arange(len(KINDS)) == NEXT).any()
