"""Checkpoints without the weights of an encoder that no step changes: they are the run's input, not its result."""

from typing import Any

from torch import nn


def drop_frozen(model: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Take the untrained weights of the encoders out of a checkpoint that is about to be written."""
    for name in _frozen(model):
        checkpoint["state_dict"].pop(f"model.{name}", None)


def restore_frozen(model: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Put the weights that `model` already has back into a checkpoint that is about to be loaded."""
    for name, weight in _frozen(model).items():
        checkpoint["state_dict"].setdefault(f"model.{name}", weight.detach())


def _frozen(model: nn.Module) -> dict[str, nn.Parameter]:
    named = model.named_parameters()
    return {name: weight for name, weight in named if name.startswith(("text.", "image.")) and not weight.requires_grad}
