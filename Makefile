# Two commands to begin with: `make demo` and `make test`. Both set everything up by themselves.
# Needed beforehand: Python >= 3.11 (with its venv module), git, make.

ifndef PYTHON
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
endif
VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench test-external lock clean

help: ## Say what there is
	@echo "Tollgate. Begin with 'make demo' or 'make test'; both set everything up."
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# .venv is built from the lock and rebuilt only when the lock has changed (compared by content, kept as
# .venv/requirements.lock). Written last: a build that was broken off is begun again.
setup: ## Make .venv from requirements.lock (does nothing when it is up to date)
	@cmp -s requirements.lock $(VENV)/requirements.lock || { \
	set -e; \
	if [ -z "$(PYTHON)" ]; then echo "error: no Python >= 3.11 found; install one, or say make PYTHON=/path/to/python" >&2; exit 1; fi; \
	echo "Setting up $(VENV) with $$($(PYTHON) --version) (some minutes the first time) ..."; \
	rm -rf $(VENV); \
	$(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) has no working venv module (Debian: apt install python3-venv)" >&2; exit 1; }; \
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --only-binary :all: --require-hashes -r requirements.lock; \
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .; \
	$(BIN)/python -m pip check --disable-pip-version-check; \
	cp requirements.lock $(VENV)/requirements.lock; }

demo: setup ## Show it all: ingest, serve, pull, refuse, log, metrics (ONCE=1: check it, then end)
	@$(BIN)/python deploy/demo/demo.py $(if $(ONCE),--once)

test: setup ## Run the tests
	$(BIN)/python -m pytest $(ARGS)

lint: setup ## Style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: setup ## Measure against PostgreSQL alone; writes build/bench.json
	$(BIN)/python -m tests.bench $(ARGS)

test-external: setup ## Tests that need system packages (installs them on Debian)
	@deploy/install-external
	$(BIN)/python -m pytest tests/external $(ARGS)

# Needs the network; the result holds versions and hashes, and no address. The hashes make any source of the
# same files as good as another.
LOCK = build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --only-binary :all: \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header $(LOCK_ARGS) pyproject.toml

lock: ## Choose versions anew (requirements.lock, deploy/requirements.lock)
	@test -x build/lock/bin/uv || { $(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install --quiet uv; }
	$(LOCK) --all-extras --upgrade --output-file requirements.lock
	$(LOCK) --constraint requirements.lock --output-file deploy/requirements.lock

clean: ## Remove .venv and what was built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .hypothesis .schemathesis .import_linter_cache
