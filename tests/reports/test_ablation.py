"""What each source is worth, in the terminal and on the page."""

import json

import pytest

from recsys.errors import InputError
from recsys.reports.ablation import print_ablation, read_ablation
from recsys.reports.page import write_page
from recsys.results import stage, write_stages


def row(source: str, mean: float, **more) -> dict:
    lost = {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}
    plain = {"group": "valid", "source": source, "requests": 1200, "ndcg": 0.2 - mean, "lost": lost}
    return {**plain, "log_loss": None, "oracle_lost": None, **more}


ROWS = [
    row("nothing", 0.0), row("image", 0.03, oracle_lost=0.04, log_loss={"mean": 0.001, "low": 0.0005, "high": 0.002}),
    row("ads", -0.005, oracle_lost=0.03), row("nothing", 0.0, group="valid_query"),
]  # fmt: skip


def test_rows_are_told_by_set_with_the_share_of_what_the_oracle_loses():
    groups = read_ablation({"rows": ROWS}, "here")
    assert [one.source for one in groups["valid"]] == ["nothing", "image", "ads"]
    assert groups["valid"][1].share == pytest.approx(0.75)
    assert groups["valid"][1].lost.sign == 1
    assert groups["valid"][2].lost.sign == 0
    said = print_ablation(groups)
    for words in ("valid, 1,200 requests", "0.0300", "[0.0200, 0.0400]", "75%", "-17%", "0.00100"):
        assert words in said


def test_bars_stand_on_one_scale_on_their_side_of_zero():
    _, image, ads = read_ablation({"rows": ROWS}, "here")["valid"]
    assert ads.left + ads.width == pytest.approx(image.left)
    assert image.width == pytest.approx(6 * ads.width)
    assert image.left + image.width <= 100


def test_the_page_shows_them(tmp_path):
    write_stages(tmp_path, [stage("pruner", {"ndcg@10": 0.2, "queries": 1200.0})])
    (tmp_path / "ablation.json").write_text(json.dumps({"rows": ROWS}))
    text = write_page(tmp_path).read_text()
    for shown in ("What each source is worth: users, valid", "<b>0.0300</b>", "0.0200 to 0.0400", "75&nbsp;%"):
        assert shown in text


def test_nothing_hidden_is_nothing_to_tell(tmp_path):
    assert read_ablation(None, "here") == {}
    write_stages(tmp_path, [stage("pruner", {"ndcg@10": 0.2, "queries": 1200.0})])
    assert "What each source is worth" not in write_page(tmp_path).read_text()


@pytest.mark.parametrize("rows", [7, [3], [{"group": "valid"}], [{**row("ads", 0.1), "lost": {"mean": 1}}]])
def test_broken_rows_are_refused(rows):
    with pytest.raises(InputError, match="here"):
        read_ablation({"rows": rows}, "here")
