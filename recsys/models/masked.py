"""A text encoder that guesses hidden tokens (BERT, Devlin et al. 2019, section 3.1)."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from recsys.batch import MaskedBatch
from recsys.config import TextConfig
from recsys.errors import InputError
from recsys.models.text import TextEncoder


@dataclass(frozen=True, kw_only=True)
class MaskedConfig:
    """Which encoder is trained further, and how much is hidden from it."""

    text: TextConfig
    """The encoder to start from; mode full or lora."""
    mask: float = 0.15
    """Share of the tokens that are hidden."""

    def __post_init__(self) -> None:
        if self.text.mode == "frozen":
            raise InputError("model.text.mode is 'frozen', and nothing would be learnt; set it to full or lora.")
        if not 0 < self.mask < 1:
            raise InputError(f"model.mask is {self.mask}; expected a share between 0 and 1, such as 0.15.")


class MaskedLanguageModel(nn.Module):
    """MaskedBatch -> [m, V] logits of the hidden tokens. What is predicted with is the encoder's own embeddings."""

    def __init__(self, text: TextEncoder) -> None:
        super().__init__()
        self.text = text
        vocab, width = text.model.get_input_embeddings().weight.shape
        self.dense, self.norm = nn.Linear(text.width, width), nn.LayerNorm(width)
        self.bias = nn.Parameter(text.model.get_input_embeddings().weight.new_zeros(vocab))

    def forward(self, batch: MaskedBatch) -> Tensor:
        """Only the hidden tokens pass the head: the product with the whole vocabulary is what costs."""
        states = self.norm(F.gelu(self.dense(self.text.token_states(batch.texts)[batch.token])))
        return F.linear(states, self.text.model.get_input_embeddings().weight, self.bias)
