from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recsys.batch import ItemBatch, TextBatch, UserBatch
from recsys.config import ImageConfig, TextConfig
from recsys.errors import InputError
from recsys.models.history import HistoryEncoderConfig
from recsys.models.image import ImageEncoder
from recsys.models.text import TextEncoder
from recsys.models.towers import Retriever, RetrieverConfig, Sizes

WIDTH, ITEMS, VOCAB = 16, 7, 30
TEXT = TextConfig(model="config:", mode="full", layers=1, width=WIDTH, heads=2, max_tokens=8)
SIZES = Sizes(items=ITEMS, item_category=[3], item_number=1, user_category=[2], user_number=1, context=[4], event=2)
BARE = Sizes(items=ITEMS)
HISTORY = HistoryEncoderConfig(layers=1, heads=2)


def make(config: RetrieverConfig, sizes: Sizes = SIZES) -> Retriever:
    torch.manual_seed(0)
    text = TextEncoder.build(config.text, VOCAB) if config.text else None
    return Retriever(config, sizes, text).eval()


def full(**changes: object) -> Retriever:
    return make(replace(RetrieverConfig(text=TEXT, history=HISTORY), **changes))


def tokens(rows: int) -> TextBatch:
    ids = torch.randint(1, VOCAB, (rows, 5), generator=torch.Generator().manual_seed(2))
    return TextBatch(ids=ids, mask=torch.ones(rows, 5, dtype=torch.bool))


def items(**changes: object) -> ItemBatch:
    numbers = torch.linspace(-1, 1, ITEMS)[:, None]
    batch = ItemBatch(
        index=torch.arange(ITEMS), text=tokens(ITEMS), category=torch.arange(ITEMS).view(-1, 1, 1) % 4, number=numbers
    )
    return replace(batch, **changes)


def users(rows: int = 2, length: int = 3, **changes: object) -> UserBatch:
    history = torch.arange(rows * length).view(rows, length) % ITEMS
    batch = UserBatch(
        history=history, history_mask=torch.ones_like(history, dtype=torch.bool),
        position=torch.arange(length).expand(rows, length), event=history % 3,
        profile=torch.ones(rows, 1, 1, dtype=torch.int64), profile_number=torch.ones(rows, 1),
        context=torch.ones(rows, length + 1, 1, dtype=torch.int64),
    )  # fmt: skip
    return replace(batch, **changes)


def asking(rows: int = 2, length: int = 3, **changes: object) -> UserBatch:
    return users(rows, length, **{"query": torch.arange(rows), "query_text": tokens(rows), **changes})


def encode(model: Retriever, batch: UserBatch) -> Tensor:
    with torch.no_grad():
        return model.encode_users(batch, model.encode_items(items()))


# --- items


@pytest.mark.parametrize("normalize", [False, True])
def test_the_vector_of_a_text_only_tower_is_exactly_the_text_vector(normalize: bool) -> None:
    config = RetrieverConfig(text=TEXT, id_vector=False, history=HISTORY, normalize=normalize)
    model = make(config, BARE)
    assert model.text_only
    assert model.text is not None
    with torch.no_grad():
        text, found = (
            model.text(tokens(ITEMS)),
            model.encode_items(ItemBatch(index=torch.arange(ITEMS), text=tokens(ITEMS))),
        )
    expected = torch.nn.functional.normalize(text, dim=-1) if normalize else text
    assert torch.equal(found, expected)
    assert not normalize or torch.allclose(found.norm(dim=-1), torch.ones(ITEMS))


def test_every_source_changes_an_items_vector() -> None:
    model = full()
    other = TextBatch(ids=tokens(ITEMS).ids.flip(1), mask=tokens(ITEMS).mask)
    changes = [
        {"index": torch.arange(ITEMS).flip(0)}, {"text": other}, {"category": torch.full((ITEMS, 1, 1), 3)},
        {"number": torch.full((ITEMS, 1), float("nan"))},
    ]  # fmt: skip
    with torch.no_grad():
        vectors = model.encode_items(items())
        for change in changes:
            assert (model.encode_items(items(**change)) - vectors).abs().amax(-1).max() > 1e-3, change


def test_an_unseen_item_has_the_last_id_vector_which_is_zero() -> None:
    model = full()
    assert model.items.id is not None
    assert model.items.id.weight[-1].eq(0).all()
    with torch.no_grad():
        unseen = model.encode_items(items(index=torch.full((ITEMS,), -1)))
        model.items.id.weight.zero_()
        assert torch.equal(model.encode_items(items()), unseen)
        model.items.id.weight[-1] = 5 * torch.randn(WIDTH)
        assert not torch.allclose(model.encode_items(items(index=torch.full((ITEMS,), -1))), unseen)


def test_cached_text_vectors_count_as_the_text() -> None:
    model = full()
    assert model.text is not None
    with torch.no_grad():
        cached = items(text=None, text_vector=model.text(tokens(ITEMS)))
        assert torch.equal(model.encode_items(cached), model.encode_items(items()))


# --- users


