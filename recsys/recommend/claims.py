"""What a written sentence claims, checked against the facts it was written from. Whatever is not known is a fault."""

import re
from collections.abc import Iterable, Sequence

from recsys.recommend.facts import Facts
from recsys.recommend.templates import PLAIN

_TOKENS = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|\d+(?:[.,]\d+)*|[^\W\d_]+")
_ALLOWED_MARKS = re.compile(r"[\w\s.,;:!?'\"()\-–&/%“”‘’《》。，；：！？、（）…·+#]*")
Tokens = tuple[str, ...]


def tokens_of(text: str) -> Tokens:
    """Words, numbers and single Chinese characters, case folded."""
    return tuple(_TOKENS.findall(text.casefold()))


class Claims:
    """Finds what a sentence must not say. `names` are the titles and values of the whole catalogue.

    A sentence is refused where it holds a name (the longest one at its place) that the facts do not have word for word,
    a number that is not in them, a personal attribute, or any other word that is neither in them nor a plain one.
    """

    def __init__(self, names: Iterable[str], personal: Iterable[str] = ()) -> None:
        """`personal` are the columns of the users table."""
        self._by_first: dict[str, set[Tokens]] = {}
        for name in names:
            tokens = tokens_of(name)
            if tokens:
                self._by_first.setdefault(tokens[0], set()).add(tokens)
        self._lengths = {
            first: sorted({len(one) for one in known}, reverse=True) for first, known in self._by_first.items()
        }
        self._personal = {token for name in personal for token in tokens_of(name)}

    def faults(self, sentence: str, facts: Facts) -> list[str]:
        """What the facts do not hold; empty for a sentence that may be shown."""
        tokens, allowed = tokens_of(sentence), [tokens_of(text) for text in facts.allowed]
        said = {token for one in allowed for token in one}
        known = said | PLAIN[facts.language] | PLAIN["en"]
        strange = [token for token in tokens if token not in known]
        private = [token for token in tokens if token in self._personal - said]
        foreign = [
            " ".join(name) for name in self.names_in(tokens, PLAIN[facts.language]) if not _is_in(name, allowed)
        ]  # fmt: skip
        marks = [] if _ALLOWED_MARKS.fullmatch(sentence) else ["a sign that no sentence needs"]
        return [*strange, *private, *foreign, *marks, *([] if tokens else ["nothing at all"])]

    def names_in(self, tokens: Sequence[str], plain: frozenset[str] = frozenset()) -> list[Tokens]:
        """The longest name that begins at each place; a single plain word is none."""
        found = [self._longest(tokens, at) for at in range(len(tokens))]
        return [name for name in found if name and not (len(name) == 1 and name[0] in plain)]

    def _longest(self, tokens: Sequence[str], at: int) -> Tokens:
        for size in self._lengths.get(tokens[at], ()):
            name = tuple(tokens[at : at + size])
            if name in self._by_first[tokens[at]]:
                return name
        return ()


def _is_in(name: Tokens, texts: Sequence[Tokens]) -> bool:
    """Whether the tokens stand one after the other in one of the texts."""
    size = len(name)
    return any(text[at : at + size] == name for text in texts for at in range(len(text) - size + 1))
