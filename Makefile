# make serve  sets up and starts the broker;  make test  sets up and runs the tests.
#
# Two environments: .venv has the sources as they are, for work on them; .venv-compiled an installed Pabal, compiled
# where there is a C compiler (PABAL_COMPILE=0 leaves that out), installed anew when a source has changed.
# JOBS: tests at once, more than there are cores, as most of them wait for something.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=
JOBS ?= 3
COMPILED = .venv-compiled
SOURCES := $(shell find src -name '*.py') pyproject.toml hatch_build.py

.PHONY: help serve test test-compiled check format bench demo fuzz clean

help:
	@echo "make serve    start the broker (ARGS='--port 5673 --memory' for settings)"
	@echo "make test     run the tests, on plain Python"
	@echo "make test-compiled   run them on the compiled form"
	@echo "make check    format, lint, types, layers"
	@echo "make bench    measure beside RabbitMQ and NATS, as far as installed (ARGS='--quick')"
	@echo "make demo     the settlement system: kills, poison and a redrive, in half a minute"
	@echo "make fuzz     feed the protocol code mutated bytes for a minute (ARGS='--seconds 600')"

# What each task needs, installed once and again when pyproject.toml changes.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(COMPILED)/bin/python:
	$(PYTHON) -m venv $(COMPILED)

$(COMPILED)/.wheel: $(SOURCES) | $(COMPILED)/bin/python
	@echo "building; where there is a C compiler that takes a few minutes (PABAL_COMPILE=0 leaves it out)" >&2
	@rm -rf $(COMPILED)/wheel
	$(COMPILED)/bin/python -m pip wheel --quiet --no-deps --wheel-dir $(COMPILED)/wheel .
	@touch $@

$(COMPILED)/.serve: $(COMPILED)/.wheel
	$(COMPILED)/bin/python -m pip install --quiet --force-reinstall --no-deps $(COMPILED)/wheel/*.whl
	$(COMPILED)/bin/python -m pip install --quiet $(COMPILED)/wheel/*.whl
	@touch $@

$(COMPILED)/.develop: $(COMPILED)/.serve
	$(COMPILED)/bin/python -m pip install --quiet "$$(echo $(COMPILED)/wheel/*.whl)[test,suites,demo]"
	@touch $@

$(VENV)/.develop: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,suites,check,bench,demo]'
	@touch $@

serve: $(COMPILED)/.serve
	@exec $(COMPILED)/bin/pabal serve $(ARGS)

test: $(VENV)/.develop
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

test-compiled: $(COMPILED)/.develop
	$(COMPILED)/bin/python -c "import sys, pabal; sys.exit(not pabal.compiled())" || { echo "not compiled"; exit 1; }
	$(COMPILED)/bin/python -m pytest -n $(JOBS) $(ARGS)

check: $(VENV)/.develop
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

format: $(VENV)/.develop
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.develop $(COMPILED)/.serve
	$(BIN)/python benchmarks/run.py --pabal "$$(echo $(COMPILED)/lib/python3*/site-packages)" $(ARGS)

demo: $(VENV)/.develop
	$(BIN)/python examples/settlement/demo.py $(ARGS)

fuzz: $(VENV)/.develop
	$(BIN)/python fuzz/fuzz_frames.py --seconds 60 $(ARGS)

clean:
	rm -rf $(VENV) $(COMPILED) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist src/*.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