def test_profile_moment_event_and_history_change_a_users_vector() -> None:
    model, batch = full(), users()
    vectors = encode(model, batch)
    changes = {
        "profile": torch.full((2, 1, 1), 2), "profile_number": torch.full((2, 1), float("nan")),
        "context": torch.full((2, 4, 1), 3), "event": torch.full((2, 3), 2), "history": torch.full((2, 3), 6),
        "position": torch.tensor([0, 4, 9]).expand(2, 3),
    }  # fmt: skip
    for name, value in changes.items():
        difference = encode(model, replace(batch, **{name: value})) - vectors
        assert difference[:, -1].abs().amax(-1).min() > 1e-4, name


def test_the_moment_of_a_later_event_is_not_known_earlier() -> None:
    model, batch = full(), users()
    assert batch.context is not None
    later = batch.context.clone()
    later[:, 2] = 4
    difference = (encode(model, replace(batch, context=later)) - encode(model, batch)).abs().amax(-1)
    assert (difference > 0).tolist() == [[False, False, True, False]] * 2


def test_of_whom_only_the_query_is_known_the_querys_own_vector_is_the_users() -> None:
    model = full()
    unknown = {
        "profile": torch.zeros(2, 1, 1, dtype=torch.int64), "profile_number": torch.full((2, 1), float("nan")),
        "context": torch.zeros(2, 1, 1, dtype=torch.int64), "event": torch.zeros(2, 0, dtype=torch.int64),
    }  # fmt: skip
    batch = asking(length=0, **unknown)
    with torch.no_grad():
        assert model.text is not None
        own = model.items.project_text(model.text(tokens(2)))
    torch.testing.assert_close(encode(model, batch)[:, 0], own)
    for name, value in {"profile": 1, "profile_number": 0.5, "context": 2}.items():
        told = encode(model, replace(batch, **{name: torch.full_like(unknown[name], value)}))
        assert (told[:, 0] - own).abs().max() > 1e-3, name


def test_a_query_adds_its_vector_to_what_the_history_says() -> None:
    model = full()
    asked = asking(query=torch.tensor([1, -1]))
    with torch.no_grad():
        assert model.text is not None
        words = model.items.project_text(model.text(tokens(2)))
    difference = encode(model, asked) - encode(model, users())
    torch.testing.assert_close(difference[0, -1], words[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(difference[1], torch.zeros(4, WIDTH))


def test_a_search_in_the_history_is_an_entry_of_its_own() -> None:
    model = full()
    history = torch.tensor([[0, ITEMS, 2], [1, ITEMS + 1, 3]])  # entries from ITEMS on are the batch's query texts
    searched = asking(history=history, query=torch.full((2,), -1))
    swapped = replace(searched, history=torch.tensor([[0, ITEMS + 1, 2], [1, ITEMS, 3]]))
    assert (encode(model, searched) - encode(model, swapped))[:, -1].abs().amax(-1).min() > 1e-4


def test_unit_vectors_have_unit_length() -> None:
    model = full(normalize=True)
    vectors = encode(model, asking())
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2, 4))


def test_without_a_history_transformer_profile_and_query_still_tell() -> None:
    model = full(history=None)
    vectors = encode(model, asking())
    assert vectors.shape == (2, 4, WIDTH)
    assert (vectors - encode(model, asking(profile=torch.full((2, 1, 1), 2)))).abs().max() > 1e-4


# --- all weights


ABSENT = {
    "everything there": ({}, {}),
    "no query": ({}, {"query": None, "query_text": None}),
    "no moment": ({}, {"context": None}),
    "no profile": ({}, {"profile": None, "profile_number": None}),
    "no event": ({}, {"event": None}),
    "no history": ({}, {"history": torch.zeros(2, 0, dtype=torch.int64), "event": torch.zeros(2, 0, dtype=torch.int64),
                        "position": None, "context": torch.ones(2, 1, 1, dtype=torch.int64)}),
    "no text": ({"text": None}, {"query": None, "query_text": None}),
    "no category": ({"category": None}, {}),
    "no number": ({"number": None}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", ABSENT)
def test_a_source_that_a_batch_lacks_still_gives_every_weight_a_gradient(case: str) -> None:
    model = full(learn_temperature=True, normalize=True).train()
    of_items, of_users = ABSENT[case]
    vectors = model.encode_items(items(**of_items))
    (model.encode_users(asking(**of_users), vectors).sum() * model.scale + vectors.sum()).backward()
    assert [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None] == []
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


# --- scale and config


def test_the_scale_is_the_inverse_temperature() -> None:
    assert full(temperature=0.5).scale.item() == pytest.approx(2.0)
    assert full().scale.item() == pytest.approx(WIDTH**-0.5)
    assert full(normalize=True).scale.item() == pytest.approx(20.0)
    assert not full().log_scale.requires_grad


def test_a_learnt_scale_stops_at_its_limit_and_can_come_back() -> None:
    model = full(learn_temperature=True)
    with torch.no_grad():
        model.log_scale.fill_(9.0)
    assert model.scale.item() == pytest.approx(100.0)
    model.scale.backward()
    assert model.log_scale.grad is not None
    assert model.log_scale.grad.item() > 0


@pytest.mark.parametrize("wrong", [{"width": 0}, {"temperature": 0.0}, {"dropout": 1.0}])
def test_an_impossible_value_is_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"model.{next(iter(wrong))}"):
        RetrieverConfig(**wrong)  # pyright: ignore[reportArgumentType]


def test_a_model_without_width_items_or_users_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.width"):
        make(RetrieverConfig())
    with pytest.raises(InputError, match="describes an item"):
        make(RetrieverConfig(width=8, id_vector=False), BARE)
    with pytest.raises(InputError, match="describes a user"):
        make(RetrieverConfig(width=8, history=None), BARE)


# --- pictures


IMAGE = ImageConfig(model="config:", mode="full", pixels=16, layers=1, width=4)


def seeing(sizes: Sizes = SIZES, **changes: object) -> Retriever:
    torch.manual_seed(0)
    config = replace(RetrieverConfig(text=TEXT, history=HISTORY, image=IMAGE, dropout=0.0), **changes)
    text = TextEncoder.build(TEXT, VOCAB) if config.text else None
    model = Retriever(config, sizes, text, ImageEncoder.build(IMAGE)).eval()
    torch.nn.init.normal_(model.items.no_image)
    return model


def pictured(known: list[bool] | None = None, **changes: object) -> ItemBatch:
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (ITEMS, 3, 16, 16), generator=draw).to(torch.uint8)
    there = torch.tensor(known or [True] * ITEMS)
    return items(**{"image": pixels, "image_known": there, **changes})


