"""The two towers: items to vectors, users (history, profile, context, query) to vectors in the same space."""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.batch import ItemBatch, TextBatch, UserBatch
from recsys.config import ImageConfig, TextConfig
from recsys.errors import InputError
from recsys.models.dropout import Dropout
from recsys.models.dynamic import DynamicConfig, DynamicItems
from recsys.models.fields import Categories, Numbers, absent, contribution, widened
from recsys.models.history import HistoryEncoder, HistoryEncoderConfig
from recsys.models.image import ImageEncoder
from recsys.models.queries import mean_of_known
from recsys.models.ready import ReadyMade, shown_in_turn
from recsys.models.text import TextEncoder

LARGEST_SCALE = 100.0
"""Of the scores (as in CLIP, Radford et al. 2021): the temperature is at least 0.01."""


ID_GAIN = 8.0
"""Of the learnt id vectors. Adam's steps have a fixed size whatever the scale of a weight, and an item is met far more
rarely than a shared weight: with the gain its vector moves as fast as the rest of the model needs."""


@dataclass(frozen=True, kw_only=True)
class RetrieverConfig:
    """What the two towers are made of. A source that is not named does not exist in the model."""

    text: TextConfig | None = None
    """Text encoder of items and queries (shared)."""
    image: ImageConfig | None = None
    """Image encoder of items, where data.items.image names a column, and of queries (shared) by data.queries.image."""
    hide: float = 0.0
    """Share of a training batch's items whose words are hidden, of those whose picture is, and of those whose vector is
    of each column of data.items.vectors (never all of these that an item has), of the users whose profile is and of
    those whose moment is: none is leant on alone, and what is missing is known."""
    width: int | None = None
    """Width of the vectors; null: the text encoder's own, without a projection."""
    id_vector: bool = True
    """Whether every item has a learnt vector beside its content; an unseen item goes by content alone."""
    history: HistoryEncoderConfig | None = field(default_factory=HistoryEncoderConfig)
    """History encoder, or null for none."""
    profile: bool = True
    """Whether the user's category and number columns are used, where there are some."""
    context: bool = True
    """Whether the context columns of the moment are used, where there are some."""
    normalize: bool = False
    """Vectors of unit length: scores are cosines."""
    temperature: float | None = None
    """Softmax temperature of the scores; null: 0.05 for unit vectors, else the square root of the width."""
    learn_temperature: bool = False
    """Whether the temperature is trained, from `temperature` on."""
    dropout: float = 0.1
    """On the item's content features."""
    dynamic: DynamicConfig | None = None
    """Representation of a candidate that depends on the user and the moment; null: none, and the moment speaks through
    the user's vector alone."""

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 1:
            raise InputError(f"model.width is {self.width}; expected a positive width such as 128, or null.")
        if self.temperature is not None and self.temperature < 1 / LARGEST_SCALE:
            raise InputError(f"model.temperature is {self.temperature}; expected {1 / LARGEST_SCALE} or more, or null.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"model.dropout is {self.dropout}; expected a share in [0, 1).")
        if not 0 <= self.hide <= 0.5:
            raise InputError(f"model.hide is {self.hide}; expected a share from 0 to 0.5.")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes that the data give: number of known values of each column."""

    items: int
    item_category: list[int] = field(default_factory=list)
    item_columns: list[str] = field(default_factory=list)
    """Names of those columns; empty where nobody asks for one by its name."""
    item_number: int = 0
    item_vectors: list[int] = field(default_factory=list)
    """Widths of the columns of ready-made vectors."""
    user_category: list[int] = field(default_factory=list)
    user_number: int = 0
    context: list[int] = field(default_factory=list)
    turns: list[list[float]] = field(default_factory=list)
    """Of each context column that goes round, where its values stand; empty for the others."""
    event: int = 0
    vocab: int = 0
    reviews: int | None = None
    """Numbers beside each review; None: there are no reviews."""
    ads: int | None = None
    """Likewise."""
    neighbours: int = 0
    """Numbers of each candidate that the history tells by alike items."""


class Retriever(nn.Module):
    """Two towers with one text encoder. It does not know that it is distributed, nor what loss trains it."""

    def __init__(
        self, config: RetrieverConfig, sizes: Sizes, text: TextEncoder | None, image: ImageEncoder | None = None
    ) -> None:
        super().__init__()
        self.config, self.sizes, self.text, self.image = config, sizes, text, image
        width = config.width or (text.width if text else None)
        if width is None:
            raise InputError("model.width is null and no text encoder has a width of its own; set it, e.g. to 128.")
        self.width = width
        self.items = ItemTower(config, sizes, width, text.width if text else 0, image.width if image else 0)
        self.users = UserTower(config, sizes, width)
        self.dynamic = None if config.dynamic is None else DynamicItems(config.dynamic, self.items.sources, width)
        if text is None and image is None and self.users.out is None:
            remedy = "set model.history, model.text or model.image for queries, or data.users"
            raise InputError(f"Nothing describes a user: {remedy}.")
        start = config.temperature or (0.05 if config.normalize else math.sqrt(width))
        self.log_scale = nn.Parameter(torch.tensor(-math.log(start)), requires_grad=config.learn_temperature)

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, at most `LARGEST_SCALE`, from where its gradient can still bring it back."""
        beyond = (self.log_scale - math.log(LARGEST_SCALE)).clamp(min=0).detach()
        return (self.log_scale - beyond).exp()

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
        """[n, D] item vectors; with `dynamic` [n, D + h], each followed by its features (`vectors` leaves them out)."""
        text = self.text_vectors(batch.text, batch.text_vector)
        image = self.image_vectors(batch.image, batch.image_vector, batch.image_known)
        unused = absent(self.text if text is None else None, self.image if image is None else None)
        sources = self.items.sources_of(batch, text, image)
        vectors = self.normalised(self.items(sources) + unused)
        return vectors if self.dynamic is None else torch.cat([vectors, self.dynamic.states(sources)], dim=-1)

    def vectors(self, items: Tensor) -> Tensor:
        """[..., D] the vectors among what `encode_items` gives; a user's times one of them is the plain score."""
        return items[..., : self.width]

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """[R, K] scores of K candidates for each of R users: u . S_i, or u . v_i without `dynamic`.

        Args:
            users: [R, D].
            items: [R, K, D + h] rows of what `encode_items` gives.
        """
        plain = torch.bmm(self.vectors(items), users[..., None])[..., 0]
        return plain if self.dynamic is None else plain + self.dynamic(users, items[..., self.width :])

    def image_vectors(self, pixels: Tensor | None, vectors: Tensor | None, known: Tensor | None) -> Tensor | None:
        """[n, W] pooled states of pictures [n, 3, P, P]: computed, of those that are known [n], or the cached ones."""
        if vectors is not None or pixels is None or known is None:
            return vectors
        assert self.image is not None
        rows = known.nonzero()[:, 0]
        found = self.image(pixels[rows])
        whole = found.new_zeros(len(known), found.shape[1]).index_copy(0, rows, found)
        return whole + absent(self.image)  # some architectures have weights that no picture passes

    def encode_users(self, batch: UserBatch, items: Tensor) -> Tensor:
        """[B, H + 1, D] user vectors before each event and after the last; `items` [n, D] come from `encode_items`."""
        batch, items = self._partly_hidden(batch), self.vectors(items)
        return self.normalised(self.users(batch, items, self.query_vectors(batch)))

    def query_vectors(self, batch: UserBatch) -> Tensor | None:
        """[q, D] of the batch's queries, the mean of what words and picture say by the encoders and projections of the
        items'; zero for one that has neither. None where there is nothing to read.
        """
        text = self.text_vectors(batch.query_text, batch.query_vector)
        image = self.image_vectors(batch.query_image, batch.query_image_vector, batch.query_image_known)
        told = [] if text is None else [(self.items.project_text(text), batch.query_text_known)]
        told += [] if image is None else [(self.items.project_image(image), batch.query_image_known)]
        return self.normalised(mean_of_known(told)) if told else None

    def _partly_hidden(self, batch: UserBatch) -> UserBatch:
        """In training, profiles and moments of a share `hide` of the users are missing, each drawn by itself."""
        if not (self.training and self.config.hide):
            return batch
        draw = torch.rand(2, len(batch.history), 1, device=batch.history.device)
        profile, moment = (draw < self.config.hide).unbind()
        known, numbers, context = batch.profile, batch.profile_number, batch.context
        return replace(
            batch,
            profile=None if known is None else known.masked_fill(profile[..., None], 0),
            profile_number=None if numbers is None else numbers.masked_fill(profile, torch.nan),
            context=None if context is None else context.masked_fill(moment[..., None], 0),
        )

    def normalised(self, vectors: Tensor) -> Tensor:
        """The same vectors in float32, of length 1 where the config wants it."""
        return F.normalize(widened(vectors), dim=-1) if self.config.normalize else widened(vectors)


class ItemTower(nn.Module):
    """Text, picture, categories, numbers, an optional learnt id vector and ready-made vectors, summed in the model's
    width and normalised.

    A picture or vector that is missing is a learnt one; so are words where a batch has none, or they are hidden in
    training.
    """

    def __init__(
        self, config: RetrieverConfig, sizes: Sizes, width: int, text_width: int, image_width: int = 0
    ) -> None:
        super().__init__()
        columns = sizes.item_category or sizes.item_number or sizes.item_vectors
        others = config.id_vector or bool(columns) or bool(image_width)
        if not text_width and not others:
            raise InputError("Nothing describes an item: set model.text, model.id_vector: true, or category columns.")
        self.width, self.text_only, self.reads_text = width, not others, bool(text_width)
        self.text_norm = nn.LayerNorm(text_width) if text_width and others else nn.Identity()
        plain = not text_width or (self.text_only and width == text_width)
        self.text = None if plain else nn.Linear(text_width, width)
        self.image = nn.Sequential(nn.LayerNorm(image_width), nn.Linear(image_width, width)) if image_width else None
        self.no_image = nn.Parameter(torch.zeros(width)) if image_width else None
        self.hide = config.hide if bool(text_width) + bool(image_width) + len(sizes.item_vectors) > 1 else 0.0
        self.no_text = nn.Parameter(torch.zeros(width)) if text_width and others else None
        self.category = Categories(sizes.item_category, width) if sizes.item_category else None
        self.number = Numbers(sizes.item_number, width) if sizes.item_number else None
        self.id = _id_vectors(sizes.items, width) if config.id_vector else None
        self.ready = ReadyMade(sizes.item_vectors, width, config.dropout) if sizes.item_vectors else None
        self.dropout = Dropout(config.dropout if others else 0.0)
        self.norm = nn.LayerNorm(width) if others else nn.Identity()
        told = (text_width, image_width, sizes.item_category, sizes.item_number, config.id_vector)
        self.sources = sum(map(bool, told)) + len(sizes.item_vectors)

    def project_text(self, text: Tensor) -> Tensor:
        """[q, W] text states -> [q, D]."""
        text = self.dropout(self.text_norm(widened(text)))
        return text if self.text is None else self.text(text)

    def project_image(self, image: Tensor) -> Tensor:
        """[n, W] states of pictures -> [n, D]."""
        assert self.image is not None
        return self.dropout(self.image(widened(image)))

    def sources_of(self, batch: ItemBatch, text: Tensor | None, image: Tensor | None = None) -> Tensor:
        """[n, S, D] state of each source; `text` and `image` [n, W] are the states of the items' words and pictures."""
        words, picture, ready = self._shown(batch, text, image)
        found = [self._words(text, words)] if self.reads_text else []
        found += [self._picture(image, picture)] if self.image is not None else []
        found += [self.dropout(contribution(self.category, batch.category))] if self.category is not None else []
        found += [contribution(self.number, batch.number)] if self.number is not None else []
        if self.id is not None:
            found.append(ID_GAIN * self.id(torch.where(batch.index < 0, self.id.num_embeddings - 1, batch.index)))
        found += self.ready(batch.ready_vector, ready) if self.ready is not None else []
        return torch.stack([widened(one).expand(len(batch.index), self.width) for one in found], dim=1)

    def forward(self, sources: Tensor) -> Tensor:
        """[n, S, D] -> [n, D]."""
        return self.norm(sources.sum(1))

    def _shown(
        self, batch: ItemBatch, text: Tensor | None, image: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """[n, 1], [n, 1] and [n, S] bool, of whose words, picture and ready-made vectors something is told; None: of
        all that have words, and of no picture or vector.
        """
        words, picture = batch.text_known, None if image is None else batch.image_known
        ready = None if self.ready is None or batch.ready_vector is None else batch.ready_known
        if self.training and self.hide:
            nothing = torch.zeros_like(batch.index, dtype=torch.bool)
            told = nothing if text is None else ~nothing if words is None else words
            vectors = [] if ready is None else ready.unbind(1)
            there = torch.stack([told, nothing if picture is None else picture, *vectors], dim=1)
            shown = shown_in_turn(there, self.hide)
            words, picture, ready = shown[:, 0], shown[:, 1], None if ready is None else shown[:, 2:]
        return None if words is None else words[:, None], None if picture is None else picture[:, None], ready

    def _words(self, text: Tensor | None, shown: Tensor | None) -> Tensor:
        if text is None:
            return absent(self.text_norm, self.text) + (0.0 if self.no_text is None else self.no_text)
        words = self.project_text(text)
        if self.no_text is None or shown is None:
            return words + absent(self.no_text)
        return torch.where(shown, words, self.no_text)

    def _picture(self, image: Tensor | None, shown: Tensor | None) -> Tensor:
        if self.image is None or self.no_image is None:
            return absent()
        if image is None or shown is None:
            return absent(self.image) + self.no_image
        return torch.where(shown, self.project_image(image), self.no_image)


def _id_vectors(items: int, width: int) -> nn.Embedding:
    """A vector for each item, and a last one of zeros, which is never trained: an unseen item goes by its content."""
    table = nn.Embedding(items + 1, width)
    nn.init.normal_(table.weight, std=0.02)
    nn.init.zeros_(table.weight[-1])
    return table


class UserTower(nn.Module):
    """History transformer with profile and moment; the query's words and picture are added to its last state.

    Of whom nothing is known but the query, that query's own vector is the user's: a pretrained text encoder keeps what
    it knows.
    """

    def __init__(self, config: RetrieverConfig, sizes: Sizes, width: int) -> None:
        super().__init__()
        self.profile = Categories(sizes.user_category, width) if config.profile and sizes.user_category else None
        self.profile_number = Numbers(sizes.user_number, width) if config.profile and sizes.user_number else None
        self.context = Categories(sizes.context, width, sizes.turns) if config.context and sizes.context else None
        self.history = HistoryEncoder(config.history, width) if config.history else None
        self.event = nn.Embedding(sizes.event + 2, width) if config.history and sizes.event else None  # last: a search
        if self.event is not None:
            nn.init.normal_(self.event.weight, std=width**-0.5)
        self.search = nn.Parameter(torch.zeros(width)) if config.history and config.text else None
        sources = (self.profile, self.profile_number, self.context, self.history)
        self.out = nn.Linear(width, width) if any(source is not None for source in sources) else None

    def forward(self, batch: UserBatch, items: Tensor, queries: Tensor | None) -> Tensor:
        """[B, H + 1, D]; `queries` [q, D] are the vectors of the batch's queries."""
        moment = None if batch.context is None else batch.context[..., None]
        state = self._history(batch, items, queries) + contribution(self.context, moment)
        vectors = state if self.out is None else self.out(state)
        if batch.query is None or queries is None:
            return vectors
        asks = (batch.query >= 0)[:, None, None]
        words = queries[batch.query.clamp(min=0)][:, None]
        unknown = asks & ~self._known(batch)[..., None]
        return torch.where(unknown, 0.0, vectors) + torch.where(asks, words, 0.0)

    def _history(self, batch: UserBatch, items: Tensor, queries: Tensor | None) -> Tensor:
        """[B, H + 1, D] states from entries and profile."""
        rows, length = batch.history.shape
        profile = items.new_zeros(rows, items.shape[1])
        profile = profile + contribution(self.profile, batch.profile)
        profile = profile + contribution(self.profile_number, batch.profile_number)
        if self.history is None:
            return profile[:, None].expand(-1, length + 1, -1)
        position = batch.position
        if position is None:
            position = torch.arange(length, device=items.device).expand(rows, length)
        entries = F.embedding(batch.history, self._entries(items, queries))
        return self.history(entries + contribution(self.event, batch.event), position, profile)

    def _entries(self, items: Tensor, queries: Tensor | None) -> Tensor:
        """[n + q, D]: what an entry of a history can be."""
        if self.search is None:
            return items
        return items + absent(self.search) if queries is None else torch.cat([items, queries + self.search])

    def _known(self, batch: UserBatch) -> Tensor:
        """[B, H + 1] bool: whether an earlier entry, the profile or the moment tells something of the user."""
        rows, length = batch.history.shape
        known = torch.arange(length + 1, device=batch.history.device).expand(rows, -1) > 0
        known = known if self.history is not None else torch.zeros_like(known)
        if self.profile is not None and batch.profile is not None:
            known = known | (batch.profile > 0).flatten(1).any(1, keepdim=True)
        if self.profile_number is not None and batch.profile_number is not None:
            known = known | ~batch.profile_number.isnan().all(1, keepdim=True)
        if self.context is not None and batch.context is not None:
            known = known | (batch.context > 0).any(-1)
        return known
