"""The demo: the whole journey on a small shop, once."""

from pathlib import Path

import polars as pl
import pytest
import yaml

from recsys import demo
from recsys.cli import main
from recsys.errors import InputError
from recsys.results import read_results

ROOT = Path(__file__).parents[1]
OPTIONS = {"size": "60", "seed": "0", "language": "zh"}
FAST = {
    "retriever": {"optim": {"epochs": 1}, "trainer": {"threads": 1, "accelerator": "cpu"}},
    "pruner": {"optim": {"epochs": 1}, "trainer": {"threads": 1, "accelerator": "cpu"}},
    "infer": {"threads": 1, "samples": 1},
}


@pytest.fixture
def fast_configs(tmp_path, monkeypatch) -> None:
    """The demo's own configs, with one epoch."""
    for task, changes in FAST.items():
        content = yaml.safe_load((ROOT / f"configs/{task}/shop.yaml").read_text())
        for part, values in changes.items():
            content[part] = {**content.get(part, {}), **values} if isinstance(values, dict) else values
        (tmp_path / "configs" / task).mkdir(parents=True)
        (tmp_path / "configs" / task / "shop.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(demo, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr("recsys.recommend.latency.CALLS", 3)


@pytest.mark.usefixtures("fast_configs")
def test_the_demo_walks_the_whole_journey_and_a_second_one_only_tells(tmp_path, capsys):
    arguments = ["demo", "--size=60", f"--folder={tmp_path}/runs"]
    assert main(arguments) == 0
    said, shop = capsys.readouterr().out, tmp_path / "runs/shop"
    assert said.index("recsys validate") < said.index("recsys train") < said.index("recsys report")
    for folder, key in (("recommendations", "user_id"), ("results", "query_id")):
        assert str(shop / folder) in said
        assert key in pl.read_parquet(shop / folder / "part-*.parquet").columns
    assert (shop / "report.html").stat().st_size > 10_000
    stages = [stage["name"] for stage in read_results(shop)["stages"]]
    assert [name for name in stages if "query" not in name] == [
        "popularity", "Markov", "retriever", "pruner", "pruned lists", "oracle, sources at hand", "oracle",
    ]  # fmt: skip
    assert main(arguments) == 0
    assert "was run before" in (again := capsys.readouterr().out)
    assert "pruned lists" in again
    assert "recsys train" not in again


@pytest.mark.usefixtures("fast_configs")
def test_the_oracles_are_asked_the_same_as_the_models(tmp_path):
    data, folder = demo._make_shop(tmp_path / "shop" / "data", OPTIONS), tmp_path / "shop"
    assert data == "shop 2, size 60, seed 0, language zh"
    demo._add_oracles(tmp_path)
    at_hand, whole = (stage["metrics"] for stage in read_results(folder)["stages"])
    assert at_hand["queries"] == whole["queries"] == 120
    assert at_hand["ndcg@10"] < whole["ndcg@10"] <= 1
    rank = pl.read_parquet(folder / "data/oracle.parquet").filter(oracle="oracle")["rank"]
    assert whole["recall@10"] == pytest.approx((rank < 10).mean(), abs=1e-9)


@pytest.mark.usefixtures("fast_configs")
def test_a_step_that_fails_ends_the_demo_with_its_code(tmp_path):
    codes = iter([0, 2])
    asked = []

    def fail(command: list[str]) -> int:
        asked.append(command[0])
        return next(codes)

    assert demo.run_demo(["--size=50", f"--folder={tmp_path}/runs"], fail) == 2
    assert asked == ["validate", "train"]
    assert not (tmp_path / "runs/shop/demo.txt").exists()


@pytest.mark.usefixtures("fast_configs")
def test_the_chinese_shop_lies_beside_the_english_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert demo.run_demo(["--size=50", "--language=zh"], lambda _: 1) == 1
    assert (tmp_path / "runs/zh/shop/data/items.parquet").is_file()


@pytest.mark.usefixtures("fast_configs")
def test_a_shop_of_another_size_is_not_mixed_in(tmp_path):
    demo.run_demo(["--size=50", f"--folder={tmp_path}/runs"], lambda _: 1)
    with pytest.raises(InputError, match=r"holds another shop than shop 2, size 60, seed 0, language en; remove"):
        demo.run_demo(["--size=60", f"--folder={tmp_path}/runs"], lambda _: 0)


def test_the_demo_is_run_from_the_projects_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="run the demo from the project's folder"):
        demo.run_demo([], lambda _: 0)
