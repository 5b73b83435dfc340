"""What a sentence about a recommendation may say: tested evidence and the item's own row, and nothing personal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from recsys.recommend.evidence import LEAST, Catalogue, Evidence
from recsys.recommend.words import says_little
from recsys.tables.config import SOURCES

Language = Literal["en", "zh"]

PIECES = ("history", "query", "field", "word", "context")
"""Kinds that a reason may name. Columns of the users table are never named, nor any item's column of the same name."""
_WHOLE = ("text", "context", "history")
"""Sources that are named where none of their pieces can be."""
_SIGHT = ("image", "reviews", "ads")
_SAYS = {
    "history": "bought buy chose chosen had looked watched before 买购选看过之前",
    "query": "search searched searching 搜索过",
    "context": "moment now 此刻",
    "image": "how look looks picture 外观",
    "reviews": "review reviews latest 最近评价",
    "ads": "ad advertised now 广告",
}
"""Words that only who has evidence of a kind, or of a source, may use."""
_POPULAR = "popular many people 很多人喜欢"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that may be said of one item, to one request or to nobody."""

    title: str
    language: Language
    row: Mapping[str, str]
    """Columns of the item that may be named, with their values as text."""
    text: str = ""
    """The item's own words."""
    evidence: Sequence[Evidence] = field(default_factory=tuple)
    """What may be named and whose deletion lowered the score, best first."""
    popular: bool = False
    """Whether the item is of those that half of the interactions are with."""

    @property
    def allowed(self) -> list[str]:
        """Every text that a sentence may quote from."""
        told = [text for one in self.evidence for text in (one.name, one.value, _says(one)) if text]
        return [self.title, self.text, *self.row, *self.row.values(), *told, *([_POPULAR] if self.popular else [])]


def facts_of(
    catalogue: Catalogue, item: int, text: str, evidence: Sequence[Evidence] = (), *, popular: bool = False
) -> Facts:
    """Of an item of the catalogue, and what may be named of all evidence of its recommendation."""
    return Facts(
        title=catalogue.titles[item], language="zh" if catalogue.chinese[item] else "en", row=catalogue.rows[item],
        text=text, evidence=nameable(evidence, catalogue.profile), popular=popular,
    )  # fmt: skip


def nameable(evidence: Sequence[Evidence], personal: Mapping[str, object]) -> list[Evidence]:
    """The tested pieces that may be named, best first: pieces before whole sources that they are part of."""
    tested = [one for one in evidence if one.worth > LEAST and one.name not in personal]
    pieces = [
        one for one in tested if (one.kind in PIECES and not _says_little(one)) or _is(one, _SIGHT) or is_ready(one)
    ]
    whole = [one for one in tested if _is(one, _WHOLE)]
    return sorted(pieces, key=lambda one: -one.worth) + sorted(whole, key=lambda one: -one.worth)


def is_ready(one: Evidence) -> bool:
    """Whether this is a column of ready-made vectors, which has no pieces."""
    return one.kind == "source" and one.name not in SOURCES


def _says_little(one: Evidence) -> bool:
    return not one.value or (one.kind in ("query", "word") and says_little(one.value))


def _says(one: Evidence) -> str:
    kind = one.name if one.kind == "source" else "query" if one.name == "search" else one.kind
    return _SAYS.get(kind, "")


def _is(one: Evidence, names: Sequence[str]) -> bool:
    return one.kind == "source" and one.name in names
