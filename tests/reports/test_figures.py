"""Figures as inline SVG, and the numbers and images beside them."""

import base64
import io
import math
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recsys.errors import InputError
from recsys.reports.figures import (
    Bars,
    Curve,
    average,
    brief,
    draw_bars,
    draw_curves,
    draw_training,
    duration,
    is_finite,
    metric_label,
    number,
    thumbnail,
)

CURVE = Curve(name="loss", steps=[0, 1, 2], values=[3.0, 2.0, 1.0])


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1))


def words(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in parse(svg).iter("text")]


def test_a_figure_has_no_colour_of_its_own_and_no_style_that_leaks_into_the_page():
    svg = draw_curves([CURVE, Curve(name="other", steps=[0, 2], values=[1, 1])], title="Loss")
    assert parse(svg).get("aria-label") == "Loss"
    assert "#0000" not in svg
    assert "var(--loud-1)" in svg
    assert "var(--ink)" in svg
    assert "<style" not in svg
    assert "<script" not in svg


def test_two_figures_of_one_page_share_no_ids():
    both = [draw_curves([CURVE], title=title) for title in ("one", "two")]
    first, second = ({node.get("id") for node in parse(svg).iter() if node.get("id")} for svg in both)
    assert first
    assert not first & second


def test_the_same_figure_is_drawn_to_the_same_text():
    assert draw_curves([CURVE], title="Loss") == draw_curves([CURVE], title="Loss")


def test_names_stand_in_a_figure_as_they_are_written():
    names = ["<script>alert(1)</script>", "$\\frac{1}{2}$"]
    svg = draw_curves([Curve(name=name, steps=[0, 1], values=[1, 2]) for name in names], title='a "title" <b>')
    assert set(names) <= set(words(svg))
    assert parse(svg).get("aria-label") == 'a "title" <b>'


def test_bars_are_labelled_with_their_values_and_an_absent_group_has_none():
    series = [
        Bars(name="popularity", values={"head": 0.414}, quiet=True),
        Bars(name="pruner", values={"head": 0.5, "tail": 0.1}),
    ]
    svg = draw_bars(series, ["head", "tail"], title="Recall")
    assert {"popularity", "pruner", "head", "tail", ".41", ".50", ".10"} <= set(words(svg))
    assert "0" not in words(svg)
    assert "var(--quiet-1)" in svg
    assert "var(--loud-1)" in svg
    assert "var(--loud-2)" not in svg


def test_training_figures_skip_absent_keys_and_broken_values():
    lines = [
        {"step": 1, "train/loss": 2.0, "train/lr": 0.1},
        {"step": 2, "train/loss": math.nan, "valid/recall@10": 0.2, "valid/recall@10/head": 0.4},
        {"train/loss": 5.0},
        {"step": 3, "train/loss": "high", "valid/coverage@10": 0.4, "valid/loss": 1.0},
    ]
    figures = draw_training(lines)
    assert list(figures) == ["Loss", "Validation", "Learning rate"]
    assert {"train/loss", "valid/loss"} <= set(words(figures["Loss"]))


def test_a_step_that_was_logged_twice_counts_once_with_its_later_value():
    twice = draw_training([{"step": 1, "loss": 9.0}, {"step": 2, "loss": 1.0}, {"step": 1, "loss": 2.0}])
    assert twice == draw_training([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}])


def test_nothing_logged_makes_no_figure():
    assert draw_training([]) == {}
    assert draw_training([{"step": 1, "epoch": 0.1}]) == {}


@pytest.mark.parametrize("points", [1, 7, 8, 9, 50])
def test_averaged_curves_equal_plain_group_means(points: int):
    values = np.random.default_rng(0).normal(size=points).tolist()
    if points <= 8:
        assert average(values, 8) == values
    else:
        sizes = [points // 8 + (group < points % 8) for group in range(8)]
        ends = np.cumsum(sizes)
        plain = [sum(values[end - size : end]) / size for end, size in zip(ends, sizes, strict=True)]
        assert average(values, 8) == pytest.approx(plain)


def test_numbers_and_times_are_short():
    assert [number(x) for x in (0.04149, 8.123, 12345.6, None, math.inf)] == ["0.041", "8.12", "12,345.60", "-", "-"]
    assert [duration(x) for x in (None, 0.421, 59.4, 200, 7500)] == ["-", "0.42 s", "59 s", "3 min 20 s", "2 h 5 min"]
    assert [brief(x) for x in (0, 0.001, 0.414, 1.0)] == ["0", "<.01", ".41", "1.00"]
    assert [metric_label(x) for x in ("ndcg@10", "recall@5", "mrr")] == ["nDCG@10", "Recall@5", "MRR"]
    assert [is_finite(x) for x in (1, 0.5, True, "1", None, math.nan)] == [True, True, False, False, False, False]


def decode(uri: str | None) -> Image.Image:
    assert uri is not None
    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_thumbnail_keeps_its_shape_and_shows_transparency_as_white(tmp_path: Path):
    Image.new("RGBA", (400, 200), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    small = decode(thumbnail(tmp_path / "clear.png", side=50))
    assert small.size == (50, 25)
    assert small.getpixel((10, 10)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "I;16"])
def test_images_of_every_mode_become_thumbnails(tmp_path: Path, mode: str):
    Image.new(mode, (30, 60)).save(tmp_path / "image.tif")
    assert decode(thumbnail(tmp_path / "image.tif")).size == (30, 60)


def test_a_missing_or_broken_image_has_no_thumbnail(tmp_path: Path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:400])
    for path in (tmp_path / "absent.png", tmp_path / "broken.png", tmp_path / "cut.jpg", tmp_path):
        assert thumbnail(path) is None


@pytest.mark.parametrize(("module", "package"), [("matplotlib", "matplotlib"), ("PIL", "pillow")])
def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, package: str
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"{package}.*recsys\[reports\]"):
        draw_curves([CURVE], title="Loss") if module == "matplotlib" else thumbnail(tmp_path / "image.png")
