"""Words find pictures of items that nobody has met: training, export and search agree; what is missing is missing."""

import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from recsys.cli import main
from recsys.config import parse_part, parse_run
from recsys.data.requests import evaluation_batch, validation_requests
from recsys.retrieval.embed import OpenRetriever, embed_items, embed_requests
from recsys.tables import DataConfig
from recsys.training.retriever_run import RetrieverRun

COLOURS = {"red": (210, 40, 40), "green": (40, 190, 60), "blue": (50, 60, 220)}
SIZE = 20
PLAIN = {
    "task": "retriever", "name": "pictures", "tasks": ["query_to_item"], "each_pair": True,
    "model": {
        "text": {"model": "config:", "mode": "full", "layers": 1, "width": 16, "heads": 2, "max_tokens": 8,
                 "vocab": 100},
        "image": {"model": "config:", "mode": "full", "pixels": 16, "layers": 1, "width": 4},
        "width": 16, "id_vector": False, "history": None, "normalize": True,
    },
    "negatives": {"kind": "batch", "random": 0}, "loader": {"batch_size": 16},
    "optim": {"epochs": 40, "lr": 0.01, "text_lr": 0.005, "image_lr": 0.01},
    "trainer": {"accelerator": "cpu", "threads": 1, "check_every": 40},
}  # fmt: skip


