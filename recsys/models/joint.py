"""A small transformer over cached states: the user's side and all K candidates in one sequence.

A request costs H + K tokens, not K x (H + 1). The user's tokens see one another; a candidate sees the user's tokens and
itself, so that what it is worth does not depend on which others stand beside it.
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.batch import ItemBatch, NoteBatch, PrunerBatch, UserBatch
from recsys.errors import InputError
from recsys.models.crosses import latest_of_each_kind
from recsys.models.dropout import Dropout
from recsys.models.fields import Categories, Numbers, absent
from recsys.models.fusion import FusionKind, make_fusion
from recsys.models.notes import NoteEncoder
from recsys.models.searches import Sought
from recsys.models.towers import Sizes

USER, QUERY, PROFILE, MOMENT, HISTORY, CANDIDATE = range(6)


@dataclass(frozen=True, kw_only=True)
class JointConfig:
    """Size of the joint transformer."""

    width: int
    layers: int
    heads: int
    dropout: float
    history: int
    profile: bool
    context: bool
    matches: bool
    searches: bool
    fusion: FusionKind
    hide: float
    notes: int
    text_width: int
    """Of the frozen encoder's vectors; 0 for none."""
    image_width: int
    """Likewise."""
    vector_width: int
    """Of the retriever's vectors; 0 without a retriever."""
    evidence: int
    """Columns of the sources' evidence."""


