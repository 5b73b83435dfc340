"""Texts with some of their tokens hidden, to be guessed: what a text encoder is trained further on.

Which tokens are hidden, and by what, is a pure function of seed, epoch, text and place, as the order of the data is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from recsys.batch import MaskedBatch
from recsys.data.prepare import Prepared, hash_share
from recsys.data.sampling import Alike, Draw, uniform
from recsys.data.split import VALID
from recsys.data.tokens import LONGEST, TokenCache
from recsys.errors import InputError


def known_texts(data: Prepared, held_out: float) -> tuple[list[str], np.ndarray]:
    """The distinct texts of items and queries that are of no held-out split, and of all reviews and ads (they are words
    to this training, whatever their time), sorted; and which of them are held out by a hash of the text: a share of
    about `held_out`.
    """
    queries, held = data.queries, data.catalogue.stage
    own = data.catalogue.texts if held is None else [data.catalogue.texts[row] for row in np.flatnonzero(held < VALID)]
    learnt = [] if queries is None else [queries.texts[row] for row in np.flatnonzero(queries.stage < VALID)]
    said = [text for notes in data.notes.values() for text in notes.texts]
    texts = sorted({*own, *learnt, *said} - {""})
    if len(texts) < 2:
        raise InputError("There are no texts to learn from; name text columns in data.items.text.")
    return texts, np.array([hash_share(f"masked {text}") < held_out for text in texts])


@dataclass(frozen=True, kw_only=True)
class Masking:
    """What is hidden and how: of the tokens that are chosen, 80 % become the mask, 10 % any token, 10 % stay (Devlin et
    al. 2019, section 3.1).
    """

    share: float
    mask: int
    """Id of the mask token."""
    special: np.ndarray
    """[S] ids that are never chosen and never put in."""
    vocab: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, share: float) -> "Masking":
        """As this tokenizer has it. Raises InputError if it has no mask token."""
        if tokenizer.mask_token_id is None:
            raise InputError("The text model's tokenizer has no mask token; choose a model that has one, as a BERT.")
        special = np.array(sorted(tokenizer.all_special_ids), dtype=np.int64)
        return cls(share=share, mask=int(cast("int", tokenizer.mask_token_id)), special=special, vocab=len(tokenizer))

    def hide(self, ids: np.ndarray, key: np.ndarray, *, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Which of these tokens [n] are chosen, and what stands there instead; `key` [n] names each token's place."""
        open_to = ~np.isin(ids, self.special)
        chosen = open_to & (uniform(seed, epoch, 4 * key) < self.share)
        way, other = uniform(seed, epoch, 4 * key + 1), uniform(seed, epoch, 4 * key + 2)
        drawn = (other * self.vocab).astype(np.int64)
        shown = np.where(way < 0.8, self.mask, np.where((way < 0.9) & ~np.isin(drawn, self.special), drawn, ids))
        return chosen, np.where(chosen, shown, ids)


class MaskedRows:
    """Training rows of masked-language modelling: one text each."""

    alike: Alike | None = None

    def __init__(self, tokens: TokenCache, rows: np.ndarray, masking: Masking, *, seed: int) -> None:
        """`rows` are the texts of `tokens` that are learnt from."""
        self.tokens, self.rows, self.masking, self.seed = tokens, rows, masking, seed

    def lengths(self, epoch: int) -> np.ndarray:
        """Tokens of each text."""
        return self.tokens.lengths[self.rows]

    def groups(self) -> np.ndarray:
        """All of one kind."""
        return np.zeros(len(self.rows), dtype=np.int64)

    def assemble(self, draw: Draw) -> MaskedBatch:
        """Make one batch."""
        return masked_batch(self.tokens, self.rows[draw.rows], self.masking, seed=self.seed, epoch=draw.epoch)


def masked_batch(tokens: TokenCache, rows: np.ndarray, masking: Masking, *, seed: int, epoch: int) -> MaskedBatch:
    """These texts, with some tokens hidden."""
    texts = tokens.batch(rows)
    mask = texts.mask.numpy()
    owner, place = np.nonzero(mask)
    ids = texts.ids.numpy()[mask]
    chosen, shown = masking.hide(ids, rows[owner] * LONGEST + place, seed=seed, epoch=epoch)
    hidden = texts.ids.clone()
    hidden[texts.mask] = torch.from_numpy(shown)
    at = np.flatnonzero(chosen)
    return MaskedBatch(
        texts=replace(texts, ids=hidden), token=torch.from_numpy(at), original=torch.from_numpy(ids[at]),
        tokens=len(ids),
    )  # fmt: skip


def masked_evaluations(
    tokens: TokenCache, rows: np.ndarray, masking: Masking, *, batch_size: int = 64, part: int = 0, parts: int = 1
) -> Iterator[MaskedBatch]:
    """Held-out texts, the same tokens of them hidden in every epoch, dealt to one of several processes."""
    mine = rows[part::parts]
    mine = mine[np.argsort(tokens.lengths[mine], kind="stable")]
    for start in range(0, len(mine), batch_size):
        yield masked_batch(tokens, mine[start : start + batch_size], masking, seed=0, epoch=0)
