"""The second selection: every candidate judged beside its user, and what is kept.

The retriever's evidence comes first: an untrained pruner keeps exactly the retriever's order, and training learns what
to change about it. Four encoders: a small joint transformer over cached states (text frozen, or no text), a
cross-encoder over the words of each (user, candidate) pair (text lora or full), one whose lower layers read the two
apart (the same, and `split`), or late interaction over the words of each side (the same, and `late`). The last learns
from words alone and is weighed beside the evidence afterwards.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from recsys.batch import ApartBatch, PrunerBatch
from recsys.config import ImageConfig, TextConfig
from recsys.errors import InputError
from recsys.models.crosses import Crosses, latest_of_each_kind
from recsys.models.decision import KINDS, QUERIES, USERS, Calibration, DecisionConfig, Meaning
from recsys.models.dropout import Dropout
from recsys.models.fusion import FusionKind
from recsys.models.habits import EVENTS, event_shares, habits
from recsys.models.image import ImageEncoder
from recsys.models.joint import JointConfig, JointEncoder
from recsys.models.late import best_matches
from recsys.models.split import SplitReader
from recsys.models.states import StateCache, read_texts
from recsys.models.text import TextEncoder, batches_of_like_length, tokens_at_once
from recsys.models.towers import Sizes

_PAIRS = 256  # pairs encoded at one time
_QUICK = 10.0  # how much faster than the rest the two weights of the retriever's evidence are learnt
_CROSSES = 3.0  # the same of the weights of crossed values
_SHARP = 20.0  # what a mean cosine of best matches counts at the start
_RARE = -4.0  # logit at the start: about one candidate in fifty is right


@dataclass(frozen=True, kw_only=True)
class PrunerConfig:
    """What the pruner is made of."""

    text: TextConfig | None = None
    """Text encoder. frozen: cached vectors feed the joint transformer; lora or full: a cross-encoder over pairs of
    texts; null: the joint transformer without texts."""
    image: ImageConfig | None = None
    """Image encoder of candidates and of the history's items, mode frozen (joint transformer)."""
    fusion: FusionKind = "sum"
    """How the sources of a candidate become one vector (joint transformer): sum, concat, gated or attention."""
    hide: float = 0.0
    """Share of a training batch's requests from which each source of the candidates and of the user's side is hidden,
    each drawn by itself, so that none is leant on alone and what is missing is known (joint transformer)."""
    notes: int = 4
    """Latest reviews, and latest ads, of a candidate that are read (joint transformer)."""
    width: int = 128
    """Of the joint transformer."""
    layers: int = 2
    heads: int = 4
    dropout: float = 0.1
    history: int = 30
    """Latest entries of the history on the user's side."""
    profile: bool = True
    """Whether the user's category and number columns are used, where there are some."""
    context: bool = True
    """Whether the context columns of the moment are used, where there are some (joint transformer)."""

    habits: list[str] = field(default_factory=list)
    """Columns of data.items.category of which the pruner is told how often a candidate's value stood in the history,
    for each kind of event (joint transformer): of tastes that nothing else tells. Of a column that the profile or the
    moment answers for, the count would only say it again, less surely. `events` in the place of a column: how the
    history's entries share out over the kinds of event, whatever the candidate; whether somebody is easily pleased."""
    matches: bool = False
    """Whether a candidate's sources are multiplied by the same sources of the history's items, and by what was taken
    last, the profile and the moment, beside attention (joint transformer)."""
    searches: bool = False
    """Whether a candidate is also multiplied by the words of the search, and of those searches in the history that no
    later event has closed; which kind of event closes one is learnt (with `matches` and texts). With
    data.history.queries: few purchases follow a search, and attention has to find it among all other entries."""
    crosses: list[str] = field(default_factory=list)
    """Columns of data.items.category of which each value has a weight beside each value of the profile, the moment and
    of these same columns of what was taken last (joint transformer): who likes what is from where."""
    wide: bool = False
    """Whether a candidate's sources, summed, also speak to the logit past all layers (joint transformer; Wide & Deep,
    Cheng et al. 2016): layers normalise, so that much of one source leaves less room for the others."""
    targets: dict[str, list[str]] = field(default_factory=dict)
    """Other targets than the one that lists are ordered by: a name, and the events that make it true, e.g. {click:
    [click, cart, purchase]} or {love: ["5"]}. Each is a head of its own, with a probability of its own (joint
    transformer)."""
    late: bool = False
    """Whether the words of a request and of a candidate are read apart, and meet in a sum of best matches (ColBERT),
    where a cross-encoder reads each pair together: a text is encoded once for all who meet it. With evidence: after."""
    split: int = 0
    """Layers of a cross-encoder that read the words of a request and of a candidate apart, so that a text goes through
    them once for all who meet it (PreTTR, DeFormer); the layers above read both, the last for [CLS] alone, which is
    judged. Of a BERT, and fewer than it has. 0: all layers read both."""
    evidence: Literal["joint", "after"] = "joint"
    """When the retriever's evidence is weighed. joint: while the rest is learnt. after: a cross-encoder learns from the
    texts alone, then evidence and texts are weighed on the lists that are held out; for a retriever that knows the
    train queries by heart (with split.second_queries, held out are those that it does not know)."""

    def __post_init__(self) -> None:
        if self.evidence == "after" and not self.reads_pairs:
            raise InputError("model.evidence 'after' is for a cross-encoder; set model.text.mode to lora or full.")
        if self.late and self.evidence != "after":
            raise InputError("model.late learns from words alone; set model.evidence: after, text.mode: lora or full.")
        if self.split and (self.split < 0 or self.late or not self.reads_pairs):
            expected = "0, or layers of a cross-encoder: with text.mode lora or full, and without model.late"
            raise InputError(f"model.split is {self.split}; expected {expected}.")
        if not isinstance(self.habits, list):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"model.habits is {self.habits}; expected a list of columns of data.items.category.")
        if (self.habits or self.matches or self.crosses or self.wide) and self.reads_pairs:
            raise InputError(
                "model.habits, matches, crosses and wide are for the joint transformer; set text.mode: frozen."
            )
        if self.searches and not (self.matches and self.text is not None):
            raise InputError("model.searches multiplies words; it needs model.matches: true and model.text.")
        if self.targets and self.reads_pairs:
            raise InputError("model.targets are for the joint transformer; set text.mode: frozen, or take them out.")
        for name, events in self.targets.items():
            if not events or not name.isidentifier():
                raise InputError(f"model.targets: expected {{name: [event, ...]}}; found {name!r}: {events}.")
        if self.image is not None and (self.image.mode != "frozen" or self.reads_pairs):
            raise InputError(
                "model.image is for the joint transformer, in mode frozen: train it in a retriever, and name its "
                "folder RUN/model/image."
            )
        if not 0 <= self.hide < 1 or self.notes < 1:
            raise InputError(f"model: expected hide in [0, 1) and notes from 1; found {self.hide} and {self.notes}.")
        if self.width % self.heads:
            raise InputError(f"model.width {self.width} is no multiple of model.heads {self.heads}; change one.")
        if self.history < 1:
            raise InputError(f"model.history is {self.history}; expected at least 1 entry on the user's side.")

    @property
    def reads_pairs(self) -> bool:
        """Whether this is a cross-encoder over pairs of texts."""
        return self.text is not None and self.text.mode != "frozen"

    @property
    def apart(self) -> Literal["late", "split"] | None:
        """How the two texts of a pair are read apart; None: they are not."""
        return "late" if self.late else "split" if self.split else None


