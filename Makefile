# `make` lists the commands. The first one that needs it creates .venv from the pinned requirements.
SHELL := /bin/bash
# importing torch from source that is never kept compiled takes twice as long, in each of many processes
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
BIN := .venv/bin
VENV := .venv/.ready
READY := $(VENV) kernels
PEERS := .venv-peers

# a broken link, and a docstring that cannot be read, are errors
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

.DEFAULT_GOAL := help
.PHONY: help setup kernels kws transcribe real pretrained convert coverage validation test test-slow test-browser check docs format bench bench-peers pins clean

help:  ## list these commands
	@awk -F ':.*##' '/^[a-z-]+:.*##/ {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## create .venv with the pinned packages (CUDA builds of torch: 5.7 GB on Linux)

$(VENV): requirements/all.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "AnalogTorch needs Python >= 3.11; run: rm -r .venv && make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements/all.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

kernels: $(VENV)  ## compile the CPU kernels if they are missing or their sources have changed
	@$(BIN)/python analogtorch/ops/native/build.py --stale || echo "going on without CPU kernels, several times slower"

kws: $(READY)  ## the main job: train a keyword spotter, put it on the chip, report what it loses
	$(BIN)/analogtorch kws --config configs/kws/synthetic.yaml --overwrite

transcribe: $(READY)  ## speech to text: Whisper on chips over a month, on synthesised sentences
	$(BIN)/analogtorch transcribe --config configs/transcribe/spoken.yaml --overwrite

# a test that hangs shows where, and fails by its name, after far longer than any takes
HANGS := -o faulthandler_timeout=900 -o faulthandler_exit_on_timeout=true

test: $(READY)  ## the test suite (2 processes of one thread)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(HANGS) -m "not slow and not browser"

test-slow: $(READY)  ## the long tests: training runs on real speech
	$(BIN)/python -m pytest -m slow

test-browser: $(READY)  ## the pages of reports in a headless Chromium (Debian: apt-get install chromium)
	$(BIN)/python -m pytest -m browser tests/browser

check: $(READY)  ## ruff, types, order of the rooms, documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MKDOCS)

docs: $(READY)  ## the documentation with the API reference, as HTML in site/
	$(MKDOCS)

format: $(READY)  ## format the code and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

convert: $(READY)  ## trained models as they are on a programmed chip: what is lost, and what gets it back
	$(BIN)/python -m benchmarks.convert --chips 1

coverage: $(READY)  ## which layers of the usual models become analog, and whether every step works on them
	$(BIN)/python -m benchmarks.coverage

validation: $(READY)  ## the models against published figures: docs/validation.md
	$(BIN)/python -m benchmarks.validation

bench: $(READY)  ## what an analog layer costs beside the digital one
	$(BIN)/python -m benchmarks.mvm

bench-peers: $(PEERS)/.ready  ## the same beside aihwkit-lightning and aihwkit, in .venv-peers (aihwkit compiles for minutes)
	$(PEERS)/bin/python -m benchmarks.mvm --out runs/mvm-peers

# aihwkit comes last and may fail: its build needs torch and the tools of its pins installed, g++ and OpenBLAS
$(PEERS)/.ready: requirements/peers.txt pyproject.toml | $(VENV)
	@test -x $(PEERS)/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python $(PEERS)
	sed '/^aihwkit==/,/# via/d' requirements/peers.txt | $(BIN)/uv pip sync --quiet --python $(PEERS)/bin/python -
	$(BIN)/uv pip install --quiet --python $(PEERS)/bin/python --no-deps --no-build-isolation --editable .
	PATH="$(CURDIR)/$(PEERS)/bin:$$PATH" $(BIN)/uv pip install --quiet --python $(PEERS)/bin/python --no-deps \
	  --no-build-isolation --require-hashes -r requirements/peers.txt || \
	  echo "aihwkit did not build (it needs g++ and OpenBLAS with its headers, such as libopenblas-dev): going on without"
	@touch $@

pretrained: $(READY)  ## pretrained keyword spotters mapped onto the chip without retraining (needs the real data)
	$(BIN)/python -m benchmarks.pretrained

real: $(READY)  ## hardware-aware training on real speech over six seeds, against a control (needs the real data)
	$(BIN)/python -m benchmarks.hwa

pins: $(READY)  ## compile requirements/*.txt anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 --all-extras \
	  --group test --group lint --group docs --generate-hashes --no-header --no-emit-index-url -o requirements/all.txt
	$(BIN)/uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 \
	  --group peers --generate-hashes --no-header --no-emit-index-url -o requirements/peers.txt

clean:  ## remove what the commands made, .venv included
	rm -rf .venv $(PEERS) .pytest_cache .mypy_cache .ruff_cache site runs
