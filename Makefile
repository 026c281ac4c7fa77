# Two commands on a fresh machine: `make demo` and `make test`. Each sets itself up.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
DOCKERFILES = Dockerfile $(wildcard inference/Dockerfile.*)

.PHONY: bench chaos chaos-quick demo test test-all test-containers test-models validate lint format clean help

help:  ## List what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 17

demo: $(VENV)/run.stamp  ## Run the whole system on this machine (ARGS="--images 60 --keep")
	$(BIN)/python main.py demo $(ARGS)

test: lint validate  ## Lint, then run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not models and not containers" $(ARGS)

test-models: $(VENV)/dev.stamp  ## Serve the real models with tiny weights (installs torch, 6 GB)
	$(BIN)/python -m pytest -m models $(ARGS)

test-all: lint validate  ## As test, with the slow ones and the real models
	$(BIN)/python -m pytest $(ARGS)

test-containers: $(VENV)/dev.stamp  ## Run the image, compose and Kubernetes files (root, podman)
	$(BIN)/python -m pytest -m containers tests/containers $(ARGS)

validate: $(VENV)/dev.stamp  ## The deployment files against their schemas
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/kubernetes-validate --strict --quiet kubernetes-complete.yaml
	$(BIN)/hadolint $(DOCKERFILES)

chaos: $(VENV)/dev.stamp  ## Kill, freeze and starve a running system; account for every image
	$(BIN)/python -m tests.chaos $(ARGS)

chaos-quick: $(VENV)/dev.stamp  ## The short form, as in continuous integration
	$(BIN)/python -m tests.chaos --quick $(ARGS)

bench: $(VENV)/dev.stamp  ## What an image costs (ARGS="--images 1000 --store weaviate")
	$(BIN)/python -m benchmarks.bench $(ARGS)

lint: $(VENV)/dev.stamp  ## ruff, mypy and the import order
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp  ## Rewrite the code as ruff would have it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the environment, caches and what was built
	rm -rf $(VENV) .cache build data .mypy_cache .pytest_cache .ruff_cache

$(VENV)/run.stamp: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

$(VENV)/dev.stamp: requirements-dev.txt requirements.txt $(VENV)/run.stamp
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@
