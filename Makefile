# The commands of the project. Each makes what it needs first, so a fresh clone needs only Python and a package index.
#
#   make demo PYTHON=python3.12           another interpreter (3.11 or later); taken when .venv is made
#   make demo PIP_ARGS="--no-index ..."   anything for pip
#   make test ARGS="-k resume"            anything for the command at the end: pytest or `chatwright demo`
#
# Set-up runs again when pyproject.toml or constraints.txt is newer than the stamp that it left in .venv.

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=

BIN := .venv/bin
SETTINGS := pyproject.toml constraints.txt
RUNTIME := .venv/.runtime-installed
DEV := .venv/.dev-installed
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
# Two test processes share two cores: threads that wait must sleep, and whoever is done takes over from the other.
TESTS := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist worksteal
OLD_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test test-fast lint bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(RUNTIME) ## only the installation, into .venv
	@echo "ready: $(BIN)/chatwright --help" >&2

demo: $(RUNTIME) ## the whole life of a model on documents that this machine already has, then the chat page
	@$(BIN)/chatwright demo $(ARGS)

test: lint ## lint, then every test; ends with what was skipped and why
	@$(TESTS) $(ARGS)

test-fast: $(DEV) ## the tests that take about a minute
	@$(TESTS) -m "not slow" $(ARGS)

lint: $(DEV) ## style, format, types and the direction of imports; all problems at once
	@failed=; \
	for check in "ruff check ." "ruff format --check ." mypy "lint-imports --no-logo"; do \
	  echo "lint: $$check"; $(BIN)/$$check || failed="$$failed [$$check]"; \
	done; \
	test -z "$$failed" || { echo "error: lint failed in:$$failed" >&2; exit 1; }

bench: $(DEV) ## the benchmarks and how to call them
	@$(BIN)/python bench

clean: ## remove .venv, caches and build output; runs/ stays
	rm -rf .venv build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

# A sound .venv that somebody made by hand is kept; one that is too old, broken or without pip is made anew.
.venv/.made:
	@$(PYTHON) $(OLD_ENOUGH) 2>/dev/null || { \
	  echo "error: chatwright needs Python 3.11 or later, and \`$(PYTHON)\` is: $$($(PYTHON) --version 2>&1)" >&2; \
	  echo "  next: name another interpreter: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@$(BIN)/python $(OLD_ENOUGH) 2>/dev/null && $(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  echo "making .venv with $$($(PYTHON) --version 2>&1)" >&2; \
	  $(PYTHON) -m venv --clear .venv; }
	@touch $@

# pip leaves what fits alone, so a renewed stamp costs seconds. The dev install contains the runtime one.
$(RUNTIME): $(SETTINGS) | .venv/.made
	@echo "installing chatwright into .venv (the first time some minutes and 2 GB or more)" >&2
	@$(PIP) -e .
	@touch $@

$(DEV): $(SETTINGS) | .venv/.made
	@echo "installing chatwright and its development tools into .venv (the first time some minutes and 2 GB or more)" >&2
	@$(PIP) -e '.[dev]'
	@touch $(RUNTIME) $@
