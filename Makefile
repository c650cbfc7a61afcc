# The one way to run everything. `make` alone lists the targets.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
export LOCKSTEP_HOME ?= $(CURDIR)/.lockstep
export DO_NOT_TRACK = 1
export GX_ANALYTICS_ENABLED = false
# Containers often say that compiled modules are not to be kept: each process would then compile our own anew, 0.6 s of
# a command, and pytest each test.
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help setup demo servers test stress check lint format ui bench clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP)  ## make the environment in .venv from the pinned packages
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# pip compiles modules one after the other; here all cores do. Some that are not for this Python do not compile.
	$(BIN)/python -m pip install --quiet --no-compile --progress-bar off -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib pipelines assets resources jobs schedules || true
	touch $@

demo: $(STAMP)  ## the main job on a small corpus: build, ask, edit, update, verify, roll back
	$(BIN)/python -m examples.demo

servers:  ## install what the integration tests talk to: Kafka's jars, an S3 gateway, PostgreSQL
	bash tests/integration/servers/install.sh

# Each takes about 2.5 GB with what it starts. With three on two cores, tests of Kafka miss their deadlines. A file stays
# in one, and the long integration tests begin first.
TEST_PROCESSES ?= 2
test: $(STAMP)  ## all tests, the integration tests among them
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

stress: $(STAMP)  ## the longest tests whole, of which `make test` runs a share
	LOCKSTEP_STRESS=1 LOCKSTEP_TRUTH_EXAMPLES=2000 $(BIN)/python -m pytest -m stress $(PYTEST_ARGS)

check: $(STAMP) lint  ## lint, types, import layers and the quick tests
	$(BIN)/python -m pytest tests/unit -q

lint: $(STAMP)  ## lint, format, types and import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

DEMO := $(LOCKSTEP_HOME)/demo
ui: $(STAMP)  ## the Dagster web UI on http://127.0.0.1:3000: of the demo if it was run, else of lockstep.yaml
	@if test -f $(DEMO)/lockstep.yaml; \
	then LOCKSTEP_HOME=$(DEMO)/data $(BIN)/lockstep ui --config $(DEMO)/lockstep.yaml; \
	else $(BIN)/lockstep ui; fi

bench: $(STAMP)  ## how to run each benchmark
	@sed -n '/^## Commands/,/^## /p' benchmarks/README.md

clean:  ## remove the environment and the demo's data
	rm -rf $(VENV) .lockstep
