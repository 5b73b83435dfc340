import json
import math
from pathlib import Path

import growth
import numpy as np
import pytest
from growth import Growth, fitted_exponent


def test_an_exponent_is_found_again():
    sizes = np.array([1, 2, 4, 8, 16])
    slope, error = fitted_exponent(sizes, 3.0 * sizes**1.5)
    assert slope == pytest.approx(1.5)
    assert error == pytest.approx(0, abs=1e-9)
    noisy = fitted_exponent(sizes, sizes * np.array([1.1, 0.9, 1.1, 0.9, 1.1]))
    assert noisy[0] == pytest.approx(1, abs=0.1)
    assert 0.01 < noisy[1] < 0.1


def test_the_standard_error_is_that_of_the_textbook():
    rng = np.random.default_rng(0)
    sizes = np.array([1, 2, 4, 8, 16, 32])
    seconds = sizes * np.exp(0.1 * rng.normal(size=6))
    found, covariance = np.polyfit(np.log(sizes), np.log(seconds), 1, cov=True)
    slope, error = fitted_exponent(sizes, seconds)
    assert slope == pytest.approx(found[0])
    assert error == pytest.approx(np.sqrt(covariance[0, 0]))


def test_times_below_start_up_have_no_exponent():
    assert math.isnan(fitted_exponent(np.array([1, 2]), np.array([-0.1, 1.0]))[0])


def test_start_up_is_subtracted_from_medians(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(growth.LEAST, "embed", 10)
    rounds = [[{"seconds": start + size, "own": 100.0 + size} for size in (0, 1, 2, 4)] for start in (5.0, 6.0, 70.0)]
    found = Growth.of("embed", [20, 30, 50], rounds)
    assert found.start == 6.0
    assert found.seconds == [7.0, 8.0, 10.0]
    assert found.exponent == pytest.approx(1.0)
    assert "memory x 1.030" in found.line()


@pytest.mark.slow
def test_the_command_measures_processes_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(growth, "TIMES", (1, 4))
    growth.main(["--stages", "prepare", "recommend", "--turns=1", "--size=0.01", f"--figures={tmp_path}"])
    rows = json.loads((tmp_path / "growth.json").read_text())["rows"]
    assert [row["stage"] for row in rows] == ["prepare", "recommend"]
    assert all(min(row["seconds"]) > 0 and min(row["memory"]) > 100 for row in rows)
