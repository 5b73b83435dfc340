"""Sentences from facts, in English and Chinese, without a model. Each names one piece of evidence that was tested."""

from collections.abc import Callable

from recsys.recommend.evidence import Evidence
from recsys.recommend.facts import Facts, is_ready

_BOUGHT = ("purchase", "buy", "bought", "order")
_MOST_WORDS = 3

_ENGLISH_WORDS = (
    "a an and are as at because been but by can did do follows for found from good had has have here in into is it its "
    "just like matches of on one or our pick picked s say says see so such suits text than that the their them there "
    "these they this those to too used very was well were what when which while who will with you your yours "
    "description"
)
_CHINESE_CHARACTERS = (
    "因为您你了的是它在与和及或相符这款一件个说好正描述文字适合推荐给里有来自特点作由以并且也就把对其于让我们"
)
PLAIN = {"en": frozenset(_ENGLISH_WORDS.split()), "zh": frozenset(_CHINESE_CHARACTERS)}
"""Words, and Chinese characters, that claim nothing of any item; all others must stand in the facts."""

# fmt: off
_ENGLISH: dict[str, Callable[[Evidence], str]] = {
    "bought": lambda one: f"Because you bought “{one.value}”.",
    "chose": lambda one: f"Because you chose “{one.value}” before.",
    "looked": lambda one: f"Because you looked at “{one.value}”.",
    "searched": lambda one: f"Because you searched for “{one.value}”.",
    "field": lambda one: f"Because of its {one.name}: {one.value}.",
    "word": lambda one: f"Because of “{one.value}” in its text.",
    "context": lambda one: f"Suits the moment, {one.name}: {one.value}.",
    "image": lambda _: "Because of how it looks.",
    "vectors": lambda one: f"Because of its {one.name}.",
    "reviews": lambda _: "Because of what its latest reviews say.",
    "ads": lambda _: "It is advertised just now.",
    "text": lambda _: "Because of its description.",
    "moment": lambda _: "Suits the moment.",
    "history": lambda _: "Because of what you chose before.",
}
_CHINESE: dict[str, Callable[[Evidence], str]] = {
    "bought": lambda one: f"因为您买过“{one.value}”。",
    "chose": lambda one: f"因为您选过“{one.value}”。",
    "looked": lambda one: f"因为您看过“{one.value}”。",
    "searched": lambda one: f"因为您搜索过“{one.value}”。",
    "field": lambda one: f"因为它的特点：{one.value}。",
    "word": lambda one: f"因为描述里有“{one.value}”。",
    "context": lambda one: f"适合此刻：{one.value}。",
    "image": lambda _: "因为它的外观。",
    "vectors": lambda one: f"因为它的{one.name}。",
    "reviews": lambda _: "因为它最近的评价。",
    "ads": lambda _: "它正在广告推荐。",
    "text": lambda _: "因为它的描述。",
    "moment": lambda _: "适合此刻。",
    "history": lambda _: "因为您之前的选购。",
}
# fmt: on


def reason(facts: Facts) -> str:
    """Why the item is recommended: by the words that were searched for, where they carried the score, else by the best
    evidence that may be named; without any, something plain and true.
    """
    shapes = _ENGLISH if facts.language == "en" else _CHINESE
    if any(one.kind == "query" for one in facts.evidence):
        return _matches(facts)
    for one in facts.evidence:
        if one.kind != "word" or one.value.casefold() not in PLAIN["en"]:
            return shapes[_shape(one)](one)
    return _neutral(facts)


def describe(facts: Facts) -> str:
    """The item in one line, from its row."""
    told = [f"{name}: {value}" for name, value in facts.row.items()]
    if facts.language == "zh":
        return f"{facts.title}。{'；'.join(facts.row.values())}{'。' if told else ''}"
    return f"{facts.title}. {'; '.join(told)}{'.' if told else ''}"


def advertise(facts: Facts) -> str:
    """Ad copy of one line, from the item's row."""
    told = list(facts.row.values())[:2]
    if facts.language == "zh":
        return f"推荐：{facts.title}{'，' if told else ''}{'、'.join(told)}。"
    return f"Just for you: {facts.title}{' - ' if told else ''}{', '.join(told)}."


def _shape(one: Evidence) -> str:
    match one.kind:
        case "history" if one.name == "search":
            return "searched"
        case "history" if one.event in _BOUGHT:
            return "bought"
        case "history":
            return "looked" if one.event in ("view", "click", "cart") else "chose"
        case "source" if is_ready(one):
            return "vectors"
        case "source":
            return "moment" if one.name == "context" else one.name
        case kind:
            return kind


def _matches(facts: Facts) -> str:
    """The words of the query that carried the score; those that stand in the item match, others have found it."""
    words = list(dict.fromkeys(one.value for one in facts.evidence if one.kind == "query"))
    own = " ".join([facts.title, facts.text, *facts.row.values()]).casefold()
    there = [word for word in words if word.casefold() in own and word.casefold() not in PLAIN["en"]][:_MOST_WORDS]
    told = there or [word for word in words if word.casefold() not in PLAIN["en"]][:1] or words[:1]
    if facts.language == "zh":
        named = "、".join(f"“{word}”" for word in told)
        return f"与您搜索的{named}相符。" if there else f"您搜索了{named}。"
    named = " and ".join(f"“{word}”" for word in told)
    return f"Matches {named} in your search." if there else f"Found for {named} in your search."


def _neutral(facts: Facts) -> str:
    """Nothing is known of why: that many like it, if it is so, or what it is."""
    first = next(iter(facts.row.values()), facts.title)  # a column of the item's own
    if facts.language == "zh":
        return "很多人喜欢。" if facts.popular else f"为您推荐：{first}。"
    return "Popular with many." if facts.popular else f"Our pick: {first}."
