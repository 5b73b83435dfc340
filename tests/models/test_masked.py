"""The head that guesses hidden tokens."""

import pytest
import torch

from recsys.batch import MaskedBatch, TextBatch
from recsys.config import TextConfig
from recsys.errors import InputError
from recsys.models.masked import MaskedConfig, MaskedLanguageModel
from recsys.models.text import TextEncoder

TINY = TextConfig(model="config:", mode="full", width=128, layers=1, heads=2, max_tokens=16)


@pytest.fixture
def model() -> MaskedLanguageModel:
    torch.manual_seed(0)
    return MaskedLanguageModel(TextEncoder.build(TINY, vocab_size=50)).eval()


def batch(lengths: list[int]) -> MaskedBatch:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, 50, mask.shape, generator=torch.Generator().manual_seed(0)) * mask
    token = torch.tensor([1, lengths[0], sum(lengths) - 1])
    return MaskedBatch(texts=TextBatch(ids=ids, mask=mask), token=token, original=ids[mask][token])


def test_logits_are_products_with_the_encoders_own_embeddings(model):
    one = batch([4, 7])
    logits = model(one)
    state = model.text.states(one.texts)[one.texts.mask][one.token]
    words = model.text.model.get_input_embeddings().weight
    expected = model.norm(torch.nn.functional.gelu(model.dense(state))) @ words.T + model.bias
    assert logits.shape == (3, 50)
    torch.testing.assert_close(logits, expected)


def test_packed_and_padded_texts_have_the_same_states(model):
    one = batch([4, 12, 2])
    packed = model(one)
    model.text.compiled = True  # nothing is packed then
    torch.testing.assert_close(model(one), packed)


def test_settings_that_teach_nothing_are_refused():
    with pytest.raises(InputError, match="frozen"):
        MaskedConfig(text=TextConfig(model="some/model", mode="frozen"))
    with pytest.raises(InputError, match=r"model\.mask"):
        MaskedConfig(text=TINY, mask=0.0)
