# `make` alone lists the targets. Everything runs in .venv, which scripts/install makes and keeps up to date.

BIN := .venv/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help up test faults soak lint fmt bench replays replay-year lock screenshots reset clean distclean install

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo "  Options go in ARGS: make test ARGS='tests/unit -x'. A Python of your choice: make up PYTHON=python3.12"

install: ## make .venv from requirements.lock (every target below does it first)
	@PYTHON='$(PYTHON)' scripts/install

up: install ## land the sample data, train the first champions, start everything; Ctrl-C stops it
	@$(BIN)/pilotage up $(ARGS)

test: install ## run the tests, in two processes (in one, for a debugger: make test ARGS='-n 0 --pdb tests/unit')
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

faults: install ## break the running service in every way we know (minutes). One: make faults ARGS='-k disk --seed 7'
	@$(BIN)/pytest tests/faults -s $(ARGS)

soak: install ## use the service, and then a whole platform, for half an hour each, and see that nothing grows. ARGS='--minutes 5'
	@$(BIN)/pytest tests/soak -s $(ARGS)

lint: install ## ruff, mypy and the import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

fmt: install ## format, and fix what can be fixed
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

replays: install ## replay two months, and hold it to the engine (hours). Less: REPLAY_TO=2013-03-10 make replays
	@$(BIN)/pytest tests/replays -s $(ARGS)

replay-year: install ## 2013 through a running `make up`, day by day (hours). Less: make replay-year ARGS='--to 2013-03-14'
	@$(BIN)/pilotage replay flight_delay --from 2013-03-01 --to 2013-12-31 $(ARGS)

bench: install ## run the benchmarks (ratios; minutes). One of them: make bench ARGS=features
	@$(BIN)/python -m tests.bench $(ARGS)

lock: ## pin the newest versions that pyproject.toml allows; one package: make lock ARGS='-P httpx'. Needs uv
	@uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
	    --generate-hashes --no-header --quiet -o requirements.lock $(ARGS)
	@uv pip compile pyproject.toml --extra postgres --constraint requirements.lock --universal --python-version 3.11 \
	    --generate-hashes --no-header --quiet -o deploy/requirements.lock

screenshots: install ## take the pictures of the documentation from a running `make up`; needs Chromium
	@$(BIN)/python scripts/screenshots.py $(ARGS)

reset: ## delete the platform's state (.pilotage/): data, models, history
	rm -rf .pilotage

clean: ## delete caches and build output
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage dist build
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## ... and .venv
	rm -rf .venv
