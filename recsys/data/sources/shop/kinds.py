"""The categories: what their items cost, can be made of, look like, and what is bought after them."""

from typing import NamedTuple

import numpy as np

from recsys.data.sources.shop.english import ENGLISH

Shape = tuple[tuple[str, int, int, int, int], ...]


class Kind(NamedTuple):
    """A category, in English words; other languages say the same at the same place of their lists."""

    noun: str
    price: float
    next: str
    materials: str
    features: str
    uses: str
    shape: Shape
    """Forms and boxes (left, top, right, bottom) in pixels of `PICTURE`."""


# fmt: off
KINDS = (
    Kind("phone", 420, "phone case", "glass,aluminium,plastic",
         "waterproof,compact,fast,durable", "travel,office,school,gifts",
         (("box", 21, 6, 43, 58),)),
    Kind("phone case", 18, "charger", "leather,silicone,plastic,bamboo",
         "waterproof,padded,light,durable", "travel,office,hiking,gifts",
         (("box", 17, 6, 47, 58), ("oval", 12, 10, 26, 24))),
    Kind("charger", 25, "headphones", "plastic,aluminium",
         "fast,compact,wireless,foldable", "travel,office,home,school",
         (("box", 16, 26, 48, 58), ("box", 22, 8, 27, 28), ("box", 37, 8, 42, 28))),
    Kind("headphones", 85, "phone", "leather,plastic,aluminium",
         "wireless,quiet,foldable,padded", "travel,office,running,home",
         (("ring", 12, 10, 52, 56), ("box", 6, 32, 20, 56), ("box", 44, 32, 58, 56))),
    Kind("laptop", 900, "backpack", "aluminium,plastic",
         "light,quiet,fast,durable", "office,school,travel,home",
         (("box", 12, 10, 52, 42), ("box", 4, 44, 60, 52))),
    Kind("backpack", 70, "water bottle", "nylon,leather,cotton",
         "waterproof,light,padded,foldable", "travel,hiking,school,office",
         (("ring", 24, 4, 40, 20), ("box", 14, 12, 50, 58), ("box", 8, 34, 56, 52))),
    Kind("water bottle", 22, "backpack", "steel,glass,plastic",
         "insulated,light,durable,compact", "hiking,running,office,camping",
         (("box", 22, 18, 42, 60), ("box", 28, 4, 36, 20))),
    Kind("tent", 180, "sleeping bag", "nylon,cotton,polyester",
         "waterproof,light,breathable,durable", "camping,hiking,travel,winter",
         (("roof", 4, 10, 60, 54),)),
    Kind("sleeping bag", 95, "lamp", "nylon,cotton,polyester,wool",
         "insulated,light,compact,breathable", "camping,hiking,winter,travel",
         (("oval", 18, 2, 46, 34), ("box", 20, 16, 44, 62))),
    Kind("lamp", 35, "mug", "steel,glass,bamboo,aluminium",
         "foldable,wireless,durable,compact", "camping,home,office,school",
         (("roof", 12, 6, 52, 34), ("box", 29, 30, 35, 54), ("oval", 18, 50, 46, 60))),
    Kind("running shoes", 110, "socks", "leather,nylon,cotton,polyester",
         "breathable,padded,light,waterproof", "running,hiking,school,travel",
         (("roof", 4, 14, 40, 54), ("oval", 20, 34, 62, 56))),
    Kind("socks", 12, "jacket", "wool,cotton,nylon",
         "breathable,padded,insulated,durable", "running,hiking,winter,gifts",
         (("box", 20, 4, 38, 46), ("oval", 20, 36, 56, 58))),
    Kind("jacket", 150, "scarf", "leather,wool,nylon,polyester",
         "waterproof,insulated,breathable,light", "winter,hiking,travel,running",
         (("box", 18, 8, 46, 58), ("box", 6, 12, 16, 48), ("box", 48, 12, 58, 48))),
    Kind("scarf", 28, "running shoes", "wool,cotton,polyester",
         "insulated,light,breathable,compact", "winter,gifts,office,travel",
         (("ring", 14, 4, 50, 30), ("box", 24, 24, 36, 62))),
    Kind("coffee machine", 240, "mug", "steel,plastic,glass",
         "fast,quiet,compact,durable", "home,office,gifts,camping",
         (("box", 12, 6, 52, 20), ("box", 12, 6, 26, 58), ("box", 12, 50, 52, 58), ("oval", 30, 30, 48, 50))),
    Kind("mug", 14, "coffee machine", "ceramic,steel,glass,bamboo",
         "insulated,light,durable,foldable", "home,office,gifts,camping",
         (("box", 10, 16, 42, 56), ("ring", 34, 22, 58, 48))),
)
# fmt: on

_NOUNS = [group[0] for group in ENGLISH.nouns]
NEXT = np.array([_NOUNS.index(kind.next) for kind in KINDS])
"""[C] the category that is bought afterwards."""


def allowed(kind: Kind) -> tuple[list[int], list[int], list[int]]:
    """Places, in the lists of any language, of the materials, features and uses that items of a category have."""
    lists = (ENGLISH.materials, ENGLISH.features, ENGLISH.uses)
    materials, features, uses = (
        [[group[0] for group in known].index(word) for word in words.split(",")]
        for known, words in zip(lists, (kind.materials, kind.features, kind.uses), strict=True)
    )
    return materials, features, uses
