# Every target does its own set-up; `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

# The interpreter is checked first: the error of an old pip says nothing useful.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "eventsaga needs Python 3.11 or later: make PYTHON=python3.12 …" >&2; exit 2; }
	@echo "Setting up $(VENV) (once)…"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --editable '.[crypto,dashboard,demo,embedded,metrics,speed]' --group dev
	@touch $(READY)

.PHONY: setup
setup: $(READY) ## Create .venv with everything the other targets need

.PHONY: demo
demo: $(READY) ## Run the order saga over four real services on an embedded PostgreSQL
	@$(BIN)/eventsaga demo

.PHONY: drill
drill: $(READY) ## Kill workers of the order saga at each of its boundaries; ARGS="--mode all" does more
	@$(BIN)/eventsaga drill demo $(ARGS)

# Most tests wait for leases, polls and processes: three at a time keep two cores busy.
AT_ONCE := --numprocesses=3 --dist=worksteal

.PHONY: test
test: $(READY) ## Run all tests, fast ones first
	@$(BIN)/python -m pytest tests/core --quiet --cov=eventsaga.core --cov-branch --cov-fail-under=100
	@$(BIN)/python -m pytest --deselect=tests/core $(AT_ONCE)

# Left out: the demo's services keep their tables apart by a setting of their connections, and
# roles are taken on by one.
.PHONY: test-pooler
test-pooler: $(READY) ## Run the acceptance tests once more, behind a PgBouncer in transaction mode
	@EVENTSAGA_TEST_POOLER=1 $(BIN)/python -m pytest tests/acceptance tests/contract $(AT_ONCE) \
	  --ignore=tests/acceptance/demo --ignore=tests/contract/test_grants.py

.PHONY: simulation
simulation: $(READY) ## Play 10,000 seeds of the whole engine in virtual time; ARGS="--seed 17" replays one
	@$(BIN)/python -m tests.simulation $(or $(ARGS),--seeds 10000)

.PHONY: mutants
mutants: $(READY) ## Make mistakes in the engine, and see that each is noticed
	@$(BIN)/python -m tests.mutants $(ARGS)

.PHONY: check
check: $(READY) ## Format, lint, types and import contracts; what CI runs before the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pyright

.PHONY: format
format: $(READY) ## Let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(READY) ## Measure the append path and whole sagas against bare asyncpg loops
	@$(BIN)/python benchmarks/run.py

.PHONY: docs
docs: $(READY) ## Run every code block of the README and docs
	@$(BIN)/python -m pytest tests/docs
