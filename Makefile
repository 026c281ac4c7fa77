# Two commands on a fresh machine: `make demo` and `make test`. Each sets itself up.

# The newest Python that can make an environment; PYTHON=/path/to/python names another. Each is
# run, not looked up: a shim on PATH may stand for a version that is not installed.
USABLE = import ensurepip, ssl, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c '$(USABLE)' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
MINUTES ?= 2
# More than the cores: half of the time, tests wait for servers and programs.
WORKERS ?= 4
DOCKERFILES = Dockerfile $(wildcard inference/Dockerfile.*)
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

BEGAN := $(shell date +%s)
TOOK = @seconds=$$(($$(date +%s) - $(BEGAN))); \
	echo "make $@ took $$((seconds / 60)) min $$((seconds % 60)) s"

.PHONY: audit bench chaos chaos-quick clean demo format fuzz help lint lock quality test test-all \
	test-containers test-models validate

help:  ## List what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 17

demo: $(VENV)/run.stamp  ## Run the whole system on this machine (ARGS="--images 60 --keep")
	$(BIN)/python main.py demo $(ARGS)
	$(TOOK)

test: lint validate  ## Lint, then run the tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not models and not containers" $(ARGS)
	$(TOOK)

test-models: $(VENV)/dev.stamp  ## Serve the real models with tiny weights (installs torch and vLLM, 12 GB)
	$(BIN)/python -m pytest -m models $(ARGS)

test-all: lint validate  ## As test, with the slow ones and the real models; reports coverage
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-report=html $(ARGS)
	$(TOOK)

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

fuzz: $(VENV)/dev.stamp  ## Damage images, records, messages and answers (MINUTES=2 ARGS="images --seed 7")
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(ARGS)
	$(TOOK)

bench: $(VENV)/dev.stamp  ## What an image costs (ARGS="--images 1000 --store weaviate")
	$(BIN)/python -m benchmarks.bench $(ARGS)

quality: $(VENV)/dev.stamp  ## How well searches find what is relevant (ARGS="FOLDER --keep DIR")
	$(BIN)/python -m benchmarks.search_quality $(ARGS)
	$(TOOK)

lint: $(VENV)/dev.stamp  ## ruff, mypy and the import order
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp  ## Rewrite the code as ruff would have it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/dev.stamp  ## Write the locks from requirements*.txt (ARGS=--upgrade for newer versions)
	$(LOCK) $(ARGS) requirements.txt -o requirements.lock
	$(LOCK) $(ARGS) requirements-dev.txt -c requirements.lock -o requirements-dev.lock

audit: $(VENV)/dev.stamp  ## Look up known vulnerabilities of the locked packages (asks a service)
	$(BIN)/pip-audit --strict --disable-pip --require-hashes -r requirements-dev.lock $(ARGS)

clean:  ## Remove the environment, caches and what was built; data/ stays
	rm -rf $(VENV) .cache build .coverage .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

# The file that venv makes last.
$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "Weavloader needs Python 3.11, 3.12 or 3.13 with venv;" \
		"none was found on PATH. Name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "using $(PYTHON): $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# The environment is made once: a newer lock is installed with the Python that is in it.
$(VENV)/run.stamp: requirements.lock | $(BIN)/pip
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock $(VENV)/run.stamp
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	@touch $@
