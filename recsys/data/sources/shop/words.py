"""What the shop is written in: the same lists for every language, entry by entry.

A group holds words that mean the same, the canonical one first. The lists of all languages have the same lengths, so
that a number says the same in each.
"""

from dataclasses import dataclass

Group = tuple[str, ...]
Groups = tuple[Group, ...]

FIELDS = ("brand", "material", "feature", "use")
"""The attributes that texts and searches speak of, in the order of `Words.fields`."""


def groups(words: str) -> Groups:
    """Groups by a bar, the words of one by a comma: "leather,hide|cotton,canvas"."""
    return tuple(tuple(group.split(",")) for group in words.split("|"))


@dataclass(frozen=True, kw_only=True)
class Words:
    """One language."""

    space: str
    """What stands between words: a space, or nothing."""
    nouns: Groups
    """One group a category, in the order of `KINDS`."""
    brands: Groups
    materials: Groups
    features: Groups
    uses: Groups
    series: Group
    styles: Group
    """One for each age group, which it appeals to."""
    regions: Group
    dayparts: Group
    """Quarters of the day from midnight."""
    genders: Group
    careful: Group
    """Templates of descriptions that were written with care; fields as in `FIELDS`, and `noun`."""
    careless: Group
    query: tuple[tuple[str, str], ...]
    """The parts of a search in their order: a field or `noun`, and its template."""
    reviews: dict[int, Group]
    """Templates of reviews that warn (-1), say little (0) or praise (1); field `noun`."""
    ads: Group
    """Templates of advertisements; fields `brand` and `noun`."""

    @property
    def fields(self) -> tuple[Groups, ...]:
        """The groups of each of `FIELDS`."""
        return self.brands, self.materials, self.features, self.uses
