"""AdamW with warm-up and cosine decay over a stated number of steps."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from recsys.errors import InputError


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How long and how fast to learn."""

    epochs: int = 10
    lr: float = 2e-3
    """Peak learning rate of everything but the encoders."""
    text_lr: float = 5e-5
    """Peak learning rate of the text encoder."""
    image_lr: float = 5e-4
    """Peak learning rate of the image encoder."""
    weight_decay: float = 0.01
    """On matrices; biases, norms and embeddings have none."""
    warmup: float = 0.03
    """Share of all steps in which the rate rises from zero."""
    floor: float = 0.01
    """Rate at the end, as a share of the peak."""
    clip: float = 1.0
    """Largest norm of the gradient; 0: no clipping."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or min(self.lr, self.text_lr, self.image_lr) <= 0 or min(self.weight_decay, self.clip) < 0:
            raise InputError(
                f"optim: expected epochs from 1, positive rates, weight_decay and clip from 0; found {self}."
            )
        if not 0 <= self.warmup < 1 or not 0 <= self.floor <= 1:
            raise InputError(f"optim: expected warmup in [0, 1) and floor in [0, 1]; found {self}.")


def make_optimizer(model: nn.Module, config: OptimConfig, *, fused: bool = True) -> torch.optim.AdamW:
    """AdamW over the trained parameters: encoders at their own rates, and only matrices decayed.

    `fused` takes all of a weight's update in one pass over memory: MiniLM's take a fifth of the time on
    two cores (benchmarks/step.py).
    """
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    own = {"text": config.text_lr, "image": config.image_lr}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            decays = weight.ndim > 1 and id(weight) not in embeddings
            groups.setdefault((own.get(name.partition(".")[0], config.lr), decays), []).append(weight)
    if not groups:
        raise InputError("Nothing to train: the whole model is frozen. Set text.mode: lora or full, or add a source.")
    decay = {True: config.weight_decay, False: 0.0}
    return torch.optim.AdamW(
        [{"params": weights, "lr": rate, "weight_decay": decay[decays]} for (rate, decays), weights in groups.items()],
        betas=(0.9, 0.98),
        fused=fused,
    )


def make_schedule(optimizer: torch.optim.Optimizer, config: OptimConfig, total: int) -> LambdaLR:
    """Linear warm-up, then half a cosine down to `floor` at step `total`."""
    warm = max(int(total * config.warmup), 1)

    def share(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        gone = min((step - warm) / max(total - warm, 1), 1.0)
        return config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * gone))

    return LambdaLR(optimizer, share)
