"""Pictures of queries on their way into a batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys.data.features import Features, Local, Texts
from recsys.data.images import Images
from recsys.data.pasts import Past
from recsys.data.query_images import check_query_images, pictures_alone, read_query_images, worded
from recsys.errors import InputError
from recsys.tables import QueriesConfig

WORDS, PICTURES = ["red", "", "blue", "", ""], ["", "a", "b", "", "c"]  # the last one cannot be read
KNOWN = np.array([False, True, True, False, False])


@pytest.fixture
def data(cascade):
    """Five queries: of words, of a picture, of both, of nothing, of a picture that is broken."""
    queries, rows = cascade.data.queries, np.arange(5)
    some = {name: getattr(queries, name)[rows] for name in ("user", "order", "stage")}
    queries = replace(queries, texts=WORDS, pictures=PICTURES, offsets=queries.offsets[:6], **some)
    return replace(cascade.data, queries=queries)


def reader(data, **changes) -> Features:
    vectors = np.eye(5, 4, dtype=np.float32)
    images = Images(known=KNOWN, vectors=vectors)
    return Features(data, Texts(), Texts(vectors=vectors), max_items=4, **{"query_images": images, **changes})


def read(features: Features, queries: list[int]):
    past = [Past.empty(len(features.data.codes.context))] * len(queries)
    nobody = np.full(len(queries), -1)
    return features.users(past, nobody, np.array(queries), Local(None, len(features.data.catalogue)))


def test_a_batch_says_of_each_query_what_it_has(data):
    batch = read(reader(data), [2, 1, 0])
    assert batch.query.tolist() == [2, 1, 0]
    assert batch.query_text_known.tolist() == [True, False, True]
    assert batch.query_image_known.tolist() == [False, True, True]
    assert batch.query_image_vector.shape == (3, 4)


def test_who_asks_for_nothing_that_can_be_read_has_no_query(data):
    batch = read(reader(data), [4, 2, 3, -1])
    assert batch.query.tolist() == [-1, 0, -1, -1]


def test_words_that_nobody_reads_are_no_query(data):
    features = reader(data)
    features.query_texts = Texts()
    assert read(features, [0, 1]).query.tolist() == [-1, 1]


def test_a_reader_without_pictures_says_which_queries_have_words(data):
    batch = read(reader(data, query_images=None), [0, 1])
    assert batch.query.tolist() == [0, 1]
    assert batch.query_text_known.tolist() == [True, False]
    assert batch.query_image_known is None


def test_queries_of_words_alone_are_read_as_ever(cascade):
    vectors = np.eye(10, 4, dtype=np.float32)
    batch = read(Features(cascade.data, Texts(), Texts(vectors=vectors), max_items=4), [3, -1])
    assert batch.query.tolist() == [0, -1]
    assert batch.query_text_known is None
    assert batch.query_image_known is None


def test_a_hidden_picture_is_that_of_items(data):
    assert read(reader(data, hidden=["image"]), [1]).query_image_known.tolist() == [True]


def test_rows_beyond_the_table_have_words_and_no_picture(data):
    rows = np.array([1, 5, 9])
    found = read_query_images(Images(known=KNOWN, vectors=np.eye(5, dtype=np.float32)), rows)
    assert found["query_image_known"].tolist() == [True, False, False]
    assert worded(data.queries, rows).tolist() == [False, True, True]


def test_a_query_is_moved_otherwise_than_the_item_of_its_row():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 16, 16), dtype=np.uint8)
    images, rows = Images(known=np.ones(20, dtype=bool), pixels=pixels, augment=True), np.arange(20)
    query = read_query_images(images, rows, (1, 2))["query_image"]
    assert not torch.equal(query, images.read(rows, (1, 2))["image"])
    assert torch.equal(query, read_query_images(images, rows, (1, 2))["query_image"])
    assert not torch.equal(query, read_query_images(images, rows, (1, 3))["query_image"])
    assert np.array_equal(read_query_images(images, rows)["query_image"].numpy(), pixels)


def test_a_picture_without_words_is_told(cascade, data):
    assert pictures_alone(data.queries).tolist() == [False, True, False, False, True]
    assert pictures_alone(cascade.data.queries) is None
    assert pictures_alone(None) is None


def test_pictures_without_an_encoder_are_refused(cascade):
    shown = replace(cascade.config, queries=QueriesConfig(image="photo"))
    with pytest.raises(InputError, match=r"data\.queries\.image names 'photo'.*set model\.image"):
        check_query_images(shown, encoded=False)
    check_query_images(shown, encoded=True)
    check_query_images(cascade.config, encoded=False)
