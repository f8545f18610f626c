# Everything one does with a checkout. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
BIN := .venv/bin

.PHONY: help setup demo test soak check bench down clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what running the platform needs (packages, virtualenv); quick when it is there
	@scripts/setup

demo: ## Start the platform, run an example app and ask it for a page
	@scripts/demo

# Tests that start no agent and touch nothing of the computer: they mostly wait, so they run side by side.
APART := $(addprefix tests/,bus checks cli client control deploys dev edge journal launch machines_api model operations)

test: ## Check the code and run every test (ARGS="tests/cli -k apps" for some)
	@scripts/setup --test
	@$(MAKE) --no-print-directory check
	@$(BIN)/caddis down # a computer has one agent, and the tests start their own; data stays
ifdef ARGS
	@$(BIN)/pytest $(ARGS)
else
	@$(BIN)/pytest -n 3 --dist loadfile $(APART)
	@$(BIN)/pytest $(addprefix --ignore=,$(APART))
endif

soak: ## Simulate 10,000 more schedules of a host (ARGS="--seeds 50000:60000" for others), then a bus away for 5 minutes
	@[ -x $(BIN)/pytest ] || scripts/setup --test
	@$(BIN)/python -m tests.simulation --seeds 2000:12000 $(ARGS)
	@CADDIS_BUS_AWAY_S=300 $(BIN)/pytest -q tests/faults/test_parts.py -k away_for_long

check: ## Format, lint, types and the rooms' rules
	@[ -x $(BIN)/ruff ] || scripts/setup --test
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --strict
	@$(BIN)/lint-imports

bench: ## Measure, next to what one would use instead
	@scripts/setup --bench
	@$(BIN)/caddis bench $(ARGS)

down: ## Stop the platform and its Machines; data stays
	@if [ -x $(BIN)/caddis ]; then $(BIN)/caddis down; else echo "The platform is not set up."; fi

clean: down ## Stop the platform and remove virtualenv and caches of this checkout; data stays
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .schemathesis build dist src/*.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