def write_tables(folder: Path) -> DataConfig:
    """Garments in shades of three colours, told by nothing but their pictures."""
    rng, rows = np.random.default_rng(0), []
    (folder / "pictures").mkdir(parents=True)
    for number in range(3 * SIZE):
        name = list(COLOURS)[number % 3]
        shade = np.clip(rng.normal(COLOURS[name], 25, (24, 18, 3)), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(shade).save(file, format="PNG")
        (folder / f"pictures/{number}.png").write_bytes(file.getvalue())
        part = "valid" if number % 4 == 0 else "train"
        rows.append({"item_id": f"g{number}", "colour": name, "part": part, "image": f"pictures/{number}.png"})
    pl.DataFrame(rows).write_parquet(folder / "items.parquet")
    queries = {"query_id": list(COLOURS), "query": [f"something {name}" for name in COLOURS], "colour": list(COLOURS)}
    pl.DataFrame(queries).write_parquet(folder / "queries.parquet")
    return parse_part(DataConfig, data_of(folder))


def data_of(folder: Path) -> dict:
    return {
        "root": str(folder), "cache": str(folder.parent / "cache"), "items": {"image": "image"},
        "relevance": {"match": "colour"}, "split": {"items": "part"},
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RetrieverRun:
    folder = tmp_path_factory.mktemp("garments")
    write_tables(folder / "tables")
    path = folder / "retriever.yaml"
    path.write_text(json.dumps({**PLAIN, "runs": str(folder / "runs"), "data": data_of(folder / "tables")}))
    assert main(["train", str(path)]) == 0
    return parse_run(RetrieverRun, [str(path)])


def stage(folder: Path, name: str) -> dict[str, float]:
    stages = json.loads((folder / "results.json").read_text())["stages"]
    return next(one["metrics"] for one in stages if one["name"] == name)


def test_words_find_pictures_of_items_that_nobody_has_met(trained):
    figures = stage(trained.folder, "retriever, valid_query")
    assert figures["map"] > 0.9  # a third of the pictures are right, and chance is about .4
    assert figures["queries"] == 3


def test_the_figures_are_those_of_the_exported_model_by_a_plain_sort(trained):
    opened = OpenRetriever.open(trained.folder, trained.data)
    requests = validation_requests(opened.data, ["query_to_item"])["valid_query"]
    items = embed_items(opened)
    users = np.concatenate(list(embed_requests(opened, items, requests)))
    colours = opened.data.tables.items["colour"].to_list()
    valid = [row for row, part in enumerate(opened.data.tables.items["part"]) if part == "valid"]
    found = []
    for number, query in enumerate(requests.queries):
        ranked = sorted(valid, key=lambda row: -float(items[row] @ users[number]))
        hits = [colours[row] == list(COLOURS)[query] for row in ranked]
        found.append(np.mean([sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit]))
    assert stage(trained.folder, "retriever, valid_query")["map"] == pytest.approx(np.mean(found), abs=1e-6)


def test_search_lists_the_held_out_items_and_scores_what_the_training_said(trained, tmp_path):
    path = tmp_path / "infer.yaml"
    data = data_of(Path(trained.data.root))
    content = {
        "task": "infer", "name": "found", "runs": str(tmp_path), "retriever": str(trained.folder),
        "data": {**data, "history": {"until": "valid"}},
    }  # fmt: skip
    path.write_text(json.dumps(content))
    assert main(["infer", "search", str(path)]) == 0
    told = stage(tmp_path / "found", "retriever, valid_query")
    expected = stage(trained.folder, "retriever, valid_query")
    assert told["ndcg@10"] == pytest.approx(expected["ndcg@10"], abs=1e-6)
    found = pl.concat([pl.read_parquet(one) for one in (tmp_path / "found/results").glob("*.parquet")])
    parts = pl.read_parquet(Path(trained.data.root) / "items.parquet").select("item_id", "part")
    assert set(found.join(parts, on="item_id")["part"]) == {"valid"}


@torch.no_grad()
def test_a_picture_that_is_removed_or_broken_scores_as_a_missing_one(trained, tmp_path):
    """No crash, and the missing path to 1e-6."""
    root = Path(trained.data.root)
    items = pl.read_parquet(root / "items.parquet")
    cells = items["image"].to_list()
    cells[0], cells[1] = None, "pictures/nothing.png"
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/pictures").symlink_to(root / "pictures")
    items.with_columns(image=pl.Series(cells)).write_parquet(tmp_path / "tables/items.parquet")
    pl.read_parquet(root / "queries.parquet").write_parquet(tmp_path / "tables/queries.parquet")
    opened = OpenRetriever.open(trained.folder, parse_part(DataConfig, data_of(tmp_path / "tables")))
    vectors = embed_items(opened)
    tower = opened.model.items
    assert tower.no_image is not None
    assert tower.no_text is not None
    missing = (tower.no_image + tower.no_text)[None]
    expected = torch.nn.functional.normalize(tower.norm(missing), dim=-1)[0]
    for row in (0, 1):
        np.testing.assert_allclose(vectors[row], expected, atol=1e-6)
    assert np.abs(vectors[2] - expected.numpy()).max() > 1e-3


def test_pictures_without_a_column_are_refused(trained, tmp_path, capsys):
    path = tmp_path / "retriever.yaml"
    data = {**data_of(Path(trained.data.root)), "items": {"text": ["colour"]}}
    path.write_text(json.dumps({**PLAIN, "runs": str(tmp_path), "data": data}))
    assert main(["train", str(path)]) == 2
    assert "data.items.image names no column" in capsys.readouterr().err


def test_validation_has_a_batch_of_every_request(trained):
    opened = OpenRetriever.open(trained.folder, trained.data)
    requests = validation_requests(opened.data, ["query_to_item"])["valid_query"]
    batch = evaluation_batch(opened.features, requests)
    assert len(batch.seen_row) == 3 * sum(part == "train" for part in opened.data.tables.items["part"])


@pytest.mark.parametrize(
    ("change", "said"),
    [("tasks=[next_item]", "queries alone"), ("model.id_vector=true", "nobody has met")],
)
def test_what_does_not_go_with_held_out_items_is_refused(trained, tmp_path, capsys, change, said):
    path = tmp_path / "retriever.yaml"
    model = {**PLAIN["model"], "history": {}}
    data = data_of(Path(trained.data.root))
    path.write_text(json.dumps({**PLAIN, "model": model, "runs": str(tmp_path), "data": data}))
    assert main(["train", str(path), f"--{change}"]) == 2
    assert said in capsys.readouterr().err
