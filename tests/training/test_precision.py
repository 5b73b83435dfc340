"""What `precision: auto` makes of a chip."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from recsys.errors import InputError
from recsys.training.precision import check_kernels, resolve_precision


def on(monkeypatch: pytest.MonkeyPatch, *, gpu: bool, units: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: units or including_emulation)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": units, "amx_bf16": False})


def test_a_named_precision_is_kept(monkeypatch):
    on(monkeypatch, gpu=True, units=True)
    assert resolve_precision("32-true", "auto") == "32-true"


@pytest.mark.parametrize(
    ("gpu", "units", "accelerator", "expected"),
    [
        (True, True, "auto", "bf16-mixed"),
        (True, False, "gpu", "16-mixed"),  # a V100 only emulates bfloat16
        (True, False, "cpu", "32-true"),
        (False, True, "auto", "bf16-mixed"),
        (False, False, "auto", "32-true"),
    ],
)
def test_auto_takes_what_the_chip_has_in_hardware(monkeypatch, gpu, units, accelerator, expected):
    on(monkeypatch, gpu=gpu, units=units)
    assert resolve_precision("auto", accelerator) == expected


def test_this_machines_own_answer_is_a_precision_of_lightning():
    assert resolve_precision("auto", "auto") in ("bf16-mixed", "16-mixed", "32-true")


SAYS = """
import os, sys
from recsys.training import precision

precision._fastest = lambda accelerator: ("bf16-mixed", "16-mixed", "bf16-mixed")[int(os.environ["RANK"])]
print(precision.resolve_precision("auto", "auto"))
"""


@pytest.mark.slow
def test_all_processes_of_a_job_take_what_the_least_of_them_has():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1] + 5000  # the processes meet below the main port
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "3", "TORCHELASTIC_RUN_ID": "x"}
    ranks = [
        subprocess.Popen([sys.executable, "-c", SAYS], env={**os.environ, **job, "RANK": rank}, stdout=subprocess.PIPE)
        for rank in "012"
    ]
    assert [rank.communicate(timeout=120)[0] for rank in ranks] == [b"16-mixed\n"] * 3
    assert [rank.returncode for rank in ranks] == [0, 0, 0]


CU128 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 9), (9, 0), (12, 0), (12, 1), (13, 0)])
def test_a_gpu_that_some_kernel_runs_on_passes(capability: tuple[int, int]) -> None:
    check_kernels("GPU", capability, CU128)


@pytest.mark.parametrize("capability", [(7, 0), (6, 1)])
def test_a_gpu_without_kernels_is_named_with_the_remedy(capability: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"Tesla V100 is a sm_\d\d, and this torch has kernels for sm_75, .*cu126"):
        check_kernels("Tesla V100", capability, CU128)
