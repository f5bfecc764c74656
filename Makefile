# The two commands: `make demo` and `make test`. Each sets up everything it needs in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH := .venv-bench
FLOORS := .venv-floors
SUPPLY := .venv-supply
# Their floors come in CUDA builds alone, gigabytes of them; with a GPU and patience: make floors PINNED=
PINNED ?= torch torchvision

# The pip that venv brings with CPython 3.11 takes half as long again to look through an index.
PIP := pip==25.3

# What is imported is compiled by the first process that imports it. Hundreds of processes would each compile it anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test lint openapi requirements floors sbom audit fuzz up bench clean

help: ## show this
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile "$(PIP)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: $(STAMP) ## the main job on real images, from nothing to the report (embedded: SQLite, no Redis)
	$(BIN)/amun demo

# A module's tests stay together: what they share, and what a process needs before its first test, is made less often.
test: $(STAMP) ## every test, one module more at a time than there are cores, for some do nothing but wait
	$(BIN)/python -m pytest -n $$(( $$(nproc) + 1 )) --dist loadscope --no-loadscope-reorder

lint: $(STAMP) ## ruff, bandit, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive models service worker migrations benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

openapi: $(STAMP) ## write the snapshot of the OpenAPI document that the tests compare with
	$(BIN)/python -m tests.service.snapshot

requirements: $(STAMP) ## write what each image installs, after a change of pyproject.toml or requirements.txt
	$(BIN)/python -m tests.supply.images

$(FLOORS)/.installed: pyproject.toml requirements.txt $(STAMP)
	test -x $(FLOORS)/bin/python || $(PYTHON) -m venv $(FLOORS)
	$(BIN)/python -m tests.supply.floors $(PINNED) > $(FLOORS)/floors.txt
	$(FLOORS)/bin/python -m pip install --quiet --disable-pip-version-check -c $(FLOORS)/floors.txt setuptools
	$(FLOORS)/bin/python -m pip install --quiet --disable-pip-version-check -c $(FLOORS)/floors.txt --no-build-isolation \
		--editable '.[service,worker,dev]'
	$(FLOORS)/bin/python -m pip check
	touch $@

floors: $(FLOORS)/.installed ## tests of rows, HTTP, Celery, reports and tensors with every dependency at its lowest version
	$(FLOORS)/bin/python -m pytest -n $$(nproc) -p no:cacheprovider tests/models tests/service/test_*.py tests/service/webhooks \
		tests/worker/test_tasks.py tests/worker/test_signing.py tests/worker/report tests/worker/unlearning

$(SUPPLY)/.installed: tests/supply/requirements.txt
	test -x $(SUPPLY)/bin/python || $(PYTHON) -m venv $(SUPPLY)
	$(SUPPLY)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile "$(PIP)"
	$(SUPPLY)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r $<
	touch $@

sbom: $(SUPPLY)/.installed ## write sbom.service.json and sbom.worker.json (CycloneDX, checked against its schema)
	for image in service worker; do $(SUPPLY)/bin/cyclonedx-py requirements requirements.$$image.txt \
		--pyproject pyproject.toml --output-reproducible --output-file sbom.$$image.json || exit 1; done

audit: $(STAMP) $(SUPPLY)/.installed ## known advisories against pins and floors; fails where they cannot be asked
	$(BIN)/python -m tests.supply.audit $(SUPPLY)/bin/pip-audit --service $(or $(SERVICE),pypi)

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
	rm -rf $(VENV) $(BENCH) $(FLOORS) $(SUPPLY) sbom.*.json .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
