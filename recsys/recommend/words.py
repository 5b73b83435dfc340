"""A text as words: what can be taken away from it, named in a reason, and coloured on the page."""

import re
from collections.abc import Collection

_CHINESE = r"\u3400-\u9fff\uf900-\ufaff"
_OTHER = rf"[^\W_{_CHINESE}]+"
_RUNS = re.compile(rf"([{_CHINESE}]+)|{_OTHER}(?:['’.-]{_OTHER})*")
_LONGEST = 8  # characters of a known Chinese word


class Words:
    """Cuts texts into words: letters and digits between spaces and marks; of Chinese the longest known words, else
    single characters.
    """

    def __init__(self, known: Collection[str] = ()) -> None:
        """`known` are words of the catalogue, such as the values of its columns."""
        self.known = frozenset(known)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Start and end of each word, in their order."""
        found: list[tuple[int, int]] = []
        for run in _RUNS.finditer(text):
            found += self._chinese(text, *run.span()) if run[1] else [run.span()]
        return found

    def words(self, text: str) -> list[str]:
        """The words as they stand there."""
        return [text[start:end] for start, end in self.spans(text)]

    def without(self, text: str, gone: Collection[int]) -> str:
        """The text without the words of these numbers."""
        spans, kept, last = self.spans(text), [], 0
        for number in sorted(gone):
            start, end = spans[number]
            kept.append(text[last:start])
            last = end
        return "".join([*kept, text[last:]])

    def _chinese(self, text: str, start: int, end: int) -> list[tuple[int, int]]:
        found = []
        while start < end:
            sizes = range(min(_LONGEST, end - start), 1, -1)
            size = next((size for size in sizes if text[start : start + size] in self.known), 1)
            found.append((start, start + size))
            start += size
        return found


def says_little(word: str) -> bool:
    """Whether it is a single Chinese character: mostly a piece of a word that is not known."""
    return len(word) == 1 and "\u3400" <= word <= "\u9fff"


def is_chinese(text: str) -> bool:
    """Whether at least a third of the letters are Chinese ones."""
    letters = [one for one in text if one.isalpha()]
    return 3 * sum("\u3400" <= one <= "\u9fff" for one in letters) >= max(len(letters), 1)