@torch.no_grad()
def test_a_picture_changes_the_vector_and_pixels_of_a_missing_one_do_not() -> None:
    model, known = seeing(), [True] * 6 + [False]
    batch = pictured(known)
    other = replace(batch, image=batch.image.flip(0))
    first, second = model.encode_items(batch), model.encode_items(other)
    assert torch.equal(first[6], second[6])
    assert (first[:3] != second[:3]).any(1).all()


@torch.no_grad()
def test_a_batch_without_pictures_is_one_in_which_all_are_missing() -> None:
    model = seeing()
    nothing = model.encode_items(pictured([False] * ITEMS))
    torch.testing.assert_close(model.encode_items(items()), nothing, rtol=0, atol=1e-6)
    vectors = torch.ones(ITEMS, model.image.width)
    hidden = items(image_vector=vectors, image_known=torch.zeros(ITEMS, dtype=torch.bool))
    torch.testing.assert_close(model.encode_items(hidden), nothing, rtol=0, atol=1e-6)


@torch.no_grad()
def test_vectors_of_pictures_do_what_the_pictures_do() -> None:
    model, batch = seeing(), pictured()
    vectors = replace(batch, image=None, image_vector=model.image(batch.image))
    torch.testing.assert_close(model.encode_items(vectors), model.encode_items(batch))


@pytest.mark.parametrize("known", [[True] * ITEMS, [False] * ITEMS, None])
def test_every_weight_has_a_gradient_whether_pictures_are_there_or_not(known: list[bool] | None) -> None:
    model = seeing(hide=0.3).train()
    batch = items() if known is None else pictured(known)
    vectors = model.encode_items(batch)
    model.encode_users(asking(), vectors).sum().backward()
    lacking = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert lacking == []


def test_words_and_pictures_are_hidden_from_training_in_turn_and_never_both() -> None:
    model = seeing(Sizes(items=ITEMS), hide=0.4, id_vector=False, history=HISTORY)
    tower, rows = model.items.train(), 4000
    there, states = torch.arange(rows) % 2 == 0, torch.zeros(rows, WIDTH)
    batch = ItemBatch(index=torch.arange(rows), image_known=there)
    words, picture, _ = tower._shown(batch, states, states)
    assert words is not None
    assert picture is not None
    assert (words | picture).all()
    assert words[~there].all()
    assert not picture[~there].any()
    assert float((~words[there]).float().mean()) == pytest.approx(0.4, abs=0.03)
    assert float((~picture[there]).float().mean()) == pytest.approx(0.4, abs=0.03)
    assert tower.eval()._shown(batch, states, states)[0] is None


def test_an_item_may_be_a_picture_alone_and_a_query_words() -> None:
    model = seeing(Sizes(items=ITEMS), id_vector=False, history=None, normalize=True)
    vectors = model.encode_items(ItemBatch(index=torch.arange(ITEMS), image=pictured().image,
                                           image_known=torch.ones(ITEMS, dtype=torch.bool)))  # fmt: skip
    empty = torch.zeros(2, 0, dtype=torch.int64)
    batch = UserBatch(history=empty, history_mask=empty.bool(), query=torch.arange(2), query_text=tokens(2))
    asked = model.encode_users(batch, vectors)[:, 0]
    assert asked.shape == (2, WIDTH)
    asked.sum().backward()


def test_a_share_that_would_hide_both_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.hide"):
        RetrieverConfig(hide=0.6)
