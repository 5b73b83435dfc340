import pytest
import torch

from recsys.training import peak
from recsys.training.peak import measured_rate, peak_rate, sheet_rate


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("Tesla V100-SXM2-32GB", 125e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA L40S", 362e12),
        ("Tesla T4", 65e12),
        ("NVIDIA T400 4GB", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_gpu_is_known_by_its_name(name: str, rate: float | None):
    assert sheet_rate(name) == rate


def test_a_cpu_is_measured_in_the_precision_of_the_run(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(peak, "measured_rate", lambda device, dtype: asked.append(dtype) or 1.0)
    for precision in ("32-true", "bf16-mixed", "16-mixed"):
        peak_rate(torch.device("cpu"), precision)
    assert asked == [torch.float32, torch.bfloat16, torch.float16]


def test_measuring_draws_no_number_of_the_run():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert measured_rate(torch.device("cpu"), torch.float32, shape=(32, 32, 32), seconds=0.001) > 1e5
    assert torch.equal(torch.get_rng_state(), before)


def test_a_rate_is_measured_however_little_time_there_is():
    assert measured_rate(torch.device("cpu"), torch.float32, shape=(8, 8, 8), seconds=0.0) > 0
