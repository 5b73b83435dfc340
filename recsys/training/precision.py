"""`precision: auto`: what this machine's chip computes in hardware."""

from typing import Literal

import torch

Resolved = Literal["32-true", "bf16-mixed", "16-mixed"]


def resolve_precision(wanted: Literal["auto"] | Resolved, accelerator: str) -> Resolved:
    """Lightning's name of a precision: `wanted`, or for "auto" the fastest that the chip really has.

    That is bf16-mixed on a GPU or CPU with bfloat16 units, else 16-mixed on a GPU, else 32-true. Emulated bfloat16 does
    not count: torch runs it everywhere, on a CPU without the units many times slower than float32.
    """
    if wanted != "auto":
        return wanted
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    chip = torch.cpu.get_capabilities()
    return "bf16-mixed" if chip.get("avx512_bf16") or chip.get("amx_bf16") else "32-true"
