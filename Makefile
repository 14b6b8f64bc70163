# Everything runs in .venv, which the first target that needs it makes. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# The first of these that is new enough makes .venv; `make PYTHON=/path/to/python test` uses that one only.
PYTHON ?= python3 python3.13 python3.12 python3.11
# More arguments for pytest, for example `make test ARGS="-k code -x"`.
ARGS ?=
# Processes that run tests: one per core.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)

BIN := .venv/bin
# What the program needs, and what its developers need on top: the demo waits for no test tool.
READY := .venv/.ready
DEV := .venv/.dev
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
USABLE := import pip, sys; sys.exit(sys.version_info < (3, 11))

# Tests get what they need from the tree; a test that asks a model hub for anything is wrong and fails at once.
test slow docs: export HF_HUB_OFFLINE := 1
docs: export NO_MKDOCS_2_WARNING := 1

.PHONY: help venv demo explore web test slow lint types format docs bench clean

help:  ## list the targets
	@sed -n -E 's/^([a-z]+):.*## (.*)$$/  make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do printf '%-14s %s\n' "$$name" "$$what"; done

venv: $(DEV)  ## make .venv with everything the other targets need

demo: $(READY)  ## draw with the bundled ensemble, remove every artist, write a report to demo/; ARGS=--train trains
	$(BIN)/ablatable demo --out demo $(ARGS)

explore: $(DEV)  ## build the explorer of the bundled run in demo/explorer and open it; ARGS=--no-browser only serves
	$(BIN)/ablatable demo --out demo
	$(BIN)/ablatable explore bundled --universe demo/universe.zarr --out demo/explorer --serve $(ARGS)

web:  ## check the explorer's page: types, vendored files, unit tests; needs node 20 and npm
	npm ci --prefix web
	npm run --prefix web types
	npm run --prefix web check
	npm run --prefix web test

test: $(DEV)  ## the test suite, without the slow tests
	$(BIN)/pytest -n $(JOBS) --dist loadfile $(ARGS)

slow: $(DEV)  ## the slow tests only
	$(BIN)/pytest -m slow $(ARGS) || { [ $$? = 5 ] && echo 'no test is marked slow'; }

lint: $(DEV)  ## ruff: rules and formatting; import-linter: rooms import one way
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(DEV)  ## basedpyright
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: $(DEV)  ## let ruff repair and format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DEV)  ## the documentation site, in site/; any warning is an error
	$(BIN)/mkdocs build --strict --quiet --site-dir site
	@echo "open site/index.html"

bench: $(READY)  ## the universe engine against the plain double loop, as a ratio
	$(BIN)/python bench/run.py

clean:  ## remove .venv, demo/, site/, caches and builds; runs/ and bench/results/ stay
	rm -rf .venv demo site dist build .pytest_cache .ruff_cache .hypothesis .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Touched last, so an installation that was interrupted is taken up again. The build backend is installed first,
# for pip would otherwise fetch one of its own choice, which no constraint reaches.
$(READY): pyproject.toml constraints.txt
	@if ! $(BIN)/python -c '$(USABLE)' 2>/dev/null; then \
	  found=; \
	  for python in $(PYTHON); do \
	    if "$$python" -c '$(NEW_ENOUGH)' 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "Python 3.11 or newer is needed, and none of these is that:" >&2; \
	    for python in $(PYTHON); do \
	      echo "  $$python: $$("$$python" --version 2>/dev/null || echo 'not found')" >&2; \
	    done; \
	    echo "Install one, or name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
	    exit 1; \
	  fi; \
	  echo "making .venv with $$found ($$("$$found" --version))"; \
	  "$$found" -m venv --clear .venv || { \
	    echo "That Python cannot make virtual environments (on Debian: apt-get install python3-venv)." >&2; exit 1; }; \
	fi
	@echo "installing into .venv; the first time takes a minute or more"
	@$(BIN)/python -m pip install --quiet -c constraints.txt hatchling editables setuptools
	@$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e .
	@touch $@

$(DEV): $(READY)
	@echo "installing the development tools into .venv"
	@$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@