class JointEncoder(nn.Module):
    """PrunerBatch -> [B, K, D] states of the candidates, normalised, and [B, K, D] fusions of their sources as they are
    before any layer; float32; those of padding mean nothing.

    A candidate is the fusion of its sources. One that is not there, or is hidden in training, is a learnt vector.
    """

    def __init__(self, config: JointConfig, sizes: Sizes) -> None:
        super().__init__()
        width, text_width = config.width, config.text_width
        self.hide, self.ready_widths = config.hide, sizes.item_vectors
        self.words = _projection(text_width, width) if text_width else None
        self.picture = _projection(config.image_width, width) if config.image_width else None
        ready = {f"vectors{at}": wide for at, wide in enumerate(sizes.item_vectors)}
        self.ready = nn.ModuleDict({name: _projection(wide, width) for name, wide in ready.items()})
        self.item = _projection(config.vector_width, width) if config.vector_width else None
        self.user = _projection(config.vector_width, width) if config.vector_width else None
        self.evidence = nn.Linear(config.evidence, width)
        self.category = Categories(sizes.item_category, width) if sizes.item_category else None
        self.number = Numbers(sizes.item_number, width) if sizes.item_number else None
        notes = {name: count for name, count in (("reviews", sizes.reviews), ("ads", sizes.ads)) if count is not None}
        self.notes = nn.ModuleDict(
            {name: NoteEncoder(text_width, count, width, config.notes) for name, count in notes.items()}
        )
        self.profile = Categories(sizes.user_category, width) if config.profile and sizes.user_category else None
        self.profile_number = Numbers(sizes.user_number, width) if config.profile and sizes.user_number else None
        known = self.profile is not None or self.profile_number is not None
        matched = config.vector_width or (width if known else 0)
        self.match = nn.Linear(matched, width) if matched else None
        self.context = Categories(sizes.context, width, sizes.turns) if config.context and sizes.context else None
        self.event = nn.Embedding(sizes.event + 2, width) if sizes.event else None  # the last: a search
        self.kind = nn.Embedding(CANDIDATE + 1, width)
        self.recency = nn.Embedding(config.history, width)
        for table in (self.kind, self.recency, *([self.event] if self.event else [])):
            nn.init.normal_(table.weight, std=0.02)
        there = {"text": self.words, "image": self.picture, **self.ready}
        self.missing = nn.ParameterDict(
            {name: torch.randn(width) * 0.02 for name, part in there.items() if part is not None}
        )
        told = {**there, "category": self.category, "number": self.number}
        likes = [name for name, part in told.items() if part is not None]
        vectors = [part for part in (self.item, self.match) if part is not None]
        if not likes and self.item is None:
            raise InputError(
                "The pruner would know nothing of an item; give it texts, pictures, columns or candidates."
            )
        if config.matches and not likes:
            raise InputError("model.matches multiplies sources of items; give them texts, pictures or columns.")
        self.sought = Sought(sizes.event + 1) if config.searches and self.words is not None else None
        sides = ["latest", *(["profile"] if known else []), *(["moment"] if self.context else [])]
        sides += ["search"] if self.sought is not None else []
        self.latest = nn.ModuleList(nn.Linear(width, width) for _ in range(sizes.event + 1) if config.matches)
        self.matches = nn.ModuleDict({name: nn.Linear(width, width) for name in [*likes, *sides] if config.matches})
        count = 1 + len(vectors) + len(likes) + len(self.notes) + len(self.matches)
        self.fusion = make_fusion(config.fusion, count, width)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(width, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, batch: PrunerBatch, evidence: Tensor) -> tuple[Tensor, Tensor]:
        """`evidence` [B, K, E] is what the sources say of each candidate (`retriever_evidence`)."""
        items, hidden = self._items(batch.items, batch.item_vector), self._hidden(batch)
        vectors = batch.users.query_vector
        queries = self.words(vectors) if self.words is not None and vectors is not None else None
        if queries is not None and (worded := batch.users.query_text_known) is not None:  # of a picture, words lack
            queries = torch.where(worded[:, None], queries, self.missing["text"])
        users, mask = self._users(batch, items, hidden, queries)
        sources = self._sources(batch, items, hidden, evidence)
        matches = self._matches(batch, items, hidden, sources, queries)
        fused = self.fusion([*sources.values(), *matches.values()]) + self.kind.weight[CANDIDATE]
        x = self.dropout(torch.cat([users, fused], dim=1))
        for block in self.blocks:
            x = block(x, mask, judging=block is self.blocks[-1])
        return self.norm(x[:, -fused.shape[1] :].float()), fused.float()

    def partly_hidden(self, batch: PrunerBatch) -> PrunerBatch:
        """In training, history, profile, moment, reviews and ads of a share `hide` of the requests are gone, each drawn
        by itself: the batch is then as if nobody knew them.
        """
        if not (self.training and self.hide):
            return batch
        users, rows = batch.users, torch.arange(batch.rows, device=batch.candidate.device)
        history, profile, moment, *notes = torch.rand(5, batch.rows, device=rows.device) < self.hide
        mask, context = users.history_mask & ~history[:, None], users.context
        if context is not None:
            now = context[rows, users.history_mask.sum(1)].masked_fill(moment[:, None], 0)
            context = context.index_put((rows, mask.sum(1)), now)
        known, number = users.profile, users.profile_number
        reviews, ads = (
            None if part is None else replace(part, row=part.row.masked_fill(gone[:, None, None], -1))
            for part, gone in zip((batch.reviews, batch.ads), notes, strict=True)
        )
        users = replace(
            users, history_mask=mask, context=context,
            profile=None if known is None else known.masked_fill(profile[:, None, None], 0),
            profile_number=None if number is None else number.masked_fill(profile[:, None], torch.nan),
        )  # fmt: skip
        alike = None if batch.neighbours is None else batch.neighbours.masked_fill(history[:, None, None], 0)
        return replace(batch, users=users, reviews=reviews, ads=ads, neighbours=alike)

    def _hidden(self, batch: PrunerBatch) -> dict[str, Tensor]:
        """[B, 1, 1] bool, drawn anew: from which requests each of these sources is hidden; empty but in training."""
        if not (self.training and self.hide):
            return {}
        return {name: torch.rand(batch.rows, 1, 1, device=batch.candidate.device) < self.hide for name in self.missing}

    def _items(self, batch: ItemBatch, vectors: Tensor) -> dict[str, Tensor]:
        """[n, D] of each source, for each distinct item."""
        found = {} if self.item is None else {"item": self.item(vectors)}
        told: dict[str, tuple[Any, Tensor | None, Tensor | None]] = {
            "text": (self.words, batch.text_vector, batch.text_known),
            "image": (self.picture, batch.image_vector, batch.image_known),
            **self._ready(batch),
        }
        for name, missing in self.missing.items():
            part, values, known = told[name]
            states = missing.expand(len(batch.index), -1) + absent(part) if values is None else part(values)
            found[name] = states + absent(missing) if known is None else torch.where(known[:, None], states, missing)
        if self.category is not None and batch.category is not None:
            found["category"] = self.category(batch.category)
        if self.number is not None and batch.number is not None:
            found["number"] = self.number(batch.number)
        return found

    def _ready(self, batch: ItemBatch) -> dict[str, tuple[Any, Tensor | None, Tensor | None]]:
        """Of each column of ready-made vectors its projection, its values [n, W] and which are known, [n]."""
        values, known = batch.ready_vector, batch.ready_known
        if values is None or known is None:
            return {name: (part, None, None) for name, part in self.ready.items()}
        columns = zip(self.ready.items(), values.split(self.ready_widths, dim=1), known.unbind(1), strict=True)
        return {name: (part, own, there) for (name, part), own, there in columns}

    def _sources(
        self, batch: PrunerBatch, items: dict[str, Tensor], hidden: dict[str, Tensor], evidence: Tensor
    ) -> dict[str, Tensor]:
        """[B, K, D] each, of the candidates; the product of the retriever's two vectors lets its score be weighed anew,
        part by part.
        """
        rows = batch.candidate.clamp_min(0)
        sources = {name: F.embedding(rows, states) for name, states in items.items()}
        if self.match is not None:
            sources["match"] = self.match(self._product(batch, items, rows))
        sources["evidence"] = self.evidence(evidence)
        for name, part in self.notes.items():
            notes: NoteBatch | None = getattr(batch, name)
            nothing = cast(NoteEncoder, part).missing().expand_as(sources["evidence"])
            sources[name] = nothing if notes is None else part(notes)
        for name, gone in hidden.items():
            sources[name] = torch.where(gone, self.missing[name], sources[name])
        return sources

    def _product(self, batch: PrunerBatch, items: dict[str, Tensor], rows: Tensor) -> Tensor:
        """[B, K, D] entry by entry, of the retriever's two vectors; without a retriever, of the profile and the item,
        as a factorisation machine has it (Rendle 2010).
        """
        if self.user is not None:
            return F.embedding(rows, batch.item_vector) * batch.user_vector[:, None]
        profile = self._profile(batch)
        assert profile is not None
        return F.embedding(rows, torch.stack(list(items.values())).sum(0)) * profile[:, None]

    def _matches(
        self, batch: PrunerBatch, items: dict[str, Tensor], hidden: dict[str, Tensor], sources: dict[str, Tensor],
        queries: Tensor | None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """[B, K, D] each, products entry by entry (Rendle 2010): a candidate's source and the same source of the
        history's items on average; all of a candidate, and what was taken last, the profile, the moment, what is
        searched for.
        """
        if not self.matches:
            return {}
        users, count = batch.users, len(batch.items.index)
        met = users.history_mask & (users.history < count)
        share = (met / met.sum(1, keepdim=True).clamp(min=1))[:, None]
        entries = users.history.clamp_max(count - 1)
        likes = {name: share @ F.embedding(entries, states) for name, states in items.items() if name in self.matches}
        for name, gone in hidden.items():
            likes[name] = torch.where(gone, share.sum(-1, keepdim=True) * self.missing[name], likes[name])
        sides = {"latest": self._latest(batch, items), "profile": self._profile(batch), "moment": self._moment(batch)}
        if self.sought is not None:
            sides["search"] = self.sought(users, count, queries)
        whole = torch.stack([sources[name] for name in likes]).sum(0)
        found = {}
        for name, part in self.matches.items():
            side = sides.get(name)
            theirs = likes[name] if name in likes else torch.zeros_like(whole[:, :1]) if side is None else side[:, None]
            mine = sources[name] if name in likes else whole
            found[name] = part(mine * theirs * whole.shape[-1] ** 0.5)
        return found

    def _latest(self, batch: PrunerBatch, items: dict[str, Tensor]) -> Tensor:
        """[B, D] of the latest item of each kind of event, each kind turned its own way: what follows what (factorised
        Markov chains, Rendle et al. 2010).
        """
        states = items.get("category", torch.stack(list(items.values())).sum(0))
        latest = latest_of_each_kind(batch.users, len(states), len(self.latest))
        found = [
            part(F.embedding(entry, states)) * there[:, None]
            for part, (entry, there) in zip(self.latest, latest, strict=True)
        ]
        return torch.stack(found).sum(0)

    def _users(
        self, batch: PrunerBatch, items: dict[str, Tensor], hidden: dict[str, Tensor], queries: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """[B, U, D] tokens of the user's side and [B, U] which of them are real; the first always is."""
        users = batch.users
        nobody = self.kind.weight.new_zeros(batch.rows, self.kind.weight.shape[1])
        user = nobody if self.user is None else self.user(batch.user_vector)
        single: list[tuple[int, Tensor, Tensor | None]] = [(USER, user, None)]
        if queries is not None and users.query is not None:
            single.append((QUERY, F.embedding(users.query.clamp_min(0), queries), users.query >= 0))
        single += [(PROFILE, state, None) for state in [self._profile(batch)] if state is not None]
        single += [(MOMENT, state, None) for state in [self._moment(batch)] if state is not None]
        always = torch.ones_like(batch.candidate[:, 0], dtype=torch.bool)
        tokens = torch.stack([state + self.kind.weight[kind] for kind, state, _ in single], dim=1)
        real = torch.stack([always if mask is None else mask for *_, mask in single], dim=1)
        history, latest = self._history(users, items, hidden, queries)
        return torch.cat([tokens, history], dim=1), torch.cat([real, latest], dim=1)

    def _moment(self, batch: PrunerBatch) -> Tensor | None:
        users = batch.users
        if self.context is None or users.context is None:
            return None
        now = users.context[torch.arange(batch.rows, device=users.history.device), users.history_mask.sum(1)]
        return self.context(now[..., None])

    def _profile(self, batch: PrunerBatch) -> Tensor | None:
        parts, users = [], batch.users
        if self.profile is not None and users.profile is not None:
            parts.append(self.profile(users.profile))
        if self.profile_number is not None and users.profile_number is not None:
            parts.append(self.profile_number(users.profile_number))
        return torch.stack(parts).sum(dim=0) if parts else None

    def _history(
        self, users: UserBatch, items: dict[str, Tensor], hidden: dict[str, Tensor], queries: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """[B, H, D], and [B, H] which are among the latest. Places count from the end: the last is the same for all."""
        whole = torch.stack(list(items.values())).sum(0)
        entries, last = whole if queries is None else torch.cat([whole, queries]), len(whole) - 1
        state = F.embedding(users.history, entries) + self.kind.weight[HISTORY]
        for name, gone in hidden.items():
            lost = self.missing[name] - F.embedding(users.history.clamp_max(last), items[name])
            state = state + lost * (gone & (users.history <= last)[..., None])
        count = users.history_mask.sum(1, keepdim=True)
        age = count - 1 - torch.arange(users.history.shape[1], device=state.device)
        latest = (age >= 0) & (age < self.recency.num_embeddings)
        state = state + self.recency(age.clamp(0, self.recency.num_embeddings - 1))
        return (state if self.event is None or users.event is None else state + self.event(users.event)), latest


def _projection(wide: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, width))


class _Block(nn.Module):
    """Pre-norm attention and feed-forward; the softmax is float32 also under autocast."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_feedforward = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, users: Tensor, *, judging: bool) -> Tensor:
        """[B, U + K, D]; `users` [B, U] are the real ones of the user's tokens, which stand first. `judging` gives the
        candidates alone, [B, K, D]: nobody asks the last block for a user's tokens.
        """
        first = users.shape[1] if judging else 0
        x = x[:, first:] + self.dropout(self.out(self._attend(self.norm_attention(x), users, first)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm_feedforward(x)))))

    def _attend(self, x: Tensor, users: Tensor, first: int) -> Tensor:
        """Tokens from the first on. Everyone sees the user's real tokens, a candidate itself too: (U + K) x (U + 1)
        scores, not (U + K)^2.
        """
        rows, length, width = x.shape
        count = users.shape[1]
        parts = self.qkv(x).float().view(rows, length, 3, self.heads, width // self.heads)
        with torch.autocast(x.device.type, enabled=False):
            query, key, value = parts.permute(2, 0, 3, 1, 4)
            query = query[:, :, first:] * query.shape[-1] ** -0.5
            hole = torch.zeros_like(users, dtype=query.dtype).masked_fill(~users, float("-inf"))[:, None, None]
            theirs = query @ key[:, :, :count].transpose(-1, -2) + hole
            own = (query * key[:, :, first:]).sum(-1, keepdim=True)
            nobody = torch.full_like(own[:, :, : count - first], float("-inf"))
            own = torch.cat([nobody, own[:, :, count - first :]], dim=2)
            weights = torch.cat([theirs, own], dim=-1).softmax(-1)
            mixed = weights @ F.pad(value[:, :, :count], (0, 0, 0, 1)) + weights[..., count:] * value[:, :, first:]
        return mixed.transpose(1, 2).reshape(rows, length - first, width)
