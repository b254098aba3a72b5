# make serve  sets up and starts the broker;  make test  sets up and runs the tests.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=

.PHONY: help serve test check format bench demo fuzz clean

help:
	@echo "make serve    start the broker (ARGS='--port 5673 --memory' for settings)"
	@echo "make test     run the tests"
	@echo "make check    format, lint, types, layers"
	@echo "make bench    measure beside RabbitMQ and NATS, as far as installed (ARGS='--quick')"
	@echo "make demo     the settlement system: kills, poison and a redrive, in half a minute"
	@echo "make fuzz     feed the protocol code mutated bytes for a minute (ARGS='--seconds 600')"

# What each task needs, installed once and again when pyproject.toml changes.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.serve: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.develop: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,suites,check,bench,demo]'
	@touch $@ $(VENV)/.serve

serve: $(VENV)/.serve
	@exec $(BIN)/pabal serve $(ARGS)

test: $(VENV)/.develop
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.develop
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

format: $(VENV)/.develop
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.develop
	$(BIN)/python benchmarks/run.py $(ARGS)

demo: $(VENV)/.develop
	$(BIN)/python examples/settlement/demo.py $(ARGS)

fuzz: $(VENV)/.develop
	$(BIN)/python fuzz/fuzz_frames.py --seconds 60 $(ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist src/*.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
