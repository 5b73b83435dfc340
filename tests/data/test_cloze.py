"""Items that are asked for by their own words."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from transformers import PreTrainedTokenizerFast

from recsys.data.cloze import Cloze, ClozeConfig, make_cloze, split_texts
from recsys.data.datasets import Features, NegativesConfig, RetrieverRows, Texts
from recsys.data.prepare import Prepared, prepare
from recsys.data.sampling import Draw
from recsys.data.text import train_wordpiece
from recsys.data.vectors import text_source
from recsys.errors import InputError
from recsys.tables import DataConfig, ItemsConfig, RelevanceConfig

ITEMS = 20
TEXT = ["title", "year", "plot"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Every fifth item has no plot."""
    folder = tmp_path_factory.mktemp("cloze")
    plots = [None if item % 5 == 0 else f"somebody finds lamp {item}" for item in range(ITEMS)]
    tables = {
        "items": {
            "item_id": range(ITEMS), "title": [f"film {item}" for item in range(ITEMS)],
            "year": [1980 + item for item in range(ITEMS)], "plot": plots,
        },
        "queries": {"query_id": range(12), "query": [f"what is it {query}" for query in range(12)]},
        "relevance": {"query_id": range(12), "item_id": range(12)},
    }  # fmt: skip
    for name, columns in tables.items():
        pl.DataFrame({column: list(values) for column, values in columns.items()}).write_parquet(
            folder / f"{name}.parquet"
        )
    return prepare(DataConfig(
        root=str(folder), cache=str(folder / "cache"), items=ItemsConfig(text=TEXT), relevance=RelevanceConfig(),
    ))  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(data: Prepared) -> PreTrainedTokenizerFast:
    return train_wordpiece(data.words(), 400)


def rows_of(data: Prepared, tokenizer: PreTrainedTokenizerFast, folder: Path, *, share: float = 1.0) -> RetrieverRows:
    def read(texts: list[str]) -> Texts:
        return text_source(texts, tokenizer, 32, folder, encode=None, encoder_key="")

    features = Features(data, read(data.catalogue.texts), read(data.queries.texts), max_items=4)
    rows = RetrieverRows(
        features, tasks=["query_to_item"], negatives=NegativesConfig(kind="batch", random=0), history_dropout=0.0,
        seed=0,
    )  # fmt: skip
    asking, answering = split_texts(features, ClozeConfig(columns=["plot"]), TEXT)
    rows.cloze = make_cloze(
        features, asking, answering, rows.known, queries=read(asking), items=read(answering),
        count=round(share * len(rows.queries)),
    )  # fmt: skip
    return rows


def words(tokenizer: PreTrainedTokenizerFast, batch, row: int) -> str:
    return tokenizer.decode(batch.ids[row][batch.mask[row]], skip_special_tokens=True)


def test_the_plot_asks_and_the_rest_of_the_text_answers(data, tokenizer, tmp_path):
    rows = rows_of(data, tokenizer, tmp_path)
    batch = rows.assemble(Draw(epoch=0, number=0, rows=np.flatnonzero(rows.groups() == 2)))
    assert len(batch.target) == len(rows.queries)
    for row, target in enumerate(batch.target.tolist()):
        place = batch.item.tolist().index(target)
        assert words(tokenizer, batch.users.query_text, int(batch.users.query[row])) == f"somebody finds lamp {target}"
        assert words(tokenizer, batch.items.text, place) == f"film {target} . {1980 + target}"
    assert batch.users.history_mask.sum() == 0
    assert len(batch.seen_item) == 0


def test_a_query_is_still_answered_by_the_whole_text(data, tokenizer, tmp_path):
    rows = rows_of(data, tokenizer, tmp_path)
    batch = rows.assemble(Draw(epoch=0, number=0, rows=np.flatnonzero(rows.groups() == 1)))
    place = batch.item.tolist().index(3)
    assert words(tokenizer, batch.items.text, place) == "film 3 . 1983 . somebody finds lamp 3"


def test_an_epoch_has_other_items_than_the_last_one_and_each_of_them_once(data, tokenizer, tmp_path):
    rows = rows_of(data, tokenizer, tmp_path, share=0.5)
    asked = np.flatnonzero(rows.groups() == 2)
    drawn = [rows.assemble(Draw(epoch=epoch, number=0, rows=asked)).target.tolist() for epoch in range(12)]
    count = round(len(rows.queries) / 2)
    assert all(len(set(one)) == len(one) == count for one in drawn)
    assert {item for one in drawn for item in one} == {item for item in range(ITEMS) if item % 5}
    assert len({tuple(one) for one in drawn}) == 12
    assert rows.assemble(Draw(epoch=0, number=0, rows=asked)).target.tolist() == drawn[0]
    assert len(rows.lengths(0)) == len(rows.groups())


def test_no_more_rows_are_made_than_there_are_items_with_words_on_both_sides(data, tokenizer, tmp_path):
    cloze = rows_of(data, tokenizer, tmp_path, share=9.0).cloze
    assert isinstance(cloze, Cloze)
    assert sorted(cloze.drawn(0, 0).tolist()) == [item for item in range(ITEMS) if item % 5]


@pytest.mark.parametrize(("columns", "message"), [(["plott"], "names 'plott'.*plot"), (TEXT, "at least one for the")])
def test_columns_that_cannot_ask_are_refused(data, columns, message):
    with pytest.raises(InputError, match=message):
        split_texts(Features(data, Texts(), Texts(), max_items=1), ClozeConfig(columns=columns), TEXT)


def test_a_cloze_without_columns_is_refused():
    with pytest.raises(InputError, match="expected columns and a share above 0"):
        ClozeConfig(columns=[])


def test_items_without_words_on_one_side_teach_nothing(data):
    features = Features(data, Texts(), Texts(), max_items=1)
    with pytest.raises(InputError, match=r"No item has words in cloze\.columns"):
        make_cloze(features, [""] * ITEMS, ["x"] * ITEMS, np.arange(ITEMS), queries=Texts(), items=Texts(), count=3)
