"""Late interaction: the words of a request and of a candidate are read apart, and meet in a sum of best matches."""

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.models.fields import widened


def best_matches(first: Tensor, lengths: Tensor, second: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
    """How well the words of requests are found among those of their candidates (ColBERT, Khattab and Zaharia 2020,
    arXiv:2004.12832, equation 3, with the mean over the request's tokens in place of the sum).

    score(q, d) = 1/|q| sum over tokens i of q of max over tokens j of d of cos(q_i, d_j)

    Args:
        first: [tokens, W] states of the tokens of B requests, one request after the other.
        lengths: [B] int64 tokens of each; one at least.
        second: [m, T, W] states of the tokens of m texts.
        mask: [m, T] bool, which of them are real; one of each text at least.
        rows: [B, K] the candidates of each request, rows of `second`.

    Returns:
        [B, K] from -1 to 1.
    """
    with torch.autocast(first.device.type, enabled=False):  # in bf16, neighbours in the list would become equal
        first, second = (F.normalize(widened(states), dim=-1) for states in (first, second))
        found = []
        for words, texts in zip(first.split(lengths.tolist()), rows, strict=True):
            distinct, place = texts.unique(return_inverse=True)
            few = 2 * len(distinct) < len(second)  # where most are asked for, all of them cost less than a copy
            own, real = (second[distinct], mask[distinct]) if few else (second, mask)
            cosine = (words @ own.flatten(0, 1).T).view(len(words), *real.shape)
            found.append(cosine.masked_fill(~real, -2.0).amax(2).mean(0)[place if few else texts])
        return torch.stack(found)
