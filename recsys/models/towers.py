"""The two towers: items to vectors, users (history, profile, context, query) to vectors in the same space."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from recsys.batch import ItemBatch, TextBatch, UserBatch
from recsys.config import TextConfig
from recsys.errors import InputError
from recsys.models.fields import Categories, Numbers
from recsys.models.history import HistoryEncoder, HistoryEncoderConfig
from recsys.models.text import TextEncoder


@dataclass(frozen=True, kw_only=True)
class RetrieverConfig:
    """What the two towers are made of. A source that is not named does not exist in the model."""

    text: TextConfig | None = None
    """Text encoder of items and queries (shared)."""
    width: int | None = None
    """Width of the vectors; null: the text encoder's own, without a projection."""
    id_vector: bool = True
    """Whether every item has a learnt vector beside its content; an unseen item goes by content alone."""
    history: HistoryEncoderConfig | None = field(default_factory=HistoryEncoderConfig)
    """History transformer, or null for none."""
    profile: bool = True
    """Whether the user's category and number columns are used, where there are some."""
    context: bool = True
    """Whether the context columns of the moment are used, where there are some."""
    normalize: bool = False
    """Vectors of unit length: scores are cosines."""
    temperature: float | None = None
    """Softmax temperature of the scores; null: 0.05 for unit vectors, else the square root of the width."""
    learn_temperature: bool = False
    dropout: float = 0.1
    """On the item's content features."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes that the data give: number of known values of each column."""

    items: int
    item_category: list[int] = field(default_factory=list)
    item_number: int = 0
    user_category: list[int] = field(default_factory=list)
    user_number: int = 0
    context: list[int] = field(default_factory=list)
    event: int = 0
    vocab: int = 0


class Retriever(nn.Module):
    """Two towers with one text encoder. It does not know that it is distributed, nor what loss trains it."""

    def __init__(self, config: RetrieverConfig, sizes: Sizes, text: TextEncoder | None) -> None:
        super().__init__()
        self.config, self.sizes, self.text = config, sizes, text
        width = config.width or (text.width if text else None)
        if width is None:
            raise InputError("model.width is null and there is no text encoder whose width could serve; set model.width, e.g. 128.")
        self.width = width
        self.items = ItemTower(config, sizes, width, text.width if text else 0)
        self.users = UserTower(config, sizes, width)
        start = config.temperature or (0.05 if config.normalize else math.sqrt(width))
        self.log_scale = nn.Parameter(torch.tensor(-math.log(start)), requires_grad=config.learn_temperature)

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, at most 100 (as in CLIP)."""
        return self.log_scale.exp().clamp(max=100.0)

    @property
    def text_only(self) -> bool:
        """Whether an item's vector depends on its text alone."""
        return self.items.text_only

    def text_vectors(self, tokens: TextBatch | None, vectors: Tensor | None) -> Tensor | None:
        """[q, W] pooled text states: computed, or the cached ones of a frozen encoder."""
        if vectors is not None or tokens is None:
            return vectors
        assert self.text is not None
        return self.text(tokens)

    def encode_items(self, batch: ItemBatch) -> Tensor:
        """[n, D] item vectors."""
        vectors = self.items(batch, self.text_vectors(batch.text, batch.text_vector))
        return F.normalize(vectors.float(), dim=-1) if self.config.normalize else vectors.float()

    def encode_users(self, batch: UserBatch, items: Tensor) -> Tensor:
        """[B, H + 1, D] user vectors before each event and after the last one; `items` [n, D] as `encode_items` gives them."""
        text = self.text_vectors(batch.query_text, batch.query_vector)
        queries = None if text is None else self.items.project_text(text)
        if queries is not None and self.config.normalize:
            queries = F.normalize(queries.float(), dim=-1)
        vectors = self.users(batch, items, queries)
        return F.normalize(vectors.float(), dim=-1) if self.config.normalize else vectors.float()


