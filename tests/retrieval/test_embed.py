"""A model folder opened again: the trainer's own vectors, and configs that do not fit."""

import shutil
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.config import read_part
from recsys.data.requests import evaluation_batch, user_requests
from recsys.data.split import VALID
from recsys.errors import InputError
from recsys.retrieval import embed
from recsys.retrieval.embed import (
    OpenRetriever,
    TextReader,
    audit_items,
    embed_items,
    embed_requests,
    stored_items,
)
from recsys.tables import DataConfig


@pytest.fixture(scope="module")
def config(journey) -> DataConfig:
    found = read_part(journey.config("retriever"), "data", DataConfig)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def opened(journey, config) -> OpenRetriever:
    return OpenRetriever.open(journey.folder / "runs/retriever", config)


def test_items_are_embedded_alike_in_blocks_and_at_once(opened):
    np.testing.assert_allclose(embed_items(opened, block=7), embed_items(opened), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_stored_vectors_are_those_in_memory(opened, tmp_path, dtype):
    found = stored_items(opened, tmp_path, dtype)
    assert isinstance(found, np.memmap)
    assert found.dtype == dtype
    assert (np.asarray(found) == embed_items(opened).astype(dtype)).all()
    assert audit_items(opened, tmp_path, dtype) == (len(found), len(found))


def test_only_items_whose_content_has_changed_are_embedded_again(opened, tmp_path, monkeypatch):
    stored_items(opened, tmp_path)
    category = opened.data.catalogue.category.copy()
    category[[3, 11]] = 0
    catalogue = replace(opened.data.catalogue, category=category)
    features = copy(opened.features)
    features.data = replace(opened.data, catalogue=catalogue)
    other = replace(opened, features=features, data=features.data)
    asked = []
    plain = embed.embed_items
    monkeypatch.setattr(embed, "embed_items", lambda one, rows: asked.append(rows.tolist()) or plain(one, rows))
    found = stored_items(other, tmp_path)
    assert asked[-1] == [3, 11]
    np.testing.assert_allclose(found, plain(other), rtol=1e-5, atol=1e-6)
    assert audit_items(other, tmp_path) == (len(found), 2)


def test_an_item_has_the_vector_that_its_own_words_give(opened):
    """Cached text vectors against the encoder run on the batch's tokens."""
    texts = opened.data.catalogue.texts[:5]
    plain = opened.words.tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        states = opened.model.text.model(**{name: plain[name] for name in ("input_ids", "attention_mask")})
    mask = plain["attention_mask"][..., None]
    vectors = (states.last_hidden_state * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(opened.features.item_texts.vectors[:5], vectors.numpy(), rtol=1e-4, atol=1e-5)


def test_a_text_that_is_read_once_has_its_cached_vector(opened):
    cached = opened.features.query_texts.vectors
    for row in (0, 7, 19):
        once = opened.words.read_once(opened.data.queries.texts[row]).vectors
        np.testing.assert_allclose(once[0], cached[row], rtol=1e-4, atol=1e-5)


def test_requests_are_embedded_in_order_whatever_the_batch(opened):
    items, requests = embed_items(opened), user_requests(opened.data, VALID)
    whole = np.concatenate(list(embed_requests(opened, items, requests)))
    small = np.concatenate(list(embed_requests(opened, items, requests, batch_size=3)))
    np.testing.assert_allclose(small, whole, rtol=1e-4, atol=1e-5)
    batch = evaluation_batch(opened.features, requests.take(np.array([4])))
    with torch.no_grad():
        alone = opened.model.encode_users(batch.users, torch.from_numpy(items))[0, batch.step[0]]
    np.testing.assert_allclose(whole[4], alone.numpy(), rtol=1e-4, atol=1e-5)


def test_a_model_without_texts_has_no_reader_of_texts(opened):
    class Silent:
        text = None

    assert TextReader.open(Path("nowhere"), Silent(), "") is None


def test_columns_that_the_model_was_not_trained_with_are_refused(journey, config):
    other = replace(config, users=replace(config.users, category=["town"], bands={}))
    with pytest.raises(InputError, match=r"trained with data\.users\.category: \['age', 'town', 'orders'\]; this"):
        OpenRetriever.open(journey.folder / "runs/retriever", other)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("config.json", "no config.json"),
        ("codes.json", "not a readable codes file"),
        ("model.safetensors", "not a readable safetensors file"),
        ("text/config.json", "no text model"),
        ("text/tokenizer.json", "tokenizer"),
    ],
)
def test_a_model_folder_that_lacks_a_file_is_refused(journey, config, tmp_path, broken, message):
    shutil.copytree(journey.folder / "runs/retriever/model", tmp_path / "model")
    (tmp_path / "model" / broken).unlink()
    with pytest.raises(InputError, match=message):
        OpenRetriever.open(tmp_path, config)


def test_the_run_of_a_pruner_is_no_retriever(journey, config):
    with pytest.raises(InputError, match=r"kind 'pruner'.*expected kind 'retriever'"):
        OpenRetriever.open(journey.folder / "runs/pruner", config)


def test_pictures_of_queries_are_refused_where_the_model_reads_none(journey, config):
    shown = replace(config, queries=replace(config.queries, image="photo"))
    with pytest.raises(InputError, match=r"data\.queries\.image names 'photo', and the retriever reads no pictures"):
        OpenRetriever.open(journey.folder / "runs/retriever", shown)
