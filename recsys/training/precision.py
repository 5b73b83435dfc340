"""What this machine's chip computes in hardware, and whether this torch has kernels for it."""

import re
from collections.abc import Sequence
from typing import Literal

import torch

from recsys.errors import InputError
from recsys.training.distributed import lowest_of_job

Resolved = Literal["32-true", "16-mixed", "bf16-mixed"]
LEAST_FIRST: tuple[Resolved, ...] = ("32-true", "16-mixed", "bf16-mixed")


def resolve_precision(wanted: Literal["auto"] | Resolved, accelerator: str) -> Resolved:
    """Lightning's name of a precision: `wanted`, or for "auto" the fastest that the chip really has.

    That is bf16-mixed on a GPU or CPU with bfloat16 units, else 16-mixed on a GPU, else 32-true. Emulated bfloat16 does
    not count: torch runs it everywhere, on a CPU without the units many times slower than float32. Where a job has
    several machines, all take what the least of them has.
    """
    if wanted != "auto":
        return wanted
    return LEAST_FIRST[lowest_of_job(LEAST_FIRST.index(_fastest(accelerator)))]


def _fastest(accelerator: str) -> Resolved:
    """That this machine's chip has."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    chip = torch.cpu.get_capabilities()
    return "bf16-mixed" if chip.get("avx512_bf16") or chip.get("amx_bf16") else "32-true"


def check_gpus(accelerator: str) -> None:
    """InputError where a GPU is asked for and the installed torch has no kernels for it."""
    if accelerator != "cpu" and torch.cuda.is_available():
        known = torch.cuda.get_arch_list()
        for number in range(torch.cuda.device_count()):
            check_kernels(torch.cuda.get_device_name(number), torch.cuda.get_device_capability(number), known)


def check_kernels(name: str, capability: tuple[int, int], known: Sequence[str]) -> None:
    """InputError where no kernel of a torch build runs on a GPU.

    Binary kernels (sm_80) run on the same major version from their minor version on, intermediate code (compute_80) on
    everything newer.

    Args:
        name: of the GPU.
        capability: (major, minor), as (7, 0) for a V100.
        known: `torch.cuda.get_arch_list()`.
    """
    for kind, major, minor in (found.groups() for one in known if (found := re.match(r"(sm|compute)_(\d+)(\d)", one))):
        built = int(major), int(minor)
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return
    remedy = "install another build of torch: a V100 (sm_70) needs one for CUDA 12.6 (cu126)"
    wanted = f"sm_{capability[0]}{capability[1]}"
    raise InputError(f"{name} is a {wanted}, and this torch has kernels for {', '.join(known)} alone; {remedy}.")
