"""Columns -> texts, and the tokenizer that reads them.

A tokenizer comes with its model, or (model `config:`) is a WordPiece vocabulary trained on the data set's own texts, in
any language: the same texts give the same vocabulary, on every machine.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from recsys.config import TextConfig, resolve_pretrained
from recsys.errors import InputError, nearest
from recsys.shards import fingerprint, publish_folder

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
CHUNK = 10_000
"""Texts that are in work at once, so that memory stays flat."""
_RECIPE = 1  # of the trained tokenizer; a change makes old ones unused


def join_columns(frame: pl.DataFrame, columns: list[str]) -> list[str]:
    """One text a row: the columns' values joined with ". ", nulls, NaN and empty ones left out.

    Numbers, dates and categories stand as polars prints them, the entries of a list are joined with ", ", and space
    around a value goes. A row without any value gives "".
    """
    values = [_as_text(frame, column).alias(str(number)) for number, column in enumerate(columns)]
    if not values:
        return [""] * len(frame)
    return frame.select(pl.concat_str(values, separator=". ", ignore_nulls=True).fill_null("")).to_series().to_list()


def _as_text(frame: pl.DataFrame, column: str) -> pl.Expr:
    """The column as stripped strings; what says nothing is null."""
    kind, value = frame.schema.get(column), pl.col(column)
    if kind is None:
        raise InputError(f"Text column {column!r} is not in the table.{nearest(column, frame.columns)}")
    if isinstance(kind, pl.Struct | pl.Binary | pl.Object):
        raise InputError(f"Text column {column!r} has type {kind}; expected text, numbers, dates or lists of them.")
    if isinstance(kind, pl.List | pl.Array):
        entries = value.cast(pl.List(pl.String)).list.drop_nulls()
        value = entries.list.eval(pl.element().filter(pl.element() != "")).list.join(", ")
    elif kind.is_float():
        value = value.fill_nan(None)
    text = value.cast(pl.String).str.strip_chars()
    return pl.when(text != "").then(text)


def texts_digest(texts: Sequence[str]) -> str:
    """Hash of the texts and their order, the same on every machine."""
    digest = hashlib.blake2b(digest_size=16)
    for chunk in chunks(texts):
        digest.update(np.array([len(text) for text in chunk], dtype="<i8").tobytes())
        digest.update("".join(chunk).encode())
    return digest.hexdigest()


def chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in lists of at most CHUNK."""
    for start in range(0, len(texts), CHUNK):
        yield list(texts[start : start + CHUNK])