class ItemTower(nn.Module):
    """Text, categories, numbers and an optional learnt id vector, summed in the model's width and normalised."""

    def __init__(self, config: RetrieverConfig, sizes: Sizes, width: int, text_width: int) -> None:
        super().__init__()
        self.text_only = bool(text_width) and not (config.id_vector or sizes.item_category or sizes.item_number)
        self.text_norm = nn.Identity() if self.text_only or not text_width else nn.LayerNorm(text_width)
        plain = self.text_only and width == text_width
        self.text = None if plain or not text_width else nn.Linear(text_width, width)
        self.category = Categories(sizes.item_category, width) if sizes.item_category else None
        self.number = Numbers(sizes.item_number, width) if sizes.item_number else None
        self.id = nn.Embedding(sizes.items + 1, width) if config.id_vector else None  # the last row: an unseen item
        if self.id is not None:
            nn.init.normal_(self.id.weight, std=0.16)
        self.dropout = nn.Dropout(0.0 if self.text_only else config.dropout)
        self.norm = nn.Identity() if self.text_only else nn.LayerNorm(width)

    def project_text(self, text: Tensor) -> Tensor:
        """[q, W] text states -> [q, D]."""
        text = self.dropout(self.text_norm(text.float()))
        return text if self.text is None else self.text(text)

    def forward(self, batch: ItemBatch, text: Tensor | None) -> Tensor:
        parts = []
        if text is not None:
            parts.append(self.project_text(text))
        if self.category is not None:
            parts.append(self.dropout(self.category(batch.category)))
        if self.number is not None:
            parts.append(self.number(batch.number))
        if self.id is not None:
            parts.append(self.id(torch.where(batch.index < 0, self.id.num_embeddings - 1, batch.index)))
        return self.norm(torch.stack(parts).sum(dim=0)) if not self.text_only else parts[0]


class UserTower(nn.Module):
    """History transformer with profile and moment; the query's words are added to its last state.

    A user with a query alone has the query's own vector, so that a pretrained text encoder keeps what it knows.
    """

    def __init__(self, config: RetrieverConfig, sizes: Sizes, width: int) -> None:
        super().__init__()
        self.profile = Categories(sizes.user_category, width) if config.profile and sizes.user_category else None
        self.profile_number = Numbers(sizes.user_number, width) if config.profile and sizes.user_number else None
        self.context = Categories(sizes.context, width) if config.context and sizes.context else None
        self.event = nn.Embedding(sizes.event + 2, width) if sizes.event and config.history else None  # last: a search
        self.history = HistoryEncoder(config.history, width) if config.history else None
        self.search = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, width) if self.history or self.profile or self.context else None

    def forward(self, batch: UserBatch, items: Tensor, queries: Tensor | None) -> Tensor:
        profile = self._profile(batch)
        state = self._history(batch, items, queries, profile)
        if self.context is not None and batch.context is not None:
            state = state + self.context(batch.context[..., None])
        vectors = self.out(state) if self.out is not None else state
        if batch.query is None or queries is None:
            return vectors
        has = (batch.query >= 0)[:, None, None]
        return vectors + torch.where(has, queries[batch.query.clamp(min=0)][:, None], 0.0)

    def _profile(self, batch: UserBatch) -> Tensor | None:
        parts = []
        if self.profile is not None and batch.profile is not None:
            parts.append(self.profile(batch.profile))
        if self.profile_number is not None and batch.profile_number is not None:
            parts.append(self.profile_number(batch.profile_number))
        return torch.stack(parts).sum(dim=0) if parts else None

    def _history(self, batch: UserBatch, items: Tensor, queries: Tensor | None, profile: Tensor | None) -> Tensor:
        rows, length = batch.history.shape
        if self.history is None:
            state = items.new_zeros(rows, length + 1, items.shape[1])
            return state if profile is None else state + profile[:, None]
        entries = items if queries is None else torch.cat([items, queries + self.search])
        found = F.embedding(batch.history, entries)
        if self.event is not None and batch.event is not None:
            found = found + self.event(batch.event)
        position = batch.position
        if position is None:
            position = torch.arange(length, device=found.device).expand(rows, length)
        return self.history(found, position, profile)
