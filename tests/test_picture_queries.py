"""A picture asks for pictures of items that nobody has met: training, search and single queries agree."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from recsys.cli import main
from recsys.config import parse_run
from recsys.data.requests import query_requests, validation_requests
from recsys.errors import InputError
from recsys.recommend.recommender import Recommender
from recsys.retrieval.embed import OpenRetriever, embed_items, embed_requests
from recsys.training.retriever_run import RetrieverRun

COLOURS = {"red": (210, 40, 40), "green": (40, 190, 60), "blue": (50, 60, 220), "grey": (120, 120, 120)}
NAMES = list(COLOURS)
ITEMS, QUERIES = 48, 24
PLAIN = {
    "task": "retriever", "name": "pictures", "tasks": ["query_to_item"],
    "model": {
        "image": {"model": "config:", "mode": "full", "pixels": 16, "layers": 1, "width": 4},
        "width": 16, "id_vector": False, "history": None, "normalize": True,
    },
    "negatives": {"kind": "batch", "random": 16}, "loader": {"batch_size": 12},
    "optim": {"epochs": 40, "lr": 0.01, "text_lr": 0.005, "image_lr": 0.01},
    "trainer": {"accelerator": "cpu", "threads": 1, "check_every": 40},
}  # fmt: skip
WORDS = {"model": "config:", "mode": "full", "layers": 1, "width": 16, "heads": 2, "max_tokens": 8, "vocab": 100}


def square(rng: np.random.Generator, colour: str, size: tuple[int, int]) -> bytes:
    """A noisy square in a shade of a colour."""
    shade, file = np.clip(rng.normal(COLOURS[colour], 20, (*size, 3)), 0, 255).astype(np.uint8), io.BytesIO()
    Image.fromarray(shade).save(file, format="PNG")
    return file.getvalue()


def write_tables(folder: Path, seed: int = 0) -> None:
    """Items and queries in shades of four colours, told by nothing but their pictures."""
    rng = np.random.default_rng(seed)
    (folder / "pictures").mkdir(parents=True)
    for kind, count, size in (("item", ITEMS, (24, 18)), ("query", QUERIES, (20, 30))):
        for number in range(count):
            (folder / f"pictures/{kind}{number}.png").write_bytes(square(rng, NAMES[number % 4], size))
    parts = ["valid" if number % 3 == 0 else "train" for number in range(ITEMS)]
    items = {"item_id": [f"i{number}" for number in range(ITEMS)], "part": parts}
    items |= {"colour": [NAMES[number % 4] for number in range(ITEMS)]}
    items |= {"image": [f"pictures/item{number}.png" for number in range(ITEMS)]}
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    queries = {"query_id": list(range(QUERIES)), "colour": [NAMES[number % 4] for number in range(QUERIES)]}
    queries |= {"photo": [f"pictures/query{number}.png" for number in range(QUERIES)]}
    pl.DataFrame(queries).write_parquet(folder / "queries.parquet")


def data_of(folder: Path) -> dict[str, Any]:
    return {
        "root": str(folder), "cache": str(folder.parent / "cache"), "items": {"image": "image"},
        "queries": {"image": "photo"}, "relevance": {"match": "colour"}, "split": {"items": "part"},
    }  # fmt: skip


def train(folder: Path, data: dict[str, Any], **model: Any) -> RetrieverRun:
    path = folder / "retriever.yaml"
    content = {**PLAIN, "model": {**PLAIN["model"], **model}, "runs": str(folder / "runs"), "data": data}
    path.write_text(json.dumps(content))
    assert main(["train", str(path)]) == 0
    return parse_run(RetrieverRun, [str(path)])


def figures(folder: Path) -> dict[str, float]:
    stages = json.loads((folder / "results.json").read_text())["stages"]
    return next(one["metrics"] for one in stages if one["name"] == "retriever, valid_query")


def mean_precision(hits: np.ndarray) -> float:
    """Average precision of a ranked list of hits."""
    places = np.flatnonzero(hits)
    return float(((np.arange(len(places)) + 1) / (places + 1)).mean())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    write_tables(folder / "tables")
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> RetrieverRun:
    return train(folder, data_of(folder / "tables"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> RetrieverRun:
    """Trained on queries of words, of a picture, of both and, once each, of a broken picture and of nothing."""
    folder = tmp_path_factory.mktemp("mixed")
    write_tables(folder / "tables", seed=1)
    frame = pl.read_parquet(folder / "tables/queries.parquet")
    kind = np.arange(QUERIES) // 4 % 3  # words, picture, both
    words = [f"something {NAMES[row % 4]}" if kind[row] != 1 else None for row in range(QUERIES)]
    photos = [photo if kind[row] != 0 else None for row, photo in enumerate(frame["photo"])]
    photos[4], photos[5] = "pictures/nothing.png", None
    frame.with_columns(query=pl.Series(words), photo=pl.Series(photos)).write_parquet(folder / "tables/queries.parquet")
    return train(folder, data_of(folder / "tables"), text=WORDS)


def ranked(opened: OpenRetriever, rows: np.ndarray, among: list[int]) -> np.ndarray:
    """[R, len(among)] colours of these items in the order that queries put them in, by a plain sort."""
    items = embed_items(opened)
    users = np.concatenate(list(embed_requests(opened, items, query_requests(opened.data, rows))))
    colours = opened.data.tables.items["colour"].to_numpy()
    return np.stack([colours[sorted(among, key=lambda row: -float(items[row] @ user))] for user in users])


def test_a_picture_finds_items_of_its_colour_that_nobody_has_met(trained):
    rng, right = np.random.default_rng(0), np.arange(16) < 4
    chance = np.mean([mean_precision(rng.permutation(right)) for _ in range(2000)])
    assert figures(trained.folder)["map"] > 0.9 > 2 * chance
    opened = OpenRetriever.open(trained.folder, trained.data)
    requests = validation_requests(opened.data, ["query_to_item"])["valid_query"]
    valid = np.flatnonzero(opened.data.tables.items["part"] == "valid").tolist()
    found = ranked(opened, requests.queries, valid)
    own = [mean_precision(line == NAMES[query % 4]) for line, query in zip(found, requests.queries, strict=True)]
    assert figures(trained.folder)["map"] == pytest.approx(np.mean(own), abs=1e-6)


def test_a_frozen_encoder_reads_the_pictures_of_queries_from_vectors_that_are_kept(trained, tmp_path):
    encoder = {"model": str(trained.folder / "model/image"), "mode": "frozen", "pixels": 16}
    run = train(tmp_path, data_of(Path(trained.data.root)), image=encoder)
    assert figures(run.folder)["map"] > 0.9


def test_words_pictures_and_both_ask_in_one_table(mixed):
    opened = OpenRetriever.open(mixed.folder, mixed.data)
    valid = np.flatnonzero(opened.data.tables.items["part"] == "valid").tolist()
    asked = np.setdiff1d(np.arange(QUERIES), [4, 5])
    found = ranked(opened, asked, valid)
    for kind in range(3):
        rows = asked // 4 % 3 == kind
        own = [mean_precision(line == NAMES[row % 4]) for line, row in zip(found[rows], asked[rows], strict=True)]
        assert np.mean(own) > 0.9, kind


def test_a_batch_of_all_kinds_is_each_query_alone(mixed):
    opened = OpenRetriever.open(mixed.folder, mixed.data)
    items = embed_items(opened)
    requests = query_requests(opened.data, np.arange(QUERIES))
    together = np.concatenate(list(embed_requests(opened, items, requests)))
    alone = np.concatenate(list(embed_requests(opened, items, requests, batch_size=1)))
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_query_without_words_and_without_a_picture_is_that_of_nobody(mixed, caplog):
    opened = OpenRetriever.open(mixed.folder, mixed.data)
    told = " ".join(caplog.messages)
    assert "queries.photo: no such file below the data root in 1 row (row 4)" in told
    assert "queries.query, photo: an empty query in 2 rows (rows 4, 5)" in told
    requests = query_requests(opened.data, np.array([4, 5, 6]))
    users = np.concatenate(list(embed_requests(opened, embed_items(opened), requests)))
    assert (users[:2] == 0).all()  # this model knows nothing of a user but his query
    assert np.linalg.norm(users[2]) == pytest.approx(1, abs=1e-5)


def test_search_answers_photos_that_are_new_and_those_that_are_broken(trained, tmp_path):
    """A table of its own, with bytes for paths."""
    rng = np.random.default_rng(5)
    photos = [square(rng, name, (40, 40)) for name in NAMES] + [b"no picture", None]
    table = tmp_path / "new.parquet"
    pl.DataFrame({"query_id": range(6), "photo": pl.Series(photos, dtype=pl.Binary)}).write_parquet(table)
    path = tmp_path / "infer.yaml"
    data = {**data_of(Path(trained.data.root)), "tables": {"queries": str(table)}}
    content = {"task": "infer", "name": "found", "runs": str(tmp_path), "retriever": str(trained.folder)}
    path.write_text(json.dumps({**content, "data": data}))
    assert main(["infer", "embed", str(path)]) == 0
    assert main(["infer", "search", str(path)]) == 0
    found = pl.read_parquet(tmp_path / "found/results/part-*.parquet").sort("query_id", "rank")
    colour = pl.read_parquet(Path(trained.data.root) / "items.parquet").select("item_id", "colour")
    listed = found.join(colour, on="item_id", maintain_order="left")
    for number, name in enumerate(NAMES):
        assert set(listed.filter(pl.col("query_id") == number)["colour"][:8]) == {name}
    assert found["query_id"].value_counts().sort("query_id")["count"].to_list() == [ITEMS] * 6


def test_a_single_picture_from_python_is_answered_like_a_row_of_the_table(trained, tmp_path):
    shop = Recommender.load(trained.folder)
    opened, root = OpenRetriever.open(trained.folder, trained.data), Path(trained.data.root)
    items = embed_items(opened)
    user = next(iter(embed_requests(opened, items, query_requests(opened.data, np.array([7])))))[0]
    found = shop.search(image=root / "pictures/query7.png", top=5)
    assert [one.item_id for one in found] == [f"i{row}" for row in np.argsort(-(items @ user), kind="stable")[:5]]
    assert found == shop.search(image=(root / "pictures/query7.png").read_bytes(), top=5)
    with pytest.raises(InputError, match=r"nothing\.png cannot be read"):
        shop.search(image=tmp_path / "nothing.png")
    with pytest.raises(InputError, match="cannot be decoded"):
        shop.search(image=b"no picture")
    with pytest.raises(InputError, match="has no text encoder"):
        shop.search("red", image=root / "pictures/query7.png")
    with pytest.raises(InputError, match="query is empty"):
        shop.search()


def test_words_and_a_picture_together_are_one_query_from_python(mixed):
    shop, root = Recommender.load(mixed.folder), Path(mixed.data.root)
    both = shop.search("something red", image=root / "pictures/query0.png", top=3)
    assert [one.retriever_score for one in both] != [one.retriever_score for one in shop.search("something red", top=3)]
    assert all(int(one.item_id[1:]) % 4 == 0 for one in both)


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        ({"image": None, "text": WORDS}, {"items": {"text": ["colour"]}},
         r"data.queries.image names 'photo', and the retriever reads no pictures; set model.image"),
        ({}, {"queries": {"id": "query_id"}}, "needs model.text, the encoder of queries and items; or data.queries"),
        ({}, {"queries": {"image": "foto"}}, "data.queries.image"),
        ({}, {"queries": {"image": "photo", "text": "words"}}, "data.queries.text"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(folder, tmp_path, capsys, model, data, said):
    path = tmp_path / "retriever.yaml"
    content = {**PLAIN, "model": {**PLAIN["model"], **model}, "runs": str(tmp_path)}
    path.write_text(json.dumps({**content, "data": {**data_of(folder / "tables"), **data}}))
    assert main(["train", str(path)]) == 2
    assert said in capsys.readouterr().err
