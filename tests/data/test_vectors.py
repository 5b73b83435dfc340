"""Texts as tokens or as vectors that are computed once."""

import numpy as np
import pytest

from recsys.data.text import train_wordpiece
from recsys.data.vectors import text_source
from recsys.vectors import FrozenEncoder

TEXTS = ["red hat", "blue hat and shoe", "shoe"]


@pytest.fixture
def tokenizer():
    return train_wordpiece(TEXTS, 120)


def lengths(tokens):
    lengths.calls += 1
    return tokens.lengths.astype(np.float32)[:, None]


def frozen(encode, key):
    return FrozenEncoder(encode=encode, width=1, key=key)


def test_without_an_encoder_tokens_go_into_the_batch(tmp_path, tokenizer):
    source = text_source(TEXTS, tokenizer, 16, tmp_path, frozen=None)
    tokens, vectors = source.read(np.array([2, 0]))
    assert vectors is None
    assert tokens.mask.sum(1).tolist() == [len(tokenizer(text)["input_ids"]) for text in ("shoe", "red hat")]


def test_vectors_are_computed_once_for_each_encoder_and_length(tmp_path, tokenizer):
    lengths.calls = 0
    expected = [[float(len(tokenizer(text)["input_ids"]))] for text in TEXTS]
    for _ in range(2):
        source = text_source(TEXTS, tokenizer, 16, tmp_path, frozen=frozen(lengths, "one"))
        tokens, vectors = source.read(np.arange(3))
        assert tokens is None
        assert vectors.tolist() == expected
    assert isinstance(source.vectors, np.memmap)
    assert lengths.calls == 1
    text_source(TEXTS, tokenizer, 16, tmp_path, frozen=frozen(lengths, "two"))
    text_source(TEXTS, tokenizer, 3, tmp_path, frozen=frozen(lengths, "one"))
    assert lengths.calls == 3


def test_a_text_that_had_a_vector_before_is_not_read_again(tmp_path, tokenizer):
    read = []

    def counted(tokens):
        read.append(len(tokens))
        return lengths(tokens)

    lengths.calls = 0
    text_source(TEXTS, tokenizer, 16, tmp_path, frozen=frozen(counted, "one"))
    changed = [*TEXTS[::-1], "hat and hat"]
    source = text_source(changed, tokenizer, 16, tmp_path, frozen=frozen(counted, "one"))
    assert read == [3, 1]
    _, vectors = source.read(np.arange(4))
    assert vectors.tolist() == [[float(len(tokenizer(text)["input_ids"]))] for text in changed]


def test_an_encoder_that_fails_leaves_no_vectors_behind(tmp_path, tokenizer):
    def broken(_):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        text_source(TEXTS, tokenizer, 16, tmp_path, frozen=frozen(broken, "one"))
    assert not list(tmp_path.rglob("DONE"))
