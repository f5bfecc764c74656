# The two commands: `make demo` and `make test`. Each sets up everything it needs in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH := .venv-bench

.DEFAULT_GOAL := help
.PHONY: help demo test lint openapi fuzz up bench clean

help: ## show this
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(STAMP): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: $(STAMP) ## the main job on real images, from nothing to the report (embedded: SQLite, no Redis)
	$(BIN)/amun demo

test: $(STAMP) ## every test, one more at a time than there are cores, for some do nothing but wait
	$(BIN)/python -m pytest -n $$(( $$(nproc) + 1 )) --dist worksteal

lint: $(STAMP) ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

openapi: $(STAMP) ## write the snapshot of the OpenAPI document that the tests compare with
	$(BIN)/python -m tests.service.snapshot

fuzz: $(STAMP) ## schemathesis against the live service, five minutes for each role; SECONDS=30 for less
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),300) $(if $(SEED),--seed $(SEED))

up: $(STAMP) ## API and worker on http://127.0.0.1:8000 until Ctrl-C
	$(BIN)/amun up

$(BENCH)/.installed: requirements.txt benchmarks/requirements.txt pyproject.toml
	test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/requirements.txt
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

bench: $(BENCH)/.installed ## the benchmarks, in a virtual environment of their own; CIFAR=folder adds those on CIFAR-10
	$(BENCH)/bin/python -m benchmarks.footprint
	$(BENCH)/bin/python -m benchmarks.lists
	$(BENCH)/bin/python -m benchmarks.seeds
	$(BENCH)/bin/python -m benchmarks.ranks
	$(BENCH)/bin/python -m benchmarks.adversarial
	test -z "$(CIFAR)" || $(BENCH)/bin/python -m benchmarks.adversarial --data "$(CIFAR)"
	test -z "$(CIFAR)" || $(BENCH)/bin/python -m benchmarks.paper --scale small --data "$(CIFAR)"
	test -z "$(CIFAR)" || $(BENCH)/bin/python -m benchmarks.requests --data "$(CIFAR)"

clean: ## remove virtual environments and caches; data folders stay
	rm -rf $(VENV) $(BENCH) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