def load_tokenizer(config: TextConfig, texts: Sequence[str], folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of `config.model`.

    For `config:` it is trained on `texts` and kept in a sub-folder of `folder`, where the next call with the same texts
    finds it; for every other model `texts` and `folder` are not touched. It always has a padding token.
    Raises InputError if the model's tokenizer cannot be loaded, or reads fewer than `config.max_tokens`.
    """
    if config.from_scratch:
        tokenizer = _trained(config, texts, folder)
    else:
        tokenizer = _pretrained(config.model)
    if config.max_tokens > tokenizer.model_max_length:
        raise InputError(
            f"text.max_tokens is {config.max_tokens}, but {config.model!r} reads at most {tokenizer.model_max_length}; "
            f"set text.max_tokens: {tokenizer.model_max_length} or lower."
        )
    return tokenizer


def unknown_share(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> float:
    """Share of unknown tokens among all tokens of the uncut texts, special ones not counted; 0 for no token at all."""
    backend, unknown, total = plain_backend(tokenizer), 0, 0
    unknown_id = backend.token_to_id(str(tokenizer.unk_token))
    for chunk in chunks(texts):
        ids = [encoding.ids for encoding in backend.encode_batch_fast(chunk, add_special_tokens=False)]
        total += sum(map(len, ids))
        unknown += 0 if unknown_id is None else sum(row.count(unknown_id) for row in ids)
    return unknown / total if total else 0.0


def plain_backend(tokenizer: PreTrainedTokenizerFast, max_tokens: int | None = None) -> Tokenizer:
    """A copy of the tokenizer's Rust half that does not pad and cuts at `max_tokens`.

    The original keeps the padding and truncation of whoever called it last: neither hash nor output may show them.
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    if max_tokens is not None:
        backend.enable_truncation(max_tokens, direction=tokenizer.truncation_side)
    return backend


def _pretrained(name: str) -> PreTrainedTokenizerFast:
    source = resolve_pretrained(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # the Rust half raises bare Exception for a broken tokenizer.json
        raise InputError(
            f"No tokenizer could be loaded for text model {name!r} ({_first_line(error)}). Expected a folder with "
            "tokenizer.json, pkg:NAME, or the name of a Hugging Face model that this machine can reach."
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(f"Text model {name!r} has no fast tokenizer (tokenizer.json); choose a model that has one.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise InputError(f"The tokenizer of text model {name!r} has no padding token; choose a model that has one.")
    return tokenizer


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _trained(config: TextConfig, texts: Sequence[str], folder: Path) -> PreTrainedTokenizerFast:
    if not any(texts):
        raise InputError("text.model is 'config:' and there is no text to train its tokenizer on; name text columns.")
    home = folder / f"wordpiece-{fingerprint(_RECIPE, config.vocab, texts_digest(texts))}"
    if not (home / "tokenizer.json").is_file():
        with publish_folder(home) as made:
            train_wordpiece(texts, config.vocab).save_pretrained(made)
    return PreTrainedTokenizerFast.from_pretrained(home, model_max_length=max(512, config.max_tokens))


def train_wordpiece(texts: Sequence[str], vocab: int) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer (as BERT's, accents and vowel signs kept) of at most `vocab` pieces.

    Its order of pieces is [PAD] [UNK] [CLS] [SEP] [MASK], single characters, then merges. Half of the room at most goes
    to characters that start a word, half to those that continue one; the rarest others become [UNK].
    """
    if vocab < 100:
        raise InputError(f"text.vocab is {vocab}; a vocabulary needs at least 100 pieces.")
    clean = normalizers.BertNormalizer(strip_accents=False, lowercase=True)
    normalizer = normalizers.Sequence([normalizers.NFKC(), clean])
    pieces = _learn_pieces(texts, vocab, normalizer)
    backend = Tokenizer(models.WordPiece(vocab=pieces, unk_token=SPECIAL["unk_token"]))
    backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    ends = [(token, pieces[token]) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)


def _learn_pieces(texts: Sequence[str], vocab: int, normalizer: normalizers.Normalizer) -> dict[str, int]:
    """Piece -> id.

    The trainer numbers the pieces that continue a word in the order of a random hash, and breaks ties between merges by
    number; given those pieces up front, among the special tokens, it gives the same answer every time.
    """
    first, later = _alphabet(texts, normalizer, size=(vocab - len(SPECIAL)) // 2)
    learner = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk_token"]))
    learner.normalizer, learner.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab,
        special_tokens=[*SPECIAL.values(), *(f"##{letter}" for letter in later)],
        initial_alphabet=first,
        limit_alphabet=len(first),
        show_progress=False,
    )
    learner.train_from_iterator(chunks(texts), trainer, length=len(texts))
    return learner.get_vocab()


def _alphabet(texts: Sequence[str], normalizer: normalizers.Normalizer, size: int) -> tuple[list[str], list[str]]:
    """The `size` most frequent characters, sorted, and those of them that stand inside words."""
    counts: Counter[str] = Counter()
    inside: set[str] = set()
    for chunk in chunks(texts):
        words = normalizer.normalize_str("\n".join(chunk)).split()
        counts.update(chain.from_iterable(words))
        inside.update(chain.from_iterable(word[1:] for word in set(words)))
    kept = sorted(sorted(counts, key=lambda letter: (-counts[letter], letter))[:size])
    return kept, [letter for letter in kept if letter in inside]
