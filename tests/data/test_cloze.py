"""Items that are asked for by their own words."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from transformers import PreTrainedTokenizerFast

from recsys.batch import RetrieverBatch
from recsys.data.cloze import ClozeConfig, add_cloze, split_texts
from recsys.data.datasets import Features, NegativesConfig, RetrieverRows, Texts
from recsys.data.prepare import Prepared, prepare
from recsys.data.sampling import Draw
from recsys.data.taught import Taught
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
        return text_source(texts, tokenizer, 32, folder, frozen=None)

    features = Features(data, read(data.catalogue.texts), read(data.queries.texts), max_items=4)
    rows = RetrieverRows(
        features, tasks=["query_to_item"], negatives=NegativesConfig(kind="batch", random=0),
        seed=0,
    )  # fmt: skip
    asking, answering = split_texts(features, ClozeConfig(columns=["plot"]), TEXT)
    rows.features, rows.cloze = add_cloze(
        features, asking, answering, rows.known, share,
        queries=read([*data.queries.texts, *asking]), items=read([*data.catalogue.texts, *answering]),
    )  # fmt: skip
    return rows


def drawn(rows: RetrieverRows, number: int = 0, part: int = 0, parts: int = 1) -> RetrieverBatch:
    whole = np.arange(len(rows.queries))
    return rows.assemble(Draw(
        epoch=0, number=number, rows=whole[part::parts], part=part, parts=parts, whole=whole,
    ))  # fmt: skip


def words(tokenizer: PreTrainedTokenizerFast, batch, row: int) -> str:
    return tokenizer.decode(batch.ids[row][batch.mask[row]], skip_special_tokens=True)


def test_the_plot_asks_for_the_item_without_it_and_queries_for_the_whole_item(data, tokenizer, tmp_path):
    rows = rows_of(data, tokenizer, tmp_path)
    batch, count = drawn(rows), len(rows.queries)
    assert len(batch.target) == 2 * count
    for row, target in enumerate(batch.target.tolist()):
        asks = words(tokenizer, batch.users.query_text, int(batch.users.query[row]))
        answers = words(tokenizer, batch.items.text, batch.item.tolist().index(target))
        own, plot = target % ITEMS, f"somebody finds lamp {target % ITEMS}"
        if row < count:
            assert asks == f"what is it {own}"
            assert answers == f"film {own} . {1980 + own}" + (f" . {plot}" if own % 5 else "")
        else:
            assert (asks, answers) == (plot, f"film {own} . {1980 + own}")
    assert batch.users.history_mask.sum() == 0


def test_an_item_is_no_negative_for_its_own_words_nor_its_rest_for_a_query_about_it(data, tokenizer, tmp_path):
    rows = rows_of(data, tokenizer, tmp_path)
    batch = drawn(rows)
    seen = set(zip(batch.seen_row.tolist(), batch.seen_item.tolist(), strict=True))
    for row, target in enumerate(batch.target.tolist()):
        assert (row, target) not in seen
        assert (row, target + ITEMS if target < ITEMS else target - ITEMS) in seen


def test_no_teacher_has_judged_what_an_items_own_words_ask_for(data, tokenizer, tmp_path):
    rows = rows_of(data, tokenizer, tmp_path)
    place = np.arange(len(data.queries) * 3)
    rows.taught = Taught(
        offsets=3 * np.arange(len(data.queries) + 1), item=(place // 3 + place % 3) % ITEMS,
        logit=place.astype(np.float32), count=2,
    )  # fmt: skip
    batch, count = drawn(rows), len(rows.queries)
    assert batch.taught_item.shape == batch.taught_logit.shape == (2 * count, 2)
    assert (batch.taught_item[count:] == -1).all()
    assert (batch.taught_item[:count, 0] == batch.target[:count]).all()


def test_every_batch_asks_for_other_items_and_each_of_them_once(data, tokenizer, tmp_path):
    rows = rows_of(data, tokenizer, tmp_path, share=0.5)
    asked = [drawn(rows, number).target[len(rows.queries) :].tolist() for number in range(12)]
    assert all(len(set(one)) == len(one) == round(len(rows.queries) / 2) for one in asked)
    assert {item - ITEMS for one in asked for item in one} == {item for item in range(ITEMS) if item % 5}
    assert drawn(rows, 3).target[len(rows.queries) :].tolist() == asked[3]


def test_processes_share_out_what_asks(data, tokenizer, tmp_path):
    rows = rows_of(data, tokenizer, tmp_path)
    whole = sorted(drawn(rows).target.tolist())
    assert sorted(item for part in range(3) for item in drawn(rows, part=part, parts=3).target.tolist()) == whole


def test_no_more_rows_are_made_than_there_are_items_with_words_on_both_sides(data, tokenizer, tmp_path):
    asked = drawn(rows := rows_of(data, tokenizer, tmp_path, share=9.0)).target[len(rows.queries) :]
    assert sorted(asked.tolist()) == [ITEMS + item for item in range(ITEMS) if item % 5]


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
        add_cloze(features, [""] * ITEMS, ["x"] * ITEMS, np.arange(ITEMS), 0.5, queries=Texts(), items=Texts())
