"""Pictures to pixels: what is cached, what counts as missing, and how those that are trained on are moved."""

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from recsys.data import images
from recsys.data.images import Images, image_source, pixel_cache, shift_and_mirror
from recsys.vectors import FrozenEncoder

RED, GREEN = (200, 10, 10), (10, 200, 10)


def picture(colour: tuple[int, ...], size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "red.png").write_bytes(picture(RED))
    (folder / "green.png").write_bytes(picture(GREEN))
    (folder / "clear.png").write_bytes(picture((0, 0, 0, 0), mode="RGBA"))
    (folder / "cut.png").write_bytes(picture(RED, (300, 300))[:200])
    (tmp_path / "outside.png").write_bytes(picture(RED))
    return folder


def read(root: Path, cells: list, **changes):
    series = pl.Series(cells, dtype=pl.Binary if any(isinstance(one, bytes) for one in cells) else pl.String)
    return image_source(str(root), series, 16, root.parent / "cache", **{"frozen": None, **changes})


def test_pictures_are_scaled_to_the_encoders_size_and_keep_their_colours(root):
    found = read(root, ["red.png", "green.png", "clear.png"]).read(np.array([1, 0, 2]))
    assert found["image"].shape == (3, 3, 16, 16)
    assert found["image_known"].tolist() == [True, True, True]
    for place, colour in enumerate((GREEN, RED, (255, 255, 255))):  # what shines through is white
        assert found["image"][place].flatten(1).float().mean(1).tolist() == pytest.approx(colour, abs=1)


def test_what_is_missing_or_broken_or_outside_the_folder_is_not_known_and_said(root, capsys):
    found = read(root, ["red.png", None, "nothing.png", "cut.png", "../outside.png"])
    assert found.known.tolist() == [True, False, False, False, False]
    assert "3 of 5 cannot be read and count as missing (rows 2, 3, 4)" in capsys.readouterr().err
    assert (found.read(np.array([1, 3]))["image"] == 0).all()


def test_cells_may_hold_the_bytes_themselves(root):
    found = read(root, [picture(RED), None, b"no picture"])
    assert found.known.tolist() == [True, False, False]
    assert found.read(np.array([0]))["image"][0, 0].float().mean() == pytest.approx(200, abs=1)


def test_a_cache_is_made_once_and_again_for_a_changed_file(root, monkeypatch):
    cells = pl.Series(["red.png"])
    first = pixel_cache(str(root), cells, 16, root.parent)
    monkeypatch.setattr(images, "_decoder", None)
    assert pixel_cache(str(root), cells, 16, root.parent) == first
    monkeypatch.undo()
    (root / "red.png").write_bytes(picture(GREEN, (50, 50)))
    assert pixel_cache(str(root), cells, 16, root.parent) != first
    assert pixel_cache(str(root), cells, 17, root.parent) != first


def test_many_pictures_are_decoded_in_blocks(root, monkeypatch):
    monkeypatch.setattr(images, "_BLOCK", 2)
    found = read(root, ["red.png", "green.png", "red.png", None, "green.png"])
    assert found.known.tolist() == [True, True, True, False, True]
    assert (found.pixels[2] == found.pixels[0]).all()
    assert (found.pixels[4] == found.pixels[1]).all()


def test_vectors_of_a_frozen_encoder_are_made_once(root):
    calls = []

    def encode(pixels):
        calls.append(len(pixels))
        return pixels.reshape(len(pixels), -1)[:, :2].astype(np.float32)

    for _ in range(2):
        found = read(root, ["red.png", "green.png"], frozen=FrozenEncoder(encode=encode, width=2, key="one")).read(
            np.array([1])
        )
    assert calls == [2]
    assert found["image_vector"].shape == (1, 2)
    assert "image" not in found


def test_moved_pictures_are_shifts_and_mirrors_of_themselves_by_seed_epoch_and_row():
    rng = np.random.default_rng(0)
    pixels, rows = rng.integers(0, 255, (60, 3, 16, 16), dtype=np.uint8), np.arange(60)
    moved = shift_and_mirror(pixels, rows, 1, 2)

    def plain(picture: np.ndarray) -> list[np.ndarray]:
        wide = np.pad(picture, ((0, 0), (2, 2), (2, 2)), mode="edge")
        shifts = [wide[:, y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
        return [*shifts, *(shift[:, :, ::-1] for shift in shifts)]

    ways = [
        next(n for n, one in enumerate(plain(old)) if (one == new).all())
        for old, new in zip(pixels, moved, strict=True)
    ]
    assert len(set(ways)) > 20
    assert 15 < sum(way >= 25 for way in ways) < 45
    some = np.array([7, 31])
    assert (shift_and_mirror(pixels[some], some, 1, 2) == moved[some]).all()
    assert (shift_and_mirror(pixels, rows, 1, 3) != moved).any()


def test_only_pictures_that_are_trained_on_are_moved():
    pixels = np.random.default_rng(0).integers(0, 255, (9, 3, 16, 16), dtype=np.uint8)
    rows, known = np.arange(9), np.ones(9, dtype=bool)
    still, moving = (Images(known=known, pixels=pixels, augment=augment) for augment in (False, True))
    assert (still.read(rows, (0, 0))["image"].numpy() == pixels).all()
    assert (moving.read(rows)["image"].numpy() == pixels).all()
    assert (moving.read(rows, (0, 0))["image"].numpy() == shift_and_mirror(pixels, rows, 0, 0)).all()
