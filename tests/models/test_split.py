"""A split cross-encoder against transformers' own BERT, padded and masked; and what it may depend on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertModel, DistilBertConfig, DistilBertModel

from recsys.batch import ApartBatch, ItemBatch, PrunerBatch, TextBatch, UserBatch
from recsys.config import TextConfig
from recsys.errors import InputError
from recsys.models.checkpoint import load_pruner, save_pruner
from recsys.models.pruner import Pruner, PrunerConfig
from recsys.models.split import SplitReader
from recsys.models.states import StateCache
from recsys.models.text import TextEncoder
from recsys.models.towers import Sizes

LAYERS, TOKENS, VOCAB = 4, 24, 60
WORDS = TextConfig(model="config:", mode="full", width=32, layers=LAYERS, heads=4, max_tokens=TOKENS)
ROWS, LISTED, TEXTS = 3, 5, 6
SPLITS = range(1, LAYERS)


def texts(lengths: list[int], seed: int) -> TextBatch:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, VOCAB, mask.shape, generator=torch.Generator().manual_seed(seed))
    return TextBatch(ids=ids * mask, mask=mask)


def make_batch() -> PrunerBatch:
    row = torch.tensor([[0, 1, 2, 3, 4], [5, 2, 0, -1, -1], [3, 1, -1, -1, -1]])
    apart = ApartBatch(
        request=texts([12, 2, 7], 1), candidate=texts([9, 1, TOKENS, 4, 15, 8], 2), row=row,
    )  # fmt: skip
    none = torch.zeros(ROWS, LISTED)
    return PrunerBatch(
        users=UserBatch(history=none.long()[:, :0], history_mask=none[:, :0] > 0),
        items=ItemBatch(index=torch.arange(TEXTS)), item_vector=torch.zeros(TEXTS, 2), user_vector=torch.zeros(ROWS, 2),
        candidate=row, retriever_score=none, label=none, apart=apart,
    )  # fmt: skip


def split(layers: int, **changes) -> Pruner:
    torch.manual_seed(0)
    config = PrunerConfig(text=replace(WORDS, **changes), split=layers)
    encoder = TextEncoder.build(config.text, vocab_size=VOCAB)
    model = Pruner(config, Sizes(items=TEXTS), encoder, vector_width=2).eval()
    with torch.no_grad():  # far from the start, where attention is even and biases are zero
        for part in (model.text, model.norm, model.head):
            for weight in part.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.3)
    return model


def plain_logits(model: Pruner, batch: PrunerBatch, layers: int) -> torch.Tensor:
    """Pair by pair: all tokens side by side, and a mask that keeps the two texts apart in the lower layers."""
    bert = model.text.model
    plain = BertModel(bert.config, add_pooling_layer=False).eval()
    plain.load_state_dict(bert.state_dict())
    plain.set_attn_implementation("eager")
    out = torch.full((ROWS, LISTED), -torch.inf)
    for request, place in batch.apart.row.ge(0).nonzero().tolist():
        sides = [(batch.apart.request, request), (batch.apart.candidate, int(batch.apart.row[request, place]))]
        first, second = (side.ids[number][side.mask[number]] for side, number in sides)
        kind = torch.cat([torch.zeros_like(first), torch.ones_like(second)])
        place_of = torch.cat([torch.arange(len(first)), TOKENS + torch.arange(len(second))])
        apart = torch.where(kind[:, None] == kind, 0.0, torch.finfo(torch.float32).min)[None, None]
        states = plain.embeddings(
            torch.cat([first, second])[None], token_type_ids=kind[None], position_ids=place_of[None]
        )
        for number, layer in enumerate(plain.encoder.layer):
            states = layer(states, attention_mask=apart if number < layers else None)
        evidence = np.log1p(place) * 10 * model.weights[1]
        out[request, place] = model.head(model.norm(states[:, 0]))[0, 0] + evidence
    return out


def logits_of(model: Pruner, batch: PrunerBatch, states: StateCache | None = None) -> torch.Tensor:
    with torch.inference_mode():
        return model(batch, states)


def alone(batch: PrunerBatch, request: int, place: int) -> PrunerBatch:
    """One pair, of which nobody else is there."""
    text = batch.apart.row[request, place]
    apart = ApartBatch(
        request=batch.apart.request.take(torch.tensor([request])), candidate=batch.apart.candidate.take(text[None]),
        row=torch.zeros(1, 1, dtype=torch.int64),
    )  # fmt: skip
    one = {"retriever_score": torch.zeros(1, 1), "label": torch.zeros(1, 1), "rank": torch.tensor([[place]])}
    return replace(batch, candidate=apart.row, apart=apart, user_vector=torch.zeros(1, 2), **one)


@pytest.mark.parametrize("layers", SPLITS)
def test_it_is_a_bert_whose_lower_layers_have_a_mask_between_the_texts(layers):
    model, batch = split(layers), make_batch()
    torch.testing.assert_close(
        logits_of(model, batch), plain_logits(model, batch, layers).detach(), rtol=0, atol=1e-5
    )  # fmt: skip


def test_the_models_are_others_where_other_layers_read_apart():
    batch = make_batch()
    found = [logits_of(split(layers), batch)[0] for layers in SPLITS]
    assert all((one - other).abs().max() > 0.01 for one, other in zip(found[1:], found[:-1], strict=True))


@pytest.mark.parametrize("layers", SPLITS)
def test_states_that_are_kept_give_the_same_logits_and_are_not_made_again(layers, monkeypatch):
    model, batch, states = split(layers), make_batch(), StateCache()
    plain, first = logits_of(model, batch), logits_of(model, batch, states)
    monkeypatch.setattr(SplitReader, "candidates", None)  # who calls it fails
    torch.testing.assert_close(first, plain, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits_of(model, batch, states), plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layers", SPLITS)
def test_a_logit_does_not_depend_on_who_shares_the_batch(layers):
    model, batch = split(layers), make_batch()
    found = logits_of(model, batch)
    for request, place in (batch.candidate >= 0).nonzero().tolist():
        one = logits_of(model, alone(batch, request, place))[0, 0]
        torch.testing.assert_close(one, found[request, place], rtol=0, atol=1e-5)


def test_a_batch_without_any_candidate_has_no_logit():
    batch = make_batch()
    nobody = torch.full_like(batch.candidate, -1)
    batch = replace(batch, candidate=nobody, apart=replace(batch.apart, row=nobody))
    assert logits_of(split(2), batch).isneginf().all()


@pytest.mark.parametrize("layers", SPLITS)
def test_bfloat16_stays_near(layers):
    model, batch = split(layers), make_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = logits_of(model, batch, StateCache())
    found, real = logits_of(model, batch), batch.candidate >= 0
    assert near.dtype == torch.float32
    assert (near - found)[real].abs().max() < 0.2 * found[real].std()


@pytest.mark.parametrize("layers", SPLITS)
def test_weights_in_bfloat16_stay_near(layers):
    batch, found = make_batch(), logits_of(split(layers), make_batch())
    model, real = split(layers), batch.candidate >= 0
    model.text.lower(torch.bfloat16)
    states = StateCache()
    near = logits_of(model, batch, states)
    assert near.dtype == torch.float32
    assert (near - found)[real].abs().max() < 0.2 * found[real].std()
    torch.testing.assert_close(logits_of(model, batch, states), near, rtol=0, atol=0)


@pytest.mark.parametrize("layers", SPLITS)
def test_gradients_reach_the_lower_layers(layers):
    model, batch = split(layers).train(), make_batch()
    model(batch)[batch.candidate >= 0].square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())
    assert all(layer.output.dense.weight.grad.any() for layer in model.text.model.encoder.layer)
    assert model.text.model.embeddings.word_embeddings.weight.grad.any()


def test_dropout_of_the_last_layers_attention_is_drawn_in_training_alone():
    model, batch = split(LAYERS - 1), make_batch()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    model.text.model.encoder.layer[-1].attention.self.dropout.p = 0.5
    assert torch.equal(model(batch), model(batch))
    model.train()
    assert not torch.equal(model(batch), model(batch))


def test_adapters_learn_in_all_layers_and_are_merged_when_saved(tmp_path):
    split(2).text.save(tmp_path / "text")
    model, batch = split(2, model=str(tmp_path / "text"), mode="lora"), make_batch()
    model(batch)[batch.candidate >= 0].square().sum().backward()
    learnt = {name.split(".layer.")[1][0] for name, one in model.text.named_parameters() if one.grad is not None}
    assert learnt == {str(layer) for layer in range(LAYERS)}
    save_pruner(model, tmp_path / "model")
    torch.testing.assert_close(
        logits_of(load_pruner(tmp_path / "model"), batch), logits_of(model, batch), rtol=0, atol=1e-4
    )  # fmt: skip


def test_a_saved_model_reads_as_it_did(tmp_path):
    model, batch = split(3), make_batch()
    save_pruner(model, tmp_path)
    loaded = load_pruner(tmp_path)
    assert loaded.config.split == 3
    torch.testing.assert_close(logits_of(loaded, batch), logits_of(model, batch), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: split(LAYERS), rf"has {LAYERS} layers.*set it to {LAYERS - 1} or lower"),
        (lambda: split(1, max_tokens=300), "set text.max_tokens to 256 or lower"),
        (lambda: PrunerConfig(text=WORDS, split=-1), "model.split is -1; expected 0, or layers of a cross-encoder"),
        (lambda: PrunerConfig(text=WORDS, split=1, late=True, evidence="after"), "without model.late"),
        (lambda: PrunerConfig(split=1), "text.mode lora or full"),
        (lambda: PrunerConfig(text=replace(WORDS, model="x", mode="frozen"), split=1), "text.mode lora or full"),
    ],
)
def test_what_cannot_be_split_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_model_that_is_no_bert_is_refused():
    shape = DistilBertConfig(vocab_size=VOCAB, dim=16, n_layers=2, n_heads=2, hidden_dim=32)
    encoder = TextEncoder(DistilBertModel(shape), 16, replace(WORDS, model="somewhere"))
    with pytest.raises(InputError, match="takes a BERT apart, and the text model is a distilbert"):
        Pruner(PrunerConfig(text=encoder.config, split=1), Sizes(items=2), encoder, vector_width=2)