class Pruner(nn.Module):
    """PrunerBatch -> [B, K] float32 logits, -inf at padding.

    logit = a * standardised retriever score + b * log(1 + rank) + head(state) + bias, with a = 1, b = 0 and head = 0 at
    the start (a = 0 where the evidence is weighed after training, by `weigh`; with `late` the head is 20 times the
    best matches). The score is standardised over the
    list's real candidates, so that no scale of the retriever matters. A pruner that is made beside a lexical source
    adds c * that source's standardised score, with c = 0 at the start.
    """

    def __init__(
        self, config: PrunerConfig, sizes: Sizes, text: TextEncoder | None, *, vector_width: int, lexical: bool = False,
        image: ImageEncoder | None = None,
    ) -> None:  # fmt: skip
        """`vector_width` is the width of the retriever's vectors; `sizes` those of the data's columns. Raises
        InputError where `text` cannot be split as the config says.
        """
        super().__init__()
        if config.split and text is not None:
            SplitReader(text, config.split)
        self.config, self.sizes, self.text, self.image, self.vector_width = config, sizes, text, image, vector_width
        self.lexical = lexical
        text_width = text.width if text else 0
        image_width = image.width if image else 0
        if not set(config.habits) <= {EVENTS, *sizes.item_columns}:
            known = ", ".join(sizes.item_columns) or "none"
            raise InputError(
                f"model.habits is {config.habits}; expected columns of data.items.category ({known}), or {EVENTS}."
            )
        if not set(config.crosses) <= set(sizes.item_columns):
            known = ", ".join(sizes.item_columns) or "none"
            raise InputError(f"model.crosses is {config.crosses}; expected columns of data.items.category ({known}).")
        self.counted = [sizes.item_columns.index(name) for name in config.habits if name in sizes.item_columns]
        met = len(config.habits) * (sizes.event + 1) + sizes.neighbours * (not config.reads_pairs)
        shape = _joint_config(config, text_width, image_width, vector_width, evidence=2 + lexical + met)
        self.joint = None if config.reads_pairs else JointEncoder(shape, sizes)
        width = text_width if config.reads_pairs else config.width
        width = 1 if config.late else width
        normed = config.reads_pairs and not config.late  # joint states and best matches are of one size already
        self.norm = nn.LayerNorm(width) if normed else nn.Identity()
        self.dropout = Dropout(0.0 if config.late else config.dropout)
        self.head = nn.Linear(width, 1)
        nn.init.constant_(self.head.weight, _SHARP if config.late else 0.0)
        nn.init.constant_(self.head.bias, _RARE)
        self.others = nn.Linear(width, len(config.targets)) if config.targets else None
        if self.others is not None:
            nn.init.zeros_(self.others.weight)
            nn.init.constant_(self.others.bias, _RARE)
        joint = config.evidence == "joint"
        start = [float(joint), 0.0, 0.0] if lexical else [float(joint), 0.0]  # of score, rank and the lexical score
        self.weights = nn.Parameter(torch.tensor(start) / _QUICK, requires_grad=joint)
        self.habits = nn.Parameter(torch.zeros(met)) if met else None
        self.crossed = [sizes.item_columns.index(name) for name in config.crosses]
        self.crosses = self._make_crosses() if config.crosses else None
        self.wide = nn.Parameter(torch.zeros(width)) if config.wide else None
        self.meaning: dict[str, Meaning] = dict.fromkeys(KINDS, Meaning())
        self.other_meaning: dict[str, Calibration] = dict.fromkeys(config.targets, Calibration())
        self.decision = DecisionConfig()

    def forward(self, batch: PrunerBatch, states: StateCache | None = None) -> Tensor:
        return self.judge(batch, states)[..., 0]

    def judge(self, batch: PrunerBatch, states: StateCache | None = None) -> Tensor:
        """[B, K, 1 + G] float32 logits, -inf at padding: of what lists are ordered by, then of each other target.

        `states` are what this model has made of candidates that are read apart: to be kept from call to call while the
        weights rest.
        """
        real = batch.candidate >= 0
        if self.joint is not None:
            batch = self.joint.partly_hidden(batch)
        evidence = batch.evidence
        if evidence is None:
            evidence = retriever_evidence(batch, real, lexical=self.lexical)
        met = self._habits(batch)
        told = torch.cat([evidence, met], dim=-1)
        found, fused = (self._text_states(batch, real, states), None) if self.joint is None else self.joint(batch, told)
        with torch.autocast(found.device.type, enabled=False):  # in bf16, neighbours in the list would become equal
            found = self.dropout(self.norm(found.float()))
            logits = (evidence @ (_QUICK * self.weights))[..., None] + self.head(found)
            if self.wide is not None and fused is not None:
                logits = logits + F.linear(fused, self.wide[None])
            if self.crosses is not None:
                logits = logits + self._crosses(self.crosses, batch)[..., None]
            if self.habits is not None:
                logits = logits + (met @ (_QUICK * self.habits))[..., None]
            if self.others is not None:
                logits = torch.cat([logits, self.others(found)], dim=-1)
        return logits.masked_fill(~real[..., None], float("-inf"))

    def _make_crosses(self) -> Crosses:
        sizes, mine = self.sizes, [self.sizes.item_category[at] for at in self.crossed]
        profile = sizes.user_category if self.config.profile else []
        moment = sizes.context if self.config.context else []
        return Crosses([*profile, *moment, *mine * (sizes.event + 1)], mine, _CROSSES)

    def _crosses(self, crosses: Crosses, batch: PrunerBatch) -> Tensor:
        """[B, K] what profile, moment and the latest items say of the candidates' columns."""
        users, codes = batch.users, batch.items.category
        assert codes is not None
        codes = codes[:, self.crossed]
        nothing = codes.new_zeros(batch.rows, 1)
        profile = [nothing] * len(self.sizes.user_category) if users.profile is None else users.profile.unbind(1)
        moment = [nothing] * len(self.sizes.context)
        if users.context is not None:
            now = users.context[torch.arange(batch.rows, device=codes.device), users.history_mask.sum(1)]
            moment = now[..., None].unbind(1)
        told = [*profile] * self.config.profile + [*moment] * self.config.context
        latest = [
            column
            for entry, there in latest_of_each_kind(users, len(codes), self.sizes.event + 1)
            for column in (codes[entry] * there[:, None, None]).unbind(1)
        ]
        return crosses([*told, *latest], codes[batch.candidate.clamp_min(0)])

    def _habits(self, batch: PrunerBatch) -> Tensor:
        """[B, K, M] `habits` of each candidate in the columns that are counted, of each kind of event (the first: of an
        unknown kind), and what is known by alike items.
        """
        users, kinds, count = batch.users, self.sizes.event + 1, len(batch.items.index)
        shown = users.history_mask & (users.history < count)
        event = torch.zeros_like(users.history) if users.event is None else users.event
        found = [batch.retriever_score.new_zeros(*batch.candidate.shape, 0)]
        if self.counted and batch.items.category is not None:
            codes, sizes = batch.items.category[:, self.counted], [self.sizes.item_category[at] for at in self.counted]
            history, candidates = codes[users.history.clamp_max(count - 1)], codes[batch.candidate.clamp_min(0)]
            mine = [history * (shown & (event == kind))[..., None, None] for kind in range(kinds)]
            found += [habits(one, candidates, sizes) for one in mine]
        if len(self.counted) < len(self.config.habits):
            shares = event_shares(event, shown, kinds)
            found.append(shares[:, None].expand(*batch.candidate.shape, kinds))
        if self.sizes.neighbours and self.joint is not None:
            alike = batch.neighbours
            found.append(found[0].new_zeros(*batch.candidate.shape, self.sizes.neighbours) if alike is None else alike)
        return torch.cat(found, dim=-1)

    @torch.no_grad()
    def weigh(self, evidence: list[float], head: float) -> None:
        """Set the weights of the columns of evidence, and scale what the head says."""
        self.weights.copy_(torch.tensor(evidence) / _QUICK)
        for part in self.head.parameters():
            part.mul_(head)

    def _text_states(self, batch: PrunerBatch, real: Tensor, known: StateCache | None) -> Tensor:
        """[B, K, W] of each real pair, zero at padding; with `late` [B, K, 1] best matches."""
        pairs, apart, encoder = batch.pairs, batch.apart, self.text
        assert encoder is not None
        if apart is not None and self.config.late:
            return _late(encoder, apart, known)
        rows = real.flatten().nonzero()[:, 0]
        if apart is not None:
            found = self._split_states(SplitReader(encoder, self.config.split), apart, rows, known)
        else:
            assert pairs is not None
            lengths, tokens = pairs.mask[rows].sum(1).cpu().numpy(), tokens_at_once(rows.device)
            order = [torch.from_numpy(block) for block in batches_of_like_length(lengths, tokens)] or [rows]
            read = torch.cat([encoder(pairs.take(rows[block])).float() for block in order])
            found = read[torch.cat(order).argsort()]
        return found.new_zeros(real.numel(), found.shape[1]).index_copy(0, rows, found).view(*real.shape, -1)

    def _split_states(self, reader: SplitReader, apart: ApartBatch, rows: Tensor, known: StateCache | None) -> Tensor:
        """[P, W] of the P pairs at some places of [B * K]."""
        requests = read_texts(apart.request, reader.requests)
        texts = read_texts(apart.candidate, reader.candidates, known)
        if not len(rows):
            return requests[0].new_zeros(0, requests[0].shape[1])
        pairs = torch.stack([rows // apart.row.shape[1], apart.row.flatten()[rows]])
        return torch.cat([reader.pairs(requests, texts, *block).float() for block in pairs.split(_PAIRS, dim=1)])

    def other_probabilities(self, logits: np.ndarray) -> np.ndarray:
        """[..., G] float32 calibrated probabilities of the other targets from their logits; 0 at padding (-inf)."""
        columns = [
            np.where(np.isfinite(one), calibration.probability(np.where(np.isfinite(one), one, 0.0)), 0.0)
            for one, calibration in zip(np.moveaxis(logits, -1, 0), self.other_meaning.values(), strict=True)
        ]
        return np.stack(columns, axis=-1).astype(np.float32) if columns else logits

    def probability(self, logits: np.ndarray, asks: np.ndarray) -> np.ndarray:
        """Float32 calibrated probability that a candidate is relevant, from its logit; 0 at padding (-inf).

        `asks` says, in a shape that goes with that of `logits`, whether a candidate's request is a query.
        """
        real = np.isfinite(logits)
        safe = np.where(real, logits, 0.0)
        users, queries = (self.meaning[kind].calibration.probability(safe) for kind in (USERS, QUERIES))
        return np.where(real, np.where(asks, queries, users), 0.0).astype(np.float32)


def _late(encoder: TextEncoder, apart: ApartBatch, known: StateCache | None) -> Tensor:
    """[B, K, 1] best matches of the words of requests among those of candidates."""
    requests, lengths = encoder.token_states(apart.request), apart.request.mask.sum(1)
    texts = pad_sequence(read_texts(apart.candidate, encoder.token_states, known), batch_first=True)
    return best_matches(requests, lengths, texts, apart.candidate.mask, apart.row.clamp_min(0))[..., None]


def retriever_evidence(batch: PrunerBatch, real: Tensor, *, lexical: bool = False) -> Tensor:
    """[B, K, 2] float32: the retriever's score, zero mean and unit deviation over the list, and log(1 + rank).

    With `lexical` [B, K, 3]: the lexical source's score too, standardised alike; 0 where a batch has none.
    """
    columns = torch.arange(real.shape[1], device=real.device).expand_as(real)
    rank = columns if batch.rank is None else batch.rank.clamp_min(0)
    evidence = [_standardised(batch.retriever_score, real), rank.float().log1p()]
    if lexical:
        scores = torch.zeros_like(batch.retriever_score) if batch.lexical_score is None else batch.lexical_score
        evidence.append(_standardised(scores, real))
    return torch.stack(evidence, dim=-1)


def _standardised(scores: Tensor, real: Tensor) -> Tensor:
    """[B, K] float32 of mean 0 and deviation 1 over the real entries of each row; 0 at padding and among equals."""
    score = scores.float().masked_fill(~real, 0)
    count = real.sum(1, keepdim=True).clamp_min(1)
    centred = (score - score.sum(1, keepdim=True) / count).masked_fill(~real, 0)
    spread = (centred.square().sum(1, keepdim=True) / count).sqrt()
    return centred / spread.clamp_min(1e-6)


def _joint_config(
    config: PrunerConfig, text_width: int, image_width: int, vector_width: int, *, evidence: int
) -> JointConfig:
    return JointConfig(
        width=config.width, layers=config.layers, heads=config.heads, dropout=config.dropout, history=config.history,
        profile=config.profile, context=config.context, matches=config.matches, searches=config.searches,
        fusion=config.fusion, hide=config.hide,
        notes=config.notes, text_width=text_width, image_width=image_width, vector_width=vector_width,
        evidence=evidence,
    )  # fmt: skip
