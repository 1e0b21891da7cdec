# Everything a newcomer or a pipeline does, one word each. `make help` lists it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN    := .venv/bin
UV     := $(BIN)/uv pip
TORCH  := torch==2.13.0

# Trust what the machine trusts: a registry behind a company's proxy has a certificate of its own.
export UV_SYSTEM_CERTS ?= true

.DEFAULT_GOAL := help
.PHONY: help install hooks demo up test test-fast bench lint format docs picture lock clean

help:            ## Show what one can do
	@grep -hE '^[a-z-]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: .venv/.installed  ## Make .venv from the lock

# torch stands apart from the lock: a CPU build where the machine offers one, the usual build elsewhere.
.venv/.installed: requirements.lock deploy/bootstrap.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed; found $$($(PYTHON) --version). Name one: make PYTHON=/path/to/python3.11 …"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --require-hashes -r deploy/bootstrap.txt
	$(UV) sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(UV) install --quiet --python $(BIN)/python $${PIP_FIND_LINKS:+--find-links "$$PIP_FIND_LINKS"} --constraint deploy/torch-constraints.txt $(TORCH)
	$(UV) install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

hooks: install   ## Install the pre-commit hooks of this checkout
	$(BIN)/pre-commit install

demo: install    ## The whole loop on real flights: land, train, promote, serve, predict
	@$(BIN)/ml-platform demo

up: install      ## Start webserver, daemon, MLflow, gateway and services; Ctrl-C stops them
	@$(BIN)/ml-platform up

# As many workers as cores, four at most: each imports the whole stack.
WORKERS := -n auto --maxprocesses 4 --dist loadfile

test: install    ## The whole test suite, with linters and types
	@$(BIN)/pytest $(WORKERS)

test-fast: install  ## The tests that need no server and no year of data
	@$(BIN)/pytest $(WORKERS) -m "not slow"

BENCHMARKS := $(notdir $(basename $(wildcard benchmarks/*.py)))

bench: install   ## The benchmarks, one after the other; or some: make bench ONLY="first_run serving"
	@for each in $(or $(ONLY),$(BENCHMARKS)); do echo "== $$each"; $(BIN)/python benchmarks/$$each.py || exit 1; done

lint: install    ## Linter, formatter check, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install    ## Build the documentation site, generated reference included, into site/
	$(BIN)/python docs/generate_reference.py
	$(BIN)/mkdocs build --strict

picture: install ## Draw the asset graph of the README anew from the definitions
	$(BIN)/python docs/images/make_asset_graph.py

lock: install    ## Remake requirements.lock from pyproject.toml
	$(UV) compile --quiet --universal --generate-hashes --python-version 3.11 --group dev \
		--override deploy/lock-overrides.txt --no-emit-package torch --output-file requirements.lock pyproject.toml

clean:           ## Remove the platform's home: a fresh start
	rm -rf "$${ML_PLATFORM_HOME:-.ml_platform}"
