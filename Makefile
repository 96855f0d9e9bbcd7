# Everything runs in .venv, made on the first call; PYTHON chooses the interpreter (3.11 or newer), VENV another folder:
# make test PYTHON=python3.13 VENV=.venv-3.13
PYTHON ?= python3
VENV ?= .venv
# Tests run at once; each may have several workers of its own.
JOBS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST := .venv-lowest
FAST := tests/test_layering.py tests/test_public_api.py tests/core/data tests/core/plan tests/core/batch tests/core/engine \
	tests/core/loader/test_group_loaders.py tests/core/loader/test_caching.py tests/cli/test_command_line.py
EXTRAS := tests/core/loader/test_checkpoint.py $(addprefix tests/core/sources/test_,array_files.py record_files.py audio.py frames.py wrapped.py)
BENCH := .venv-bench
MUTANTS := .venv-mutants

.PHONY: run test test-fast test-lowest lint faults soak mutants bench bench-docs bench-short clean

run: $(STAMP)
	$(BIN)/hydrax run

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# For a developer's own loop.
test-fast: $(STAMP)
	$(BIN)/python -m pytest $(FAST)

# The lowest versions that pyproject.toml names must work, too; interrupts at every instruction know no package's version.
test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest -n $(JOBS) --dist worksteal $(FAST) $(EXTRAS) --deselect tests/core/engine/test_memo_interrupts.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The fault suites with many more seeded rounds: 18 minutes on two shared cores.
faults: $(STAMP)
	HYDRAX_FAULTS=long HYDRAX_CACHE_ROUNDS=1000 HYDRAX_CACHE_KILLS=100 $(BIN)/python -m pytest tests/faults tests/core/cache

# The digits example trains for half an hour (SOAK_MINUTES) while its workers are killed and inspectors come and go.
soak: $(STAMP)
	$(BIN)/python tests/faults/soak.py

# Which one-line changes to the core no test notices: ARGS="--only order,plan --sample 20"; tests/mutants/README.md.
mutants: $(MUTANTS)/.installed
	$(MUTANTS)/bin/python tests/mutants/run.py $(ARGS)

# Side by side with the peers, in an environment of its own: ARGS="--only tiny --rounds 1"; tests/benchmarks/README.md.
bench: $(BENCH)/.installed
	$(BENCH)/bin/python tests/benchmarks/run.py $(ARGS)

# The same, and docs/performance.md gets the figures and the plots; with ARGS="--only tiny" the other figures stay.
bench-docs: $(BENCH)/.installed
	$(BENCH)/bin/python tests/benchmarks/run.py --merge --json docs/performance.json $(ARGS)
	$(BENCH)/bin/python tests/benchmarks/page.py docs/performance.json docs/performance.md
	$(BENCH)/bin/python tests/benchmarks/timeline.py docs/images/bench-timeline.svg

# Against the bare work, without peers: half a minute, fails on gross loss only.
bench-short: $(STAMP)
	$(BIN)/python tests/benchmarks/short.py

clean:
	rm -rf $(VENV) $(LOWEST) $(MUTANTS) .venv-bench .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(LOWEST)/.installed: pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[dev]'
	touch $@

$(MUTANTS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(MUTANTS)
	$(MUTANTS)/bin/python -m pip install --quiet --editable '.[dev,mutants]'
	touch $@

$(BENCH)/.installed: pyproject.toml tests/benchmarks/peers.txt tests/benchmarks/install.sh
	PYTHON="$(PYTHON)" bash tests/benchmarks/install.sh $(BENCH)
	touch $@
