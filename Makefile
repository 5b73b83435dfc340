# On a fresh machine: `make demo` or `make test`. Each sets up all that it needs in .venv, once.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
READY := .venv/.ready
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 WANDB_MODE=offline
COVERAGE := --cov=recsys --cov-report=term --cov-fail-under=90

.PHONY: help setup demo test test-all test-slurm bench bench-quality lint format

help:
	@echo "make demo      the whole journey on data that the project makes itself"
	@echo "make test      the tests, with coverage"
	@echo "make test-all  the same and the long tests: faults, soak, a SLURM cluster"
	@echo "make test-slurm  the project's jobs on a private two-node SLURM; as root, with Debian's packages"
	@echo "make bench     speed beside sentence-transformers and the chip, growth, indexes -> docs/benchmarks.md; needs data/ml1m"
	@echo "make bench-quality  time to quality beside sentence-transformers: hours, on an idle machine"
	@echo "make lint      ruff and the type checker"
	@echo "make format    let ruff mend what it can"
	@echo "make setup     only the local .venv; PYTHON=python3.12 names another Python"

setup: $(READY)

# torch comes first and alone, so that pip takes the build that this machine's package sources prefer.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Found Python %d.%d, expected 3.11 or newer: make PYTHON=python3.11 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@echo "Setting up .venv; the first time takes a few minutes."
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e '.[cpu,reports,dev]'
	@touch $@

demo: $(READY)
	$(BIN)/recsys demo

test: $(READY)
	$(TEST_ENV) $(BIN)/python -m pytest -q -m "not slow and not slurm" -n 2 --dist loadfile $(COVERAGE)

test-all: $(READY)
	$(TEST_ENV) $(BIN)/python -m pytest -q -m "not slurm" -n 2 --dist loadfile $(COVERAGE)
	$(TEST_ENV) $(BIN)/python -m pytest -q -m slurm

test-slurm: $(READY)
	$(TEST_ENV) $(BIN)/python -m pytest -q -m slurm

# A benchmark that cannot be run here leaves its figures as they were, and the page says of what there are none.
bench: $(READY)
	$(PIP) -e '.[bench]'
	-$(BIN)/python benchmarks/peers.py
	-$(BIN)/python benchmarks/split.py configs/pruner/ml1m_search.yaml --queries=100 --splits 4 --turns=5
	-$(BIN)/python benchmarks/growth.py
	-$(BIN)/python benchmarks/index.py --items=100000 --clusters=1000 --part=tune
	-OMP_NUM_THREADS=1 $(BIN)/python benchmarks/rerank.py
	-$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/render.py

bench-quality: $(READY)
	$(PIP) -e '.[bench]'
	$(BIN)/python benchmarks/quality.py
	$(BIN)/python benchmarks/render.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
