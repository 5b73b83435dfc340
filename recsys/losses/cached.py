"""Large batches in constant memory: encode in chunks without gradients, then once more for the gradients.

GradCache (Gao et al. 2021, arXiv:2101.06983): the loss sees the vectors of the whole batch; the activations of one
chunk exist at a time. The price is a second forward pass. Dropout is the same in both, as the random state is replayed.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CachedVectors:
    """The vectors of all chunks as a leaf, and what it takes to bring its gradient further."""

    vectors: Tensor  # [n, W], requires a gradient
    encode: Callable[[Any], Tensor]
    chunks: Sequence[Any]
    sizes: Sequence[int]
    states: Sequence[tuple[Tensor, ...]]

    def backward(self, context: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        """Encode each chunk again, in `context`, and pass the leaf's gradient on to the weights of `encode`."""
        grad = self.vectors.grad
        if grad is None:
            return
        now = _random_state(self.vectors.device)
        for chunk, state, part in zip(self.chunks, self.states, torch.split(grad, list(self.sizes)), strict=True):
            _set_random_state(state, self.vectors.device)
            with context():
                found = self.encode(chunk)
            torch.autograd.backward(found, part.to(found.dtype))
        _set_random_state(now, self.vectors.device)


def encode_in_chunks(
    encode: Callable[[Any], Tensor], chunks: Sequence[Any], sizes: Sequence[int], device: torch.device
) -> CachedVectors:
    """Encode chunks, at least one, one after the other, keeping vectors alone.

    Vectors and random states have one piece of memory each: small pieces, made between the large ones of an encoder's
    activations, would keep an allocator from giving those back.

    Args:
        encode: a chunk -> [n, W]; its randomness is that of `device`'s default generators.
        chunks: whatever `encode` takes.
        sizes: n of each chunk.
        device: where the vectors are.
    """
    states = [one.new_empty((len(chunks), len(one))) for one in _random_state(device)]
    vectors = torch.empty(0)
    with torch.no_grad():
        for number, (chunk, end) in enumerate(zip(chunks, accumulate(sizes), strict=True)):
            for kept, state in zip(states, _random_state(device), strict=True):
                kept[number] = state
            found = encode(chunk)
            vectors = vectors if number else found.new_empty((sum(sizes), found.shape[1]))
            vectors[end - len(found) : end] = found
    replayed = list(zip(*states, strict=True))
    return CachedVectors(vectors=vectors.requires_grad_(), encode=encode, chunks=chunks, sizes=sizes, states=replayed)


def cut_chunks(lengths: Tensor, *, rows: int | None, tokens: int | None) -> list[Tensor]:
    """Numbers of texts, longest first, in chunks of at most `rows` texts and `tokens` tokens, padding included.

    A chunk has one text at least. Together the chunks are a permutation of all n texts.
    """
    order = lengths.argsort(descending=True, stable=True)
    sizes: list[int] = []
    here, longest = 0, 1
    for length in map(int, lengths[order]):
        full = here and ((rows is not None and here >= rows) or (tokens is not None and (here + 1) * longest > tokens))
        if full or not here:
            sizes += [here] if full else []
            here, longest = 0, max(length, 1)
        here += 1
    return list(torch.split(order, [*sizes, here])) if len(order) else []


def _random_state(device: torch.device) -> tuple[Tensor, ...]:
    on_device = (torch.cuda.get_rng_state(device),) if device.type == "cuda" else ()
    return torch.get_rng_state(), *on_device


def _set_random_state(state: tuple[Tensor, ...], device: torch.device) -> None:
    torch.set_rng_state(state[0].clone())  # torch reads from the start of the memory, whatever part of it is meant
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1].clone(), device)
