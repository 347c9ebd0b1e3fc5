# Every target makes the virtual environment it needs: `make demo` and `make test` work in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TPU_VENV := .venv-tpu
TPU_STAMP := $(TPU_VENV)/.installed

.PHONY: help venv demo test test-core test-tpu lint format bench docs clean

help:
	@echo "make demo       the whole chain, small and offline; names the pictures to open"
	@echo "make test       ruff, mypy and pytest"
	@echo "make test-core  an install without extras: composite and stats without torch"
	@echo "make test-tpu   training through PyTorch/XLA, on its CPU device; installs 7 GB in $(TPU_VENV)"
	@echo "make bench      every benchmark, into benchmarks/results/"
	@echo "make docs       the manual, into site/"
	@echo "make venv       the virtual environment alone, in $(VENV)"
	@echo "make format     let ruff mend what it can"
	@echo "make clean      remove what the other targets made"

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev,docs]'
	@touch $@

demo: $(STAMP)
	$(BIN)/depthgen demo

test: lint
	$(BIN)/pytest

test-core: $(STAMP)
	$(BIN)/python tests/core_install.py

test-tpu: $(TPU_STAMP)
	$(TPU_VENV)/bin/python -m pytest -rs --timeout 1800 tests/vathos/test_tpu.py

# PyTorch/XLA goes with one version of torch, which is not the one of everything else.
$(TPU_STAMP): pyproject.toml constraints-tpu.txt
	$(PYTHON) -m venv $(TPU_VENV)
	$(TPU_VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints-tpu.txt \
		-e '.[train]' torch torch_xla pytest pytest-timeout
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -m benchmarks

docs: $(STAMP)
	$(BIN)/python docs/make_cli_reference.py
	$(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

clean:
	rm -rf $(VENV) $(TPU_VENV) build demo site .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
