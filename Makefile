# `make` lists the targets. Everything is installed into .venv here; nothing outside this directory is touched,
# except by test-deps. PYTHON chooses the interpreter (3.11 or newer), UV the uv to use: `make demo PYTHON=python3.13`.

PYTHON ?=
UV ?= uv
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=

bin := .venv/bin
run_stamp := .venv/.installed-run
dev_stamp := .venv/.installed-dev
venv := PYTHON="$(PYTHON)" UV="$(UV)" sh scripts/venv

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-thorough test-fast lint format bench docs lock test-deps clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(run_stamp) ## run migration 008 end to end on an embedded PostgreSQL, with a report
	@$(bin)/mandate demo $(DEMO_ARGS)

test: $(dev_stamp) ## run the tests
	@$(bin)/pytest -n 3 --dist worksteal -m "not thorough" $(PYTEST_ARGS)

test-thorough: $(dev_stamp) ## run all tests, those that only repeat others more often too
	@$(bin)/pytest -n 3 --dist worksteal $(PYTEST_ARGS)

test-fast: $(dev_stamp) ## run the tests that take seconds
	@$(bin)/pytest -n 3 --dist worksteal -m "not slow and not browser" $(PYTEST_ARGS)

lint: $(dev_stamp) ## ruff, mypy --strict, import layers
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .
	@$(bin)/mypy
	@$(bin)/lint-imports

format: $(dev_stamp) ## let ruff format and fix
	@$(bin)/ruff check --fix .
	@$(bin)/ruff format .

bench: $(dev_stamp) ## run the benchmarks of bench/ (long)
	@$(bin)/python -m bench.migrate $(BENCH_ARGS)
	@$(bin)/python -m bench.online $(BENCH_ARGS)
	@$(bin)/python -m bench.replay $(BENCH_ARGS)
	@$(bin)/python -m bench.api $(BENCH_ARGS)

docs: $(dev_stamp) ## regenerate the reference pages from the code
	@$(bin)/python -m scripts.reference

lock: ## resolve the dependencies again (needs uv)
	@UV="$(UV)" sh scripts/lock

test-deps: ## as root on Debian: install Chromium and PostgreSQL 15 for the tests that use them
	@sh scripts/test-deps

clean: ## remove .venv, caches, builds and the demo's files
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist demo

$(run_stamp): requirements.lock pyproject.toml scripts/venv
	@$(venv) requirements.lock
	@touch $@

# The development lock holds everything of the other one, so `make demo` after `make test` installs nothing.
$(dev_stamp): requirements-dev.lock requirements.lock pyproject.toml scripts/venv
	@$(venv) requirements-dev.lock
	@touch $(run_stamp) $@
