"""Items that change with who is looking: S_i = M(item, user, moment), between retrieval and pruning.

S_i = v_i + W a,   a = gelu((1 + g(u)) * z_i + b(u)),   score = u . S_i = u . v_i + (W^T u) . a

u is the user's vector, which knows the moment; v_i the item's vector; z_i [h] are features of the item's sources, side
by side, before they are summed to v_i. The user scales and shifts each of them (FiLM, Perez et al. 2018,
arXiv:1709.07871). z_i does not depend on the user and is kept beside v_i, so that a candidate costs little more than
the dot product does, and what a product of two vectors cannot hold, an *and* of several labels, can be learnt.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.errors import InputError


@dataclass(frozen=True, kw_only=True)
class DynamicConfig:
    """Size of the dynamic representation, and where it works."""

    width: int = 64
    """Features of an item that the user's side scales and shifts."""
    candidates: int = 200
    """Items that the plain vectors propose and S_i puts in order; longer lists are judged as a whole."""
    negatives: int = 32
    """Columns of a training step that each positive is told apart from by S_i: some of the `candidates` that score best
    beside it by the plain vectors."""

    def __post_init__(self) -> None:
        for name in ("width", "candidates", "negatives"):
            if getattr(self, name) < 1:
                raise InputError(f"model.dynamic.{name} is {getattr(self, name)}; expected at least 1.")


class DynamicItems(nn.Module):
    """M: features of items, and what they add to a score for a user. At the start it adds nothing."""

    def __init__(self, config: DynamicConfig, sources: int, width: int) -> None:
        """`sources` [D] states describe an item; `width` is D."""
        super().__init__()
        self.features = nn.Linear(sources * width, config.width)
        self.film = nn.Linear(width, 2 * config.width)
        self.out = nn.Linear(width, config.width, bias=False)  # W^T
        nn.init.zeros_(self.out.weight)

    def states(self, sources: Tensor) -> Tensor:
        """[n, S, D] states of the sources of n items -> [n, h] features."""
        return self.features(F.layer_norm(sources.flatten(1), (sources.shape[1] * sources.shape[2],)))

    def forward(self, users: Tensor, states: Tensor) -> Tensor:
        """[R, K] what is added to u . v_i, for [R, D] users and the [R, K, h] features of K candidates of each."""
        scale, shift = self.film(users)[:, None].chunk(2, dim=-1)
        active = F.gelu(torch.addcmul(shift, 1 + scale, states))
        return torch.bmm(active, self.out(users)[..., None])[..., 0]
