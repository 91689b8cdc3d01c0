# amiwatch: what to type. `make` alone says it.
#
# Another interpreter: make test PYTHON=python3.13 VENV=.venv-3.13
# Fewer tests:         make test ARGS='tests/ami -x'

VENV   ?= .venv
PYTHON ?= $(shell .ci/python)
ARGS   ?=
# Tests side by side: most of them wait, for packets that must not come and for programs that start.
WORKERS ?= 4
BIN    := $(VENV)/bin

# The demo, the tests and the benchmarks call ipset and iptables, which an ordinary user's PATH lacks on Debian.
export PATH := $(PATH):/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

LOCKS     := requirements.lock docs/requirements.lock docker/requirements.lock
INSTALLED := $(VENV)/.installed
DOCUMENTS := $(VENV)/.installed-docs
UV        := $(BIN)/uv

.DEFAULT_GOAL := help
.PHONY: help install system neighbours demo test check format lint types docs bench judge lock lowest clean

help: ## Say what there is
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

install: $(INSTALLED) ## Install amiwatch and its tools into .venv

$(VENV)/bin/python:
	@python='$(PYTHON)'; test -n "$$python" || exit 1; .ci/system "$$python"; "$$python" -m venv --clear $(VENV)

# Exactly what is locked, each file checked against its hash; then our own tree, linked, with the locked build backend.
$(INSTALLED): pyproject.toml requirements.lock | $(VENV)/bin/python
	$(BIN)/python -m pip install -qq --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

$(DOCUMENTS): docs/requirements.lock $(INSTALLED)
	$(BIN)/python -m pip install -qq --require-hashes -r docs/requirements.lock
	@touch $@

system: # Nothing is said when nothing is missing
	@.ci/system

neighbours: .neighbours/complete ## Fetch firewalld, ufw, fail2ban for the tests beside them; installs nothing

.neighbours/complete: .ci/neighbours
	@.ci/neighbours $(@D)

demo: install system ## Watch attackers being dropped: no root, no Asterisk, the host's firewall untouched
	@$(BIN)/amiwatch demo

test: install system ## Run the tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

check: format lint types docs test ## Format, lint, types, docs and tests: what a change must pass

format: install
	@$(BIN)/ruff format --check .

lint: install
	@$(BIN)/ruff check .

types: install
	@$(BIN)/mypy

docs: $(DOCUMENTS) ## Build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: install system ## Measure; each figure with its command
	@$(BIN)/python -m bench $(ARGS)

judge: install ## Play labelled worlds and say who was judged wrongly
	@$(BIN)/python -m bench.judge $(ARGS)

$(UV): $(INSTALLED)
	$(BIN)/python -m pip install -qq 'uv>=0.5'
	@touch $@

# --universal: one file for each Python from 3.11 on. No header and no index, so that nothing of this machine gets in.
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url

lock: $(UV) ## Choose the newest allowed versions again
	printf 'hatchling\neditables\n' | $(COMPILE) --upgrade --extra dev pyproject.toml - --output-file requirements.lock
	echo hatchling | $(COMPILE) --upgrade --constraint requirements.lock pyproject.toml - --output-file docker/requirements.lock
	$(COMPILE) --upgrade --constraint requirements.lock --extra docs pyproject.toml --output-file docs/requirements.lock

lowest: $(UV) system ## Run the tests with the oldest versions that pyproject.toml allows
	$(UV) venv --quiet --clear --python $(BIN)/python .venv-lowest
	$(UV) pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable '.[dev]'
	@.venv-lowest/bin/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

clean: ## Remove what was made here
	rm -rf .venv .venv-* .neighbours site dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
