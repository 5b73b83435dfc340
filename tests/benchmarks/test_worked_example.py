"""The worked example: a pruner that was trained on the Chinese shop keeps what somebody looked at and searched for."""

from pathlib import Path

import numpy as np
import pytest
from worked_example import (
    EXAMPLE,
    LANGUAGE,
    WANTED,
    Case,
    Kept,
    Shop,
    draw_case,
    judge,
    make,
    opened,
    tell_example,
    the_example,
)

from recsys.data.sources.shop import LANGUAGES, write_shop

CASES = 120
RETRIEVER = [
    "--tasks=[next_item,query_to_item]", "--optim.epochs=4", "--trainer.check_every=4", "--trainer.threads=1",
    "--model.text.width=32", "--model.text.max_tokens=24", "--model.image.width=4", "--model.image.pixels=16",
    "--model.width=32",
]  # fmt: skip
PRUNER = [
    "--model.searches=true", "--optim.epochs=2", "--trainer.threads=1", "--model.width=32", "--model.layers=1",
    "--model.image.pixels=16", "--model.text.max_tokens=24", "--model.history=16", "--sampled=24",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small shop, of whose purchases one in three follows a search, and its models."""
    folder = tmp_path_factory.mktemp("example")
    make(folder, size=96, searches=16, retriever=RETRIEVER, pruner=PRUNER)
    return folder


@pytest.fixture(scope="module")
def cases(folder: Path) -> list[Case]:
    rng, shop = np.random.default_rng(5), Shop.read(folder / "data")
    return [draw_case(rng, shop) for _ in range(CASES)]


@pytest.mark.slow
def test_the_pruner_keeps_what_was_looked_at_and_searched_for(folder: Path, cases: list[Case], tmp_path: Path) -> None:
    def kept(hidden: str = "") -> Kept:
        return Kept.of(judge(opened(folder), folder / "data", tmp_path / f"cases{hidden}", cases, hidden).logits)

    whole, without, nothing = kept(), kept("searches"), kept("history")
    assert whole.share.mean() > 0.7  # chance 1/2
    assert whole.whole.mean() > 0.3  # chance 1/20
    assert whole.auc.mean() > 0.78  # chance 1/2
    assert without.auc.mean() < whole.auc.mean() - 0.1  # the searches carry it
    assert abs(nothing.auc.mean() - 0.5) < 0.15, "without the history, only an ad speaks for them"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop") / "data"
    write_shop(folder, size=200, language=LANGUAGE)
    return Shop.read(folder)


def test_a_case_favours_the_wanted_by_what_was_done_and_an_ad_alone(shop: Shop) -> None:
    rng, kind = np.random.default_rng(0), dict(shop.items.select("item_id", "category").iter_rows())
    nouns = LANGUAGES[LANGUAGE].nouns
    for case in [draw_case(rng, shop) for _ in range(50)]:
        kinds = [kind[item] for item in case.candidates]
        assert len(set(kinds)) == 2 * WANTED
        searched = {next(group[0] for group in nouns if word in group) for word in case.searches}
        assert searched == {kind[item] for item in case.viewed} == set(kinds[:WANTED])
        assert not set(case.viewed) & set(case.candidates)
        assert set(shop.running(case.time)) & set(case.candidates[:WANTED])


def test_the_example_is_told_in_its_own_words(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    case = the_example(np.random.default_rng(0), shop)
    tell_example(case, shop, np.array([3.0, 2.0, 0.5, 0.0, 1.0, -1.0]), np.full(6, 0.1))
    said = capsys.readouterr().out.splitlines()
    assert said[2] == "searched  充电宝、蓝牙耳机、Kindle"
    assert [line.split()[0] for line in said[3:]] == ["keep", "keep", "drop", "drop", "keep", "drop"]
    assert [line.split()[2] for line in said[3:]] == [f"{kind}:" for kind in EXAMPLE]


def test_of_equal_scores_the_wanted_stand_last() -> None:
    kept = Kept.of(np.array([[0.0] * 6, [3, 2, 1, 0, 0, 0], [3, 2, 0, 1, 0, 0]]))
    assert kept.share.tolist() == pytest.approx([0, 1, 2 / 3])
    assert kept.whole.tolist() == [0, 1, 0]
    assert kept.auc.tolist() == pytest.approx([0.5, 1, 7 / 9])
