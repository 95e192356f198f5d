# `make demo` shows the whole way on built-in data; `make help` lists the rest.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt
STAMP := $(VENV)/.installed
DATA ?= ../shared/data
MODELS ?= ../shared/models
PYTEST_ARGS ?=
ONLY ?=
PRECISION ?=
export DATA MODELS
export DIAL_DATA ?= $(DATA)
export DIAL_MODELS ?= $(MODELS)

TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: help install demo demo-text test test-slow backends lint bench gpu results clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/make \1\t\2/p' Makefile | expand -t 18

install: $(STAMP)  ## create .venv and install (the other targets do it when needed)

# torch first and alone: its CPU build is a tenth of the size, so it is preferred where no GPU is found. pip takes a
# build that is already at hand before either index; the CPU index is given up quickly where it cannot be reached.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "DIAL needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1); try: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@if [ "$$(uname -s)" = Linux ] && ! nvidia-smi >/dev/null 2>&1; then \
		echo "No GPU found: a CPU build of torch is preferred."; \
		$(PIP) --timeout 5 --retries 0 --extra-index-url $(CPU_INDEX) torch==$(TORCH) 2>/dev/null || $(PIP) torch==$(TORCH); \
	else $(PIP) torch==$(TORCH); fi
	$(PIP) -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## fit a Super and a distilled Swift on built-in data, sweep the cascade (about 5 minutes)
	@PATH="$(abspath $(VENV))/bin:$$PATH" scripts/demo.sh

demo-text: $(STAMP)  ## the same with answers that are written: an energy head decides before any is (about 3 minutes)
	@PATH="$(abspath $(VENV))/bin:$$PATH" scripts/demo_text.sh

test: $(STAMP)  ## quick tests and the examples in docstrings, in two processes
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 $(PYTEST_ARGS)

test-slow: $(STAMP)  ## tests that train or start several processes, two files at a time
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slow -n 2 --dist loadfile $(PYTEST_ARGS)

BACKEND_TESTS := tests/tiers/test_backends.py tests/tiers/test_exports.py tests/tiers/test_choice.py \
	tests/tiers/test_comparison.py tests/study/test_rivals.py tests/cli/test_preparation.py

backends: $(STAMP)  ## add OpenVINO and onnxruntime (110 MB to download) to .venv and run their tests
	$(PIP) -e '.[openvino,onnxruntime]'
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 $(BACKEND_TESTS) $(PYTEST_ARGS)

lint: $(STAMP)  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(STAMP)  ## speed and memory: every benchmarks/bench_*.py
	@for file in benchmarks/bench_*.py; do echo "== $$file"; $(PY) $$file; done

# With any Python that has torch, transformers and lightning, so that a machine with a GPU need not install anything.
gpu:  ## what needs a GPU, in at most 8 minutes, as a table; without one it says so
	@scripts/gpu.sh

results: $(STAMP)  ## the README's tables from the stage tables in results/; trains for missing ones (DATA=, MODELS=, ONLY=sst2, PRECISION=32-true)
	$(PY) scripts/results.py --data "$(DATA)" --models "$(MODELS)" --only "$(ONLY)" $(if $(PRECISION),--precision "$(PRECISION)")

clean:  ## remove the demo's runs and caches; .venv and results stay
	rm -rf runs/demo runs/demo-text .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
