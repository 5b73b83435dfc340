"""The demo shop: the project's measuring instrument, made on the spot from one number.

Unlike a log of real sales, every cause of a purchase is planted, each source of data tells of one, and an oracle says
exactly what each is worth (`docs/shop.md`).
"""

from recsys.data.sources.shop.write import LANGUAGES, SHOP, write_shop

__all__ = ["LANGUAGES", "SHOP", "write_shop"]
