"""The items' pictures: category by outline, colour, pattern, and whether the picture is a good one."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recsys.data.sources.shop.kinds import KINDS
from recsys.data.sources.shop.tables import ids
from recsys.data.sources.shop.world import COLOURS, PATTERNS, Stock
from recsys.errors import InputError

if TYPE_CHECKING:
    from PIL import ImageDraw

PICTURE = 64  # pixels, width and height
_PAPER = (228, 228, 232)


def write_pictures(folder: Path, stock: Stock) -> None:
    """One PNG an item. Items of one category, colour, pattern and quality look alike: each look is drawn once."""
    folder.mkdir(parents=True, exist_ok=True)
    looks = list(zip(stock.category, stock.colour, stock.pattern, stock.picture, strict=True))
    drawn = {look: draw_picture(*look) for look in sorted(set(looks))}
    for item, look in zip(ids("i", len(looks)), looks, strict=True):
        (folder / f"{item}.png").write_bytes(drawn[look])


def draw_picture(category: int, colour: int, pattern: int, good: int) -> bytes:
    """The category's outline, painted, on pale grey; a bad picture is small, askew, blurred and dim."""
    try:
        from PIL import Image, ImageDraw, ImageFilter  # an extra: only who makes the shop needs it
    except ImportError as error:
        remedy = "Install the extra `reports`: pip install 'recsys[reports]'."
        raise InputError(f"The demo shop draws its pictures with Pillow, which is not installed. {remedy}") from error
    outline = Image.new("L", (PICTURE, PICTURE))
    pen = ImageDraw.Draw(outline)
    for form, *box in KINDS[category].shape:
        _trace(pen, form, box)
    canvas = Image.new("RGB", (PICTURE, PICTURE), _PAPER)
    canvas.paste(Image.fromarray(_paint(colour, pattern)), mask=outline)
    if not good:
        small = canvas.resize((48, 48)).rotate(17, fillcolor=_PAPER).filter(ImageFilter.GaussianBlur(1))
        canvas = Image.new("RGB", (PICTURE, PICTURE), _PAPER)
        canvas.paste(small, (14, 14))
        canvas = canvas.point(lambda level: int(0.75 * level))
    file = io.BytesIO()
    canvas.save(file, format="PNG")
    return file.getvalue()


def _trace(pen: "ImageDraw.ImageDraw", form: str, box: list[int]) -> None:
    left, top, right, bottom = box
    match form:
        case "box":
            pen.rounded_rectangle(box, radius=4, fill=255)
        case "oval":
            pen.ellipse(box, fill=255)
        case "ring":
            pen.ellipse(box, outline=255, width=5)
        case _:  # a roof: wide below, a point above
            pen.polygon([(left, bottom), ((left + right) // 2, top), (right, bottom)], fill=255)


def _paint(colour: int, pattern: int) -> npt.NDArray[np.uint8]:
    """Colour and pattern over the whole square, [PICTURE, PICTURE, 3]."""
    y, x = np.mgrid[:PICTURE, :PICTURE]
    marks = {
        "plain": np.zeros_like(x, np.bool_),
        "striped": (x + y) % 12 < 4,
        "dotted": (x % 10 - 5) ** 2 + (y % 10 - 5) ** 2 < 8,
        "checked": (x // 8 + y // 8) % 2 == 0,
    }[PATTERNS[pattern]]
    ground = np.array(COLOURS[colour], np.uint8)
    return np.where(marks[:, :, None], ground // 2 + (110 if ground.sum() < 450 else 0), ground).astype(np.uint8)
