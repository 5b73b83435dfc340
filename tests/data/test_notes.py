"""Reviews and ads against plain loops over the tables: whose, how many, and none of the future."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recsys.data.prepare import Prepared, prepare
from recsys.errors import InputError
from recsys.tables import AdsConfig, DataConfig, ItemsConfig, QueriesConfig, ReviewsConfig

ITEMS = 6


def write_tables(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    tables = {
        "items": {"item_id": [f"i{item}" for item in range(ITEMS)], "title": ["thing"] * ITEMS},
        "interactions": {"user_id": [0, 0, 1], "item_id": ["i0", "i1", "i2"], "timestamp": [10.0, 20.0, 15.0]},
        "reviews": {
            "item_id": [f"i{item}" for item in rng.integers(0, ITEMS - 1, 40)],
            "text": [f"word {number}" for number in range(40)],
            "stars": rng.integers(1, 6, 40), "when": rng.integers(0, 30, 40),
        },
        "ads": {
            "item_id": ["i0", "i1", "i0", "i3"], "text": ["a", "b", "c", "d"], "timestamp": [5, 6, 9, 1],
            "shown": [1000, 200, 1000, 400], "hits": [100, 2, 0, 10],
        },
    }  # fmt: skip
    for name, columns in tables.items():
        pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet")


def settings(folder: Path, **changes) -> DataConfig:
    roles = {
        "items": ItemsConfig(text=["title"]), "reviews": ReviewsConfig(order="when", rating="stars"),
        "ads": AdsConfig(impressions="shown", clicks="hits"),
    }  # fmt: skip
    return DataConfig(root=str(folder), cache=str(folder.parent / "cache"), **{**roles, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Prepared:
    folder = tmp_path_factory.mktemp("notes")
    write_tables(folder / "tables")
    return prepare(settings(folder / "tables"))


def plain(data: Prepared, item: int, before: float, count: int) -> list[str]:
    """The texts of the latest reviews of an item before a moment, newest first; ties: the later row of the table."""
    rows = data.tables.reviews.with_row_index("row").filter(
        (pl.col("item_id") == f"i{item}") & (pl.col("when") < before)
    )
    return rows.sort("when", "row", descending=True)["text"].to_list()[:count]


def test_the_latest_notes_are_those_before_the_moment_newest_first(data):
    notes, rng = data.notes["reviews"], np.random.default_rng(1)
    items, before = rng.integers(-1, ITEMS, 200), rng.integers(-1, 33, 200).astype(np.float64)
    before[:10] = np.inf
    found = notes.latest(items, before, 3)
    assert found.shape == (200, 3)
    for item, moment, rows in zip(items, before, found, strict=True):
        expected = plain(data, item, moment, 3) if item >= 0 else []
        assert [notes.texts[row] for row in rows if row >= 0] == expected


def test_a_batch_holds_each_note_once_and_how_old_it_is(data):
    notes = data.notes["reviews"]
    vectors = np.arange(len(notes.texts), dtype=np.float32)[:, None]
    candidates, before = np.array([[0, 1, -1], [1, 5, 0]]), np.array([12.0, np.inf])
    batch = notes.batch(candidates, before, 2, vectors)
    assert batch.row.shape == batch.age.shape == (2, 3, 2)
    real = batch.row >= 0
    assert not real[0, 2].any()
    assert not real[1, 1].any()  # the last item has no review
    assert len(batch.vector) == len(set(batch.row[real].tolist())) == len(batch.number)
    latest = float(data.tables.reviews["when"].max())
    for request, moment in enumerate((12.0, latest)):
        for place, item in enumerate(candidates[request]):
            for slot in range(2):
                if real[request, place, slot]:
                    row = int(batch.vector[batch.row[request, place, slot], 0])
                    assert notes.texts[row] == plain(data, item, before[request], 2)[slot]
                    expected = (moment - notes.order[row]) / notes.unit
                    assert float(batch.age[request, place, slot]) == pytest.approx(expected, rel=1e-5)


def test_ratings_are_scaled_by_the_table_that_was_learnt_from(data):
    notes, stars = data.notes["reviews"], data.tables.reviews["stars"]
    low, mid, high = (stars.cast(pl.Float64).quantile(q, "linear") for q in (0.25, 0.5, 0.75))
    by_text = dict(data.tables.reviews.select("text", "stars").rows())
    expected = [(by_text[text] - mid) / (high - low) for text in notes.texts]
    np.testing.assert_allclose(notes.number[:, 0], expected, rtol=1e-6)


def test_the_click_rate_is_smoothed_and_of_the_ads_so_far(data):
    notes, mean = data.notes["ads"], 112 / 2600
    assert notes.texts == ["a", "c", "b", "d"]
    rates = [mean, (100 + 100 * mean) / 1100, mean, mean]  # an ad's own clicks are not known while it runs
    np.testing.assert_allclose(notes.number[:, 0], np.log(np.array(rates) / mean), rtol=1e-5)


def test_a_model_codes_notes_as_it_learnt_to(data, tmp_path):
    write_tables(tmp_path / "tables")
    other = pl.read_parquet(tmp_path / "tables/reviews.parquet").with_columns(
        pl.col("stars") + 10, pl.col("when") * 100
    )
    other.write_parquet(tmp_path / "tables/reviews.parquet")
    again = prepare(settings(tmp_path / "tables"), data.codes).notes["reviews"]
    spread = data.codes.notes["reviews"][2]
    np.testing.assert_allclose(again.number, data.notes["reviews"].number + 10 / spread, rtol=1e-5)
    assert again.unit == data.notes["reviews"].unit


def test_without_roles_the_tables_are_not_opened(tmp_path):
    write_tables(tmp_path / "tables")
    (tmp_path / "tables/reviews.parquet").write_bytes(b"no table")
    assert prepare(settings(tmp_path / "tables", reviews=None, ads=None)).notes == {}


def test_tables_that_are_named_and_not_there_or_on_another_scale_are_refused(tmp_path):
    write_tables(tmp_path / "tables")
    (tmp_path / "tables/ads.parquet").unlink()
    with pytest.raises(InputError, match=r"data\.ads is set, and there is no such table"):
        prepare(settings(tmp_path / "tables"))
    dated = pl.read_parquet(tmp_path / "tables/reviews.parquet")
    dated.with_columns(when=pl.date(2024, 1, 1)).write_parquet(tmp_path / "tables/reviews.parquet")
    with pytest.raises(InputError, match=r"reviews.*cannot be compared"):
        prepare(settings(tmp_path / "tables", ads=None))


def test_a_click_rate_needs_both_columns():
    with pytest.raises(InputError, match="both impressions and clicks"):
        AdsConfig(clicks="hits")


def test_a_note_about_an_unknown_item_is_a_fault(tmp_path):
    write_tables(tmp_path / "tables")
    odd = pl.read_parquet(tmp_path / "tables/ads.parquet").with_columns(item_id=pl.lit("nothing"))
    odd.write_parquet(tmp_path / "tables/ads.parquet")
    with pytest.raises(InputError, match=r"ads\.item_id"):
        prepare(settings(tmp_path / "tables", queries=QueriesConfig()))


def test_every_tensor_has_the_type_that_models_read(data):
    batch = data.notes["ads"].batch(np.array([[0, 3]]), np.array([7.0]), 2, None)
    assert (batch.row.dtype, batch.age.dtype, batch.number.dtype) == (torch.int64, torch.float32, torch.float32)
    assert batch.vector is None
