"""Sentences by a causal language model, from facts alone; what claims more than these is replaced by the template."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from recsys.config import resolve_pretrained
from recsys.errors import InputError
from recsys.models.text import without_reports
from recsys.recommend.claims import Claims
from recsys.recommend.facts import Facts
from recsys.recommend.templates import advertise, describe, reason

Purpose = Literal["reason", "description", "ad"]
TEMPLATES: dict[Purpose, Callable[[Facts], str]] = {"reason": reason, "description": describe, "ad": advertise}

_ASKED = {
    ("reason", "en"): "Why this item, in one sentence:",
    ("reason", "zh"): "一句话推荐理由：",
    ("description", "en"): "Description in one sentence:",
    ("description", "zh"): "一句话描述：",
    ("ad", "en"): "Advertisement in one sentence:",
    ("ad", "zh"): "一句话广告：",
}


class Writer(Protocol):
    """Whoever continues a text."""

    def write(self, prompts: Sequence[str]) -> list[str]:
        """What comes after each prompt, in one line."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """What is shown, and who wrote it."""

    text: str
    by: Literal["template", "model"]
    refused: bool = False
    """Whether a model had written something that the facts do not hold."""


class Sentences:
    """Writes sentences: with templates, or with a model whose every claim is checked."""

    def __init__(self, claims: Claims, writer: Writer | None = None) -> None:
        self.claims, self.writer = claims, writer

    def write(self, facts: Sequence[Facts], purpose: Purpose = "reason") -> list[Sentence]:
        """One sentence for each; templates alone where there is no model."""
        template = TEMPLATES[purpose]
        if self.writer is None:
            return [Sentence(text=template(one), by="template") for one in facts]
        written = self.writer.write([prompt(one, purpose) for one in facts])
        return [self._checked(one, text, template) for one, text in zip(facts, written, strict=True)]

    def _checked(self, facts: Facts, text: str, template: Callable[[Facts], str]) -> Sentence:
        if self.claims.faults(text, facts):
            return Sentence(text=template(facts), by="template", refused=True)
        return Sentence(text=text, by="model")


def prompt(facts: Facts, purpose: Purpose) -> str:
    """What a model is given: the row, the tested evidence as the template tells it, and what is wanted."""
    row = "; ".join(f"{name}: {value}" for name, value in facts.row.items())
    told = f"{TEMPLATES['reason'](facts)}\n" if purpose == "reason" else ""
    return f"{facts.title}. {row}\n{told}{_ASKED[purpose, facts.language]}"


class CausalWriter:
    """A causal language model of transformers, greedy and bounded: the same prompt gives the same text."""

    def __init__(self, model: Any, tokenizer: Any, *, max_new_tokens: int, batch_size: int = 32) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        tokenizer.padding_side = "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token

    @classmethod
    def load(cls, name: str, *, max_new_tokens: int) -> "CausalWriter":
        """A folder, `pkg:NAME` or a name at Hugging Face; safetensors only, and no code of the folder is run."""
        source = resolve_pretrained(name)
        try:
            with without_reports():
                model = AutoModelForCausalLM.from_pretrained(
                    source, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
                )
                tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError) as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(
                f"Language model {name!r} could not be loaded ({why}). Expected the folder or name of a causal "
                "model with a tokenizer and safetensors weights."
            ) from error
        return cls(model, tokenizer, max_new_tokens=max_new_tokens)

    @torch.inference_mode()
    def write(self, prompts: Sequence[str]) -> list[str]:
        """The first line that the model adds to each prompt; those of like length are continued together."""
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        out = [""] * len(prompts)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            for row, text in zip(rows, self._continue([prompts[row] for row in rows]), strict=True):
                out[row] = text
        return out

    def _continue(self, prompts: list[str]) -> list[str]:
        room = self._room()
        given = self.tokenizer(prompts, return_tensors="pt", padding=True, truncation=True, max_length=room)
        made = self.model.generate(
            input_ids=given["input_ids"], attention_mask=given["attention_mask"], do_sample=False, num_beams=1,
            max_new_tokens=self.max_new_tokens, pad_token_id=self.tokenizer.pad_token_id,
        )  # fmt: skip
        added = self.tokenizer.batch_decode(made[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
        return [first_line(text) for text in added]

    def _room(self) -> int:
        """Tokens of a prompt; its end, where the task stands, is kept by cutting on the left."""
        self.tokenizer.truncation_side = "left"
        longest = getattr(self.model.config, "max_position_embeddings", None) or 1024
        return max(longest - self.max_new_tokens, 1)


def first_line(text: str) -> str:
    """The first line that is not empty."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def open_writer(model: str | None, max_new_tokens: int) -> CausalWriter | None:
    """The model of a name or folder; None for none."""
    return None if model is None else CausalWriter.load(model, max_new_tokens=max_new_tokens)


def model_key(model: str | None) -> list[Any]:
    """What the sentences of a model depend on: its files, by name, size and time where it is a folder."""
    if model is None:
        return []
    home = Path(resolve_pretrained(model))
    files = sorted(home.glob("*")) if home.is_dir() else []
    return [model, *((one.name, one.stat().st_size) for one in files)]
