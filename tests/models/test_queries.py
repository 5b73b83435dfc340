"""Words and pictures of queries as one vector."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recsys.batch import TextBatch, UserBatch
from recsys.config import ImageConfig, TextConfig
from recsys.models.checkpoint import load_retriever, save_retriever
from recsys.models.history import HistoryEncoderConfig
from recsys.models.image import ImageEncoder
from recsys.models.queries import mean_of_known
from recsys.models.text import TextEncoder
from recsys.models.towers import Retriever, RetrieverConfig, Sizes

WIDTH, PIXELS, ROWS = 12, 16, 4
TEXT = TextConfig(model="config:", mode="full", layers=1, width=8, heads=2, max_tokens=8)
IMAGE = ImageConfig(model="config:", mode="full", pixels=PIXELS, layers=1, width=4)
PLAIN = RetrieverConfig(text=TEXT, image=IMAGE, width=WIDTH, history=None, id_vector=False)
WORDED, SHOWN = torch.tensor([True, False, True, False]), torch.tensor([False, True, True, False])


def make(config: RetrieverConfig = PLAIN) -> Retriever:
    torch.manual_seed(0)
    text = TextEncoder.build(config.text, 30) if config.text else None
    return Retriever(config, Sizes(items=5), text, ImageEncoder.build(IMAGE)).eval()


def asking(**changes: Tensor | TextBatch | None) -> UserBatch:
    """Four queries: of words, of a picture, of both, of nothing."""
    draw, empty = torch.Generator().manual_seed(1), torch.zeros(ROWS, 0, dtype=torch.int64)
    ids = torch.randint(1, 30, (ROWS, 5), generator=draw)
    batch = UserBatch(
        history=empty, history_mask=empty.bool(), query=torch.arange(ROWS), query_text_known=WORDED,
        query_text=TextBatch(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool)), query_image_known=SHOWN,
        query_image=torch.randint(0, 256, (ROWS, 3, PIXELS, PIXELS), generator=draw, dtype=torch.uint8),
    )  # fmt: skip
    return replace(batch, **changes)


def vectors(model: Retriever, batch: UserBatch) -> Tensor:
    found = model.query_vectors(batch)
    assert found is not None
    return found


def test_the_mean_is_over_what_a_query_has() -> None:
    words, picture = torch.randn(ROWS, 3), torch.randn(ROWS, 3)
    found = mean_of_known([(words, WORDED), (picture, SHOWN)])
    expected = torch.stack([words[0], picture[1], (words[2] + picture[2]) / 2, torch.zeros(3)])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(mean_of_known([(words, None), (picture, SHOWN)])[1], (words[1] + picture[1]) / 2)
    assert mean_of_known([(words, None)]) is words


def test_words_and_pictures_pass_the_encoders_and_projections_of_the_items() -> None:
    model, batch = make(), asking()
    assert model.text is not None
    assert model.image is not None
    assert batch.query_text is not None
    assert batch.query_image is not None
    words = model.items.project_text(model.text(batch.query_text))
    picture = model.items.project_image(model.image(batch.query_image))
    expected = torch.stack([words[0], picture[1], (words[2] + picture[2]) / 2, torch.zeros(WIDTH)])
    torch.testing.assert_close(vectors(model, batch), expected)


def test_a_mixed_batch_is_each_query_alone() -> None:
    model, batch = make(replace(PLAIN, normalize=True)), asking()
    together = vectors(model, batch)
    assert batch.query_text is not None
    assert batch.query_image is not None
    for row in range(ROWS):
        one = torch.tensor([row])
        alone = asking(
            query=torch.zeros_like(one), query_text=batch.query_text.take(one), query_text_known=WORDED[one],
            query_image=batch.query_image[one], query_image_known=SHOWN[one],
        )  # fmt: skip
        torch.testing.assert_close(vectors(model, alone)[0], together[row], rtol=0, atol=1e-5)


def test_cached_vectors_of_pictures_are_what_the_encoder_makes() -> None:
    model, batch = make(), asking()
    assert model.image is not None
    cached = asking(query_image=None, query_image_vector=model.image(batch.query_image))
    torch.testing.assert_close(vectors(model, cached), vectors(model, batch))


def test_queries_of_words_alone_are_what_they_always_were() -> None:
    model = make()
    batch = asking(query_image=None, query_image_known=None, query_text_known=None)
    assert model.text is not None
    assert batch.query_text is not None
    assert torch.equal(vectors(model, batch), model.items.project_text(model.text(batch.query_text)))


@pytest.mark.parametrize("shown", [SHOWN, torch.zeros(ROWS, dtype=torch.bool)])
def test_every_weight_has_a_gradient_whether_pictures_can_be_read_or_not(shown: Tensor) -> None:
    model = make().train()
    vectors(model, asking(query_image_known=shown)).sum().backward()
    for part in (model.text, model.image, model.items.image, model.items.text):
        assert part is not None
        assert all(weight.grad is not None for weight in part.parameters() if weight.requires_grad)


def test_a_retriever_may_read_nothing_but_pictures() -> None:
    model = make(replace(PLAIN, text=None))
    batch = asking(query_text=None, query_text_known=torch.zeros(ROWS, dtype=torch.bool))
    found = vectors(model, batch)
    assert found[1].abs().sum() > 0
    users = model.encode_users(batch, torch.zeros(5, WIDTH))[:, 0]
    torch.testing.assert_close(users, found)


def test_a_picture_stands_in_a_history_as_a_search_of_words_does() -> None:
    model = make(replace(PLAIN, history=HistoryEncoderConfig(layers=1, heads=2)))
    history = torch.tensor([[5 + 1], [2], [5 + 2], [5 + 3]])  # a picture, an item, both, nothing
    batch = asking(history=history, history_mask=torch.ones_like(history, dtype=torch.bool))
    states = model.encode_users(batch, torch.randn(5, WIDTH))
    assert states.shape == (ROWS, 2, WIDTH)
    assert states.isfinite().all()
    moved = asking(history=history, history_mask=batch.history_mask, query_image=255 - batch.query_image)
    assert (model.encode_users(moved, torch.zeros(5, WIDTH)) - states)[0].abs().max() > 1e-4


def test_a_saved_model_of_before_answers_pictures(tmp_path) -> None:
    """Nothing in a model folder says whether queries had pictures."""
    model = make()
    save_retriever(model, tmp_path)
    loaded = load_retriever(tmp_path)
    torch.testing.assert_close(vectors(loaded, asking()), vectors(model, asking()))
