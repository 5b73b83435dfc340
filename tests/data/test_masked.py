"""Hidden tokens: how many, by what, and that nothing but seed, epoch and text decides."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from recsys.data.masked import MaskedRows, Masking, known_texts, masked_batch, masked_evaluations
from recsys.data.prepare import prepare
from recsys.data.sampling import Draw
from recsys.data.text import train_wordpiece
from recsys.data.tokens import TokenCache, token_cache
from recsys.errors import InputError
from recsys.tables import DataConfig, ItemsConfig

TEXTS = ["red hat", "a very long text about a red hat " * 4, "blue", "red coat and blue hat", "hat"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_wordpiece(TEXTS, 120)


@pytest.fixture
def tokens(tokenizer, tmp_path: Path) -> TokenCache:
    return token_cache(TEXTS, tokenizer, 20, tmp_path)


def test_a_share_of_the_tokens_is_chosen_and_most_of_them_become_the_mask(tokenizer):
    masking = Masking.of(tokenizer, 0.2)
    ids = np.tile(np.arange(len(tokenizer)), 2000)
    chosen, shown = masking.hide(ids, np.arange(len(ids)), seed=0, epoch=0)
    open_to = ~np.isin(ids, masking.special)
    assert chosen[open_to].mean() == pytest.approx(0.2, abs=0.01)
    assert not chosen[~open_to].any()
    assert (shown[chosen] == masking.mask).mean() == pytest.approx(0.8, abs=0.01)
    assert (shown[chosen] == ids[chosen]).mean() == pytest.approx(0.1, abs=0.02)
    assert not np.isin(shown[chosen], masking.special[masking.special != masking.mask]).any()
    assert (shown[~chosen] == ids[~chosen]).all()


def test_a_batch_tells_what_stood_where_tokens_are_hidden(tokenizer, tokens):
    masking = Masking.of(tokenizer, 0.5)
    rows = np.array([3, 1])
    batch, plain = masked_batch(tokens, rows, masking, seed=0, epoch=0), tokens.batch(rows)
    assert len(batch.token) > 2
    assert torch.equal(plain.ids[plain.mask][batch.token], batch.original)
    repaired = batch.texts.ids[batch.texts.mask].clone()
    repaired[batch.token] = batch.original
    assert torch.equal(repaired, plain.ids[plain.mask])
    assert (batch.rows, batch.tokens) == (2, int(plain.mask.sum()))


def test_what_is_hidden_depends_on_seed_epoch_and_text_alone(tokenizer, tokens):
    rows = MaskedRows(tokens, np.arange(len(TEXTS)), Masking.of(tokenizer, 0.5), seed=3)

    def hidden(epoch: int, places: list[int]) -> list[list[int]]:
        batch = rows.assemble(Draw(epoch=epoch, number=0, rows=np.array(places)))
        return [row[mask].tolist() for row, mask in zip(batch.texts.ids, batch.texts.mask, strict=True)]

    together = hidden(0, [1, 3, 4])
    assert [*hidden(0, [1]), *hidden(0, [3]), *hidden(0, [4])] == together
    assert hidden(1, [1, 3, 4]) != together


def test_a_batch_in_which_nothing_is_hidden_is_a_batch(tokenizer, tokens):
    batch = masked_batch(tokens, np.array([4]), Masking.of(tokenizer, 1e-9), seed=0, epoch=0)
    assert (len(batch.token), batch.rows) == (0, 1)


def test_processes_judge_every_held_out_text_once_and_alike(tokenizer, tokens):
    masking = Masking.of(tokenizer, 0.5)

    def found(parts: int) -> list[tuple[list[int], list[int]]]:
        batches = [
            batch
            for part in range(parts)
            for batch in masked_evaluations(tokens, np.arange(5), masking, batch_size=1, part=part, parts=parts)
        ]
        return sorted((batch.texts.ids[0].tolist(), batch.original.tolist()) for batch in batches)

    assert len(found(1)) == 5
    assert found(2) == found(1)


def test_the_words_of_held_out_queries_are_not_learnt(cascade):
    queries = cascade.data.queries
    texts, held = known_texts(cascade.data, 0.2)
    asked = {queries.texts[query] for query in np.flatnonzero(queries.stage > 1)}
    own = set(cascade.data.catalogue.texts)
    assert own <= set(texts)
    assert not (asked - own) & set(texts)
    assert 0 < held.sum() < len(texts)


def test_a_data_set_without_texts_is_refused(cascade):
    config = DataConfig(root=cascade.config.root, items=ItemsConfig(category=["kind"]), tables={"queries": ""})
    with pytest.raises(InputError, match=r"data\.items\.text"):
        known_texts(prepare(config), 0.1)


def test_a_tokenizer_without_a_mask_is_refused(tokenizer):
    class Bare:
        mask_token_id = None

    with pytest.raises(InputError, match="no mask token"):
        Masking.of(Bare(), 0.1)
