# Everything runs in .venv, made on the first call; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
BENCH := .venv-bench

.PHONY: run test lint faults soak bench clean

run: $(STAMP)
	$(BIN)/hydrax run

test: lint
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The fault suites with many more seeded rounds: about ten minutes.
faults: $(STAMP)
	HYDRAX_FAULTS=long HYDRAX_CACHE_ROUNDS=1000 HYDRAX_CACHE_KILLS=100 $(BIN)/python -m pytest tests/faults tests/core/cache

# The digits example trains for half an hour (SOAK_MINUTES) while its workers are killed and inspectors come and go.
soak: $(STAMP)
	$(BIN)/python tests/faults/soak.py

# Side by side with the peers, in an environment of its own; ARGS=--quick for a short round.
bench: $(BENCH)/.installed
	$(BENCH)/bin/python tests/benchmarks/run.py $(ARGS)

clean:
	rm -rf .venv .venv-bench .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(BENCH)/.installed: pyproject.toml tests/benchmarks/peers.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --editable '.[image]'
	while read -r peer; do $(BENCH)/bin/python -m pip install --quiet "$$peer" || echo "$$peer cannot be installed here: left out"; done < tests/benchmarks/peers.txt
	touch $@
